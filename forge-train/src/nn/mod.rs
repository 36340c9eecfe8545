//! The Cognate model on candle: the forward pass of `docs/numerics.md` as a differentiable graph of fused
//! operations. `forge-runtime` defines inference; this module follows it for training and is tested against it.

mod forward;
mod fused;
pub mod loss;
mod network;
pub(crate) mod ops;
mod peaks;
mod recompute;

pub use forward::{Forward, ForwardOptions, Observer};
pub use network::{Network, Precision, Projections, Tables};
pub use ops::dropout::Dropout;
pub use ops::gemm::Products;

#[cfg(test)]
mod tests;
