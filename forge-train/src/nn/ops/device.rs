//! What the operations know of a CUDA device: everything in `cuda` with the feature of that name, nothing without.

#[cfg(feature = "cuda")]
pub(crate) use super::cuda::{DeviceOp, DeviceWeight};

/// What an operation of `N` operands does on a device: nothing in a build without one.
#[cfg(not(feature = "cuda"))]
pub(crate) trait DeviceOp<const N: usize> {}

#[cfg(not(feature = "cuda"))]
impl<T, const N: usize> DeviceOp<N> for T {}

/// A matrix in the form a device multiplies it in: there is none in a build without one.
#[cfg(not(feature = "cuda"))]
pub(crate) enum DeviceWeight {}
