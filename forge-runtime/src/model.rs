//! A parsed model.
#![forbid(unsafe_code)]

use bytemuck::{Pod, Zeroable};
use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams};
use forge_formats::manifest::Content;
use forge_formats::{File, Matrix, ModelConfig, Role};

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::linear::Weights;
use crate::options::Options;
use crate::prepared::{self, Prepared};
use crate::tokenizer::Tokenizer;

/// A view of a `.forge` file that has been checked and can be run: some hundred bytes, whatever the model's size.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    file: File<'a>,
}

impl<'a> Model<'a> {
    /// Checks a file, all of it but the sections' checksums (`File::verify` does those).
    ///
    /// # Errors
    /// [`Error::Format`] for the first check that fails.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        Ok(Self { file: File::parse(bytes)? })
    }

    /// Checks all of a file, its sections' checksums too: as [`Model::parse`] and then `File::verify`, but faster.
    ///
    /// # Errors
    /// [`Error::Format`] for the first check that fails.
    pub fn parse_verified(bytes: &'a [u8]) -> Result<Self> {
        Ok(Self { file: File::parse_verified(bytes)? })
    }

    /// Shape and hyper-parameters.
    pub fn config(&self) -> &ModelConfig {
        self.file.config()
    }

    /// The file.
    pub fn file(&self) -> &File<'a> {
        &self.file
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Tokenizer<'a> {
        Tokenizer::new(self.file.tokenizer())
    }

    /// The model card, JSON by convention; empty when there is none.
    pub fn card(&self) -> &'a str {
        self.file.card()
    }

    /// Bytes of memory a [`crate::Session`] needs on this machine, exactly; `usize::MAX` when none suffices.
    pub fn workspace(&self) -> usize {
        self.workspace_for(&Options::default())
    }

    /// Bytes of memory a session with these options needs, exactly; `usize::MAX` when no memory of this machine
    /// suffices.
    pub fn workspace_for(&self, options: &Options<'_>) -> usize {
        Layout::new(self, options, 1).map_or(usize::MAX, |l| l.bytes())
    }

    /// Bytes of memory a [`crate::Batch`] of `sequences` with these options needs.
    pub fn batch_workspace(&self, options: &Options<'_>, sequences: usize) -> usize {
        Layout::new(self, options, sequences).map_or(usize::MAX, |l| l.bytes())
    }

    /// Bytes of memory [`Model::prepare`] needs: about those of the integer matrices at two bits a trit.
    pub fn prepared_bytes(&self) -> usize {
        prepared::bytes(self)
    }

    /// Lays the integer matrices out for vector registers, in memory the caller lends: sessions with
    /// [`Options::prepared`] run several times as fast. Memory aligned to 64 bytes is best.
    ///
    /// # Errors
    /// [`Error::Buffer`] when the memory is shorter than [`Model::prepared_bytes`].
    pub fn prepare<'p>(&self, memory: &'p mut [u8]) -> Result<Prepared<'p>> {
        Prepared::new(self, memory)
    }
}

/// Roles that exist once a block, in the order of a block's places.
const BLOCK: [Role; 11] = [
    Role::AttnNorm,
    Role::Qkv,
    Role::AttnOut,
    Role::FfnNorm,
    Role::GateUp,
    Role::Down,
    Role::MemIn,
    Role::MemBias,
    Role::MemOut,
    Role::MemGate1,
    Role::MemGate2,
];
/// Roles that exist once, before the blocks' places.
const GLOBAL: [Role; 7] = [
    Role::Embedding,
    Role::Head,
    Role::LoopAnswer,
    Role::LoopLatent,
    Role::LoopOut,
    Role::FinalNorm,
    Role::Halt,
];

/// Where a tensor lies. Kept in a session's workspace so that the forward pass need not walk the manifest; all zero
/// for tensors the model lacks.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Place {
    /// Offset in units of 64 bytes.
    offset64: u32,
    len: u32,
    /// See [`pack_codec`].
    kind: u32,
    parameters: u32,
    /// Its first vector in the prepared weights.
    panels: u32,
}

/// Number of places of a model.
pub(crate) fn places(config: &ModelConfig) -> usize {
    GLOBAL.len() + BLOCK.len() * config.layers as usize
}

/// The place of a role and block.
fn place_of(role: Role, layer: u32) -> Option<usize> {
    let within = |roles: &[Role]| roles.iter().position(|r| *r == role);
    match within(&GLOBAL) {
        Some(at) => Some(at),
        None => Some(GLOBAL.len() + BLOCK.len() * layer as usize + within(&BLOCK)?),
    }
}

/// The tensors of a model, found in constant time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensors<'m> {
    file: &'m File<'m>,
    prepared: Option<Prepared<'m>>,
    places: &'m [Place],
}

impl<'m> Tensors<'m> {
    /// Notes the place of every tensor in `places`, which holds [`places`] of them.
    pub(crate) fn new(
        model: &'m Model<'m>,
        prepared: Option<Prepared<'m>>,
        places: &'m mut [Place],
    ) -> Result<Self> {
        places.fill(Place::zeroed());
        let mut vectors = 0;
        for section in model.file.sections() {
            if let Content::Tensor { role, layer, codec, .. } = section.content {
                let place = place_of(role, layer).and_then(|at| places.get_mut(at)).ok_or(Error::Buffer)?;
                let [kind, parameters] = pack_codec(codec);
                let panels = u32::try_from(vectors).map_err(|_| Error::Buffer)?;
                *place = Place { offset64: section.offset64, len: section.len, kind, parameters, panels };
                vectors += prepared::section_vectors(model, &section);
            }
        }
        if prepared.is_some_and(|p| p.len() != vectors) {
            // Prepared from another model.
            return Err(Error::Buffer);
        }
        Ok(Self { file: &model.file, prepared, places })
    }

    /// The tensor of a role and block.
    #[inline]
    pub(crate) fn get(&self, role: Role, layer: u32) -> Option<Weights<'m>> {
        let shape = role.shape(self.file.config(), layer)?;
        let place = self.places.get(place_of(role, layer)?)?;
        let payload = self.file.data_at(place.offset64, place.len);
        let matrix = Matrix::validated(unpack_codec(place.kind, place.parameters), shape, payload);
        let looked_up = role == Role::Embedding && !self.file.config().tied;
        let panels = match &self.prepared {
            Some(p) if matrix.codec().is_integer() && !looked_up => p.panels(&matrix, place.panels as usize),
            _ => None,
        };
        Some(Weights { matrix, panels })
    }
}

/// A codec in two words.
fn pack_codec(codec: Codec) -> [u32; 2] {
    let word = u32::from_le_bytes;
    match codec {
        Codec::F32 => [0, 0],
        Codec::F16 => [1, 0],
        Codec::Int8Row => [2, 0],
        Codec::Ternary2b => [3, 0],
        Codec::Ternary5x8 => [4, 0],
        Codec::SeedLm(p) => [5, word([p.block, p.coeffs, p.bits, p.exponent.cast_unsigned()])],
        Codec::Vptq(p) => [6, word([p.dim, p.index_bits, p.residual_bits, 0])],
        Codec::Hyper(p) => [7, u32::from(p.nodes) | u32::from(p.rings) << 16],
        Codec::TernaryRans => [8, 0],
        Codec::TernarySparse => [9, 0],
    }
}

/// The inverse of [`pack_codec`].
fn unpack_codec(kind: u32, parameters: u32) -> Codec {
    let [a, b, c, d] = parameters.to_le_bytes();
    match kind {
        0 => Codec::F32,
        1 => Codec::F16,
        2 => Codec::Int8Row,
        3 => Codec::Ternary2b,
        4 => Codec::Ternary5x8,
        5 => Codec::SeedLm(SeedLmParams { block: a, coeffs: b, bits: c, exponent: d.cast_signed() }),
        6 => Codec::Vptq(VptqParams { dim: a, index_bits: b, residual_bits: c }),
        7 => Codec::Hyper(HyperParams { nodes: u16::from_le_bytes([a, b]), rings: c }),
        8 => Codec::TernaryRans,
        _ => Codec::TernarySparse,
    }
}
