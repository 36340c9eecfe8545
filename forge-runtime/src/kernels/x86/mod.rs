//! Kernels for x86-64.
#![deny(unsafe_code)]

mod avx2;
mod avx512;
mod sse41;

use super::Kernels;

/// Whether the processor has every feature; without `std`, whether the crate was compiled for them.
macro_rules! has {
    ($($feature:tt),*) => {{
        #[cfg(feature = "std")]
        let found = $(std::arch::is_x86_feature_detected!($feature))&&*;
        #[cfg(not(feature = "std"))]
        let found = $(cfg!(target_feature = $feature))&&*;
        found
    }};
}

/// The tables this processor can run, the best last.
pub(super) fn available() -> impl Iterator<Item = &'static Kernels> {
    let sse41 = has!("sse4.1", "ssse3").then_some(&sse41::TABLE);
    let avx2 = has!("avx2", "f16c").then_some(&avx2::TABLE);
    let avx512 = has!("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "f16c")
        .then_some(&avx512::TABLE);
    [sse41, avx2, avx512].into_iter().flatten()
}
