//! Trains tiny language models in eight phases and emits `.forge` files that `forge-runtime` executes.
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod allocator;
pub mod codec;
pub mod cognate_config;
pub mod config;
pub mod config_load;
#[cfg(feature = "cuda")]
mod cuda;
pub mod data;
pub mod device;
pub mod engine;
pub mod error;
pub mod eval;
pub mod merge;
pub mod nn;
pub mod optim;
pub mod optimizer_presets;
pub mod phases;
pub mod pipeline;
mod presets;
pub mod recipe;
pub mod registry;
pub mod rng;
pub mod tokenizer;
pub mod train_config;
pub mod weights;
pub mod weights_io;
