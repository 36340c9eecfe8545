//! What the NEON kernels share: vectors in and out of registers. Four rows fill a register, four registers a panel.
#![allow(unsafe_code)]

use core::arch::aarch64::*;

use crate::kernels::{Inputs, Outputs, VECTOR};

/// Sixteen bytes from memory.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(from: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the reference is to 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_u8(from.as_ptr()) }
}

/// Sixteen integers of an input.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_input(from: &[i8; 16]) -> int8x16_t {
    // SAFETY: the reference is to 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_s8(from.as_ptr()) }
}

/// Register `i` of a vector of weights: rows `4 i` to `4 i + 3`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn quarter(from: &[u8; VECTOR], i: usize) -> uint8x16_t {
    load(from.as_chunks::<16>().0.get(i).unwrap_or(&[0; 16]))
}

/// The digits of the four planes, in the order of the inputs.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn digits(w: uint8x16_t) -> [int8x16_t; 4] {
    let three = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vandq_u8(w, three)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(w), three)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(w), three)),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(w)),
    ]
}

/// `y = (total − offset · Σq) · (inverse · scale)` of input `t` and the rows from `r` on, four for each total from
/// register `first` of the panel on.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store<const N: usize>(
    out: &mut Outputs<'_>,
    (t, r, first): (usize, usize, usize),
    scales: &[u8; VECTOR],
    totals: [int32x4_t; N],
    inputs: &Inputs<'_>,
    offset: i32,
) {
    let (Some(y), Some(meta)) = (out.panel(t, r), inputs.meta.get(t)) else { return };
    let offset = vdupq_n_s32(offset.wrapping_mul(meta.sum));
    let fours = y.as_chunks_mut::<4>().0.iter_mut().enumerate().skip(first);
    for ((i, y), total) in fours.zip(totals) {
        let scale = vmulq_n_f32(vreinterpretq_f32_u8(quarter(scales, i)), meta.inverse);
        let result = vmulq_f32(vcvtq_f32_s32(vsubq_s32(total, offset)), scale);
        // SAFETY: `y` is four f32 that only we hold; the store needs no alignment.
        unsafe { vst1q_f32(y.as_mut_ptr(), result) }
    }
}
