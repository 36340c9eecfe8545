//! A long-term memory that is a matrix, scanned over time (Behrouz et al. 2025, arXiv 2501.00663, equations 8 to 15,
//! with a linear memory): every token is written by the gradient of the memory's own error, with momentum and forgetting.
//!
//! The recurrence is exact, a token at a time. Sequences run in parallel, and value channels, which do not depend on
//! each other, side by side in vector registers. The backward pass keeps the state every [`SEGMENT`] tokens and
//! computes those between once more.

use candle_core::{Result, Shape, bail};
use forge_formats::config::MEMORY_GATES;
use forge_runtime::math::{dot, rsqrt, sigmoid, silu, sum_squares};
use rayon::prelude::*;

use super::simd::vectorised;
use super::{Arg, Op, add_partials};

/// Gates of a token.
const GATES: usize = MEMORY_GATES as usize;
/// Added to the square of a key's or a query's length, as the runtime does.
const UNIT_EPS: f32 = 1e-6;
/// Tokens whose states are in memory at a time in the backward pass.
const SEGMENT: usize = 16;

/// What each token reads from the matrix it has just been written into; operands `key ‖ value ‖ query ‖ gates
/// [b·t, 3 mem + 3]` before their non-linearities and the gates' `bias [1, 3]`, result `[b·t, mem]`. The
/// formulas are those of `docs/numerics.md`, section 3.
pub(crate) struct Associate {
    /// Tokens of a sequence (t).
    pub(crate) cols: usize,
}

impl Associate {
    /// Channels of the memory.
    fn width(&self, projected: Arg<'_>, bias: Arg<'_>) -> Result<usize> {
        let (columns, rows) = (projected.width(), projected.rows());
        let fits = columns > GATES && (columns - GATES).is_multiple_of(3) && bias.data.len() == GATES;
        if !fits || self.cols == 0 || !rows.is_multiple_of(self.cols) {
            bail!("a memory's keys, values, queries and gates in {rows} rows of {columns} values");
        }
        Ok((columns - GATES) / 3)
    }
}

impl Op<2> for Associate {
    const NAME: &'static str = "memory-associate";

    fn forward(&self, [projected, bias]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        let width = self.width(projected, bias)?;
        let mut out = vec![0.0; projected.rows() * width];
        let sequences = projected.data.par_chunks(self.cols * projected.width());
        out.par_chunks_mut(self.cols * width).zip(sequences).for_each(|(out, projected)| {
            let mut tokens = Tokens::new(projected, bias.data, width);
            let mut state = vec![0.0; 2 * width * width];
            for (t, read) in out.chunks_exact_mut(width).enumerate() {
                let (parts, error) = tokens.at(t);
                step(&mut state, parts, error, read);
            }
        });
        Ok((out, (projected.rows(), width).into()))
    }

    fn backward(
        &self,
        [projected, bias]: [Arg<'_>; 2],
        _result: &[f32],
        grad: &[f32],
        wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let width = self.width(projected, bias)?;
        let row = projected.width();
        let mut dprojected = vec![0.0; projected.data.len()];
        let partials: Vec<Vec<f32>> = dprojected
            .par_chunks_mut(self.cols * row)
            .zip(projected.data.par_chunks(self.cols * row))
            .zip(grad.par_chunks(self.cols * width))
            .map(|((dprojected, projected), grad)| {
                Backward::new(projected, bias.data, width).run(grad, dprojected);
                through_nonlinearities(projected, bias.data, width, dprojected)
            })
            .collect();
        let dbias = add_partials(&partials, GATES);
        Ok([wanted[0].then_some(dprojected), wanted[1].then_some(dbias)])
    }
}

/// Key, query and gates of a token, behind their non-linearities.
#[derive(Clone, Copy)]
struct Parts<'t> {
    key: &'t [f32],
    query: &'t [f32],
    gates: [f32; GATES],
}

/// A sequence's tokens behind their non-linearities, `[t, 3 mem + 3]` as they are projected. Errors take the place of
/// values once a token is written.
struct Tokens {
    data: Vec<f32>,
    width: usize,
}

impl Tokens {
    fn new(projected: &[f32], bias: &[f32], width: usize) -> Self {
        let mut data = projected.to_vec();
        for token in data.chunks_exact_mut(3 * width + GATES) {
            activate(token, bias);
        }
        Self { data, width }
    }

    /// The parts of token `t`, and its value or error.
    fn at(&mut self, t: usize) -> (Parts<'_>, &mut [f32]) {
        let row = 3 * self.width + GATES;
        let (key, rest) = self.data[t * row..(t + 1) * row].split_at_mut(self.width);
        let (value, rest) = rest.split_at_mut(self.width);
        let (query, gates) = rest.split_at(self.width);
        (Parts { key, query, gates: std::array::from_fn(|g| gates[g]) }, value)
    }
}

/// A sequence on its way back.
struct Backward {
    tokens: Tokens,
    /// The state before every [`SEGMENT`]th token.
    kept: Vec<f32>,
    /// The state before each token of a segment and behind the last.
    states: Vec<f32>,
    /// Gradient of the matrix and of its momentum.
    carried: Vec<f32>,
}

impl Backward {
    fn new(projected: &[f32], bias: &[f32], width: usize) -> Self {
        let mut tokens = Tokens::new(projected, bias, width);
        let size = 2 * width * width;
        let mut state = vec![0.0; size];
        let (mut kept, mut read) = (Vec::new(), vec![0.0; width]);
        for t in 0..projected.len() / (3 * width + GATES) {
            if t % SEGMENT == 0 {
                kept.extend_from_slice(&state);
            }
            let (parts, error) = tokens.at(t);
            step(&mut state, parts, error, &mut read);
        }
        Self { tokens, kept, states: vec![0.0; (SEGMENT + 1) * size], carried: vec![0.0; size] }
    }

    /// Gradients of the tokens behind their non-linearities, from the last to the first.
    fn run(&mut self, grad: &[f32], dtokens: &mut [f32]) {
        let width = self.tokens.width;
        let (size, row) = (self.carried.len(), 3 * width + GATES);
        let count = grad.len() / width;
        for (segment, kept) in self.kept.chunks_exact(size).enumerate().rev() {
            let tokens = segment * SEGMENT..((segment + 1) * SEGMENT).min(count);
            self.states[..size].copy_from_slice(kept);
            for (i, t) in tokens.clone().enumerate() {
                let (before, after) = self.states.split_at_mut((i + 1) * size);
                after[..size].copy_from_slice(&before[i * size..]);
                let (parts, error) = self.tokens.at(t);
                restep(&mut after[..size], parts, error);
            }
            for (i, t) in tokens.enumerate().rev() {
                let (before, after) = self.states[i * size..(i + 2) * size].split_at(size);
                let (parts, error) = self.tokens.at(t);
                let (dtoken, dread) =
                    (&mut dtokens[t * row..(t + 1) * row], &grad[t * width..(t + 1) * width]);
                step_backward(before, after, parts, error, dread, &mut self.carried, dtoken);
            }
        }
    }
}

vectorised! {
/// A token's non-linearities: keys and queries of length 1, gates between 0 and 1.
fn activate(token: &mut [f32], bias: &[f32]) {
    let width = (token.len() - GATES) / 3;
    let (vectors, gates) = token.split_at_mut(3 * width);
    vectors.iter_mut().for_each(|x| *x = silu(*x));
    for part in [0, 2] {
        let x = &mut vectors[part * width..(part + 1) * width];
        let r = rsqrt(sum_squares(x) + UNIT_EPS);
        x.iter_mut().for_each(|x| *x *= r);
    }
    gates.iter_mut().zip(bias).for_each(|(g, b)| *g = sigmoid(*g + b));
}

/// Writes a token into `M ‖ S` and reads it; its value becomes its error. As the runtime does, to the bit.
fn step(state: &mut [f32], parts: Parts<'_>, error: &mut [f32], read: &mut [f32]) {
    let width = read.len();
    let (memory, moment) = state.split_at_mut(width * width);
    let Parts { key, query, gates: [surprise, momentum, forget] } = parts;
    let keep = 1.0 - forget;
    error.iter_mut().for_each(|v| *v = -*v);
    for (row, k) in memory.chunks_exact(width).zip(key) {
        error.iter_mut().zip(row).for_each(|(e, m)| *e += k * m);
    }
    read.fill(0.0);
    let rows = memory.chunks_exact_mut(width).zip(moment.chunks_exact_mut(width));
    for ((row, moments), (k, q)) in rows.zip(key.iter().zip(query)) {
        let step = surprise * k;
        for (((m, s), e), y) in row.iter_mut().zip(moments).zip(&*error).zip(&mut *read) {
            *s = momentum * *s - step * e;
            *m = keep * *m + *s;
            *y += q * *m;
        }
    }
}

/// Writes a token whose error is known.
fn restep(state: &mut [f32], parts: Parts<'_>, error: &[f32]) {
    let width = error.len();
    let (memory, moment) = state.split_at_mut(width * width);
    let [surprise, momentum, forget] = parts.gates;
    let keep = 1.0 - forget;
    for ((row, moments), k) in memory.chunks_exact_mut(width).zip(moment.chunks_exact_mut(width)).zip(parts.key) {
        let step = surprise * k;
        for ((m, s), e) in row.iter_mut().zip(moments).zip(error) {
            *s = momentum * *s - step * e;
            *m = keep * *m + *s;
        }
    }
}

/// Gradients of one token's key, value, query and gates, given that of what it reads and those `carried` of the state
/// behind it, which become those of the state before.
fn step_backward(
    before: &[f32],
    after: &[f32],
    parts: Parts<'_>,
    error: &[f32],
    dread: &[f32],
    carried: &mut [f32],
    dtoken: &mut [f32],
) {
    let width = error.len();
    let square = width * width;
    let (memory, moment) = before.split_at(square);
    let (dmemory, dmoment) = carried.split_at_mut(square);
    let Parts { key, query, gates: [surprise, momentum, forget] } = parts;
    let keep = 1.0 - forget;
    let (dkey, rest) = dtoken.split_at_mut(width);
    let (dvalue, rest) = rest.split_at_mut(width);
    let (dquery, dgates) = rest.split_at_mut(width);
    // `dvalue` gathers the error's gradient first.
    dvalue.fill(0.0);
    let (mut dsurprise, mut dmomentum, mut dkeep) = (0.0, 0.0, 0.0);
    for j in 0..width {
        let row = j * width..(j + 1) * width;
        let step = surprise * key[j];
        dquery[j] = dot(&after[row.clone()], dread);
        let (dm, ds) = (&mut dmemory[row.clone()], &mut dmoment[row.clone()]);
        dm.iter_mut().zip(dread).for_each(|(dm, dy)| *dm += query[j] * dy);
        ds.iter_mut().zip(&*dm).for_each(|(ds, dm)| *ds += dm);
        dvalue.iter_mut().zip(&*ds).for_each(|(de, ds)| *de -= step * ds);
        let written = dot(ds, error);
        dkey[j] = -surprise * written;
        dsurprise -= key[j] * written;
        dmomentum += dot(ds, &moment[row.clone()]);
        dkeep += dot(dm, &memory[row]);
        ds.iter_mut().for_each(|ds| *ds *= momentum);
        dm.iter_mut().for_each(|dm| *dm *= keep);
    }
    for j in 0..width {
        let row = j * width..(j + 1) * width;
        dkey[j] += dot(&memory[row.clone()], dvalue);
        dmemory[row].iter_mut().zip(&*dvalue).for_each(|(dm, de)| *dm += key[j] * de);
    }
    dvalue.iter_mut().for_each(|d| *d = -*d);
    dgates.copy_from_slice(&[dsurprise, dmomentum, -dkeep]);
}

/// Turns gradients behind the non-linearities into those before them, and returns the gradient of the gates' bias.
fn through_nonlinearities(projected: &[f32], bias: &[f32], width: usize, dprojected: &mut [f32]) -> Vec<f32> {
    let row = 3 * width + GATES;
    let mut dbias = vec![0.0; GATES];
    let mut smooth = vec![0.0; width];
    for (x, dx) in projected.chunks_exact(row).zip(dprojected.chunks_exact_mut(row)) {
        for part in [0, 2] {
            let part = part * width..(part + 1) * width;
            smooth.iter_mut().zip(&x[part.clone()]).for_each(|(s, x)| *s = silu(*x));
            let r = rsqrt(sum_squares(&smooth) + UNIT_EPS);
            let d = &mut dx[part];
            let along = r * r * dot(&smooth, d);
            d.iter_mut().zip(&smooth).for_each(|(d, s)| *d = r * (*d - s * along));
        }
        for (d, x) in dx[..3 * width].iter_mut().zip(x) {
            let g = sigmoid(*x);
            *d *= g * (1.0 + x * (1.0 - g));
        }
        for i in 0..GATES {
            let g = sigmoid(x[3 * width + i] + bias[i]);
            dx[3 * width + i] *= g * (1.0 - g);
            dbias[i] += dx[3 * width + i];
        }
    }
    dbias
}
}
