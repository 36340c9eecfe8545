//! Kernels for WebAssembly. A module runs only where every instruction in it is known, so each instruction set has a
//! build of its own, and the host chooses among the modules.
#![deny(unsafe_code)]

mod lanes;
#[cfg(target_feature = "relaxed-simd")]
mod relaxed;
mod simd128;

use super::Kernels;

/// The last of [`available`].
pub(super) fn best() -> &'static Kernels {
    #[cfg(target_feature = "relaxed-simd")]
    return relaxed::best();
    #[cfg(not(target_feature = "relaxed-simd"))]
    &simd128::TABLE
}

/// The tables of this build, the best last.
pub(super) fn available() -> impl Iterator<Item = &'static Kernels> {
    let strict = core::iter::once(&simd128::TABLE);
    #[cfg(target_feature = "relaxed-simd")]
    let strict = strict.chain(relaxed::available());
    strict
}
