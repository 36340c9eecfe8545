//! What the fuzz targets do with their input: one function a target. Each states invariants by asserting them, so
//! that a fuzzer finds wrong results as well as panics. `docs/safety.md` says which promise each one serves.
#![forbid(unsafe_code)]

mod codecs;
mod constrain;
mod input;
mod linear;
mod parser;
mod payload;
mod seal;
mod structured;
mod tokenizer;
mod tools;
mod touch;

pub use codecs::{float, hyper, int8, rans, seedlm, sparse, ternary2b, ternary5x8, vptq};
pub use constrain::constrain;
pub use parser::parser;
pub use structured::{model, structured};
pub use tokenizer::tokenizer;
pub use tools::tools;
