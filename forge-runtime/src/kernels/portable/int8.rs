//! Int8 times int8.

use forge_formats::Matrix;

use super::{Quantised, Row, for_rows, total_of};
use crate::math::LANES;

/// `Int8Row` matrix.
pub fn gemv_int8(w: &Matrix<'_>, q: &Quantised<'_, 1>, y: &mut [f32]) {
    for_rows(w, q, y, dot);
}

/// One row times the input.
#[inline(never)]
fn dot(row: Row<'_>, q: &Quantised<'_, 1>) -> i32 {
    let mut sums = [0i32; LANES];
    let mut add = |bytes: &[u8; LANES], [q]: &[[i16; LANES]; 1]| {
        for i in 0..LANES {
            sums[i] += i32::from(bytes[i].cast_signed()) * i32::from(q[i]);
        }
    };
    for (bytes, q) in row.whole.iter().zip(q.groups()) {
        add(bytes, q);
    }
    if let (Some(bytes), Some(q)) = (&row.tail, q.groups().last()) {
        add(bytes, q);
    }
    total_of(sums)
}
