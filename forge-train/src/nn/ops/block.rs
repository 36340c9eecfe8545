//! One transformer block in one operation: attention and the feed-forward network with their norms, projections,
//! residuals and dropout. It computes what the operations it is made of compute, to the bit; it exists because each
//! edge of candle's graph costs three passes over a gradient, and because a block's intermediate values can be
//! thrown away and computed again.

use std::sync::{Arc, Mutex};

use candle_core::{Result, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::attention::Attention;
#[cfg(feature = "cuda")]
use super::cuda::KeptOnDevice;
use super::dropout::Mask;
use super::glu::Prologue;
use super::linear::{Call, Extra, NormLinear};
use super::simd::vectorised;
use super::sink::Sink;
use super::{Arg, Form, Op, ROWS, host};
use crate::weights::Key;

/// A matrix, or a gain, that an operation holds.
#[derive(Clone)]
pub(crate) struct Parameter {
    /// Its name, under which its gradient goes to the sink.
    pub(crate) key: Key,
    /// Latent values.
    pub(crate) weight: Tensor,
    /// The form it is multiplied in.
    pub(crate) form: Form,
}

impl Parameter {
    /// Calls `f` with the values.
    pub(super) fn read<T>(&self, f: impl FnOnce(Arg<'_>) -> Result<T>) -> Result<T> {
        let (storage, layout) = self.weight.storage_and_layout();
        let storage: &Storage = &storage;
        f(host(storage, layout)?)
    }
}

/// A norm, its gain if it has one, and the projection behind it.
pub(crate) struct Projection {
    /// Gain of the norm.
    pub(crate) gain: Option<Parameter>,
    /// The matrix.
    pub(crate) matrix: Parameter,
    /// Applied ahead of the norm.
    pub(crate) prologue: Prologue,
    /// Added to the mean square.
    pub(crate) eps: f32,
}

/// `u ↦ v + F(v)` with `v = u + A(u)`: attention `A`, feed-forward network `F`; operand and result `[b·t, d]`.
pub(crate) struct Block {
    /// To queries, keys and values.
    pub(crate) qkv: Projection,
    /// Between the two.
    pub(crate) attention: Attention,
    /// Back to the residual stream.
    pub(crate) attn_out: Projection,
    /// To the two halves of the gated activation.
    pub(crate) gate_up: Projection,
    /// Back to the residual stream.
    pub(crate) down: Projection,
    /// Dropout of the attention's and of the feed-forward network's outcome.
    pub(crate) masks: Option<[Mask; 2]>,
    /// Where the gradients of the parameters go.
    pub(crate) sink: Arc<Sink>,
    /// Whether the forward pass keeps its intermediate values; the backward pass computes them again otherwise.
    pub(crate) keep: bool,
    /// What the forward pass kept for the backward pass.
    pub(crate) kept: Mutex<Option<Kept<Vec<f32>>>>,
    /// The same on a device.
    #[cfg(feature = "cuda")]
    pub(crate) kept_on_device: Mutex<Option<KeptOnDevice>>,
}

/// Intermediate values of a block.
pub(crate) struct Kept<T> {
    /// Queries, keys and values.
    pub(super) qkv: T,
    /// What attention yields.
    pub(super) attended: T,
    /// The residual stream between attention and feed-forward network.
    pub(super) middle: T,
    /// The two halves of the gated activation.
    pub(super) hidden: T,
}

impl Projection {
    /// The operation, its third operand being `extra`.
    pub(super) fn op(&self, extra: Extra) -> NormLinear {
        let Form { quant, device, products } = self.matrix.form.clone();
        NormLinear { prologue: self.prologue, eps: self.eps, quant, device, products, extra }
    }

    /// Calls `f` with the operation and its operands.
    pub(super) fn with<T>(
        &self,
        x: Arg<'_>,
        f: impl FnOnce(&NormLinear, &Call<'_>) -> Result<T>,
    ) -> Result<T> {
        let op = self.op(Extra::Gain);
        self.matrix.read(|w| match &self.gain {
            Some(gain) => gain.read(|gain| f(&op, &op.call(x, w, Some(gain))?)),
            None => f(&op, &op.call(x, w, None)?),
        })
    }

    fn forward(&self, x: Arg<'_>) -> Result<Vec<f32>> {
        self.with(x, |op, call| Ok(op.run(call)))
    }

    /// `base + [mask ⊙] W · norm(prologue(x))`.
    fn residual(&self, x: Arg<'_>, base: Arg<'_>, mask: Option<Mask>) -> Result<Vec<f32>> {
        let Some(mask) = mask else {
            let op = self.op(Extra::Residual);
            return self.matrix.read(|w| Ok(op.run(&op.call(x, w, Some(base))?)));
        };
        let mut sum = base.data.to_vec();
        mask.add_all(&self.forward(x)?, &mut sum);
        Ok(sum)
    }

    /// Gradient of `x`; those of the parameters go to the sink.
    fn backward(&self, x: Arg<'_>, grad: &[f32], sink: &Sink) -> Result<Vec<f32>> {
        self.with(x, |op, call| {
            let (dx, inputs, dgain) = op.input_gradients(call, grad);
            sink.put(self.matrix.key, call.outs * call.ins, |dw, further| {
                op.weight_gradient(call, grad, &inputs, dw, further);
            });
            if let Some(gain) = &self.gain {
                sink.add(gain.key, dgain);
            }
            Ok(dx)
        })
    }
}

impl Block {
    fn compute(&self, u: Arg<'_>) -> Result<(Kept<Vec<f32>>, Vec<f32>)> {
        let [attention_mask, ffn_mask] = self.masks.map_or([None; 2], |masks| masks.map(Some));
        let rows = u.rows();
        let qkv = self.qkv.forward(u)?;
        let (attended, _) = self.attention.forward([Arg { data: &qkv, dims: &[rows, qkv.len() / rows] }])?;
        let inner = Arg { data: &attended, dims: &[rows, attended.len() / rows] };
        let middle = self.attn_out.residual(inner, u, attention_mask)?;
        let v = Arg { data: &middle, dims: u.dims };
        let hidden = self.gate_up.forward(v)?;
        let wide = Arg { data: &hidden, dims: &[rows, hidden.len() / rows] };
        let out = self.down.residual(wide, v, ffn_mask)?;
        Ok((Kept { qkv, attended, middle, hidden }, out))
    }

    /// Gradient of `v`, given that of the block's result.
    fn ffn_backward(&self, v: Arg<'_>, hidden: Vec<f32>, grad: &[f32]) -> Result<Vec<f32>> {
        let masked = self.masks.map(|[_, mask]| mask.applied(grad));
        let branch = masked.as_deref().unwrap_or(grad);
        let wide = Arg { data: &hidden, dims: &[v.rows(), hidden.len() / v.rows()] };
        let dhidden = self.down.backward(wide, branch, &self.sink)?;
        drop((hidden, masked));
        let mut dv = self.gate_up.backward(v, &dhidden, &self.sink)?;
        add(grad, &mut dv);
        Ok(dv)
    }

    /// Gradient of `u`, given that of `v`.
    fn attention_backward(&self, u: Arg<'_>, qkv: &[f32], attended: &[f32], dv: &[f32]) -> Result<Vec<f32>> {
        let rows = u.rows();
        let masked = self.masks.map(|[mask, _]| mask.applied(dv));
        let branch = masked.as_deref().unwrap_or(dv);
        let inner = Arg { data: attended, dims: &[rows, attended.len() / rows] };
        let dattended = self.attn_out.backward(inner, branch, &self.sink)?;
        let fused = Arg { data: qkv, dims: &[rows, qkv.len() / rows] };
        let [dqkv] = self.attention.backward([fused], attended, &dattended, [true])?;
        let mut du = self.qkv.backward(u, &dqkv.unwrap_or_default(), &self.sink)?;
        add(dv, &mut du);
        Ok(du)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Kept<Vec<f32>>>> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Op<1> for Block {
    const NAME: &'static str = "transformer-block";

    fn forward(&self, [u]: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let (kept, out) = self.compute(u)?;
        *self.slot() = Some(kept).filter(|_| self.keep);
        Ok((out, u.dims.into()))
    }

    fn backward(
        &self,
        [u]: [Arg<'_>; 1],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        let kept = self.slot().take();
        let Kept { qkv, attended, middle, hidden } = match kept {
            Some(kept) => kept,
            None => self.compute(u)?.0,
        };
        let dv = self.ffn_backward(Arg { data: &middle, dims: u.dims }, hidden, grad)?;
        Ok([Some(self.attention_backward(u, &qkv, &attended, &dv)?)])
    }
}

/// Adds `x` to `sum`.
fn add(x: &[f32], sum: &mut [f32]) {
    let chunk = ROWS * 64;
    sum.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(sum, x)| add_values(x, sum));
}

vectorised! {
fn add_values(x: &[f32], sum: &mut [f32]) {
    sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
}
}
