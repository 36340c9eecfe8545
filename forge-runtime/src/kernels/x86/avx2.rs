//! AVX2: eight rows in a register, two registers a panel. `vpmaddubsw` multiplies unsigned by signed bytes and adds
//! neighbours in 16 bits, where products of trits can be summed for a while.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "accumulators are registers, told apart by number")]

use core::arch::x86_64::*;

use super::Group;
use crate::kernels::dispatch::{compiled, floats_with};
use crate::kernels::{Inputs, Kernels, Outputs, PANEL_ROWS, Panels, Products, VECTOR};

pub(super) static TABLE: Kernels = Kernels {
    name: "avx2",
    floats: floats_with!("avx2,f16c"),
    panels: Some(Products {
        ternary: compiled!("avx2,f16c",
            ternary_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => ternary),
        int8: compiled!("avx2,f16c",
            int8_panels(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) => int8),
    }),
    rows: Some(super::rows::PRODUCT),
};

/// Vectors whose products fit in 16 bits when two planes' digits count once: each adds at most
/// 2 · 2 · 2 · 127 = 1016 of either sign, and 32 · 1016 = 32,512.
const ONCE_STEPS: usize = 32;
/// The same when they count four times: 8 · 4064 = 32,512.
const FOURFOLD_STEPS: usize = 8;
/// The same with all four planes' digits counting once: 4 · 2 · 2 · 127 = 2032 a vector, 16 · 2032 = 32,512.
const STEPS: usize = 16;

/// Defines a function that has the instruction set of this file.
macro_rules! avx2 {
    ($($item:item)*) => { $(
        #[target_feature(enable = "avx2,f16c")]
        $item
    )* };
}

avx2! {
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

    /// One input. Odd planes are left in their place, so they count four times, in accumulators of their own that
    /// are full sooner.
    fn ternary_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize) -> usize {
        let zero = _mm256_setzero_si256();
        let q = inputs.pieces::<16>(t);
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            let (mut even, mut odd) = ([zero; 2], [zero; 2]);
            for (vectors, q) in pieces(vectors, ONCE_STEPS).zip(pieces(q, ONCE_STEPS)) {
                let mut once = [zero; 2];
                for (vectors, q) in pieces(vectors, FOURFOLD_STEPS).zip(pieces(q, FOURFOLD_STEPS)) {
                    let mut fourfold = [zero; 2];
                    for (w, q) in vectors.iter().zip(q) {
                        super::prefetch(w);
                        let q = quarters(q);
                        let w = load(w);
                        for half in 0..2 {
                            let (a, b) = plane_pairs(w[half], q);
                            once[half] = _mm256_add_epi16(once[half], a);
                            fourfold[half] = _mm256_add_epi16(fourfold[half], b);
                        }
                    }
                    for half in 0..2 {
                        odd[half] = _mm256_add_epi32(odd[half], widen(fourfold[half]));
                    }
                }
                for half in 0..2 {
                    even[half] = _mm256_add_epi32(even[half], widen(once[half]));
                }
            }
            let total =
                core::array::from_fn(|h| _mm256_add_epi32(even[h], _mm256_srai_epi32::<2>(odd[h])));
            store(out, t, at * PANEL_ROWS, scales, total, inputs, 1);
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
        let zero = _mm256_setzero_si256();
        let Some(group) = Group::new(inputs, t, T, 4 * (panels.per_panel - 1)) else { return T };
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            let mut totals = [[zero; 2]; T];
            for half in 0..2 {
                let mut k = 0;
                for vectors in pieces(vectors, STEPS) {
                    let mut sums = [zero; T];
                    for w in vectors {
                        let digits = digits(load(w)[half]);
                        for i in 0..T {
                            // SAFETY: `i` is below T, and `k` counts the vectors of a panel, four words each.
                            let q = core::array::from_fn(|p| unsafe { group.word(i, 4 * k + p) });
                            let products = dot_planes(digits, q.map(|q| _mm256_set1_epi32(q)));
                            sums[i] = _mm256_add_epi16(sums[i], products);
                        }
                        k += 1;
                    }
                    for i in 0..T {
                        totals[i][half] = _mm256_add_epi32(totals[i][half], widen(sums[i]));
                    }
                }
            }
            for i in 0..T {
                store(out, t + i, at * PANEL_ROWS, scales, totals[i], inputs, 1);
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
                1 => int8_one(panels, inputs, out, t),
                2 | 3 => int8_many::<2>(panels, inputs, out, t),
                _ => int8_many::<4>(panels, inputs, out, t),
            };
        }
    }

    /// One input.
    fn int8_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize) -> usize {
        let zero = _mm256_setzero_si256();
        let q = inputs.pieces::<4>(t);
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            let mut totals = [zero; 2];
            for (w, q) in vectors.iter().zip(q) {
                super::prefetch(w);
                let q = broadcast(*q);
                let magnitude = _mm256_abs_epi8(q);
                for (total, w) in totals.iter_mut().zip(load(w)) {
                    let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w, q));
                    *total = _mm256_add_epi32(*total, widen(products));
                }
            }
            store(out, t, at * PANEL_ROWS, scales, totals, inputs, 0);
        }
        1
    }

    /// The sign of the input goes to the weight and its magnitude is the unsigned factor; two products, at most
    /// 2 · 127 · 127 = 32,258, fit in 16 bits.
    fn int8_many<const T: usize>(
        panels: &Panels<'_>,
        inputs: &Inputs<'_>,
        out: &mut Outputs<'_>,
        t: usize,
    ) -> usize {
        let zero = _mm256_setzero_si256();
        let q: [&[[i8; 4]]; T] = core::array::from_fn(|i| inputs.pieces::<4>(t + i));
        for (at, (scales, vectors)) in panels.iter().enumerate() {
            let mut totals = [[zero; 2]; T];
            for (k, w) in vectors.iter().enumerate() {
                let w = load(w);
                for i in 0..T {
                    let Some(q) = q[i].get(k) else { continue };
                    let q = broadcast(*q);
                    let magnitude = _mm256_abs_epi8(q);
                    for half in 0..2 {
                        let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w[half], q));
                        totals[i][half] = _mm256_add_epi32(totals[i][half], widen(products));
                    }
                }
            }
            for i in 0..T {
                store(out, t + i, at * PANEL_ROWS, scales, totals[i], inputs, 0);
            }
        }
        T
    }

    /// The halves of a vector in memory.
    #[inline]
    fn load(from: &[u8; VECTOR]) -> [__m256i; 2] {
        let from = from.as_ptr();
        // SAFETY: the reference is to 64 readable bytes, two loads of 32; they need no alignment.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }

    /// Four integers in every lane.
    #[inline]
    fn broadcast(q: [i8; 4]) -> __m256i {
        _mm256_set1_epi32(i32::from_le_bytes(q.map(i8::cast_unsigned)))
    }

    /// Each four of sixteen integers, in every lane.
    #[inline]
    fn quarters(q: &[i8; 16]) -> [__m256i; 4] {
        let (words, _) = q.as_chunks::<4>();
        core::array::from_fn(|p| broadcast(words.get(p).copied().unwrap_or([0; 4])))
    }

    /// Products of planes 0 and 2, and of planes 1 and 3 four times over.
    #[inline]
    fn plane_pairs(w: __m256i, q: [__m256i; 4]) -> (__m256i, __m256i) {
        let (low, next) = (_mm256_set1_epi8(0x03), _mm256_set1_epi8(0x0C));
        let high = _mm256_srli_epi16::<4>(w);
        let p0 = _mm256_maddubs_epi16(_mm256_and_si256(w, low), q[0]);
        let p1 = _mm256_maddubs_epi16(_mm256_and_si256(w, next), q[1]);
        let p2 = _mm256_maddubs_epi16(_mm256_and_si256(high, low), q[2]);
        let p3 = _mm256_maddubs_epi16(_mm256_and_si256(high, next), q[3]);
        (_mm256_add_epi16(p0, p2), _mm256_add_epi16(p1, p3))
    }

    /// The digits of the four planes.
    #[inline]
    fn digits(w: __m256i) -> [__m256i; 4] {
        let three = _mm256_set1_epi8(3);
        [
            _mm256_and_si256(w, three),
            _mm256_and_si256(_mm256_srli_epi16::<2>(w), three),
            _mm256_and_si256(_mm256_srli_epi16::<4>(w), three),
            _mm256_and_si256(_mm256_srli_epi16::<6>(w), three),
        ]
    }

    /// Products of all planes, in 16 bits.
    #[inline]
    fn dot_planes(w: [__m256i; 4], q: [__m256i; 4]) -> __m256i {
        let p01 = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], q[0]), _mm256_maddubs_epi16(w[1], q[1]));
        let p23 = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], q[2]), _mm256_maddubs_epi16(w[3], q[3]));
        _mm256_add_epi16(p01, p23)
    }

    /// Neighbours of 16 bits added in 32.
    #[inline]
    fn widen(sums: __m256i) -> __m256i {
        _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
    }

    /// `y = (total − offset · Σq) · (inverse · scale)`.
    #[inline]
    fn store(
        out: &mut Outputs<'_>,
        t: usize,
        r: usize,
        scales: &[u8; VECTOR],
        total: [__m256i; 2],
        inputs: &Inputs<'_>,
        offset: i32,
    ) {
        let (Some(y), Some(meta)) = (out.panel(t, r), inputs.meta.get(t)) else { return };
        let offset = _mm256_set1_epi32(offset.wrapping_mul(meta.sum));
        let inverse = _mm256_set1_ps(meta.inverse);
        let (halves, _) = y.as_chunks_mut::<8>();
        for ((y, total), scales) in halves.iter_mut().zip(total).zip(load(scales)) {
            let scale = _mm256_mul_ps(inverse, _mm256_castsi256_ps(scales));
            let result = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(total, offset)), scale);
            // SAFETY: `y` is eight f32 that only we hold; the store needs no alignment.
            unsafe { _mm256_storeu_ps(y.as_mut_ptr(), result) }
        }
    }
}

/// `x` in pieces of at most `n`.
#[inline(always)]
fn pieces<T>(x: &[T], n: usize) -> impl Iterator<Item = &[T]> {
    let mut rest = x;
    core::iter::from_fn(move || {
        let (piece, after) = rest.split_at_checked(n.min(rest.len()))?;
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
