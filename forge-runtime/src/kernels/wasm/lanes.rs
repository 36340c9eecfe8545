//! Panels in and out of 128-bit registers: four rows in each, four registers a panel.
#![allow(unsafe_code)]

use core::arch::wasm32::*;

use crate::kernels::{Inputs, Outputs, VECTOR};

/// Half a vector of a panel: its first eight rows, or the others.
#[inline(always)]
pub(super) fn load_half(from: &[u8; VECTOR], half: usize) -> [v128; 2] {
    let [a, b, c, d] = load(from);
    if half == 0 { [a, b] } else { [c, d] }
}

/// A vector of a panel.
#[inline(always)]
pub(super) fn load(from: &[u8; VECTOR]) -> [v128; 4] {
    let from = from.as_ptr();
    // SAFETY: the reference is to 64 readable bytes, four loads of 16; they need no alignment.
    unsafe {
        [
            v128_load(from.cast()),
            v128_load(from.add(16).cast()),
            v128_load(from.add(32).cast()),
            v128_load(from.add(48).cast()),
        ]
    }
}

/// A vector of a panel of int8, widened: each register holds four weights of two rows.
#[inline(always)]
pub(super) fn load_wide(from: &[u8; VECTOR]) -> [v128; 8] {
    let from = from.as_ptr();
    // SAFETY: the reference is to 64 readable bytes, eight loads of 8; they need no alignment.
    core::array::from_fn(|i| unsafe { i16x8_load_extend_i8x8(from.add(8 * i).cast()) })
}

/// Four neighbours in 16 bits added in pairs: `a`'s, then `b`'s.
#[inline(always)]
pub(super) fn add_neighbours(a: v128, b: v128) -> v128 {
    i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b))
}

/// `y = (total − offset · Σq) · (inverse · scale)` for the sixteen rows from `r` on.
#[inline(always)]
pub(super) fn store(
    out: &mut Outputs<'_>,
    t: usize,
    r: usize,
    scales: &[u8; VECTOR],
    totals: [v128; 4],
    inputs: &Inputs<'_>,
    offset: i32,
) {
    let (Some(y), Some(meta)) = (out.panel(t, r), inputs.meta.get(t)) else { return };
    let offset = i32x4_splat(offset.wrapping_mul(meta.sum));
    let inverse = f32x4_splat(meta.inverse);
    for ((y, total), scales) in y.as_chunks_mut::<4>().0.iter_mut().zip(totals).zip(load(scales)) {
        let result = f32x4_mul(f32x4_convert_i32x4(i32x4_sub(total, offset)), f32x4_mul(inverse, scales));
        // SAFETY: `y` is four f32 that only we hold; the store needs no alignment.
        unsafe { v128_store(y.as_mut_ptr().cast(), result) }
    }
}
