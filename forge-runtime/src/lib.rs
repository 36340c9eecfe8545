//! Executes `.forge` language models: no std, no heap, no panics, the same bits on every target.
//!
//! ```text
//! let model = Model::parse(bytes)?;                       // a view of the file; checks everything once
//! let mut memory = [0u32; N];                             // model.workspace() bytes, 4-byte aligned
//! let mut session = Session::new(&model, bytemuck::cast_slice_mut(&mut memory))?;
//! let logits = session.step(token)?;
//! ```
//!
//! The forward pass is stated in `docs/numerics.md`; the code in [`kernels`] and [`math`] is its definition.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod math;

mod batch;
mod block;
mod cache;
pub mod call;
#[cfg(feature = "capi")]
pub mod capi;
pub mod constrain;
mod engine;
pub mod error;
pub mod generate;
pub mod kernels;
mod layout;
mod linear;
mod member;
pub mod model;
mod options;
mod prepared;
pub mod sampler;
pub mod session;
mod snapshot;
#[cfg(feature = "std")]
pub mod team;
#[cfg(feature = "alloc")]
#[doc(hidden)]
pub mod testing;
pub mod think;
pub mod tokenizer;
#[cfg(feature = "alloc")]
pub mod workspace;

pub use batch::Batch;
pub use constrain::Constraint;
pub use error::{Error, Result};
pub use forge_formats::ModelConfig;
pub use generate::Generator;
pub use kernels::Kernels;
pub use model::Model;
pub use options::Options;
pub use prepared::Prepared;
pub use sampler::Sampler;
pub use session::Session;
pub use think::Thinking;
pub use tokenizer::Tokenizer;
#[cfg(feature = "alloc")]
pub use workspace::Workspace;
