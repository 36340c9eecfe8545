//! The recurrent memory: its scan over time, and the gate that blends what it reads with attention
//! (Behrouz et al. 2025, arXiv 2501.00663, memory as a gate, with a learned rate in place of inner gradients).

use candle_core::{Result, Shape, bail};
use rayon::prelude::*;

use super::simd::vectorised;
use super::{Arg, Op, ROWS, add_partials};
use forge_runtime::math;

/// `M_t = M_{t−1} + sigmoid(r_t + bias) ⊙ (v_t − M_{t−1})` from `M_{−1} = 0`, along each sequence; operands
/// `v ‖ r [b·t, 2 mem]` and `bias [1, mem]`, result `[b·t, mem]`.
pub(crate) struct Scan {
    /// Tokens of a sequence (t).
    pub(crate) cols: usize,
}

impl Op<2> for Scan {
    const NAME: &'static str = "memory-scan";

    fn forward(&self, [vr, bias]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        let m = bias.data.len();
        if vr.width() != 2 * m || self.cols == 0 || !vr.rows().is_multiple_of(self.cols) {
            bail!("memory of {m} channels over {} rows of {} values", vr.rows(), vr.width());
        }
        let mut out = vec![0.0; vr.rows() * m];
        out.par_chunks_mut(self.cols * m).zip(vr.data.par_chunks(self.cols * 2 * m)).for_each(|(out, vr)| {
            scan(bias.data, vr, out);
        });
        Ok((out, (vr.rows(), m).into()))
    }

    fn backward(
        &self,
        [vr, bias]: [Arg<'_>; 2],
        result: &[f32],
        grad: &[f32],
        wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let m = bias.data.len();
        let mut dvr = vec![0.0; vr.data.len()];
        let partials: Vec<Vec<f32>> = dvr
            .par_chunks_mut(self.cols * 2 * m)
            .zip(vr.data.par_chunks(self.cols * 2 * m))
            .zip(result.par_chunks(self.cols * m).zip(grad.par_chunks(self.cols * m)))
            .map(|((dvr, vr), (states, grad))| scan_backward(bias.data, vr, states, grad, dvr))
            .collect();
        let dbias = add_partials(&partials, m);
        Ok([wanted[0].then_some(dvr), wanted[1].then_some(dbias)])
    }
}

vectorised! {
/// One sequence, forwards in time.
fn scan(bias: &[f32], vr: &[f32], out: &mut [f32]) {
    let m = bias.len();
    let mut state = vec![0.0; m];
    for (out, vr) in out.chunks_exact_mut(m).zip(vr.chunks_exact(2 * m)) {
        let (v, r) = vr.split_at(m);
        for i in 0..m {
            state[i] += math::sigmoid(r[i] + bias[i]) * (v[i] - state[i]);
        }
        out.copy_from_slice(&state);
    }
}

/// One sequence, backwards in time; returns the gradient of the bias.
fn scan_backward(bias: &[f32], vr: &[f32], states: &[f32], grad: &[f32], dvr: &mut [f32]) -> Vec<f32> {
    let m = bias.len();
    let zero = vec![0.0; m];
    let mut dbias = vec![0.0; m];
    let mut carried = vec![0.0; m];
    for t in (0..grad.len() / m).rev() {
        let previous = if t == 0 { &zero[..] } else { &states[(t - 1) * m..t * m] };
        let (v, r) = vr[t * 2 * m..(t + 1) * 2 * m].split_at(m);
        let (dv, dr) = dvr[t * 2 * m..(t + 1) * 2 * m].split_at_mut(m);
        let grad = &grad[t * m..(t + 1) * m];
        for i in 0..m {
            let rate = math::sigmoid(r[i] + bias[i]);
            let d = grad[i] + carried[i];
            dv[i] = d * rate;
            dr[i] = d * (v[i] - previous[i]) * (rate * (1.0 - rate));
            dbias[i] += dr[i];
            carried[i] = d * (1.0 - rate);
        }
    }
    dbias
}

fn blend(o: &[f32], m: &[f32], x: &[f32], out: &mut [f32]) {
    for (((out, o), m), x) in out.iter_mut().zip(o).zip(m).zip(x) {
        *out = m + math::sigmoid(*x) * (o - m);
    }
}

/// Gradients of `o`, `m` and `x`, all of the length of `grad`.
fn blend_backward(operands: [&[f32]; 3], grad: &[f32], d_o: &mut [f32], d_m: &mut [f32], d_x: &mut [f32]) {
    let n = grad.len();
    let [o, m, x] = operands.map(|a| &a[..n]);
    let (d_o, d_m, d_x) = (&mut d_o[..n], &mut d_m[..n], &mut d_x[..n]);
    for i in 0..n {
        let g = math::sigmoid(x[i]);
        d_o[i] = grad[i] * g;
        d_m[i] = grad[i] * (1.0 - g);
        d_x[i] = grad[i] * (o[i] - m[i]) * (g * (1.0 - g));
    }
}
}

/// `m + sigmoid(x) ⊙ (o − m)`; operands `o`, `m` and `x`, all `[n, d]`.
pub(crate) struct GateBlend;

impl Op<3> for GateBlend {
    const NAME: &'static str = "gate-blend";

    fn forward(&self, [o, m, x]: [Arg<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        let chunk = ROWS * o.width();
        let mut out = vec![0.0; o.data.len()];
        out.par_chunks_mut(chunk)
            .zip(o.data.par_chunks(chunk))
            .zip(m.data.par_chunks(chunk).zip(x.data.par_chunks(chunk)))
            .for_each(|((out, o), (m, x))| blend(o, m, x, out));
        Ok((out, o.dims.into()))
    }

    fn backward(
        &self,
        [o, m, x]: [Arg<'_>; 3],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 3],
    ) -> Result<[Option<Vec<f32>>; 3]> {
        let chunk = ROWS * o.width();
        let n = grad.len();
        let (mut d_o, mut d_m, mut d_x) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        d_o.par_chunks_mut(chunk)
            .zip(d_m.par_chunks_mut(chunk))
            .zip(d_x.par_chunks_mut(chunk))
            .enumerate()
            .for_each(|(c, ((d_o, d_m), d_x))| {
                let part = c * chunk..c * chunk + d_o.len();
                let operands = [o, m, x].map(|a| &a.data[part.clone()]);
                blend_backward(operands, &grad[part.clone()], d_o, d_m, d_x);
            });
        Ok([Some(d_o), Some(d_m), Some(d_x)])
    }
}

/// `a ‖ b` row by row; operands `[n, d]` each, result `[n, 2d]`.
pub(crate) struct Concat;

impl Op<2> for Concat {
    const NAME: &'static str = "concat";

    fn forward(&self, [a, b]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        let d = a.width();
        if a.dims != b.dims {
            bail!("concatenation of rows of different shapes");
        }
        let mut out = Vec::with_capacity(2 * a.data.len());
        for (a, b) in a.data.chunks_exact(d).zip(b.data.chunks_exact(d)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
        Ok((out, (a.rows(), 2 * d).into()))
    }

    fn backward(
        &self,
        [a, _]: [Arg<'_>; 2],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let d = a.width();
        let (mut da, mut db) = (Vec::with_capacity(a.data.len()), Vec::with_capacity(a.data.len()));
        for row in grad.chunks_exact(2 * d) {
            da.extend_from_slice(&row[..d]);
            db.extend_from_slice(&row[d..]);
        }
        Ok([Some(da), Some(db)])
    }
}
