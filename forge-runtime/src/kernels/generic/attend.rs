//! Attention of one head over a ring of cached positions, keys and values in f32.
#![forbid(unsafe_code)]

use crate::math::{LANES, exp, max, sum16};

/// One key/value head's caches.
///
/// Keys lie in blocks of sixteen positions `[block][channel][16]`, so that sixteen scores are computed side by side
/// with no sum across lanes; values lie `[position][channel]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadF32<'c> {
    /// `[window / 16 rounded up][channels][16]`.
    pub(crate) keys: &'c [f32],
    /// `[window][channels]`.
    pub(crate) values: &'c [f32],
    /// Slots in use.
    pub(crate) len: usize,
    /// The slot of the oldest position; 0 until the ring has wrapped.
    pub(crate) first: usize,
}

/// `out = Σ softmax(query · keys · scale) · values`. `scratch` holds twice the window rounded up to sixteen.
#[inline(always)]
pub(crate) fn attend(head: &HeadF32<'_>, query: &[f32], scale: f32, scratch: &mut [f32], out: &mut [f32]) {
    let half = scratch.len() / 2;
    let (scores, ordered) = scratch.split_at_mut_checked(half).unwrap_or_default();
    score(head, query, scale, scores);
    let scores = by_age(scores, ordered, head.len, head.first);
    softmax_weights(scores);
    let (newer, older) = head.values.split_at_checked(head.first * out.len()).unwrap_or_default();
    weigh(&Weighing { runs: [older, newer], weights: scores, width: out.len() }, out);
    let inverse = 1.0 / sum16(scores);
    out.iter_mut().for_each(|o| *o *= inverse);
}

/// The scores of a cache's slots, as they lie.
#[inline(always)]
pub(super) fn score(head: &HeadF32<'_>, query: &[f32], scale: f32, scores: &mut [f32]) {
    let blocks = head.len.div_ceil(LANES);
    let mut keys = head.keys.as_chunks::<LANES>().0;
    for scores in scores.as_chunks_mut::<LANES>().0.iter_mut().take(blocks) {
        let (block, after) = keys.split_at_checked(query.len()).unwrap_or_default();
        keys = after;
        *scores = score_block(query, block, scale);
    }
}

/// The first `len` scores in order of age: as they are, or copied when the ring has wrapped.
#[inline(always)]
pub(crate) fn by_age<'s>(
    scores: &'s mut [f32],
    ordered: &'s mut [f32],
    len: usize,
    first: usize,
) -> &'s mut [f32] {
    let scores = scores.get_mut(..len).unwrap_or(&mut []);
    if first == 0 {
        return scores;
    }
    let (newer, older) = scores.split_at_checked(first).unwrap_or_default();
    let ordered = ordered.get_mut(..len).unwrap_or(&mut []);
    ordered.iter_mut().zip(older.iter().chain(newer)).for_each(|(o, s)| *o = *s);
    ordered
}

/// `s = exp(s − max s)`.
#[inline(always)]
pub(crate) fn softmax_weights(scores: &mut [f32]) {
    let largest = max(scores);
    scores.iter_mut().for_each(|s| *s = exp(*s - largest));
}

/// Sixteen positions' `dot(query, key) · scale`: lane `j` is position `j`, and the sixteen accumulators of `dot` are
/// summed as its tree is, depth first so that few of them are alive.
#[inline(always)]
fn score_block(query: &[f32], block: &[[f32; LANES]], scale: f32) -> [f32; LANES] {
    let scores = Scores { query: query.as_chunks(), keys: block.as_chunks() };
    let mut total = plus(scores.eight(0), scores.eight(1));
    total.iter_mut().for_each(|t| *t *= scale);
    total
}

/// A query and a block of keys, in pieces of sixteen channels and what is left.
struct Scores<'s> {
    query: (&'s [[f32; LANES]], &'s [f32]),
    keys: (&'s [[[f32; LANES]; LANES]], &'s [[f32; LANES]]),
}

impl Scores<'_> {
    /// Accumulator `i`: every sixteenth channel from `i` on.
    #[inline(always)]
    fn leaf(&self, i: usize) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        for (q, keys) in self.query.0.iter().zip(self.keys.0) {
            multiply_add(&mut sums, q.get(i), keys.get(i));
        }
        multiply_add(&mut sums, self.query.1.get(i), self.keys.1.get(i));
        sums
    }

    #[inline(always)]
    fn pair(&self, i: usize) -> [f32; LANES] {
        plus(self.leaf(i), self.leaf(i + 8))
    }

    #[inline(always)]
    fn four(&self, i: usize) -> [f32; LANES] {
        plus(self.pair(i), self.pair(i + 4))
    }

    #[inline(always)]
    fn eight(&self, i: usize) -> [f32; LANES] {
        plus(self.four(i), self.four(i + 2))
    }
}

/// `sums += q · keys`, two roundings.
#[inline(always)]
fn multiply_add(sums: &mut [f32; LANES], q: Option<&f32>, keys: Option<&[f32; LANES]>) {
    if let (Some(q), Some(keys)) = (q, keys) {
        for (sum, key) in sums.iter_mut().zip(keys) {
            *sum += q * key;
        }
    }
}

#[inline(always)]
fn plus(mut a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
    a
}

/// `out = Σ weights[j] · values[j]`, j by age, from 0.
#[inline(always)]
pub(super) fn weigh<const RUNS: usize>(sum: &Weighing<'_, RUNS>, out: &mut [f32]) {
    // Four vectors of channels at a time keep the adders busy.
    let (wide, rest) = out.as_chunks_mut::<{ 4 * LANES }>();
    let mut at = 0;
    for out in wide {
        *out = sum.channels(at);
        at += 4 * LANES;
    }
    let (middle, rest) = rest.as_chunks_mut::<{ 2 * LANES }>();
    for out in middle {
        *out = sum.channels(at);
        at += 2 * LANES;
    }
    let (narrow, rest) = rest.as_chunks_mut::<LANES>();
    for out in narrow {
        *out = sum.channels(at);
        at += LANES;
    }
    for (i, out) in rest.iter_mut().enumerate() {
        [*out] = sum.channels(at + i);
    }
}

/// What the groups of channels share.
pub(super) struct Weighing<'c, const RUNS: usize> {
    /// Values by age: of each ring its older part, then its newer one.
    pub(super) runs: [&'c [f32]; RUNS],
    pub(super) weights: &'c [f32],
    pub(super) width: usize,
}

impl<const RUNS: usize> Weighing<'_, RUNS> {
    /// The sums of `N` channels from `at` on.
    #[inline(always)]
    fn channels<const N: usize>(&self, at: usize) -> [f32; N] {
        let mut sums = [0.0; N];
        let mut weights = self.weights;
        for run in self.runs {
            let positions = run.len() / self.width.max(1);
            let (now, later) = weights.split_at_checked(positions).unwrap_or((weights, &[]));
            weights = later;
            let mut rest = run;
            for weight in now {
                let (value, after) = rest.split_at_checked(self.width).unwrap_or_default();
                rest = after;
                let value = value.get(at..).and_then(|v| v.first_chunk::<N>()).unwrap_or(&[0.0; N]);
                sums.iter_mut().zip(value).for_each(|(sum, v)| *sum += weight * v);
            }
        }
        sums
    }
}
