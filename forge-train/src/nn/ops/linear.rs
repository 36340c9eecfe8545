//! The linear map as the model uses it, in one operation: prologue, norm, gain, int8 activations, product,
//! scales and residual. Every stage but the product is done on a chunk of rows while it is in cache, and the
//! backward pass recomputes them instead of keeping them. The product takes all rows at once, so that the matrix is
//! packed once: chunks of 128 rows were a tenth slower.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Multiplier};
use super::glu::Prologue;
use super::norm::{inverse_rms, normalise_backward};
use super::quant::{QuantWeight, blend_activations, int8_activations};
use super::simd::vectorised;
use super::{Arg, DeviceWeight, Op, ROWS, add_partials};

/// What the optional third operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// `[1, in]` gain behind the norm.
    Gain,
    /// `[n, out]` residual the result is added to.
    Residual,
}

/// `[residual +] W · (norm(prologue(x)) [⊙ gain])`; operands `x [n, in]` and `W [out, in]`, and for `Op<3>` the
/// [`Extra`]. With `quant`, weights and activations are those of the integer codecs and gradients pass straight
/// through the rounding: `dW = dyᵀ·Q(a)`, `da = dy·Q(W)`.
#[derive(Clone)]
pub(crate) struct NormLinear {
    /// Applied to each row first.
    pub(crate) prologue: Prologue,
    /// Added to the mean square.
    pub(crate) eps: f32,
    /// The quantised matrix, none for a float map.
    pub(crate) quant: Option<Arc<QuantWeight>>,
    /// The matrix as a device multiplies it, none on the CPU.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a device reads it"))]
    pub(crate) device: Option<Arc<DeviceWeight>>,
    /// How the CPU multiplies.
    pub(crate) products: Multiplier,
    /// Meaning of the third operand.
    pub(crate) extra: Extra,
}

/// The rows a projection of `ins` inputs is given: `norm(prologue(x)) [⊙ gain]`, not yet quantised.
///
/// # Errors
/// If `x` is not contiguous f32 rows of the width the prologue takes.
pub(crate) fn projection_inputs(
    prologue: Prologue,
    eps: f32,
    x: &Tensor,
    ins: usize,
    gain: Option<&Tensor>,
) -> crate::error::Result<Vec<f32>> {
    let x = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let gain = gain.map(|g| g.flatten_all()?.to_vec1::<f32>()).transpose()?;
    let op = NormLinear {
        prologue,
        eps,
        quant: None,
        device: None,
        products: Multiplier::default(),
        extra: Extra::Gain,
    };
    let wide = prologue.input_width(ins);
    let call = Call { x: &x, wide, w: &[], outs: 0, ins, gain: gain.as_deref(), residual: None };
    Ok(op.activations(&call, &x))
}

/// Operands of one call, sorted out.
pub(super) struct Call<'a> {
    pub(super) x: &'a [f32],
    /// Width of a row of `x`.
    pub(super) wide: usize,
    w: &'a [f32],
    pub(super) outs: usize,
    pub(super) ins: usize,
    gain: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

impl NormLinear {
    pub(super) fn call<'a>(&self, x: Arg<'a>, w: Arg<'a>, extra: Option<Arg<'a>>) -> Result<Call<'a>> {
        let &[outs, ins] = w.dims else { bail!("weights must be a matrix") };
        let wide = self.prologue.input_width(ins);
        if x.width() != wide {
            bail!("linear map of {ins} inputs given rows of {} values instead of {wide}", x.width());
        }
        let (gain, residual) = match self.extra {
            Extra::Gain => (extra.map(|e| e.data), None),
            Extra::Residual => (None, extra.map(|e| e.data)),
        };
        let rows = x.rows();
        if gain.is_some_and(|g| g.len() != ins) || residual.is_some_and(|r| r.len() != rows * outs) {
            bail!("gain or residual of the wrong size");
        }
        Ok(Call { x: x.data, wide, w: w.data, outs, ins, gain, residual })
    }

    fn norm<'a>(&self, call: &Call<'a>) -> NormRows<'a> {
        NormRows { prologue: self.prologue, eps: self.eps, gain: call.gain, wide: call.wide }
    }

    /// Normalised rows, with gain, not yet quantised.
    fn activations(&self, call: &Call<'_>, x: &[f32]) -> Vec<f32> {
        let mut a = vec![0.0; x.len() / call.wide * call.ins];
        a.par_chunks_mut(ROWS * call.ins)
            .zip(x.par_chunks(ROWS * call.wide))
            .for_each(|(a, x)| normalise_rows(self.norm(call), call.ins, x, a));
        a
    }

    /// What the matrix is multiplied with: the activations, on the integer path as integers with the value of one
    /// step of each row.
    pub(super) fn inputs(&self, call: &Call<'_>) -> (Vec<f32>, Vec<f32>) {
        let mut a = self.activations(call, call.x);
        let mut steps = Vec::new();
        match &self.quant {
            None => {}
            Some(quant) if quant.exact() => {
                steps = vec![0.0; a.len() / call.ins];
                a.par_chunks_mut(ROWS * call.ins)
                    .zip(steps.par_chunks_mut(ROWS))
                    .for_each(|(a, steps)| quantise_rows(call.ins, a, steps));
            }
            Some(quant) => {
                a.par_chunks_mut(ROWS * call.ins).for_each(|a| blend_rows(call.ins, quant.blend.lambda, a));
            }
        }
        (a, steps)
    }

    /// The matrix that [`NormLinear::inputs`] are multiplied with.
    pub(super) fn matrix<'a>(&'a self, call: &Call<'a>) -> Cow<'a, [f32]> {
        self.quant.as_ref().map_or(Cow::Borrowed(call.w), |quant| quant.multiplied())
    }

    /// The matrix that gradients of the result are multiplied with.
    pub(super) fn gradient_matrix<'a>(&'a self, call: &Call<'a>) -> Cow<'a, [f32]> {
        self.quant.as_ref().map_or(Cow::Borrowed(call.w), |quant| quant.effective())
    }

    /// Products of rows of inputs with `matrix`, the residual added. Sums of int8 products stay below 2²⁴ up to 1,040 inputs for
    /// int8 and 132,000 for ternary weights, so f32 accumulates them exactly as the runtime does.
    pub(super) fn product(
        &self,
        call: &Call<'_>,
        matrix: &[f32],
        a: &[f32],
        steps: &[f32],
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let scales = self.quant.as_ref().filter(|quant| quant.exact()).map(|quant| &quant.scales);
        let added = residual.filter(|_| scales.is_none());
        if let Some(residual) = added {
            out.copy_from_slice(residual);
        }
        let n = a.len() / call.ins;
        self.products.multiply(
            MatMut::new(out, n, call.outs),
            Mat::new(a, n, call.ins),
            Mat::new(matrix, call.outs, call.ins).t(),
            1.0,
            added.is_some(),
        );
        if let Some(scales) = scales {
            out.par_chunks_mut(ROWS * call.outs).zip(steps.par_chunks(ROWS)).enumerate().for_each(
                |(chunk, (out, steps))| {
                    let residual = residual.map(|r| &r[chunk * ROWS * call.outs..][..out.len()]);
                    scale_rows(steps, scales, residual, out);
                },
            );
        }
    }

    pub(super) fn run(&self, call: &Call<'_>) -> Vec<f32> {
        let (a, steps) = self.inputs(call);
        let mut out = vec![0.0; a.len() / call.ins * call.outs];
        self.product(call, &self.matrix(call), &a, &steps, call.residual, &mut out);
        out
    }

    /// Gradients of `x`, `W` and the gain.
    fn gradients(
        &self,
        call: &Call<'_>,
        grad: &[f32],
        weights: bool,
    ) -> (Vec<f32>, Option<Vec<f32>>, Vec<f32>) {
        let (dx, inputs, dgain) = self.input_gradients(call, grad);
        let dw = weights.then(|| {
            let mut dw = vec![0.0; call.outs * call.ins];
            self.weight_gradient(call, grad, &inputs, &mut dw, false);
            dw
        });
        (dx, dw, dgain)
    }

    /// Gradient of `x`, the rows the matrix was multiplied with, and the gradient of the gain.
    pub(super) fn input_gradients(&self, call: &Call<'_>, grad: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let rows = call.x.len() / call.wide;
        let mut da = vec![0.0; rows * call.ins];
        self.activation_gradient(call, &self.gradient_matrix(call), grad, &mut da);
        let mut dx = vec![0.0; call.x.len()];
        let mut inputs = vec![0.0; rows * call.ins];
        let dgain = self.finish(call, &mut da, &mut inputs, &mut dx);
        (dx, inputs, dgain)
    }

    /// `da = dy·Q(W)` of some rows, `matrix` being `Q(W)`.
    pub(super) fn activation_gradient(&self, call: &Call<'_>, matrix: &[f32], grad: &[f32], da: &mut [f32]) {
        let n = grad.len() / call.outs;
        self.products.multiply(
            MatMut::new(da, n, call.ins),
            Mat::new(grad, n, call.outs),
            Mat::new(matrix, call.outs, call.ins),
            self.quant.as_ref().map_or(1.0, |quant| quant.blend.gradient()),
            false,
        );
    }

    /// `dW = dyᵀ·Q(a)`, or added to what `dw` holds.
    pub(super) fn weight_gradient(
        &self,
        call: &Call<'_>,
        grad: &[f32],
        inputs: &[f32],
        dw: &mut [f32],
        accumulate: bool,
    ) {
        let rows = grad.len() / call.outs;
        self.products.multiply(
            MatMut::new(dw, call.outs, call.ins),
            Mat::new(grad, rows, call.outs).t(),
            Mat::new(inputs, rows, call.ins),
            self.quant.as_ref().map_or(1.0, |q| q.blend.gradient()),
            accumulate,
        );
    }

    /// From the gradient of the activations on: writes the rows the matrix was multiplied with and the gradient of
    /// `x`, returns the gain's. Overwrites `da`.
    pub(super) fn finish(
        &self,
        call: &Call<'_>,
        da: &mut [f32],
        inputs: &mut [f32],
        dx: &mut [f32],
    ) -> Vec<f32> {
        let dgain: Vec<Vec<f32>> = dx
            .par_chunks_mut(ROWS * call.wide)
            .zip(inputs.par_chunks_mut(ROWS * call.ins))
            .zip(call.x.par_chunks(ROWS * call.wide))
            .zip(da.par_chunks_mut(ROWS * call.ins))
            .map(|(((dx, inputs), x), da)| {
                let mut dgain = vec![0.0; call.gain.map_or(0, <[f32]>::len)];
                norm_rows_backward(self.norm(call), call.ins, x, da, inputs, &mut dgain, dx);
                if let Some(quant) = &self.quant {
                    blend_rows(call.ins, quant.blend.lambda, inputs);
                }
                dgain
            })
            .collect();
        if call.gain.is_some() { add_partials(&dgain, call.ins) } else { Vec::new() }
    }
}

/// How rows become activations, for the loops below.
#[derive(Clone, Copy)]
struct NormRows<'a> {
    prologue: Prologue,
    eps: f32,
    gain: Option<&'a [f32]>,
    /// Width of a row before the prologue.
    wide: usize,
}

vectorised! {
/// Writes the normalised rows `[n, ins]` of `x [n, wide]`.
fn normalise_rows(norm: NormRows<'_>, ins: usize, x: &[f32], a: &mut [f32]) {
    for (a, x) in a.chunks_exact_mut(ins).zip(x.chunks_exact(norm.wide)) {
        norm.prologue.forward(x, a);
        let inv = inverse_rms(a, norm.eps);
        match norm.gain {
            Some(gain) => a.iter_mut().zip(gain).for_each(|(a, g)| *a = *a * inv * g),
            None => a.iter_mut().for_each(|a| *a *= inv),
        }
    }
}

/// Given the gradient `da` of the activations, writes the activations to `inputs` and the gradient of `x` to
/// `dx`, and adds to that of the gain. Overwrites `da`.
fn norm_rows_backward(
    norm: NormRows<'_>,
    ins: usize,
    x: &[f32],
    da: &mut [f32],
    inputs: &mut [f32],
    dgain: &mut [f32],
    dx: &mut [f32],
) {
    let mut h = vec![0.0; ins];
    let rows = x.chunks_exact(norm.wide).zip(da.chunks_exact_mut(ins));
    let outs = inputs.chunks_exact_mut(ins).zip(dx.chunks_exact_mut(norm.wide));
    for ((x, da), (input, dx)) in rows.zip(outs) {
        norm.prologue.forward(x, &mut h);
        let inv = inverse_rms(&h, norm.eps);
        if let Some(gain) = norm.gain {
            for (i, gain) in gain.iter().enumerate() {
                let normed = h[i] * inv;
                input[i] = normed * gain;
                dgain[i] += da[i] * normed;
                da[i] *= gain;
            }
        } else {
            input.iter_mut().zip(&h).for_each(|(input, h)| *input = h * inv);
        }
        normalise_backward(&h, inv, da);
        norm.prologue.backward(x, da, dx);
    }
}

/// Quantises each row to integers in place, with the value of one step of each, 0 for rows of zeros.
fn quantise_rows(ins: usize, a: &mut [f32], steps: &mut [f32]) {
    for (row, step) in a.chunks_exact_mut(ins).zip(steps) {
        *step = int8_activations(row);
    }
}

/// Replaces each row by its blended round trip through int8.
fn blend_rows(ins: usize, lambda: f32, a: &mut [f32]) {
    for row in a.chunks_exact_mut(ins) {
        blend_activations(row, lambda);
    }
}

/// Turns integer sums into values: `acc · (step · scale)`, plus the residual.
fn scale_rows(steps: &[f32], scales: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
    for (r, (out, step)) in out.chunks_exact_mut(scales.len()).zip(steps).enumerate() {
        for (y, scale) in out.iter_mut().zip(scales) {
            *y *= step * scale;
        }
        if let Some(residual) = residual {
            let residual = &residual[r * out.len()..][..out.len()];
            out.iter_mut().zip(residual).for_each(|(y, u)| *y += u);
        }
    }
}
}

fn result_shape(x: Arg<'_>, w: Arg<'_>) -> Shape {
    Shape::from((x.rows(), w.dims[0]))
}

impl Op<2> for NormLinear {
    const NAME: &'static str = "norm-linear";

    fn forward(&self, [x, w]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        Ok((self.run(&self.call(x, w, None)?), result_shape(x, w)))
    }

    fn backward(
        &self,
        [x, w]: [Arg<'_>; 2],
        _result: &[f32],
        grad: &[f32],
        wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let (dx, dw, _) = self.gradients(&self.call(x, w, None)?, grad, wanted[1]);
        Ok([wanted[0].then_some(dx), dw])
    }
}

impl Op<3> for NormLinear {
    const NAME: &'static str = "norm-linear";

    fn forward(&self, [x, w, extra]: [Arg<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        Ok((self.run(&self.call(x, w, Some(extra))?), result_shape(x, w)))
    }

    fn backward(
        &self,
        [x, w, extra]: [Arg<'_>; 3],
        _result: &[f32],
        grad: &[f32],
        wanted: [bool; 3],
    ) -> Result<[Option<Vec<f32>>; 3]> {
        let (dx, dw, dgain) = self.gradients(&self.call(x, w, Some(extra))?, grad, wanted[1]);
        let dextra = match self.extra {
            Extra::Gain => dgain,
            Extra::Residual => grad.to_vec(),
        };
        Ok([wanted[0].then_some(dx), dw, wanted[2].then_some(dextra)])
    }
}
