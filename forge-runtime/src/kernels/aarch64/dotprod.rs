//! NEON with the dot product instruction of Armv8.2 (Cortex-A55, A75 and later, Apple M1 and later): `sdot` adds four
//! products in every lane, with four integers of an input taken from one lane of a register, so that nothing is
//! broadcast.
//!
//! Tried and lost: digits left in the places of all four planes. Plane 3 holds up to 128, beyond a signed byte, so it
//! is shifted down, which costs no more than a mask.
#![allow(unsafe_code)]

use core::arch::aarch64::*;
use core::arch::asm;

use super::registers::{digits, load_input, quarter, store};
use crate::kernels::dispatch::{compiled, floats_with};
use crate::kernels::{Inputs, Kernels, Outputs, PANEL_ROWS, Panels, Products};

pub(super) static TABLE: Kernels = Kernels {
    name: "neon_dotprod",
    floats: floats_with!("neon,dotprod"),
    panels: Some(Products {
        ternary: compiled!("neon,dotprod",
            ternary_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => ternary),
        int8: compiled!("neon,dotprod",
            int8_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => int8),
    }),
    rows: None,
};

/// Defines a function that has the instruction set of this file.
macro_rules! dotprod {
    ($($item:item)*) => { $(
        #[target_feature(enable = "neon,dotprod")]
        $item
    )* };
}

dotprod! {
    /// Products of ternary panels.
    fn ternary(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
        let mut t = 0;
        let n = inputs.meta.len();
        while t < n {
            t += match n - t {
                1 => ternary_one(panels, inputs, out, t),
                2 | 3 => ternary_many::<2>(panels, inputs, out, t),
                4..8 => ternary_many::<4>(panels, inputs, out, t),
                _ => ternary_many::<8>(panels, inputs, out, t),
            };
        }
    }

    /// One input. Planes 1 and 2 are left in their places, so they count 4 and 16 times, in accumulators of their own.
    fn ternary_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize) -> usize {
        let masks = [0x03, 0x0C, 0x30].map(|m| vdupq_n_u8(m));
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            let mut sums = [[vdupq_n_s32(0); 3]; 4];
            for (w, q) in vectors.iter().zip(inputs.pieces::<16>(t)) {
                let q = load_input(q);
                for (i, [a, b, c]) in sums.iter_mut().enumerate() {
                    let w = quarter(w, i);
                    let plane = |mask| vreinterpretq_s8_u8(vandq_u8(w, mask));
                    *a = sdot::<0>(*a, plane(masks[0]), q);
                    *b = sdot::<1>(*b, plane(masks[1]), q);
                    *c = sdot::<2>(*c, plane(masks[2]), q);
                    *a = sdot::<3>(*a, vreinterpretq_s8_u8(vshrq_n_u8::<6>(w)), q);
                }
            }
            let totals = sums.map(|[a, b, c]| {
                vaddq_s32(a, vaddq_s32(vshrq_n_s32::<2>(b), vshrq_n_s32::<4>(c)))
            });
            store(out, (t, at * PANEL_ROWS, 0), scales, totals, inputs, 1);
        }
        1
    }

    /// `T` inputs: digits are unpacked once for all of them, half a panel at a time.
    fn ternary_many<const T: usize>(
        panels: &Panels<'_>,
        inputs: &Inputs<'_>,
        out: &mut Outputs<'_>,
        t: usize,
    ) -> usize {
        let q: [&[[i8; 16]]; T] = core::array::from_fn(|i| inputs.pieces::<16>(t + i));
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            for first in [0, 2] {
                let mut sums = [[vdupq_n_s32(0); 2]; T];
                for (k, w) in vectors.iter().enumerate() {
                    let w = [digits(quarter(w, first)), digits(quarter(w, first + 1))];
                    for (sums, q) in sums.iter_mut().zip(&q) {
                        let Some(q) = q.get(k) else { continue };
                        let q = load_input(q);
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = sdot::<0>(*sum, w[0], q);
                            *sum = sdot::<1>(*sum, w[1], q);
                            *sum = sdot::<2>(*sum, w[2], q);
                            *sum = sdot::<3>(*sum, w[3], q);
                        }
                    }
                }
                for (i, sums) in sums.into_iter().enumerate() {
                    store(out, (t + i, at * PANEL_ROWS, first), scales, sums, inputs, 1);
                }
            }
        }
        T
    }

    /// Products of int8 panels.
    fn int8(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
        let mut t = 0;
        let n = inputs.meta.len();
        while t < n {
            t += match n - t {
                1 => int8_many::<1>(panels, inputs, out, t),
                2 | 3 => int8_many::<2>(panels, inputs, out, t),
                _ => int8_many::<4>(panels, inputs, out, t),
            };
        }
    }

    fn int8_many<const T: usize>(
        panels: &Panels<'_>,
        inputs: &Inputs<'_>,
        out: &mut Outputs<'_>,
        t: usize,
    ) -> usize {
        let q: [&[[i8; 16]]; T] = core::array::from_fn(|i| inputs.pieces::<16>(t + i));
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            let mut sums = [[vdupq_n_s32(0); 4]; T];
            let (whole, tail) = vectors.as_chunks::<4>();
            for (k, [a, b, c, d]) in whole.iter().enumerate() {
                for (sums, q) in sums.iter_mut().zip(&q) {
                    let Some(q) = q.get(k) else { continue };
                    let q = load_input(q);
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = sdot::<0>(*sum, vreinterpretq_s8_u8(quarter(a, i)), q);
                        *sum = sdot::<1>(*sum, vreinterpretq_s8_u8(quarter(b, i)), q);
                        *sum = sdot::<2>(*sum, vreinterpretq_s8_u8(quarter(c, i)), q);
                        *sum = sdot::<3>(*sum, vreinterpretq_s8_u8(quarter(d, i)), q);
                    }
                }
            }
            for (j, w) in tail.iter().enumerate() {
                for (sums, q) in sums.iter_mut().zip(&q) {
                    let q = q.get(whole.len()).and_then(|q| q.as_chunks::<4>().0.get(j));
                    let q = vreinterpretq_s8_s32(vdupq_n_s32(word(q)));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = sdot::<0>(*sum, vreinterpretq_s8_u8(quarter(w, i)), q);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                store(out, (t + i, at * PANEL_ROWS, 0), scales, sums, inputs, 0);
            }
        }
        T
    }

    /// `sum[lane] + w[4 lane ..] · q[4 LANE ..]`, four products each. The intrinsic is not stable yet.
    #[inline]
    fn sdot<const LANE: u32>(mut sum: int32x4_t, w: int8x16_t, q: int8x16_t) -> int32x4_t {
        // SAFETY: the function has the feature the instruction belongs to; it works on registers only.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {q:v}.4b[{lane}]",
                sum = inout(vreg) sum,
                w = in(vreg) w,
                q = in(vreg) q,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
}

/// Four integers as a word; zeros for none.
#[inline(always)]
fn word(q: Option<&[i8; 4]>) -> i32 {
    i32::from_le_bytes(q.copied().unwrap_or([0; 4]).map(i8::cast_unsigned))
}
