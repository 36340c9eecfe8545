//! AVX-512 with VNNI: sixteen rows in a register, `vpdpbusd` multiplies four bytes of each and adds.
//!
//! `vpdpbusd` takes unsigned times signed bytes. Digits are 0, 1, 2; int8 weights are moved up by 128. What that adds
//! to a sum, a multiple of the sum of the inputs, is taken off in the end.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "accumulators are registers, told apart by number")]

use core::arch::x86_64::*;

use super::Group;
use crate::kernels::dispatch::{compiled, floats_with};
use crate::kernels::{Inputs, Kernels, Outputs, PANEL_ROWS, Panels, Products, VECTOR};

pub(super) static TABLE: Kernels = Kernels {
    name: "avx512",
    floats: floats_with!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c"),
    panels: Some(Products {
        ternary: compiled!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c",
            ternary_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => ternary),
        int8: compiled!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c",
            int8_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => int8),
    }),
    rows: Some(super::rows::PRODUCT),
};

/// Defines a function that has the instruction set of this file.
macro_rules! avx512 {
    ($($item:item)*) => { $(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
        $item
    )* };
}

avx512! {
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

    /// One input. The digits of plane `p` are left in their place, so they count 4ᵖ times; four accumulators keep
    /// the planes apart until the end, when a shift takes the factor off.
    fn ternary_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize) -> usize {
        let pairs = Panels { vectors: panels.vectors, per_panel: 2 * panels.per_panel };
        let mut r = 0;
        for (first, both) in pairs.iter() {
            let Some((upper, lower)) = both.split_at_checked(panels.per_panel - 1) else { continue };
            let Some((second, lower)) = lower.split_first() else { continue };
            let mut sums = [_mm512_setzero_si512(); 8];
            for ((a, b), q) in upper.iter().zip(lower).zip(inputs.pieces::<16>(t)) {
                let q = quarters(q);
                super::prefetch(a);
                super::prefetch(b);
                add_planes(&mut sums, 0, load(a), q);
                add_planes(&mut sums, 4, load(b), q);
            }
            let [a0, a1, a2, a3, b0, b1, b2, b3] = sums;
            store(out, t, r, first, planes_total([a0, a1, a2, a3]), inputs, 1);
            store(out, t, r + PANEL_ROWS, second, planes_total([b0, b1, b2, b3]), inputs, 1);
            r += 2 * PANEL_ROWS;
        }
        // An odd panel is left over.
        if let Some((scales, vectors)) = panels.slice(r / PANEL_ROWS, 1).iter().next() {
            let mut sums = [_mm512_setzero_si512(); 4];
            for (a, q) in vectors.iter().zip(inputs.pieces::<16>(t)) {
                add_planes(&mut sums, 0, load(a), quarters(q));
            }
            store(out, t, r, scales, planes_total(sums), inputs, 1);
        }
        1
    }

    /// `T` inputs: digits are unpacked once for all of them, in two panels at a time.
    fn ternary_many<const T: usize>(
        panels: &Panels<'_>,
        inputs: &Inputs<'_>,
        out: &mut Outputs<'_>,
        t: usize,
    ) -> usize {
        let Some(group) = Group::new(inputs, t, T, 4 * (panels.per_panel - 1)) else { return T };
        let pairs = Panels { vectors: panels.vectors, per_panel: 2 * panels.per_panel };
        let mut r = 0;
        for (first, both) in pairs.iter() {
            let Some((upper, lower)) = both.split_at_checked(panels.per_panel - 1) else { continue };
            let Some((second, lower)) = lower.split_first() else { continue };
            let mut a = [_mm512_setzero_si512(); T];
            let mut b = [_mm512_setzero_si512(); T];
            for (k, (x, z)) in upper.iter().zip(lower).enumerate() {
                let (x, z) = (digits(load(x)), digits(load(z)));
                for i in 0..T {
                    for p in 0..4 {
                        // SAFETY: `i` is below T, and `k` counts the vectors of a panel, four words each.
                        let q = _mm512_set1_epi32(unsafe { group.word(i, 4 * k + p) });
                        a[i] = _mm512_dpbusd_epi32(a[i], x[p], q);
                        b[i] = _mm512_dpbusd_epi32(b[i], z[p], q);
                    }
                }
            }
            for i in 0..T {
                store(out, t + i, r, first, a[i], inputs, 1);
                store(out, t + i, r + PANEL_ROWS, second, b[i], inputs, 1);
            }
            r += 2 * PANEL_ROWS;
        }
        // An odd panel is left over.
        let last = panels.slice(r / PANEL_ROWS, 1);
        let y = out.y.get_mut(r..).unwrap_or(&mut []);
        let mut rest = Outputs { y, stride: out.stride };
        for i in 0..T {
            ternary_one(&last, inputs, &mut rest, t + i);
        }
        T
    }

    /// Products of int8 panels.
    fn int8(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
        let mut t = 0;
        let n = inputs.meta.len();
        while t < n {
            t += match n - t {
                1 => int8_one(panels, inputs, out, t),
                2 | 3 => int8_many::<2>(panels, inputs, out, t),
                4..8 => int8_many::<4>(panels, inputs, out, t),
                _ => int8_many::<8>(panels, inputs, out, t),
            };
        }
    }

    /// One input.
    fn int8_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize) -> usize {
        let up = _mm512_set1_epi8(-128);
        let zero = _mm512_setzero_si512();
        let q = inputs.pieces::<16>(t);
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            // Several accumulators hide the latency of the instruction.
            let mut sums = [zero; 4];
            let (whole, tail) = vectors.as_chunks::<4>();
            for (w, q) in whole.iter().zip(q) {
                let q = quarters(q);
                for j in 0..4 {
                    super::prefetch(&w[j]);
                    sums[j] = _mm512_dpbusd_epi32(sums[j], _mm512_xor_si512(load(&w[j]), up), q[j]);
                }
            }
            if let Some(q) = q.get(whole.len()) {
                for ((sum, w), q) in sums.iter_mut().zip(tail).zip(quarters(q)) {
                    *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(load(w), up), q);
                }
            }
            let [a, b, c, d] = sums;
            let total = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
            store(out, t, at * PANEL_ROWS, scales, total, inputs, 128);
        }
        1
    }

    fn int8_many<const T: usize>(
        panels: &Panels<'_>,
        inputs: &Inputs<'_>,
        out: &mut Outputs<'_>,
        t: usize,
    ) -> usize {
        let up = _mm512_set1_epi8(-128);
        let q: [&[[i8; 16]]; T] = core::array::from_fn(|i| inputs.pieces::<16>(t + i));
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            // Several accumulators an input hide the latency of the instruction.
            let mut sums = [[_mm512_setzero_si512(); 4]; T];
            let (whole, tail) = vectors.as_chunks::<4>();
            for (k, four) in whole.iter().enumerate() {
                let w: [__m512i; 4] = core::array::from_fn(|j| _mm512_xor_si512(load(&four[j]), up));
                for i in 0..T {
                    let Some(q) = q[i].get(k) else { continue };
                    let q = quarters(q);
                    for j in 0..4 {
                        sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], w[j], q[j]);
                    }
                }
            }
            for (j, x) in tail.iter().enumerate() {
                let w = _mm512_xor_si512(load(x), up);
                for i in 0..T {
                    if let Some(q) = q[i].get(whole.len()) {
                        sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], w, quarters(q)[j & 3]);
                    }
                }
            }
            for (i, [a, b, c, d]) in sums.into_iter().enumerate() {
                let total = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
                store(out, t + i, at * PANEL_ROWS, scales, total, inputs, 128);
            }
        }
        T
    }

    /// A vector from memory.
    #[inline]
    fn load(from: &[u8; VECTOR]) -> __m512i {
        // SAFETY: the reference is to 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    /// Each four of sixteen integers, in every lane.
    #[inline]
    fn quarters(q: &[i8; 16]) -> [__m512i; 4] {
        let (words, _) = q.as_chunks::<4>();
        core::array::from_fn(|p| {
            let four = words.get(p).copied().unwrap_or([0; 4]).map(i8::cast_unsigned);
            _mm512_set1_epi32(i32::from_le_bytes(four))
        })
    }

    /// Adds the products of the four planes, each to its own of the accumulators from `at` on.
    #[inline]
    fn add_planes<const N: usize>(sums: &mut [__m512i; N], at: usize, w: __m512i, q: [__m512i; 4]) {
        let masks = [0x03, 0x0C, 0x30, 0xC0u8.cast_signed()];
        for p in 0..4 {
            let plane = _mm512_and_si512(w, _mm512_set1_epi8(masks[p]));
            sums[at + p] = _mm512_dpbusd_epi32(sums[at + p], plane, q[p]);
        }
    }

    /// The planes' sums without their factors 1, 4, 16, 64, added.
    #[inline]
    fn planes_total([a, b, c, d]: [__m512i; 4]) -> __m512i {
        let ab = _mm512_add_epi32(a, _mm512_srai_epi32::<2>(b));
        let cd = _mm512_add_epi32(_mm512_srai_epi32::<4>(c), _mm512_srai_epi32::<6>(d));
        _mm512_add_epi32(ab, cd)
    }

    /// The digits of the four planes.
    #[inline]
    fn digits(w: __m512i) -> [__m512i; 4] {
        let three = _mm512_set1_epi8(3);
        [
            _mm512_and_si512(w, three),
            _mm512_and_si512(_mm512_srli_epi16::<2>(w), three),
            _mm512_and_si512(_mm512_srli_epi16::<4>(w), three),
            _mm512_and_si512(_mm512_srli_epi16::<6>(w), three),
        ]
    }

    /// `y = (total − offset · Σq) · (inverse · scale)`.
    #[inline]
    fn store(
        out: &mut Outputs<'_>,
        t: usize,
        r: usize,
        scales: &[u8; VECTOR],
        total: __m512i,
        inputs: &Inputs<'_>,
        offset: i32,
    ) {
        let (Some(y), Some(meta)) = (out.panel(t, r), inputs.meta.get(t)) else { return };
        let total = _mm512_sub_epi32(total, _mm512_set1_epi32(offset.wrapping_mul(meta.sum)));
        let scale = _mm512_mul_ps(_mm512_set1_ps(meta.inverse), _mm512_castsi512_ps(load(scales)));
        let result = _mm512_mul_ps(_mm512_cvtepi32_ps(total), scale);
        // SAFETY: `y` is sixteen f32 that only we hold; the store needs no alignment.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), result) }
    }
}
