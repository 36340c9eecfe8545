//! Packed trits times int8.
//!
//! Trits are stored as digits 0, 1, 2, one more than their value, so the sum of all elements is taken off in the
//! end. Products are summed in `i16` as long as they fit.

use forge_formats::Matrix;

use super::{Quantised, Row, for_rows, total_of};
use crate::math::{LANES, widen_f16};

/// Pieces whose products (at most `5 · 2 · 127` a lane and piece) fit in an `i16`, with one more for the tail.
const STEPS: usize = i16::MAX as usize / (5 * 2 * 127) - 1;

/// `Ternary2b` matrix.
pub fn gemv_ternary_2b(w: &Matrix<'_>, q: &Quantised<'_, 4>, y: &mut [f32]) {
    for_rows(w, q, y, dot_2b);
}

/// `Ternary5x8` matrix.
pub fn gemv_ternary_5x8(w: &Matrix<'_>, q: &Quantised<'_, 5>, y: &mut [f32]) {
    for_rows(w, q, y, dot_5x8);
}

/// Any ternary matrix, packed a tile of rows at a time into `tile`, which has room for at least one.
pub fn gemv_ternary_packed(w: &Matrix<'_>, q: &Quantised<'_, 4>, y: &mut [f32], tile: &mut [u8]) {
    let stride = w.packed_2b_bytes().max(1);
    let rows = tile.len() / stride;
    let y = y.get_mut(..w.rows()).unwrap_or(&mut []);
    let scales = w.scales().chunks(rows.max(1));
    for ((n, y), scales) in y.chunks_mut(rows.max(1)).enumerate().zip(scales) {
        w.pack_rows_2b(n * rows, tile);
        for (r, (y, scale)) in y.iter_mut().zip(scales).enumerate() {
            let sum = dot_2b(Row::new(tile.get(r * stride..).unwrap_or(&[]), stride), q);
            *y = sum as f32 * (q.inverse() * widen_f16(*scale));
        }
    }
}

#[inline(never)]
fn dot_2b(row: Row<'_>, q: &Quantised<'_, 4>) -> i32 {
    dot(row, q, |sums, bytes, [q0, q1, q2, q3]| {
        for i in 0..LANES {
            let b = i16::from(bytes[i]);
            sums[i] += (b & 3) * q0[i] + ((b >> 2) & 3) * q1[i] + ((b >> 4) & 3) * q2[i] + (b >> 6) * q3[i];
        }
    })
}

#[inline(never)]
fn dot_5x8(row: Row<'_>, q: &Quantised<'_, 5>) -> i32 {
    dot(row, q, |sums, bytes, [q0, q1, q2, q3, q4]| {
        for i in 0..LANES {
            // Times three, the next base-3 digit stands above the eight bits.
            let a = i16::from(bytes[i]) * 3;
            let b = (a & 0xFF) * 3;
            let c = (b & 0xFF) * 3;
            let d = (c & 0xFF) * 3;
            let e = (d & 0xFF) * 3;
            sums[i] +=
                (a >> 8) * q0[i] + (b >> 8) * q1[i] + (c >> 8) * q2[i] + (d >> 8) * q3[i] + (e >> 8) * q4[i];
        }
    })
}

/// One row times the input. `add` adds the products of one piece.
#[inline(always)]
fn dot<const G: usize>(
    row: Row<'_>,
    q: &Quantised<'_, G>,
    add: impl Fn(&mut [i16; LANES], &[u8; LANES], &[[i16; LANES]; G]),
) -> i32 {
    let mut totals = [0i32; LANES];
    let (mut pieces, mut groups) = (row.whole, q.groups());
    loop {
        let steps = pieces.len().min(groups.len()).min(STEPS);
        let (Some((now, later)), Some((q, q_later))) =
            (pieces.split_at_checked(steps), groups.split_at_checked(steps))
        else {
            break;
        };
        let mut sums = [0i16; LANES];
        for (bytes, q) in now.iter().zip(q) {
            add(&mut sums, bytes, q);
        }
        (pieces, groups) = (later, q_later);
        if let (Some(bytes), [q]) = (&row.tail, groups) {
            add(&mut sums, bytes, q);
        }
        totals.iter_mut().zip(sums).for_each(|(t, s)| *t += i32::from(s));
        if pieces.is_empty() || groups.is_empty() {
            break;
        }
    }
    total_of(totals) - q.sum()
}
