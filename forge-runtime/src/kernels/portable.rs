//! The defining kernels, in plain Rust that the compiler vectorises.

use forge_formats::Matrix;

use super::Quantised;
use crate::math::{LANES, dot, dot_f32_le};

/// `F32` matrix, read in place.
pub fn gemv_f32(w: &Matrix<'_>, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate().take(w.rows()) {
        *y = dot_f32_le(w.row_bytes(r).as_chunks().0, x);
    }
}

/// Any codec whose rows are decoded to f32, through `row`.
pub fn gemv_decoded(w: &Matrix<'_>, x: &[f32], y: &mut [f32], row: &mut [f32]) {
    let row = row.get_mut(..w.cols()).unwrap_or(&mut []);
    for (r, y) in y.iter_mut().enumerate().take(w.rows()) {
        w.decode_row(r, row);
        *y = dot(row, x);
    }
}

/// `Int8Row` matrix; `q` has one plane.
pub fn gemv_int8(w: &Matrix<'_>, q: &Quantised<'_>, y: &mut [f32]) {
    let q0 = q.plane(0);
    for (r, y) in y.iter_mut().enumerate().take(w.rows()) {
        let (chunks, tail) = w.row_bytes(r).as_chunks::<LANES>();
        let mut sums = [0i32; LANES];
        let mut add = |w: &[u8; LANES], q: &[i16; LANES]| {
            for i in 0..LANES {
                sums[i] += i32::from(w[i].cast_signed()) * i32::from(q[i]);
            }
        };
        chunks.iter().zip(q0).for_each(|(w, q)| add(w, q));
        if let Some(q) = q0.get(chunks.len()) {
            add(&padded(tail), q);
        }
        *y = scaled(sums.iter().sum(), w, r, q);
    }
}

/// `Ternary2b` matrix; `q` has four planes.
pub fn gemv_ternary_2b(w: &Matrix<'_>, q: &Quantised<'_>, y: &mut [f32]) {
    gemv_trits(w, q, y, |byte, [q0, q1, q2, q3]: [i16; 4]| {
        let digit = |shift: u32| (i16::from(byte) >> shift) & 3;
        digit(0) * q0 + digit(2) * q1 + digit(4) * q2 + digit(6) * q3
    });
}

/// `Ternary5x8` matrix; `q` has five planes.
pub fn gemv_ternary_5x8(w: &Matrix<'_>, q: &Quantised<'_>, y: &mut [f32]) {
    gemv_trits(w, q, y, |byte, q: [i16; 5]| {
        let mut fraction = i16::from(byte);
        q.into_iter().fold(0, |sum, q| {
            // Times three, the next base-3 digit stands above the fraction's eight bits.
            fraction *= 3;
            let digit = fraction >> 8;
            fraction &= 0xFF;
            sum + digit * q
        })
    });
}

/// Trits in groups of `G` a byte: `sum` adds the products of the digits 0, 1, 2 of a byte with one element of
/// each plane. As the digits are the trits plus one, the sum of all elements is taken off in the end.
#[inline(always)]
fn gemv_trits<const G: usize>(
    w: &Matrix<'_>,
    q: &Quantised<'_>,
    y: &mut [f32],
    sum: impl Fn(u8, [i16; G]) -> i16,
) {
    /// Steps whose sums of at most `5 · 2 · 127` fit in an `i16`.
    const STEPS: usize = i16::MAX as usize / (5 * 2 * 127);
    let planes: [_; G] = core::array::from_fn(|k| q.plane(k));
    for (r, y) in y.iter_mut().enumerate().take(w.rows()) {
        let row = w.row_bytes(r);
        let (chunks, tail) = row.as_chunks::<LANES>();
        let mut total = [0i32; LANES];
        let mut at = 0;
        for chunks in chunks.chunks(STEPS) {
            let block: [_; G] = planes.map(|p| p.get(at..at + chunks.len()).unwrap_or(&[]));
            at += chunks.len();
            let mut sums = [0i16; LANES];
            for (c, bytes) in chunks.iter().enumerate() {
                let q: [&[i16; LANES]; G] = block.map(|p| p.get(c).unwrap_or(&[0; LANES]));
                for i in 0..LANES {
                    sums[i] += sum(bytes[i], q.map(|q| q[i]));
                }
            }
            total.iter_mut().zip(sums).for_each(|(t, s)| *t += i32::from(s));
        }
        if !tail.is_empty() {
            let bytes = padded(tail);
            let q: [&[i16; LANES]; G] = planes.map(|p| p.get(at).unwrap_or(&[0; LANES]));
            for i in 0..LANES {
                total[i] += i32::from(sum(bytes[i], q.map(|q| q[i])));
            }
        }
        *y = scaled(total.iter().sum::<i32>() - q.sum(), w, r, q);
    }
}

/// The integer sum of row `r` as a real number.
#[inline(always)]
fn scaled(sum: i32, w: &Matrix<'_>, r: usize, q: &Quantised<'_>) -> f32 {
    sum as f32 * (q.inverse() * w.scale(r))
}

/// The last bytes of a row, filled up with zeros; the elements they meet are zero.
#[inline(always)]
fn padded(tail: &[u8]) -> [u8; LANES] {
    let mut bytes = [0; LANES];
    bytes.iter_mut().zip(tail).for_each(|(b, t)| *b = *t);
    bytes
}
