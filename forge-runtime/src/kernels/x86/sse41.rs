//! SSE4.1 with SSSE3: four rows in a register, four registers a panel; products as in AVX2.
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use crate::kernels::dispatch::{compiled, floats_with};
use crate::kernels::{Inputs, Kernels, Outputs, PANEL_ROWS, Panels, Products, VECTOR};

pub(super) static TABLE: Kernels = Kernels {
    name: "sse41",
    floats: floats_with!("sse4.1,ssse3"),
    panels: Some(Products {
        ternary: compiled!("sse4.1,ssse3",
            ternary_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => ternary),
        int8: compiled!("sse4.1,ssse3",
            int8_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => int8),
    }),
    rows: None,
};

/// Vectors whose products fit in 16 bits: each adds at most 4 · 2 · 2 · 127 = 2032, and 16 · 2032 = 32,512.
const STEPS: usize = 16;

/// Defines a function that has the instruction set of this file.
macro_rules! sse41 {
    ($($item:item)*) => { $(
        #[target_feature(enable = "sse4.1,ssse3")]
        $item
    )* };
}

sse41! {
    /// Products of ternary panels, a quarter of a panel at a time.
    fn ternary(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
        let zero = _mm_setzero_si128();
        for t in 0..inputs.meta.len() {
            for (at, (scales, vectors)) in panels.iter().enumerate() {
                let mut totals = [zero; 4];
                let (mut left, mut rest) = (vectors, inputs.pieces::<16>(t));
                while !left.is_empty() {
                    let steps = STEPS.min(left.len()).min(rest.len());
                    let (now, later) = left.split_at_checked(steps).unwrap_or_default();
                    let (q, q_later) = rest.split_at_checked(steps).unwrap_or_default();
                    (left, rest) = (if steps == 0 { &[] } else { later }, q_later);
                    let mut sums = [zero; 4];
                    for (w, q) in now.iter().zip(q) {
                        let q = quarters(q);
                        for (sum, w) in sums.iter_mut().zip(load(w)) {
                            *sum = _mm_add_epi16(*sum, dot_planes(w, q));
                        }
                    }
                    for (total, sum) in totals.iter_mut().zip(sums) {
                        *total = _mm_add_epi32(*total, widen(sum));
                    }
                }
                store(out, t, at * PANEL_ROWS, scales, totals, inputs, 1);
            }
        }
    }

    /// Products of int8 panels. The sign of the input goes to the weight and its magnitude is the unsigned factor;
    /// two products, at most 2 · 127 · 127 = 32,258, fit in 16 bits.
    fn int8(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
        for t in 0..inputs.meta.len() {
            for (at, (scales, vectors)) in panels.iter().enumerate() {
                let mut totals = [_mm_setzero_si128(); 4];
                for (w, q) in vectors.iter().zip(inputs.pieces::<4>(t)) {
                    let q = broadcast(*q);
                    let magnitude = _mm_abs_epi8(q);
                    for (total, w) in totals.iter_mut().zip(load(w)) {
                        let products = _mm_maddubs_epi16(magnitude, _mm_sign_epi8(w, q));
                        *total = _mm_add_epi32(*total, widen(products));
                    }
                }
                store(out, t, at * PANEL_ROWS, scales, totals, inputs, 0);
            }
        }
    }

    /// The quarters of a vector in memory.
    #[inline]
    fn load(from: &[u8; VECTOR]) -> [__m128i; 4] {
        let from = from.as_ptr();
        // SAFETY: the reference is to 64 readable bytes, four loads of 16; they need no alignment.
        unsafe {
            [
                _mm_loadu_si128(from.cast()),
                _mm_loadu_si128(from.add(16).cast()),
                _mm_loadu_si128(from.add(32).cast()),
                _mm_loadu_si128(from.add(48).cast()),
            ]
        }
    }

    /// Four integers in every lane.
    #[inline]
    fn broadcast(q: [i8; 4]) -> __m128i {
        _mm_set1_epi32(i32::from_le_bytes(q.map(i8::cast_unsigned)))
    }

    /// Each four of sixteen integers, in every lane.
    #[inline]
    fn quarters(q: &[i8; 16]) -> [__m128i; 4] {
        let (words, _) = q.as_chunks::<4>();
        core::array::from_fn(|p| broadcast(words.get(p).copied().unwrap_or([0; 4])))
    }

    /// Products of the four planes' digits, in 16 bits.
    #[inline]
    fn dot_planes(w: __m128i, q: [__m128i; 4]) -> __m128i {
        let three = _mm_set1_epi8(3);
        let p0 = _mm_maddubs_epi16(_mm_and_si128(w, three), q[0]);
        let p1 = _mm_maddubs_epi16(_mm_and_si128(_mm_srli_epi16::<2>(w), three), q[1]);
        let p2 = _mm_maddubs_epi16(_mm_and_si128(_mm_srli_epi16::<4>(w), three), q[2]);
        let p3 = _mm_maddubs_epi16(_mm_and_si128(_mm_srli_epi16::<6>(w), three), q[3]);
        _mm_add_epi16(_mm_add_epi16(p0, p1), _mm_add_epi16(p2, p3))
    }

    /// Neighbours of 16 bits added in 32.
    #[inline]
    fn widen(sums: __m128i) -> __m128i {
        _mm_madd_epi16(sums, _mm_set1_epi16(1))
    }

    /// `y = (total − offset · Σq) · (inverse · scale)`.
    #[inline]
    fn store(
        out: &mut Outputs<'_>,
        t: usize,
        r: usize,
        scales: &[u8; VECTOR],
        total: [__m128i; 4],
        inputs: &Inputs<'_>,
        offset: i32,
    ) {
        let (Some(y), Some(meta)) = (out.panel(t, r), inputs.meta.get(t)) else { return };
        let offset = _mm_set1_epi32(offset.wrapping_mul(meta.sum));
        let inverse = _mm_set1_ps(meta.inverse);
        let (fours, _) = y.as_chunks_mut::<4>();
        for ((y, total), scales) in fours.iter_mut().zip(total).zip(load(scales)) {
            let scale = _mm_mul_ps(inverse, _mm_castsi128_ps(scales));
            let result = _mm_mul_ps(_mm_cvtepi32_ps(_mm_sub_epi32(total, offset)), scale);
            // SAFETY: `y` is four f32 that only we hold; the store needs no alignment.
            unsafe { _mm_storeu_ps(y.as_mut_ptr(), result) }
        }
    }
}
