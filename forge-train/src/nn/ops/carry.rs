//! What halting needs: the halting logit, and rows that keep the value an earlier recursion gave them.

use std::sync::Arc;

use candle_core::{Result, Shape, bail};
use rayon::prelude::*;

use super::norm::{inverse_rms, normalise, normalise_backward};
use super::simd::vectorised;
use super::{Arg, HostData, Op, ROWS, add_partials};
use forge_runtime::math;

/// `dot(halt[..d], norm(y)) + halt[d]`; operands `y [n, d]` and `halt [1, d + 1]`, result `[n]`.
pub(crate) struct HaltLogit {
    /// Added to the mean square.
    pub(crate) eps: f32,
}

impl Op<2> for HaltLogit {
    const NAME: &'static str = "halt-logit";

    fn forward(&self, [y, halt]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        let d = y.width();
        if halt.data.len() != d + 1 {
            bail!("halting head of {} values for width {d}", halt.data.len());
        }
        let mut out = vec![0.0; y.rows()];
        out.par_chunks_mut(ROWS).zip(y.data.par_chunks(ROWS * d)).for_each(|(out, y)| {
            halt_rows(self.eps, halt.data, y, out);
        });
        Ok((out, y.rows().into()))
    }

    fn backward(
        &self,
        [y, halt]: [Arg<'_>; 2],
        _result: &[f32],
        grad: &[f32],
        wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let d = y.width();
        let mut dy = vec![0.0; y.data.len()];
        let partials: Vec<Vec<f32>> = dy
            .par_chunks_mut(ROWS * d)
            .zip(y.data.par_chunks(ROWS * d))
            .zip(grad.par_chunks(ROWS))
            .map(|((dy, y), grad)| halt_rows_backward(self.eps, halt.data, y, grad, dy))
            .collect();
        Ok([wanted[0].then_some(dy), wanted[1].then(|| add_partials(&partials, d + 1))])
    }
}

vectorised! {
fn halt_rows(eps: f32, halt: &[f32], y: &[f32], out: &mut [f32]) {
    let d = halt.len() - 1;
    let mut normed = vec![0.0; d];
    for (out, y) in out.iter_mut().zip(y.chunks_exact(d)) {
        normalise(y, eps, &mut normed);
        *out = math::dot(&halt[..d], &normed) + halt[d];
    }
}

/// Writes the gradient of `y` and returns that of the head.
fn halt_rows_backward(eps: f32, halt: &[f32], y: &[f32], grad: &[f32], dy: &mut [f32]) -> Vec<f32> {
    let d = halt.len() - 1;
    let mut dhalt = vec![0.0; d + 1];
    for ((dy, y), g) in dy.chunks_exact_mut(d).zip(y.chunks_exact(d)).zip(grad) {
        let inv = inverse_rms(y, eps);
        for i in 0..d {
            dhalt[i] += g * (y[i] * inv);
            dy[i] = g * halt[i];
        }
        dhalt[d] += g;
        normalise_backward(y, inv, dy);
    }
    dhalt
}
}

/// Columns from `from` on of halted rows come from the earlier value, everything else from the newer one;
/// operands `newer [n, d]` and `earlier [n, d]`.
pub(crate) struct Carry {
    /// Which rows have halted.
    pub(crate) halted: Arc<HostData<bool>>,
    /// First column carried forward.
    pub(crate) from: usize,
}

impl Op<2> for Carry {
    const NAME: &'static str = "carry";

    fn forward(&self, [newer, earlier]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        let d = newer.width();
        if newer.dims != earlier.dims || newer.rows() != self.halted.len() {
            bail!("carry of {} rows with a mask of {}", newer.rows(), self.halted.len());
        }
        let mut out = newer.data.to_vec();
        for (r, _) in self.halted.iter().enumerate().filter(|(_, halted)| **halted) {
            let part = r * d + self.from..(r + 1) * d;
            out[part.clone()].copy_from_slice(&earlier.data[part]);
        }
        Ok((out, newer.dims.into()))
    }

    fn backward(
        &self,
        [newer, _]: [Arg<'_>; 2],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let d = newer.width();
        let mut dnewer = grad.to_vec();
        let mut dearlier = vec![0.0; grad.len()];
        for (r, _) in self.halted.iter().enumerate().filter(|(_, halted)| **halted) {
            let part = r * d + self.from..(r + 1) * d;
            dearlier[part.clone()].copy_from_slice(&grad[part.clone()]);
            dnewer[part].fill(0.0);
        }
        Ok([Some(dnewer), Some(dearlier)])
    }
}
