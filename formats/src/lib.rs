//! The `.forge` model file: what is in it, how to read it in place, how to write it.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod codec;
pub mod config;
pub mod error;
pub mod manifest;
pub mod role;
