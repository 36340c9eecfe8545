//! Small deterministic models for the tests, and files put together without the writer's checks.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]

pub mod exercise;

use forge_formats::codec::bitstream::BitWriter;
use forge_formats::codec::encode::{Simple, encode};
use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams, hyper};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_formats::file::File;
use forge_formats::header::{ALIGN, FEATURE_GLOBALS, HEADER_LEN, Header, crc32};
use forge_formats::manifest::{Content, Head, Section};
use forge_formats::role::{Role, RoleKind};
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec, TokenizerTable};
use forge_formats::tools::{SlotSpec, ToolSpec, ValueSpec, to_bytes};
use forge_formats::write::Writer;

/// Seven control tokens, a tool, a slot, and "th", "the", " the", " t".
pub fn spec() -> TokenizerSpec {
    let controls = ["<pad>", "<bos>", "<eos>", "<sys>", "<sep>", "<think>", "</think>"];
    let mut specials: Vec<_> = controls.map(|n| (SpecialKind::Control, n.to_string())).to_vec();
    specials.push((SpecialKind::Tool, "timer".into()));
    specials.push((SpecialKind::Slot, "timer".into()));
    let byte = |b: u8| specials.len() as u16 + u16::from(b);
    let first = byte(255) + 1;
    let merges = vec![
        (byte(b't'), byte(b'h')),
        (first, byte(b'e')),
        (byte(b' '), first + 1),
        (byte(b' '), byte(b't')),
    ];
    TokenizerSpec { specials, merges, ..TokenizerSpec::default() }
}

/// The smallest sizes that still have odd row lengths for every packing.
pub fn plain_config() -> ModelConfig {
    ModelConfig {
        vocab: 269,
        dim: 6,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        ffn: 7,
        activation: Activation::SwiGlu,
        window: 16,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: false,
        tied: true,
        recursion: 1,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// Every optional tensor present: untied head, norm gains, memory in one of two blocks, recursion, halting.
pub fn full_config() -> ModelConfig {
    ModelConfig {
        layers: 2,
        heads: 2,
        activation: Activation::Relu2,
        norm_gain: true,
        tied: false,
        recursion: 3,
        halting: true,
        mem_dim: 5,
        mem_gate: 3,
        mem_layers: 0b10,
        ..plain_config()
    }
}

/// Values in (−1, 1) that depend on nothing but their number (a 32-bit LCG of Numerical Recipes).
pub fn values(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Independent trits, `zeros` of them 0 and the rest either sign.
pub fn trits(seed: u32, n: usize, zeros: f32) -> Vec<i8> {
    let (places, signs) = (values(seed, n), values(seed ^ 0x5555, n));
    let trit = |(place, sign): (f32, f32)| match place * 0.5 + 0.5 < zeros {
        true => 0,
        false => {
            if sign < 0.0 {
                -1
            } else {
                1
            }
        }
    };
    places.into_iter().zip(signs).map(trit).collect()
}

/// A model of this shape in which the simple codecs take turns.
pub fn model(config: &ModelConfig) -> Writer {
    let projections = [Simple::Ternary2b, Simple::Ternary5x8, Simple::Int8Row, Simple::F16, Simple::F32];
    let mut turn = 0;
    let mut writer =
        Writer::new(config.clone()).tokenizer(spec().to_bytes().unwrap()).card("{\"name\":\"é\"}");
    for (role, layer, [rows, cols]) in config.tensors() {
        turn += 1;
        let codec = match role.kind() {
            RoleKind::Projection => projections[turn % projections.len()],
            RoleKind::Table => [Simple::Int8Row, Simple::F16][turn % 2],
            RoleKind::Vector => [Simple::F32, Simple::F16][turn % 2],
        };
        let data = values(turn as u32, (rows * cols) as usize);
        let payload = encode(codec, rows as usize, cols as usize, &data);
        writer = writer.tensor(role, layer, codec.into(), payload);
    }
    writer
}

/// A valid payload of a searched codec; what it decodes to means nothing.
fn searched_payload(codec: Codec, [rows, cols]: [u32; 2]) -> Vec<u8> {
    let mut state = rows * 31 + cols;
    let mut next = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let mut out = BitWriter::default();
    let scale = |n: u32| 0x2000 + n;
    match codec {
        Codec::SeedLm(p) => {
            for _ in 0..rows {
                for _ in 0..cols.div_ceil(p.block.into()) {
                    out.put(1 + next((1 << p.bits) - 1), p.bits.into());
                    (0..=p.coeffs).for_each(|_| out.put(next(16), 4));
                }
                out.align();
            }
        }
        Codec::Vptq(p) => {
            for bits in [p.index_bits, p.residual_bits].into_iter().filter(|bits| *bits > 0) {
                out.put(scale(next(0x1000)), 16);
                (0..u32::from(p.dim) << bits).for_each(|_| out.put(next(256), 8));
            }
            for _ in 0..rows {
                out.put(scale(next(0x1000)), 16);
                for _ in 0..cols.div_ceil(p.dim.into()) {
                    out.put(next(1 << p.index_bits), p.index_bits.into());
                    out.put(next(1 << p.residual_bits), p.residual_bits.into());
                }
                out.align();
            }
        }
        Codec::Hyper(p) => {
            let nodes = (u32::from(p.nodes) + 1) * (u32::from(p.rings) + 1);
            [0.01f32, -0.02, 0.5, 1.25].iter().for_each(|x| out.put(x.to_bits(), 32));
            for _ in 0..rows {
                (0..cols.div_ceil(2)).for_each(|_| out.put(next(nodes), hyper::theta_bits(&p)));
                out.align();
            }
        }
        simple => panic!("{simple:?} is not searched"),
    }
    out.finish()
}

/// The plain model with its matrices in the searched codecs.
pub fn searched() -> Writer {
    let config = plain_config();
    let vptq = |residual_bits| Codec::Vptq(VptqParams { dim: 4, index_bits: 5, residual_bits });
    [
        (Role::Embedding, Codec::Hyper(HyperParams { nodes: 225, rings: 2 })),
        (Role::Qkv, Codec::SeedLm(SeedLmParams { block: 4, coeffs: 3, bits: 11, exponent: -2 })),
        (Role::AttnOut, vptq(0)),
        (Role::GateUp, vptq(4)),
        (Role::Down, Codec::SeedLm(SeedLmParams { block: 8, coeffs: 2, bits: 16, exponent: 1 })),
    ]
    .into_iter()
    .fold(model(&config), |writer, (role, codec)| {
        let payload = searched_payload(codec, role.shape(&config, 0).unwrap());
        writer.replace(role, 0, codec, payload)
    })
}

/// A file in parts that a test may damage before putting them together with right checksums.
pub struct Raw {
    pub minor: u16,
    pub features: u32,
    pub config: ModelConfig,
    pub sections: Vec<Section>,
    pub count: Option<u16>,
    pub data: Vec<u8>,
    /// Bytes after the last record.
    pub manifest_tail: Vec<u8>,
}

impl Raw {
    pub fn new(bytes: &[u8]) -> Self {
        let file = File::parse(bytes).unwrap();
        let data = bytes[file.header().data_offset as usize..].to_vec();
        let sections = file.sections().collect();
        let Header { minor, features, .. } = *file.header();
        let config = file.config().clone();
        Self { minor, features, config, sections, count: None, data, manifest_tail: Vec::new() }
    }

    pub fn manifest(&self) -> Vec<u8> {
        let sections = self.count.unwrap_or(self.sections.len() as u16);
        let mut out = postcard::to_allocvec(&Head { config: self.config.clone(), sections }).unwrap();
        if self.features & FEATURE_GLOBALS != 0 {
            out.extend(postcard::to_allocvec(&self.config.globals).unwrap());
        }
        self.sections.iter().for_each(|s| out.extend(postcard::to_allocvec(s).unwrap()));
        out.extend(&self.manifest_tail);
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.with_manifest(&self.manifest())
    }

    /// The file with another manifest.
    pub fn with_manifest(&self, manifest: &[u8]) -> Vec<u8> {
        let mut bytes = join(manifest, &self.data);
        patch_header(&mut bytes, 10, &self.minor.to_le_bytes());
        patch_header(&mut bytes, 12, &self.features.to_le_bytes());
        bytes
    }

    /// Position of the section of a role in block 0.
    pub fn find(&self, wanted: Role) -> usize {
        let is = |s: &Section| matches!(s.content, Content::Tensor { role, layer: 0, .. } if role == wanted);
        self.sections.iter().position(is).unwrap()
    }

    pub fn position(&self, wanted: Content) -> usize {
        self.sections.iter().position(|s| s.content == wanted).unwrap()
    }

    /// The bytes of a section, to be changed in place; [`Raw::seal`] then makes its checksum right.
    pub fn payload(&mut self, at: usize) -> &mut [u8] {
        let Section { offset64, len, .. } = self.sections[at];
        &mut self.data[offset64 as usize * ALIGN..][..len as usize]
    }

    pub fn seal(&mut self) {
        for at in 0..self.sections.len() {
            self.sections[at].crc = crc32(self.payload(at));
        }
    }

    pub fn shape(&mut self, at: usize) -> &mut [u32; 2] {
        match &mut self.sections[at].content {
            Content::Tensor { shape, .. } => shape,
            other => panic!("{other:?} has no shape"),
        }
    }

    pub fn codec(&mut self, at: usize) -> &mut Codec {
        match &mut self.sections[at].content {
            Content::Tensor { codec, .. } => codec,
            other => panic!("{other:?} has no codec"),
        }
    }
}

/// The full model as one of version 1.1 that uses everything new but matrices and globals: trits entropy-coded and
/// sparse in turn, int8 caches, and tools.
pub fn newer() -> Writer {
    let config = ModelConfig { cache: CacheKind::Int8, ..full_config() };
    let projections = config.tensors().filter(|(role, ..)| role.kind() == RoleKind::Projection);
    let mut writer = model(&config).tools(schema());
    for (turn, (role, layer, [rows, cols])) in projections.enumerate() {
        let codec = [Simple::TernaryRans, Simple::TernarySparse][turn % 2];
        let mut data = values(turn as u32, (rows * cols) as usize);
        if codec == Simple::TernarySparse {
            data.iter_mut().filter(|w| w.abs() < 0.8).for_each(|w| *w = 0.0);
        }
        writer =
            writer.replace(role, layer, codec.into(), encode(codec, rows as usize, cols as usize, &data));
    }
    writer
}

/// The full model with memories that are matrices.
pub fn titans() -> Writer {
    model(&ModelConfig { memory: MemoryKind::Titans, ..full_config() })
}

/// The full model with global positions, of which the latest two are kept.
pub fn globals() -> Writer {
    model(&ModelConfig { globals: Globals { every: 3, rows: 2 }, ..full_config() })
}

/// A tool table for [`spec`]: the timer takes any of a few words, or minutes.
pub fn schema() -> Vec<u8> {
    let tokenizer = spec().to_bytes().unwrap();
    let tokenizer = TokenizerTable::parse(&tokenizer).unwrap();
    let token = |kind| tokenizer.special(kind, "timer").unwrap();
    let value = ValueSpec::Choice(["off", "on"].map(String::from).to_vec());
    let slots = vec![SlotSpec { token: token(SpecialKind::Slot), required: true, repeatable: false, value }];
    to_bytes(&[ToolSpec { token: token(SpecialKind::Tool), slots }], &tokenizer).unwrap()
}

/// A file of this manifest and data, with a right header.
pub fn join(manifest: &[u8], data: &[u8]) -> Vec<u8> {
    let header = Header::new(manifest, data.len() as u64).unwrap();
    let mut out = header.to_bytes().to_vec();
    out.extend(manifest);
    out.resize(header.data_offset as usize, 0);
    out.extend(data);
    out
}

/// Changes header bytes and makes the header's checksum right again.
pub fn patch_header(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
    let crc = crc32(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}
