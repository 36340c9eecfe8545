//! Kernels for AArch64.
#![deny(unsafe_code)]

mod dotprod;
mod neon;
mod registers;

use super::Kernels;

/// The tables this processor can run, the best last. NEON belongs to every AArch64 with floating point.
pub(super) fn available() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(feature = "std")]
    let dotprod = std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(feature = "std"))]
    let dotprod = cfg!(target_feature = "dotprod");
    core::iter::once(&neon::TABLE).chain(dotprod.then_some(&dotprod::TABLE))
}
