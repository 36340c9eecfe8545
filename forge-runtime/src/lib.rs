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
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod math;
