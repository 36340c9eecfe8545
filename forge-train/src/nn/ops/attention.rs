//! Causal sliding-window attention, to global positions beyond it too, with grouped key/value heads and rotary positions,
//! straight from the fused query-key-value rows. The backward pass recomputes the probabilities.

mod reach;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Shape, bail};
use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Threads, multiply};
use super::rope::Rope;
use super::simd::vectorised;
use super::{Arg, Op};
use forge_runtime::math;

use reach::Block;
pub(crate) use reach::Reach;

/// Query positions handled at once; keys beyond the window of the block are never touched.
const BLOCK: usize = 64;

/// Operand `[b·t, (heads + 2 kv_heads)·d]` as queries ‖ keys ‖ values; result `[b·t, heads·d]`.
#[derive(Clone)]
pub(crate) struct Attention {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key/value heads.
    pub(crate) kv_heads: usize,
    /// Channels of a head.
    pub(crate) head_dim: usize,
    /// Positions a token attends to.
    pub(crate) reach: Reach,
    /// Tokens of a sequence (t).
    pub(crate) cols: usize,
    /// Rotations of positions `0..t`.
    pub(crate) rope: Arc<Rope>,
    /// Whether the forward pass takes the runtime's own order of operations, to the bit, or is made of matrix products.
    pub(crate) exact: bool,
}

impl Attention {
    /// Width of a row of queries, keys and values.
    pub(super) fn wide(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of a row of the result.
    pub(super) fn narrow(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Factor of the scores.
    pub(super) fn scale(&self) -> f32 {
        1.0 / math::sqrt(self.head_dim as f32)
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        (0..self.cols).step_by(BLOCK).map(|from| Block::new(&self.reach, from, BLOCK.min(self.cols - from)))
    }

    /// Rotated copy `[t, d]` of the head that starts at `column`.
    fn rotated(&self, qkv: &[f32], column: usize) -> Vec<f32> {
        let (d, wide) = (self.head_dim, self.wide());
        let mut out = vec![0.0; self.cols * d];
        rotate_rows(&self.rope, &qkv[column..], wide, d, &mut out);
        out
    }

    /// Writes the back-rotated `[t, d]` gradient into the head that starts at `column`.
    fn unrotate(&self, grad: &[f32], column: usize, dqkv: &mut [f32]) {
        rotate_rows_back(&self.rope, grad, self.head_dim, self.wide(), &mut dqkv[column..]);
    }

    /// Exponentials `[len, keys]` of the block's scores, 0 where masked, and the inverse of each row's sum.
    fn exponentials(&self, block: &Block, q: &[f32], k: &[f32], e: &mut [f32], inverse: &mut [f32]) {
        let d = self.head_dim;
        let (q, scale) = (Mat::new(&q[block.from * d..], block.len, d), self.scale());
        for part in block.parts() {
            let scores = MatMut::strided(&mut e[part.column..], block.len, part.keys, block.keys);
            multiply(scores, q, part.of(k, d).t(), scale, false, Threads::One);
        }
        for (r, (row, inverse)) in e.chunks_exact_mut(block.keys).zip(inverse).take(block.len).enumerate() {
            let window = block.window(&self.reach, r);
            *inverse = if self.reach.globals.any() {
                block.hide(&self.reach, r, &mut row[..window.start]);
                row[window.end..].fill(f32::NEG_INFINITY);
                softmax_seen(row)
            } else {
                softmax_row(window, row)
            };
        }
    }

    /// The forward pass of one sequence.
    fn sequence(&self, qkv: &[f32], out: &mut [f32]) {
        if self.exact { self.sequence_exact(qkv, out) } else { self.sequence_in_blocks(qkv, out) }
    }

    /// As matrix products over blocks of queries.
    fn sequence_in_blocks(&self, qkv: &[f32], out: &mut [f32]) {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let (mut e, mut inverse) = (vec![0.0; BLOCK * self.cols], vec![0.0; BLOCK]);
        for kv in 0..self.kv_heads {
            let k = self.rotated(qkv, (self.heads + kv) * d);
            let v = &qkv[(self.heads + self.kv_heads + kv) * d..];
            for head in kv * group..(kv + 1) * group {
                let q = self.rotated(qkv, head * d);
                for block in self.blocks() {
                    let e = &mut e[..block.len * block.keys];
                    self.exponentials(&block, &q, &k, e, &mut inverse);
                    let out = &mut out[block.from * self.narrow() + head * d..];
                    for part in block.parts() {
                        let e = Mat::strided(&e[part.column..], block.len, part.keys, block.keys);
                        let v = part.strided(v, d, self.wide());
                        let out = MatMut::strided(out, block.len, d, self.narrow());
                        multiply(out, e, v, 1.0, part.follows, Threads::One);
                    }
                    scale_strided(&inverse[..block.len], d, self.narrow(), out);
                }
            }
        }
    }

    /// In the runtime's own order of operations: together with exact integer products this makes a ternary forward
    /// pass the runtime's to the last bit.
    fn sequence_exact(&self, qkv: &[f32], out: &mut [f32]) {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let mut scores = vec![0.0; self.cols];
        for kv in 0..self.kv_heads {
            let k = self.rotated(qkv, (self.heads + kv) * d);
            let v = &qkv[(self.heads + self.kv_heads + kv) * d..];
            for head in kv * group..(kv + 1) * group {
                let q = self.rotated(qkv, head * d);
                let call = HeadCall {
                    d,
                    scale: self.scale(),
                    reach: self.reach,
                    q: &q,
                    k: &k,
                    v,
                    v_stride: self.wide(),
                };
                attend(call, &mut scores, self.narrow(), &mut out[head * d..]);
            }
        }
    }

    fn sequence_backward(&self, qkv: &[f32], out: &[f32], grad: &[f32], dqkv: &mut [f32]) {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let mut scratch = Scratch {
            p: vec![0.0; BLOCK * self.cols],
            dp: vec![0.0; BLOCK * self.cols],
            inverse: vec![0.0; BLOCK],
            dq: vec![0.0; self.cols * d],
            dk: vec![0.0; self.cols * d],
        };
        for kv in 0..self.kv_heads {
            let k = self.rotated(qkv, (self.heads + kv) * d);
            scratch.dk.fill(0.0);
            for head in kv * group..(kv + 1) * group {
                let q = self.rotated(qkv, head * d);
                let parts = Head { head, kv, q: &q, k: &k, qkv, out, grad };
                for block in self.blocks() {
                    self.block_backward(&block, &parts, &mut scratch, dqkv);
                }
                self.unrotate(&scratch.dq, head * d, dqkv);
            }
            self.unrotate(&scratch.dk, (self.heads + kv) * d, dqkv);
        }
    }

    /// One block of one head: writes its rows of `dq`, adds to `dk` and to the values' part of `dqkv`.
    fn block_backward(&self, block: &Block, head: &Head<'_>, scratch: &mut Scratch, dqkv: &mut [f32]) {
        let (d, wide, narrow) = (self.head_dim, self.wide(), self.narrow());
        let Scratch { p, dp, inverse, dq, dk } = scratch;
        let (p, dp) = (&mut p[..block.len * block.keys], &mut dp[..block.len * block.keys]);
        self.exponentials(block, head.q, head.k, p, inverse);
        let at = block.from * narrow + head.head * d;
        let v_at = (self.heads + self.kv_heads + head.kv) * d;
        let dout = Mat::strided(&head.grad[at..], block.len, d, narrow);
        for part in block.parts() {
            let v = part.strided(&head.qkv[v_at..], d, wide);
            let dp = MatMut::strided(&mut dp[part.column..], block.len, part.keys, block.keys);
            multiply(dp, dout, v.t(), 1.0, false, Threads::One);
        }
        let scale = self.scale();
        for (r, inverse) in inverse[..block.len].iter().enumerate() {
            let (grad, out) = (&head.grad[at + r * narrow..][..d], &head.out[at + r * narrow..][..d]);
            let row = r * block.keys..(r + 1) * block.keys;
            score_gradient(grad, out, *inverse, scale, &mut p[row.clone()], &mut dp[row]);
        }
        let q = Mat::new(&head.q[block.from * d..], block.len, d);
        for part in block.parts() {
            let columns = |x| Mat::strided(x, block.len, part.keys, block.keys);
            let (p, ds) = (columns(&p[part.column..]), columns(&dp[part.column..]));
            let dv = part.strided_mut(&mut dqkv[v_at..], d, wide);
            multiply(dv, p.t(), dout, 1.0, true, Threads::One);
            multiply(part.of_mut(dk, d), ds.t(), q, 1.0, true, Threads::One);
            let dq = MatMut::new(&mut dq[block.from * d..], block.len, d);
            multiply(dq, ds, part.of(head.k, d), 1.0, part.follows, Threads::One);
        }
    }
}

/// What the forward pass of one head reads: rotated queries and keys `[t, d]`, values at a stride.
#[derive(Clone, Copy)]
struct HeadCall<'a> {
    d: usize,
    scale: f32,
    reach: Reach,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    v_stride: usize,
}

/// What the backward pass of one head reads.
struct Head<'a> {
    head: usize,
    kv: usize,
    q: &'a [f32],
    k: &'a [f32],
    qkv: &'a [f32],
    out: &'a [f32],
    grad: &'a [f32],
}

/// Buffers of one sequence's backward pass.
struct Scratch {
    p: Vec<f32>,
    dp: Vec<f32>,
    inverse: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
}

vectorised! {
/// Rotated copy `[t, d]` of rows that start `stride` apart.
fn rotate_rows(rope: &Rope, x: &[f32], stride: usize, d: usize, out: &mut [f32]) {
    for (p, out) in out.chunks_exact_mut(d).enumerate() {
        rope.rotate(p, &x[p * stride..][..d], out);
    }
}

/// Writes back-rotated rows `[t, d]` to rows that start `stride` apart.
fn rotate_rows_back(rope: &Rope, grad: &[f32], d: usize, stride: usize, out: &mut [f32]) {
    for (p, grad) in grad.chunks_exact(d).enumerate() {
        rope.rotate_back(p, grad, &mut out[p * stride..][..d]);
    }
}

/// Attends from every position of one head to the window that ends there and the global positions before it; there are
/// as many `scores` as positions.
fn attend(head: HeadCall<'_>, scores: &mut [f32], out_stride: usize, out: &mut [f32]) {
    let d = head.d;
    for (p, q) in head.q.chunks_exact(d).enumerate() {
        let (far, from) = (head.reach.beyond(p), head.reach.window_start(p));
        let scores = &mut scores[..far.len() + p + 1 - from];
        let (before, near) = scores.split_at_mut(far.len());
        for (score, at) in before.iter_mut().zip(far.clone()) {
            *score = math::dot(q, &head.k[at * d..][..d]) * head.scale;
        }
        for (score, k) in near.iter_mut().zip(head.k[from * d..].chunks_exact(d)) {
            *score = math::dot(q, k) * head.scale;
        }
        let max = math::max(scores);
        scores.iter_mut().for_each(|s| *s = math::exp(*s - max));
        let out = &mut out[p * out_stride..][..d];
        for (at, weight) in far.chain(from..p + 1).zip(&*scores) {
            let v = &head.v[at * head.v_stride..][..d];
            out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
        }
        let inverse = 1.0 / math::sum16(scores);
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}

/// Multiplies each of the rows of `d` values that start `stride` apart by its factor.
fn scale_strided(factors: &[f32], d: usize, stride: usize, out: &mut [f32]) {
    for (r, factor) in factors.iter().enumerate() {
        out[r * stride..][..d].iter_mut().for_each(|o| *o *= factor);
    }
}

/// Replaces the scores that are seen by `exp(s − max)` and the others by 0; returns the inverse of the sum.
fn softmax_row(seen: Range<usize>, row: &mut [f32]) -> f32 {
    let (before, rest) = row.split_at_mut(seen.start);
    let (scores, after) = rest.split_at_mut(seen.end - seen.start);
    before.fill(0.0);
    after.fill(0.0);
    let max = math::max(scores);
    scores.iter_mut().for_each(|s| *s = math::exp(*s - max));
    1.0 / math::sum16(scores)
}

/// Replaces scores by `exp(s − max)`, those that are −∞ by 0; returns the inverse of the sum.
fn softmax_seen(row: &mut [f32]) -> f32 {
    let max = math::max(row);
    row.iter_mut().for_each(|s| *s = if *s == f32::NEG_INFINITY { 0.0 } else { math::exp(*s - max) });
    1.0 / math::sum16(row)
}

/// Normalises a row of exponentials `p`, and turns the gradient `dp` of the probabilities into that of the raw
/// scores, `p (dp − dout·out) scale`.
fn score_gradient(dout: &[f32], out: &[f32], inverse: f32, scale: f32, p: &mut [f32], dp: &mut [f32]) {
    let delta = math::dot(dout, out);
    for (p, dp) in p.iter_mut().zip(dp) {
        *p *= inverse;
        *dp = *p * (*dp - delta) * scale;
    }
}
}

impl Op<1> for Attention {
    const NAME: &'static str = "window-attention";

    fn forward(&self, [qkv]: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        if qkv.width() != self.wide() || self.cols == 0 || !qkv.rows().is_multiple_of(self.cols) {
            bail!("attention over {} rows of {} values", qkv.rows(), qkv.width());
        }
        let mut out = vec![0.0; qkv.rows() * self.narrow()];
        out.par_chunks_mut(self.cols * self.narrow())
            .zip(qkv.data.par_chunks(self.cols * self.wide()))
            .for_each(|(out, qkv)| self.sequence(qkv, out));
        Ok((out, (qkv.rows(), self.narrow()).into()))
    }

    fn backward(
        &self,
        [qkv]: [Arg<'_>; 1],
        result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        let (wide, narrow) = (self.cols * self.wide(), self.cols * self.narrow());
        let mut dqkv = vec![0.0; qkv.data.len()];
        dqkv.par_chunks_mut(wide)
            .zip(qkv.data.par_chunks(wide))
            .zip(result.par_chunks(narrow).zip(grad.par_chunks(narrow)))
            .for_each(|((dqkv, qkv), (out, grad))| self.sequence_backward(qkv, out, grad, dqkv));
        Ok([Some(dqkv)])
    }
}
