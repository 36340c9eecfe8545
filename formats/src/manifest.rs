//! The manifest: a postcard structure that says what the file's sections are.
//!
//! On the wire it is a [`Head`] followed by `Head::sections` [`Section`] records, decoded one at a time so
//! that a reader without heap needs no array of them.

use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::config::ModelConfig;
use crate::role::Role;

/// First record of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Shape and hyper-parameters.
    pub config: ModelConfig,
    /// Number of [`Section`] records that follow.
    pub sections: u16,
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
