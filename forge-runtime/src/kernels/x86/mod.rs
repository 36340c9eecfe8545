//! Kernels for x86-64.
#![allow(unsafe_code)]

mod avx2;
mod avx512;
mod rows;
mod sse41;

use super::{Inputs, Kernels};

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

/// Bytes ahead of the weights in work that are asked for: a single input reads every weight once, from the second or
/// third cache, and the processor's own prefetching stops at the end of each page.
const AHEAD: usize = 2048;

/// Asks for the weights some way behind `w`.
#[inline(always)]
fn prefetch(w: &[u8; super::VECTOR]) {
    let ahead = w.as_ptr().wrapping_add(AHEAD);
    // SAFETY: a prefetch reads nothing that the program could see, and faults on no address.
    unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(ahead.cast()) }
}

/// Neighbouring inputs whose integers are read without a check for each: what is read has been checked before.
struct Group<'q> {
    q: &'q [i8],
    stride: usize,
}

impl<'q> Group<'q> {
    /// The `n` inputs from `t` on; `None` unless each of them has `words` words of four integers.
    #[inline(always)]
    fn new(inputs: &Inputs<'q>, t: usize, n: usize, words: usize) -> Option<Self> {
        let q = inputs.q.get(t * inputs.stride..(t + n) * inputs.stride)?;
        (words * 4 <= inputs.stride).then_some(Self { q, stride: inputs.stride })
    }

    /// Word `word` of input `i`.
    ///
    /// # Safety
    /// `i` and `word` are below the numbers given to [`Group::new`].
    #[inline(always)]
    unsafe fn word(&self, i: usize, word: usize) -> i32 {
        debug_assert!(i * self.stride + word * 4 + 4 <= self.q.len(), "the caller keeps the contract");
        // SAFETY: the word ends within its input's `stride`, and all inputs are within `q`.
        unsafe { self.q.as_ptr().add(i * self.stride + word * 4).cast::<i32>().read_unaligned() }
    }
}
