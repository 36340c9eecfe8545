//! What the operations know of a CUDA device: everything in `cuda` with the feature of that name, nothing without.

use std::sync::Arc;

#[cfg(feature = "cuda")]
pub(crate) use super::cuda::{DeviceOp, DeviceWeight};
use super::gemm::Multiplier;
use super::quant::QuantWeight;

/// A matrix as it is multiplied: on the CPU quantised or, without a form, the f32 variable itself; on a device always
/// in a form of its own.
#[derive(Clone, Default)]
pub(crate) struct Form {
    /// The quantised form on the CPU.
    pub(crate) quant: Option<Arc<QuantWeight>>,
    /// The form on a device.
    pub(crate) device: Option<Arc<DeviceWeight>>,
    /// How the CPU multiplies.
    pub(crate) products: Multiplier,
}

/// What an operation of `N` operands does on a device: nothing in a build without one.
#[cfg(not(feature = "cuda"))]
pub(crate) trait DeviceOp<const N: usize> {}

#[cfg(not(feature = "cuda"))]
impl<T, const N: usize> DeviceOp<N> for T {}

/// A matrix in the form a device multiplies it in: there is none in a build without one.
#[cfg(not(feature = "cuda"))]
pub(crate) enum DeviceWeight {}
