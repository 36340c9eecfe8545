//! Weight codecs: how a matrix `[rows, cols]` becomes the bytes of a section, and back.
//!
//! Every codec stores each row byte-aligned, so that rows can be read, sliced and executed on their own.
//! One file a codec, each with the same three functions: `payload_len`, `validate`, `decode_row`.

pub mod bitstream;
mod directory;
#[cfg(feature = "alloc")]
pub mod encode;
pub mod float;
pub mod hyper;
pub mod int8;
mod matrix;
pub mod rans;
pub mod seedlm;
pub mod sparse;
pub mod ternary;
pub mod vptq;

pub use matrix::Matrix;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::header::{FEATURE_TERNARY_RANS, FEATURE_TERNARY_SPARSE};
use crate::role::RoleKind;

/// The codecs this crate was built with, one for each Cargo feature; files that use another are refused
/// ([`Error::Feature`]). Where these are `false`, the compiler leaves the decoders out.
pub mod linked {
    /// [`super::Codec::Int8Row`].
    pub const INT8: bool = cfg!(feature = "int8");
    /// [`super::Codec::Ternary2b`].
    pub const TERNARY_2B: bool = cfg!(feature = "ternary2b");
    /// [`super::Codec::Ternary5x8`].
    pub const TERNARY_5X8: bool = cfg!(feature = "ternary5x8");
    /// [`super::Codec::TernaryRans`].
    pub const TERNARY_RANS: bool = cfg!(feature = "ternary_rans");
    /// [`super::Codec::TernarySparse`].
    pub const TERNARY_SPARSE: bool = cfg!(feature = "ternary_sparse");
    /// Some ternary codec whose rows must be unpacked before they can be multiplied.
    pub const STREAMED: bool = TERNARY_RANS || TERNARY_SPARSE;
    /// [`super::Codec::SeedLm`].
    pub const SEEDLM: bool = cfg!(feature = "seedlm");
    /// [`super::Codec::Vptq`].
    pub const VPTQ: bool = cfg!(feature = "vptq");
    /// [`super::Codec::Hyper`].
    pub const HYPER: bool = cfg!(feature = "hyper");
}

/// Parameters of SeedLM (Shafipour et al. 2024, arXiv 2410.10714): a block of `block` weights is
/// `U(seed) * t`, with `U` from a `bits`-bit LFSR and `coeffs` 4-bit coefficients under one shared 4-bit
/// exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedLmParams {
    /// Weights per block (C).
    pub block: u8,
    /// Coefficients per block (P).
    pub coeffs: u8,
    /// Width of the shift register (K).
    pub bits: u8,
    /// Power of two the whole tensor is multiplied with after decoding.
    pub exponent: i8,
}

/// Parameters of VPTQ (Liu et al. 2024, arXiv 2409.17066): a vector of `dim` neighbouring weights of a row
/// is a codebook entry, plus one of a residual codebook when `residual_bits > 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VptqParams {
    /// Weights per vector (v).
    pub dim: u8,
    /// log2 of the entries in the main codebook.
    pub index_bits: u8,
    /// log2 of the entries in the residual codebook, 0 for none.
    pub residual_bits: u8,
}

/// Parameters of Hyper-Compression (Fan et al. 2024, arXiv 2409.00592) with K = 2: a pair of weights is one
/// node of a winding over a square, with `rings` scale classes outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HyperParams {
    /// Nodes in the square (U).
    pub nodes: u16,
    /// Rings outside the square (M).
    pub rings: u8,
}

/// How a tensor's payload is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    /// IEEE 754 single precision, little-endian.
    F32,
    /// IEEE 754 half precision, little-endian.
    F16,
    /// One signed byte a weight, row after row, then one f16 scale a row.
    Int8Row,
    /// Four trits a byte (code `trit + 1`, least significant bits first), then one f16 scale a row.
    Ternary2b,
    /// Five trits a byte, in base 3 as a fixed-point fraction, then one f16 scale a row.
    Ternary5x8,
    /// Pseudo-random bases from a shift register.
    SeedLm(SeedLmParams),
    /// Vector quantisation with shared codebooks.
    Vptq(VptqParams),
    /// Irrational-winding lattice.
    Hyper(HyperParams),
    /// Entropy-coded trits, then one f16 scale a row.
    TernaryRans,
    /// Places and signs of the trits that are not 0, then one f16 scale a row.
    TernarySparse,
}

impl Codec {
    /// Short name, used in errors and by `inspect`.
    pub fn name(&self) -> &'static str {
        match self {
            Codec::F32 => "f32",
            Codec::F16 => "f16",
            Codec::Int8Row => "int8",
            Codec::Ternary2b => "ternary2b",
            Codec::Ternary5x8 => "ternary5x8",
            Codec::SeedLm(_) => "seedlm",
            Codec::Vptq(_) => "vptq",
            Codec::Hyper(_) => "hyper",
            Codec::TernaryRans => "ternary_rans",
            Codec::TernarySparse => "ternary_sparse",
        }
    }

    /// Whether this crate was built with the codec.
    pub fn is_linked(&self) -> bool {
        match self {
            Codec::F32 | Codec::F16 => true,
            Codec::Int8Row => linked::INT8,
            Codec::Ternary2b => linked::TERNARY_2B,
            Codec::Ternary5x8 => linked::TERNARY_5X8,
            Codec::SeedLm(_) => linked::SEEDLM,
            Codec::Vptq(_) => linked::VPTQ,
            Codec::Hyper(_) => linked::HYPER,
            Codec::TernaryRans => linked::TERNARY_RANS,
            Codec::TernarySparse => linked::TERNARY_SPARSE,
        }
    }

    /// Whether a row is executed as integers times one scale (`docs/numerics.md`, section 2).
    pub fn is_integer(&self) -> bool {
        matches!(self, Codec::Int8Row) || self.is_ternary()
    }

    /// Whether a row is trits times one scale.
    pub fn is_ternary(&self) -> bool {
        matches!(self, Codec::Ternary2b | Codec::Ternary5x8 | Codec::TernaryRans | Codec::TernarySparse)
    }

    /// Header bit of a file that uses this codec; 0 for those of version 1.0, which every reader knows.
    pub fn feature(&self) -> u32 {
        match self {
            Codec::TernaryRans => FEATURE_TERNARY_RANS,
            Codec::TernarySparse => FEATURE_TERNARY_SPARSE,
            _ => 0,
        }
    }

    /// Whether a tensor of `kind` may use this codec: vectors stay in floats, tables are not made ternary.
    pub fn allowed(&self, kind: RoleKind) -> bool {
        match kind {
            RoleKind::Vector => matches!(self, Codec::F32 | Codec::F16),
            RoleKind::Table => !self.is_ternary(),
            RoleKind::Projection => true,
        }
    }
}

/// Exact payload length in bytes of a `[rows, cols]` matrix, or `None` when the codec cannot hold the shape,
/// its parameters are out of range, the product overflows, the length depends on the weights (`TernaryRans`,
/// `TernarySparse`), or this crate was built without the codec.
pub fn payload_len(codec: &Codec, shape: [u32; 2]) -> Option<u64> {
    let [rows, cols] = shape;
    if rows == 0 || cols == 0 {
        return None;
    }
    match codec {
        Codec::F32 => float::payload_len(float::Width::F32, rows, cols),
        Codec::F16 => float::payload_len(float::Width::F16, rows, cols),
        Codec::Int8Row if linked::INT8 => int8::payload_len(rows, cols),
        Codec::Ternary2b => ternary::payload_len(ternary::Packing::TwoBit, rows, cols),
        Codec::Ternary5x8 => ternary::payload_len(ternary::Packing::FiveInEight, rows, cols),
        Codec::SeedLm(p) if linked::SEEDLM => seedlm::payload_len(p, rows, cols),
        Codec::Vptq(p) if linked::VPTQ => vptq::payload_len(p, rows, cols),
        Codec::Hyper(p) if linked::HYPER => hyper::payload_len(p, rows, cols),
        _ => None,
    }
}

/// Checks length and content of a payload, after which no decoder can fail on it.
///
/// # Errors
/// [`Error::Codec`] with the codec's name, [`Error::Feature`] with the name of one this crate was built without.
pub fn validate(codec: &Codec, shape: [u32; 2], payload: &[u8]) -> Result<()> {
    let [rows, cols] = shape;
    let length_valid = match codec {
        // Refused below.
        codec if !codec.is_linked() => true,
        Codec::TernaryRans | Codec::TernarySparse => rows > 0 && cols > 0,
        _ => payload_len(codec, shape) == Some(payload.len() as u64),
    };
    if !length_valid {
        return Err(Error::Codec(codec.name()));
    }
    match codec {
        Codec::F32 => float::validate(float::Width::F32, payload),
        Codec::F16 => float::validate(float::Width::F16, payload),
        Codec::Int8Row if linked::INT8 => int8::validate(rows, cols, payload),
        Codec::Ternary2b if linked::TERNARY_2B => {
            ternary::validate(ternary::Packing::TwoBit, rows, cols, payload)
        }
        Codec::Ternary5x8 if linked::TERNARY_5X8 => {
            ternary::validate(ternary::Packing::FiveInEight, rows, cols, payload)
        }
        Codec::SeedLm(p) if linked::SEEDLM => seedlm::validate(p, rows, cols, payload),
        Codec::Vptq(p) if linked::VPTQ => vptq::validate(p, rows, cols, payload),
        Codec::Hyper(p) if linked::HYPER => hyper::validate(p, rows, cols, payload),
        Codec::TernaryRans if linked::TERNARY_RANS => rans::validate(rows, cols, payload),
        Codec::TernarySparse if linked::TERNARY_SPARSE => sparse::validate(rows, cols, payload),
        other => Err(Error::Feature(other.name())),
    }
}

/// The f16 scales that end an integer codec's payload: body, scales.
pub(crate) fn split_scales(rows: u32, payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let scales = (rows as usize).checked_mul(2)?;
    payload.split_at_checked(payload.len().checked_sub(scales)?)
}

/// Whether every f16 scale is finite and not negative (minus zero counts as negative).
pub(crate) fn scales_valid(scales: &[u8]) -> bool {
    let bits = scales.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    bits.fold(0, u16::max) < 0x7C00
}
