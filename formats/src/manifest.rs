//! The manifest: a postcard structure that says what the file's sections are.
//!
//! On the wire it is a [`Head`], a [`Globals`] where the header says so, then `Head::sections` [`Section`] records,
//! decoded one at a time so that a reader without heap needs no array of them.

use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use crate::error::{Error, Result};
use crate::role::Role;

/// No record is longer: a [`Head`] takes at most 84 bytes, a [`Section`] at most 37.
pub(crate) const RECORD_MAX: usize = 128;

/// First record of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Shape and hyper-parameters. What [`ModelConfig::cache`] and [`ModelConfig::memory`] say is in the header
    /// instead, [`ModelConfig::globals`] in a record of its own.
    #[serde(with = "WireConfig")]
    pub config: ModelConfig,
    /// Number of [`Section`] records that follow.
    pub sections: u16,
}

/// The fields of [`ModelConfig`] as version 1.0 wrote them, which no later one may change.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ModelConfig")]
struct WireConfig {
    vocab: u32,
    dim: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    ffn: u32,
    activation: Activation,
    window: u32,
    rope_log2_theta: f32,
    norm_eps: f32,
    norm_gain: bool,
    tied: bool,
    recursion: u32,
    halting: bool,
    halt_threshold: f32,
    mem_dim: u32,
    mem_gate: u32,
    mem_layers: u64,
    #[serde(skip)]
    cache: CacheKind,
    #[serde(skip)]
    memory: MemoryKind,
    #[serde(skip)]
    globals: Globals,
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// A weight tensor.
    Tensor {
        /// Its role.
        role: Role,
        /// Its block, 0 for roles that exist once.
        layer: u32,
        /// `[rows, cols]`; must equal what the role and config imply.
        shape: [u32; 2],
        /// How its payload is coded.
        codec: Codec,
    },
    /// The tokenizer table (see [`crate::tokenizer`]).
    Tokenizer,
    /// UTF-8 JSON for people and tools: provenance and eval card. Devices skip it.
    Card,
    /// Data a reader that does not know the tag skips; how later minor versions add to the file.
    Extra {
        /// What it is; none is defined in version 1.0.
        tag: u32,
    },
}

impl Content {
    /// Name for errors and listings: the tensor's role, or what else it is.
    pub fn name(&self) -> &'static str {
        match self {
            Content::Tensor { role, .. } => role.name(),
            Content::Tokenizer => "tokenizer",
            Content::Card => "card",
            Content::Extra { .. } => "extra",
        }
    }
}

/// One section of raw data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// What it holds.
    pub content: Content,
    /// Offset from the start of the data area, in units of 64 bytes.
    pub offset64: u32,
    /// Length in bytes, without padding.
    pub len: u32,
    /// CRC-32 (ISO-HDLC) of the section's bytes.
    pub crc: u32,
}

/// Decodes one record from the front of `bytes` and returns what follows. Only the canonical encoding is
/// accepted: the bytes must be what encoding the record again gives.
pub(crate) fn take<'a, T: Serialize + Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8])> {
    let (record, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| Error::Manifest)?;
    let used = bytes.len().checked_sub(rest.len()).and_then(|n| bytes.get(..n)).ok_or(Error::Manifest)?;
    let mut buffer = [0; RECORD_MAX];
    let canonical = postcard::to_slice(&record, &mut buffer).map_err(|_| Error::Manifest)?;
    if *canonical != *used {
        return Err(Error::Manifest);
    }
    Ok((record, rest))
}
