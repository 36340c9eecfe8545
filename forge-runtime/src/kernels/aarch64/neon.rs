//! NEON as every AArch64 has it (Cortex-A53, A57, A72): bytes are multiplied to 16 bits, where products can be summed
//! for a while, and pairs of sums are added in 32 bits.
//!
//! A register's lower half holds two rows, its upper half the two after them; a row's four products lie side by side,
//! and two pairwise additions at the end bring them together.
#![allow(unsafe_code)]

use core::arch::aarch64::*;

use super::registers::{digits, load_input, quarter, store};
use crate::kernels::dispatch::{compiled, floats_with};
use crate::kernels::{Inputs, Kernels, Outputs, PANEL_ROWS, Panels, Products, VECTOR};

pub(super) static TABLE: Kernels = Kernels {
    name: "neon",
    floats: floats_with!("neon"),
    panels: Some(Products {
        ternary: compiled!("neon",
            ternary_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => ternary),
        int8: compiled!("neon",
            int8_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => int8),
    }),
    rows: None,
};

/// Vectors whose products fit in 16 bits: each adds at most 4 · 2 · 127 = 1016 to a lane, and 32 · 1016 = 32,512.
const STEPS: usize = 32;

/// Defines a function that has the instruction set of this file.
macro_rules! neon {
    ($($item:item)*) => { $(
        #[target_feature(enable = "neon")]
        $item
    )* };
}

neon! {
    /// Products of ternary panels.
    fn ternary(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
        let mut t = 0;
        let n = inputs.meta.len();
        while t < n {
            t += match n - t {
                1 => ternary_many::<1, 4>(panels, inputs, out, t),
                2 | 3 => ternary_many::<2, 2>(panels, inputs, out, t),
                4..8 => ternary_many::<4, 1>(panels, inputs, out, t),
                _ => ternary_many::<8, 1>(panels, inputs, out, t),
            };
        }
    }

    /// `T` inputs and `R` registers of each vector at a time: `2 T R` sums in registers.
    fn ternary_many<const T: usize, const R: usize>(
        panels: &Panels<'_>,
        inputs: &Inputs<'_>,
        out: &mut Outputs<'_>,
        t: usize,
    ) -> usize {
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            for first in (0..4).step_by(R) {
                let mut totals = [[[vdupq_n_s32(0); 2]; R]; T];
                let mut q: [&[[i8; 16]]; T] = core::array::from_fn(|i| inputs.pieces::<16>(t + i));
                for vectors in vectors.chunks(STEPS) {
                    let sums = ternary_steps::<T, R>(vectors, &q, first);
                    add_totals(&mut totals, sums);
                    q = q.map(|q| q.get(vectors.len()..).unwrap_or(&[]));
                }
                for (i, totals) in totals.into_iter().enumerate() {
                    let totals = totals.map(|[low, high]| vpaddq_s32(low, high));
                    store(out, (t + i, at * PANEL_ROWS, first), scales, totals, inputs, 1);
                }
            }
        }
        T
    }

    /// Sums in 16 bits of at most [`STEPS`] vectors.
    #[inline]
    fn ternary_steps<const T: usize, const R: usize>(
        vectors: &[[u8; VECTOR]],
        q: &[&[[i8; 16]]; T],
        first: usize,
    ) -> [[[int16x8_t; 2]; R]; T] {
        let mut sums = [[[vdupq_n_s16(0); 2]; R]; T];
        for (k, w) in vectors.iter().enumerate() {
            let w: [[int8x16_t; 4]; R] = core::array::from_fn(|i| digits(quarter(w, first + i)));
            for (sums, q) in sums.iter_mut().zip(q) {
                let Some(q) = q.get(k) else { continue };
                let q = quarters(q);
                for ([low, high], w) in sums.iter_mut().zip(w) {
                    for p in 0..4 {
                        *low = vmlal_s8(*low, vget_low_s8(w[p]), vget_low_s8(q[p]));
                        *high = vmlal_high_s8(*high, w[p], q[p]);
                    }
                }
            }
        }
        sums
    }

    /// Adds sums in 16 bits, pair by pair, to totals in 32.
    #[inline]
    fn add_totals<const T: usize, const R: usize>(
        totals: &mut [[[int32x4_t; 2]; R]; T],
        sums: [[[int16x8_t; 2]; R]; T],
    ) {
        for (total, sum) in totals.as_flattened_mut().as_flattened_mut().iter_mut().zip(
            sums.as_flattened().as_flattened()
        ) {
            *total = vpadalq_s16(*total, *sum);
        }
    }

    /// Products of int8 panels.
    fn int8(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
        let mut t = 0;
        let n = inputs.meta.len();
        while t < n {
            t += match n - t {
                1 => int8_many::<1>(panels, inputs, out, t),
                _ => int8_many::<2>(panels, inputs, out, t),
            };
        }
    }

    /// Two products, at most 2 · 127 · 127 = 32,258, fit in 16 bits.
    fn int8_many<const T: usize>(
        panels: &Panels<'_>,
        inputs: &Inputs<'_>,
        out: &mut Outputs<'_>,
        t: usize,
    ) -> usize {
        let q: [&[[i8; 8]]; T] = core::array::from_fn(|i| inputs.pieces::<8>(t + i));
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            let mut totals = [[[vdupq_n_s32(0); 2]; 4]; T];
            for (k, pair) in vectors.chunks(2).enumerate() {
                let Some(a) = pair.first() else { continue };
                let b = pair.get(1).unwrap_or(&[0; VECTOR]);
                for (totals, q) in totals.iter_mut().zip(&q) {
                    let Some(q) = q.get(k) else { continue };
                    let [p, q] = halves(q);
                    for (i, [low, high]) in totals.iter_mut().enumerate() {
                        let (a, b) = (vreinterpretq_s8_u8(quarter(a, i)), vreinterpretq_s8_u8(quarter(b, i)));
                        let sum = vmull_s8(vget_low_s8(a), vget_low_s8(p));
                        *low = vpadalq_s16(*low, vmlal_s8(sum, vget_low_s8(b), vget_low_s8(q)));
                        let sum = vmull_high_s8(a, p);
                        *high = vpadalq_s16(*high, vmlal_high_s8(sum, b, q));
                    }
                }
            }
            for (i, totals) in totals.into_iter().enumerate() {
                let totals = totals.map(|[low, high]| vpaddq_s32(low, high));
                store(out, (t + i, at * PANEL_ROWS, 0), scales, totals, inputs, 0);
            }
        }
        T
    }

    /// Each four of sixteen integers, in every lane.
    #[inline]
    fn quarters(q: &[i8; 16]) -> [int8x16_t; 4] {
        let q = vreinterpretq_s32_s8(load_input(q));
        [
            vreinterpretq_s8_s32(vdupq_laneq_s32::<0>(q)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<1>(q)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<2>(q)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<3>(q)),
        ]
    }

    /// Each four of eight integers, in every lane.
    #[inline]
    fn halves(q: &[i8; 8]) -> [int8x16_t; 2] {
        let (fours, _) = q.as_chunks::<4>();
        core::array::from_fn(|i| {
            let four = fours.get(i).copied().unwrap_or([0; 4]).map(i8::cast_unsigned);
            vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(four)))
        })
    }
}
