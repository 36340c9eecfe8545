//! Root-mean-square norm (Zhang & Sennrich 2019) row by row, and the gained residual of the recursion.

use candle_core::{Result, Shape};
use rayon::prelude::*;

use super::simd::vectorised;
use super::{Arg, Op, ROWS, add_partials};
use forge_runtime::math;

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
pub(crate) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / math::sqrt(math::dot(x, x) / x.len() as f32 + eps)
}

/// `y = x * inverse_rms(x)`; returns the factor.
#[inline(always)]
pub(crate) fn normalise(x: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    let inv = inverse_rms(x, eps);
    for (y, x) in y.iter_mut().zip(x) {
        *y = x * inv;
    }
    inv
}

/// Gradient through `x * inv` with `inv = inverse_rms(x)`: turns `d`, the gradient of the normalised row, into
/// that of `x`, in place.
#[inline(always)]
pub(crate) fn normalise_backward(x: &[f32], inv: f32, d: &mut [f32]) {
    let c = math::dot(d, x) * inv * inv * inv / x.len() as f32;
    for (d, x) in d.iter_mut().zip(x) {
        *d = inv * *d - c * x;
    }
}

/// `base + gain ⊙ norm(z)`; operands `base [n, d]`, `z [n, d]`, `gain [1, d]`.
pub(crate) struct GainedResidual {
    /// Added to the mean square.
    pub(crate) eps: f32,
}

impl Op<3> for GainedResidual {
    const NAME: &'static str = "gained-residual";

    fn forward(&self, [base, z, gain]: [Arg<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        let d = z.width();
        let mut out = base.data.to_vec();
        out.par_chunks_mut(ROWS * d).zip(z.data.par_chunks(ROWS * d)).for_each(|(out, z)| {
            gained_rows(self.eps, gain.data, z, out);
        });
        Ok((out, base.dims.into()))
    }

    fn backward(
        &self,
        [_, z, gain]: [Arg<'_>; 3],
        _result: &[f32],
        grad: &[f32],
        wanted: [bool; 3],
    ) -> Result<[Option<Vec<f32>>; 3]> {
        let d = z.width();
        let mut dz = vec![0.0; z.data.len()];
        let partials: Vec<Vec<f32>> = dz
            .par_chunks_mut(ROWS * d)
            .zip(z.data.par_chunks(ROWS * d))
            .zip(grad.par_chunks(ROWS * d))
            .map(|((dz, z), grad)| gained_rows_backward(self.eps, gain.data, z, grad, dz))
            .collect();
        let dgain = add_partials(&partials, d);
        Ok([wanted[0].then(|| grad.to_vec()), wanted[1].then_some(dz), wanted[2].then_some(dgain)])
    }
}

vectorised! {
/// Adds `gain ⊙ norm(z)` to `out`.
fn gained_rows(eps: f32, gain: &[f32], z: &[f32], out: &mut [f32]) {
    let d = gain.len();
    for (out, z) in out.chunks_exact_mut(d).zip(z.chunks_exact(d)) {
        let inv = inverse_rms(z, eps);
        for ((out, z), g) in out.iter_mut().zip(z).zip(gain) {
            *out += g * (z * inv);
        }
    }
}

/// Writes the gradient of `z` to `dz` and returns that of the gain.
fn gained_rows_backward(eps: f32, gain: &[f32], z: &[f32], grad: &[f32], dz: &mut [f32]) -> Vec<f32> {
    let d = gain.len();
    let mut dgain = vec![0.0; d];
    for ((dz, z), grad) in dz.chunks_exact_mut(d).zip(z.chunks_exact(d)).zip(grad.chunks_exact(d)) {
        let inv = inverse_rms(z, eps);
        for i in 0..d {
            dgain[i] += grad[i] * (z[i] * inv);
            dz[i] = grad[i] * gain[i];
        }
        normalise_backward(z, inv, dz);
    }
    dgain
}
}
