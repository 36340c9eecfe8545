//! The Cognate model on candle: the forward pass of `docs/numerics.md` as a differentiable graph of fused
//! operations. `forge-runtime` defines inference; this module follows it for training and is tested against it.

mod forward;
pub mod loss;
mod network;
mod ops;

pub use forward::{Forward, ForwardOptions, Observer};
pub use network::{Network, Precision, Projections, Tables};
pub(crate) use ops::gemm;
pub(crate) use ops::simd::vectorise;

#[cfg(test)]
mod tests;
