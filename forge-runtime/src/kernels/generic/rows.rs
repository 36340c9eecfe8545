//! Rows of floats, in whatever codec, times float inputs.
#![forbid(unsafe_code)]

use forge_formats::Matrix;

use crate::kernels::Outputs;
use crate::math::dot;

/// `y[t][r] = dot(row r, x[t])`: each row is decoded once, into `row`, for all inputs. `xs` holds inputs of
/// `w.cols()` elements, one every `stride`.
#[inline(always)]
pub(crate) fn float_rows(w: &Matrix<'_>, xs: &[f32], stride: usize, row: &mut [f32], out: &mut Outputs<'_>) {
    let cols = w.cols();
    let row = row.get_mut(..cols).unwrap_or(&mut []);
    for r in 0..w.rows() {
        w.decode_row(r, row);
        for (t, y) in out.column(r).enumerate() {
            *y = dot(row, xs.get(t * stride..).and_then(|x| x.get(..cols)).unwrap_or(&[]));
        }
    }
}
