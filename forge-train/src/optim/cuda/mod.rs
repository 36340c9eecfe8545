//! The element loops of the optimisers on a CUDA device: one launch a parameter, in place, and no sum with atomics.
//!
//! Nothing is read back but the partial sums of the squares of the gradients, once a step.

mod muon;
#[cfg(test)]
mod tests;

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{Tensor, Var};

use super::adamw::Factors;
use crate::error::{Error, Result};
use crate::nn::ops::cuda::Operand;
use crate::nn::ops::cuda::launch::{Grid, Module, Param, THREADS, launch, output};

pub(super) use muon::{Map, muon};

/// Blocks that share the sum of the squares of one parameter's gradient, at most.
const PARTS: usize = 64;

/// Runs `kernel` with one thread for each of the elements of `x`; its parameters are `before`, their number, `after`.
fn each(kernel: &str, x: &Tensor, before: &[&Tensor], after: &[f32]) -> Result<()> {
    let held: Vec<_> = before.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let mut params = Vec::with_capacity(before.len() + 1 + after.len());
    for (storage, layout) in &held {
        let operand = Operand::of(storage, layout)?;
        if operand.len() != x.elem_count() {
            return Err(Error::Config(format!("{kernel} over arrays of different lengths")));
        }
        params.push(Param::from(&operand.f32()?));
    }
    params.push(Param::Count(x.elem_count()));
    params.extend(after.iter().map(|value| Param::Float(*value)));
    let device = x.device().as_cuda_device()?;
    Ok(launch(device, Module::Optimizer, kernel, Grid::elements(x.elem_count()), &params)?)
}

/// `x ← factor·x`.
pub(super) fn scale(x: &Tensor, factor: f32) -> Result<()> {
    each("scale", x, &[x], &[factor])
}

/// `x ← x + y`.
pub(super) fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    each("add", x, &[x, y], &[])
}

/// [`super::Grokfast`] of one gradient and its mean.
pub(super) fn grokfast(g: &Tensor, mean: &Tensor, alpha: f32, lambda: f32) -> Result<()> {
    each("grokfast", g, &[g, mean], &[alpha, lambda])
}

/// [`super::AdamW`] of one variable.
pub(super) fn adamw(var: &Var, g: &Tensor, first: &Tensor, second: &Tensor, f: Factors) -> Result<()> {
    let factors = [f.beta1, f.beta2, f.eps, f.lr, f.decay, f.correct1, f.correct2];
    each("adamw", g, &[var.as_tensor(), g, first, second], &factors)
}

/// `Σ x²` of each array; waits for the device.
pub(super) fn sums_of_squares(arrays: &[&Tensor]) -> Result<Vec<f64>> {
    let Some(any) = arrays.first() else { return Ok(Vec::new()) };
    let device = any.device().as_cuda_device()?;
    let parts: CudaSlice<f64> = output(device, arrays.len() * PARTS)?;
    for (at, array) in arrays.iter().enumerate() {
        let (storage, layout) = array.storage_and_layout();
        let x = Operand::of(&storage, layout)?;
        let own = parts.slice(at * PARTS..(at + 1) * PARTS);
        let params = [(&x.f32()?).into(), Param::Count(x.len()), (&own).into()];
        launch(device, Module::Optimizer, "squares", Grid::new((PARTS, 1, 1), THREADS), &params)?;
    }
    let parts = device.clone_dtoh(&parts)?;
    Ok(parts.chunks_exact(PARTS).map(|parts| parts.iter().sum()).collect())
}
