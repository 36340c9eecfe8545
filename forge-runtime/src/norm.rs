//! Root-mean-square normalisation (Zhang & Sennrich 2019).

use forge_formats::Matrix;

use crate::math::{rsqrt, sum_squares};

/// `rsqrt(sum_squares(x) / n + eps)`, which every element is multiplied with.
#[inline]
pub(crate) fn factor(x: &[f32], eps: f32) -> f32 {
    rsqrt(sum_squares(x) / x.len() as f32 + eps)
}

/// `norm(x)` into `out`.
#[inline]
pub(crate) fn plain(x: &[f32], eps: f32, out: &mut [f32]) {
    let r = factor(x, eps);
    out.iter_mut().zip(x).for_each(|(o, x)| *o = x * r);
}

/// `norm(x)` in the place of `x`.
#[inline]
pub(crate) fn in_place(x: &mut [f32], eps: f32) {
    let r = factor(x, eps);
    x.iter_mut().for_each(|x| *x *= r);
}

/// `norm(x, gain)` into `out`, or `norm(x)` without a gain. `row` has room to decode the gain.
#[inline]
pub(crate) fn gained(x: &[f32], gain: Option<&Matrix<'_>>, eps: f32, row: &mut [f32], out: &mut [f32]) {
    plain(x, eps, out);
    if let Some(gain) = gain {
        gain.decode_row(0, row);
        out.iter_mut().zip(row.iter()).for_each(|(o, g)| *o *= g);
    }
}
