//! One input times the rows of a matrix as they lie in the file, with AVX2: what a session does that has no prepared
//! weights, from its first token on. Laying panels out for one product would take longer than the product.
//!
//! A byte of four trits meets one input in each of its four planes, so the inputs are put plane after plane, 32 of each
//! a block. Rows are taken [`ROWS`] at a time, for which a block's inputs are loaded once. A row's last block may reach
//! into what follows it: the inputs it meets there are zero.
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use forge_formats::Matrix;
use forge_formats::codec::Codec;

use crate::kernels::dispatch::compiled;
use crate::kernels::generic::{self, Meta};
use crate::kernels::{RowProduct, portable};
use crate::math::widen_f16;

pub(super) const PRODUCT: RowProduct = compiled!("avx2,f16c",
    rows(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) => product);

/// Rows in work at a time.
const ROWS: usize = 4;
/// Bytes of a register.
const BLOCK: usize = 32;
/// Blocks whose products of trits fit in 16 bits: each adds at most 4 · 2 · 2 · 127 = 2032 of either sign, and
/// 16 · 2032 = 32,512.
const STEPS: usize = 16;

/// Defines a function that has the instruction set of this file.
macro_rules! avx2 {
    ($($item:item)*) => { $(
        #[target_feature(enable = "avx2,f16c")]
        $item
    )* };
}

avx2! {
    /// `y = W x`; `buffer` is that of the portable kernels.
    #[inline]
    fn product(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
        match w.codec() {
            Codec::Int8Row => int8(w, x, buffer, y),
            Codec::Ternary2b => ternary(w, x, buffer, y),
            _ => portable::rows(w, x, buffer, y),
        }
    }

    /// `Ternary2b` rows.
    #[inline]
    fn ternary(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
        let (planes, q, meta) = quantised(x, buffer);
        let (planes, _) = planes.as_chunks_mut::<{ 4 * BLOCK }>();
        for (to, from) in planes.iter_mut().zip(q.chunks(4 * BLOCK)) {
            *to = [0; 4 * BLOCK];
            let ([a, b, c, d], _) = to.as_chunks_mut::<BLOCK>() else { continue };
            for ((((a, b), c), d), four) in a.iter_mut().zip(b).zip(c).zip(d).zip(from.as_chunks::<4>().0) {
                [*a, *b, *c, *d] = *four;
            }
        }
        let done = for_rows(w, y, meta, 1, |[a, b, c, d]| {
            let mut totals = [_mm256_setzero_si256(); ROWS];
            let mut blocks = planes.iter().zip(a).zip(b).zip(c).zip(d);
            while blocks.len() > 0 {
                let mut sums = [_mm256_setzero_si256(); ROWS];
                for ((((planes, a), b), c), d) in blocks.by_ref().take(STEPS) {
                    let q = registers(planes);
                    for (sum, w) in sums.iter_mut().zip([a, b, c, d]) {
                        *sum = _mm256_add_epi16(*sum, dot_planes(load(w), q));
                    }
                }
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = _mm256_add_epi32(*total, widen(sum));
                }
            }
            totals
        });
        last_rows(w, done, x, buffer, y);
    }

    /// `Int8Row` rows: the sign of the input goes to the weight and its magnitude is the unsigned factor; two products,
    /// at most 2 · 127 · 127 = 32,258, fit in 16 bits.
    #[inline]
    fn int8(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
        let (_, q, meta) = quantised(x, buffer);
        let (q, _) = q.as_chunks::<BLOCK>();
        let done = for_rows(w, y, meta, 0, |[a, b, c, d]| {
            let mut totals = [_mm256_setzero_si256(); ROWS];
            for ((((q, a), b), c), d) in q.iter().zip(a).zip(b).zip(c).zip(d) {
                let q = load(bytemuck::must_cast_ref(q));
                let magnitude = _mm256_abs_epi8(q);
                for (total, w) in totals.iter_mut().zip([a, b, c, d]) {
                    let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(load(w), q));
                    *total = _mm256_add_epi32(*total, widen(products));
                }
            }
            totals
        });
        last_rows(w, done, x, buffer, y);
    }

    /// The rows from `first` on, which [`for_rows`] has left.
    #[inline]
    fn last_rows(w: &Matrix<'_>, first: usize, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
        if let (Some(w), Some(y)) = (w.slice_rows(first..w.rows()), y.get_mut(first..)) && w.rows() > 0 {
            portable::rows(&w, x, buffer, y);
        }
    }

    /// Room for the planes of an input, and the input as integers, zeros after it to a whole block. They take no more than
    /// the portable kernels do: 127 and 31 bytes beyond twice the input, of [`portable::QUANTISED_PADDING`] halfwords.
    #[inline]
    fn quantised<'b>(x: &[f32], buffer: &'b mut [u32]) -> (&'b mut [i8], &'b [i8], Meta) {
        let bytes: &mut [i8] = bytemuck::must_cast_slice_mut(buffer);
        let planes = x.len().next_multiple_of(4 * BLOCK);
        let (planes, q) = bytes.split_at_mut_checked(planes).unwrap_or_default();
        let q = q.get_mut(..x.len().next_multiple_of(BLOCK)).unwrap_or(&mut []);
        let meta = generic::quantise(x, q);
        (planes, q, meta)
    }

    /// `y = (sum of the lanes − offset · Σq) · (inverse · scale)` of the rows in groups of [`ROWS`] whose blocks all lie
    /// within the payload; `dot` gives the lanes of a group. Returns how many rows they are: all, or nearly.
    #[inline]
    fn for_rows(
        w: &Matrix<'_>,
        y: &mut [f32],
        meta: Meta,
        offset: i32,
        dot: impl Fn([&[[u8; BLOCK]]; ROWS]) -> [__m256i; ROWS],
    ) -> usize {
        let (bytes, stride) = (w.rows_on(), w.row_stride());
        let blocks = stride.div_ceil(BLOCK);
        let mut done = 0;
        let groups = y.as_chunks_mut::<ROWS>().0.iter_mut().zip(w.scales().as_chunks::<ROWS>().0);
        for (y, scales) in groups {
            let rows: [Option<&[[u8; BLOCK]]>; ROWS] = core::array::from_fn(|i| {
                bytes.get((done + i) * stride..)?.as_chunks().0.get(..blocks)
            });
            let [Some(a), Some(b), Some(c), Some(d)] = rows else { break };
            let sums = sums_of_lanes(dot([a, b, c, d]));
            for ((y, sum), scale) in y.iter_mut().zip(sums).zip(scales) {
                *y = (sum - offset * meta.sum) as f32 * (meta.inverse * widen_f16(*scale));
            }
            done += ROWS;
        }
        done
    }

    /// The sums of the lanes of four registers.
    #[inline]
    fn sums_of_lanes([a, b, c, d]: [__m256i; ROWS]) -> [i32; ROWS] {
        let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let mut out = [0; ROWS];
        // SAFETY: `out` is sixteen bytes that only we hold; the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) }
        out
    }

    #[inline]
    fn load(block: &[u8; BLOCK]) -> __m256i {
        // SAFETY: the reference is to 32 readable bytes; the load needs no alignment.
        unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
    }

    /// The four planes of a block's inputs.
    #[inline]
    fn registers(planes: &[i8; 4 * BLOCK]) -> [__m256i; 4] {
        let (planes, _) = planes.as_chunks::<BLOCK>();
        core::array::from_fn(|p| planes.get(p).map_or(_mm256_setzero_si256(), |plane| load(bytemuck::must_cast_ref(plane))))
    }

    /// Products of the four planes of a block's trits, neighbours added in 16 bits.
    #[inline]
    fn dot_planes(w: __m256i, q: [__m256i; 4]) -> __m256i {
        let three = _mm256_set1_epi8(3);
        let p0 = _mm256_maddubs_epi16(_mm256_and_si256(w, three), q[0]);
        let p1 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<2>(w), three), q[1]);
        let p2 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(w), three), q[2]);
        let p3 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<6>(w), three), q[3]);
        _mm256_add_epi16(_mm256_add_epi16(p0, p1), _mm256_add_epi16(p2, p3))
    }

    /// Neighbours of 16 bits added in 32.
    #[inline]
    fn widen(sums: __m256i) -> __m256i {
        _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
    }
}
