//! The `.forge` model file: what is in it, how to read it in place, how to write it.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod alphabet;
pub mod codec;
pub mod config;
pub mod error;
pub mod file;
pub mod header;
pub mod manifest;
pub mod pretokens;
pub mod role;
pub mod tokenizer;
pub mod tools;
#[cfg(feature = "alloc")]
pub mod write;

pub use alphabet::Alphabet;
pub use codec::{Codec, Matrix};
pub use config::ModelConfig;
pub use error::{Error, Result};
pub use file::File;
pub use pretokens::pretokens;
pub use role::Role;
pub use tools::ToolTable;
