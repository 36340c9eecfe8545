//! The head and the cross entropy of its logits in one operation, a chunk of rows at a time, so that the logits of a
//! batch, its largest tensor, never exist as a whole.

use std::sync::{Arc, Mutex};

use candle_core::{Result, Shape, bail};
use rayon::prelude::*;

use super::block::Projection;
#[cfg(feature = "cuda")]
use super::cuda::DeviceRows;
use super::linear::{Call, NormLinear};
use super::loss::{CrossEntropy, cross_entropy_row};
use super::sink::Sink;
use super::{Arg, Op};

/// Logits of a chunk: 4 MiB.
const CHUNK: usize = 1 << 20;

/// Weighted mean cross entropy of `W · (norm(y) ⊙ gain)`; operand `y [n, d]`, result a number. Gradients are linear
/// in the one that arrives, so the forward pass, which has the logits, computes them for 1.
pub(crate) struct HeadCrossEntropy {
    /// Final norm and head.
    pub(crate) head: Projection,
    /// Targets and weights.
    pub(crate) loss: CrossEntropy,
    /// Where the gradients of the parameters go.
    pub(crate) sink: Arc<Sink>,
    /// What the forward pass kept for the backward pass.
    pub(crate) kept: Mutex<Option<Kept>>,
    /// The logits, which a device keeps instead.
    #[cfg(feature = "cuda")]
    pub(crate) logits: Mutex<Option<DeviceRows>>,
}

/// Gradients for a gradient of 1.
pub(crate) struct Kept {
    dy: Vec<f32>,
    dw: Vec<f32>,
    dgain: Vec<f32>,
}

impl HeadCrossEntropy {
    fn compute(&self, y: Arg<'_>) -> Result<(f32, Kept)> {
        self.head.with(y, |op, call| {
            self.loss.check(y.rows(), call.outs)?;
            let (a, steps) = op.inputs(call);
            let mut da = vec![0.0; a.len()];
            let mut dw = vec![0.0; call.outs * call.ins];
            let rows = (CHUNK / call.outs).clamp(1, y.rows().max(1));
            let mut logits = vec![0.0; rows * call.outs];
            let mut sum = 0.0;
            let (matrix, gradient_matrix) = (op.matrix(call), op.gradient_matrix(call));
            let chunks = a.chunks(rows * call.ins).zip(da.chunks_mut(rows * call.ins));
            for (chunk, (a, da)) in chunks.enumerate() {
                let first = chunk * rows;
                let n = a.len() / call.ins;
                let steps = if steps.is_empty() { &[][..] } else { &steps[first..first + n] };
                let logits = &mut logits[..n * call.outs];
                op.product(call, &matrix, a, steps, None, logits);
                sum += self.rows(first, call.outs, logits);
                op.activation_gradient(call, &gradient_matrix, logits, da);
                let inputs = dequantised(a, steps);
                op.weight_gradient(call, logits, inputs.as_deref().unwrap_or(a), &mut dw, chunk > 0);
            }
            drop((matrix, gradient_matrix));
            let (dy, dgain) = finish(op, call, da, a);
            Ok((self.loss.weighting.finish(sum), Kept { dy, dw, dgain }))
        })
    }

    /// Sum of the weighted losses of a chunk of rows, whose logits become their gradients.
    fn rows(&self, first: usize, vocab: usize, logits: &mut [f32]) -> f64 {
        let losses: Vec<f64> = logits
            .par_chunks_mut(vocab)
            .enumerate()
            .map(|(r, row)| {
                let at = first + r;
                let (weight, share) = self.loss.weighting.of(at);
                if weight == 0.0 {
                    row.fill(0.0);
                    return 0.0;
                }
                weight * f64::from(cross_entropy_row(self.loss.targets[at] as usize, share, row))
            })
            .collect();
        losses.iter().sum()
    }
}

/// Integer inputs as the values they stand for, none when they are values already.
fn dequantised(a: &[f32], steps: &[f32]) -> Option<Vec<f32>> {
    let ins = a.len().checked_div(steps.len())?;
    let rows = a.chunks_exact(ins).zip(steps);
    Some(rows.flat_map(|(row, step)| row.iter().map(move |v| v * step)).collect())
}

/// Gradients of the rows and the gain; `scratch` is overwritten.
fn finish(op: &NormLinear, call: &Call<'_>, mut da: Vec<f32>, mut scratch: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
    let mut dy = vec![0.0; call.x.len()];
    let dgain = op.finish(call, &mut da, &mut scratch, &mut dy);
    (dy, dgain)
}

fn scale(factor: f32, mut values: Vec<f32>) -> Vec<f32> {
    if factor != 1.0 {
        values.par_chunks_mut(1 << 14).for_each(|chunk| chunk.iter_mut().for_each(|v| *v *= factor));
    }
    values
}

impl Op<1> for HeadCrossEntropy {
    const NAME: &'static str = "head-cross-entropy";

    fn forward(&self, [y]: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let (loss, kept) = self.compute(y)?;
        *self.kept.lock().unwrap_or_else(|e| e.into_inner()) = Some(kept);
        Ok((vec![loss], Shape::from(())))
    }

    fn backward(
        &self,
        [y]: [Arg<'_>; 1],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        let &[grad] = grad else { bail!("a loss has one gradient") };
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Kept { dy, dw, dgain } = match kept {
            Some(kept) => kept,
            None => self.compute(y)?.1,
        };
        self.sink.add(self.head.matrix.key, scale(grad, dw));
        if let Some(gain) = &self.head.gain {
            self.sink.add(gain.key, scale(grad, dgain));
        }
        Ok([Some(scale(grad, dy))])
    }
}
