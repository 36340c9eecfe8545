//! The defining kernels, in plain Rust that the compiler vectorises.
//!
//! Each multiplies row by row in a function of its own that is not inlined: inlined into the loop over rows, the
//! compiler tries to vectorise across rows and makes it many times slower.

#![forbid(unsafe_code)]

mod int8;
mod quantise;
mod ternary;

pub use int8::gemv_int8;
pub use quantise::{QUANTISED_PADDING, Quantised};
pub use ternary::{gemv_ternary_2b, gemv_ternary_5x8, gemv_ternary_packed};

use forge_formats::Matrix;
use forge_formats::codec::{Codec, linked};

use super::{Floats, Kernels, generic};
use crate::math::{LANES, widen_f16};

pub(super) const TABLE: Kernels = Kernels { name: "portable", floats: FLOATS, panels: None, rows: None };

pub(super) const FLOATS: Floats = Floats {
    norm: generic::norm,
    norm_in_place: generic::norm_in_place,
    norm_gained: generic::norm_gained,
    quantise: generic::quantise,
    rotate: generic::rotate,
    #[cfg(not(little_code))]
    attend: generic::attend,
    #[cfg(little_code)]
    attend: generic::attend_compact,
    #[cfg(not(little_code))]
    attend_hybrid: generic::attend_hybrid,
    #[cfg(little_code)]
    attend_hybrid: generic::attend_hybrid_compact,
    attend_int8: generic::attend_int8,
    attend_hybrid_int8: generic::attend_hybrid_int8,
    store_int8: generic::store_int8,
    swiglu: generic::swiglu,
    relu2: generic::relu2,
    add: generic::add,
    remember: generic::remember,
    associate: generic::associate,
    blend: generic::blend,
    float_rows: generic::float_rows,
};

/// `y = W x` of an integer matrix, row by row from the file; `buffer` has room for [`QUANTISED_PADDING`] halfwords more
/// than `x` has elements.
pub(crate) fn rows(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
    let buffer = bytemuck::must_cast_slice_mut(buffer);
    match w.codec() {
        Codec::Int8Row if linked::INT8 => quantised(x, y, buffer, |q, y| gemv_int8(w, q, y)),
        Codec::Ternary5x8 if linked::TERNARY_5X8 => {
            quantised(x, y, buffer, |q, y| gemv_ternary_5x8(w, q, y));
        }
        Codec::Ternary2b if linked::TERNARY_2B => quantised(x, y, buffer, |q, y| gemv_ternary_2b(w, q, y)),
        // Not linked, so never validated.
        _ => {}
    }
}

/// As [`rows`], of a ternary codec whose rows have to be unpacked: as many at a time as `tile` has room for.
pub(crate) fn packed_rows(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], tile: &mut [u8], y: &mut [f32]) {
    let buffer = bytemuck::must_cast_slice_mut(buffer);
    quantised(x, y, buffer, |q, y| gemv_ternary_packed(w, q, y, tile));
}

/// Calls a kernel with the quantised input; without, when the input is zero and so is the product.
fn quantised<const G: usize>(
    x: &[f32],
    y: &mut [f32],
    buffer: &mut [i16],
    kernel: impl FnOnce(&Quantised<'_, G>, &mut [f32]),
) {
    match Quantised::new(x, buffer) {
        Some(q) => kernel(&q, y),
        None => y.fill(0.0),
    }
}

/// A packed row in pieces of sixteen bytes.
#[derive(Clone, Copy)]
struct Row<'a> {
    whole: &'a [[u8; LANES]],
    /// What is left of the row, then anything: the elements it meets are zero. Absent when nothing is left.
    tail: Option<[u8; LANES]>,
}

impl<'a> Row<'a> {
    /// The row of `stride` bytes at the front of `from`.
    #[inline(always)]
    fn new(from: &'a [u8], stride: usize) -> Self {
        let (row, _) = from.split_at_checked(stride).unwrap_or((&[], &[]));
        let (whole, rest) = row.as_chunks::<LANES>();
        let beyond = || from.get(whole.len() * LANES..)?.first_chunk::<LANES>().copied();
        let tail = if rest.is_empty() { None } else { Some(beyond().unwrap_or_else(|| padded(rest))) };
        Self { whole, tail }
    }
}

/// The last bytes of a row, filled up with zeros.
#[cold]
fn padded(rest: &[u8]) -> [u8; LANES] {
    let mut bytes = [0; LANES];
    bytes.iter_mut().zip(rest).for_each(|(b, r)| *b = *r);
    bytes
}

/// `y = acc · (inverse · scale)` with the integer sum `acc` of every row.
#[inline(always)]
fn for_rows<const G: usize>(
    w: &Matrix<'_>,
    q: &Quantised<'_, G>,
    y: &mut [f32],
    dot: impl Fn(Row<'_>, &Quantised<'_, G>) -> i32,
) {
    let (bytes, stride) = (w.rows_on(), w.row_stride());
    let y = y.get_mut(..w.rows()).unwrap_or(&mut []);
    for (r, y) in y.iter_mut().enumerate() {
        *y = dot(Row::new(bytes.get(r * stride..).unwrap_or(&[]), stride), q) as f32;
    }
    for (y, scale) in y.iter_mut().zip(w.scales()) {
        *y *= q.inverse() * widen_f16(*scale);
    }
}

/// The sum of the lanes, by halves, which vector registers are good at.
#[inline(always)]
fn total_of(lanes: [i32; LANES]) -> i32 {
    let eight: [i32; 8] = halve(&lanes);
    let four: [i32; 4] = halve(&eight);
    let [a, b]: [i32; 2] = halve(&four);
    a + b
}

/// `a[j] + a[j + M]` for `j < M`, `a` holding `2 M` elements.
#[inline(always)]
fn halve<const M: usize>(a: &[i32]) -> [i32; M] {
    let mut sums = [0; M];
    for ((sum, low), high) in sums.iter_mut().zip(a).zip(a.iter().skip(M)) {
        *sum = low + high;
    }
    sums
}
