//! Rows of floats times floats.

use forge_formats::Matrix;

use crate::math::{dot, dot_widened, widen_f16};

/// `F32` matrix, read in place.
pub fn gemv_f32(w: &Matrix<'_>, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate().take(w.rows()) {
        *y = dot_f32(w.row_bytes(r).as_chunks().0, x);
    }
}

/// `F16` matrix, read in place.
pub fn gemv_f16(w: &Matrix<'_>, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate().take(w.rows()) {
        *y = dot_f16(w.row_bytes(r).as_chunks().0, x);
    }
}

#[inline(never)]
fn dot_f32(row: &[[u8; 4]], x: &[f32]) -> f32 {
    dot_widened(row, x, f32::from_le_bytes)
}

#[inline(never)]
fn dot_f16(row: &[[u8; 2]], x: &[f32]) -> f32 {
    dot_widened(row, x, widen_f16)
}

/// Any codec whose rows are decoded to f32, one after another, through `row`.
pub fn gemv_decoded(w: &Matrix<'_>, x: &[f32], y: &mut [f32], row: &mut [f32]) {
    let row = row.get_mut(..w.cols()).unwrap_or(&mut []);
    for (r, y) in y.iter_mut().enumerate().take(w.rows()) {
        w.decode_row(r, row);
        *y = dot(row, x);
    }
}
