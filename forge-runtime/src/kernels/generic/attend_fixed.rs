//! Attention for the usual widths of a head, unrolled. For vector instruction sets; a microcontroller does with
//! [`attend`] alone.
#![forbid(unsafe_code)]

use forge_formats::config::Globals;

use super::attend::{HeadF32, attend, by_age, softmax_weights};
use super::attend_hybrid::{attend_hybrid, hybrid_weights};
use crate::math::{LANES, sum16};

/// As [`attend`], to the bit.
#[inline(always)]
pub(crate) fn attend_fixed(
    head: &HeadF32<'_>,
    query: &[f32],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let (query_chunks, _) = query.as_chunks::<LANES>();
    match query.len() {
        16 => fixed::<1, 16>(head, query_chunks, scale, scratch, out),
        32 => fixed::<2, 32>(head, query_chunks, scale, scratch, out),
        64 => fixed::<4, 64>(head, query_chunks, scale, scratch, out),
        128 => fixed::<8, 128>(head, query_chunks, scale, scratch, out),
        _ => attend(head, query, scale, scratch, out),
    }
}

/// As [`attend_hybrid`], to the bit.
#[inline(always)]
pub(crate) fn attend_hybrid_fixed(
    parts: &[HeadF32<'_>; 2],
    query: &[f32],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    if !Globals::LINKED {
        return;
    }
    let (query_chunks, _) = query.as_chunks::<LANES>();
    match query.len() {
        16 => hybrid::<1, 16>(parts, query_chunks, scale, scratch, out),
        32 => hybrid::<2, 32>(parts, query_chunks, scale, scratch, out),
        64 => hybrid::<4, 64>(parts, query_chunks, scale, scratch, out),
        128 => hybrid::<8, 128>(parts, query_chunks, scale, scratch, out),
        _ => attend_hybrid(parts, query, scale, scratch, out),
    }
}

/// Sixteen channels.
type Chunk = [f32; LANES];

/// Attention of a head of `C` chunks, which are `N` channels.
#[inline(always)]
fn fixed<const C: usize, const N: usize>(
    head: &HeadF32<'_>,
    query: &[Chunk],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let (Some(query), Some(out)) = (query.first_chunk::<C>(), out.first_chunk_mut::<N>()) else {
        return;
    };
    let half = scratch.len() / 2;
    let (scores, ordered) = scratch.split_at_mut_checked(half).unwrap_or_default();
    score(head, query, scale, scores);
    let scores = by_age(scores, ordered, head.len, head.first);
    softmax_weights(scores);
    let positions = head.values.as_chunks::<N>().0;
    let (newer, older) = positions.split_at_checked(head.first).unwrap_or_default();
    let (before, after) = scores.split_at_checked(older.len().min(scores.len())).unwrap_or_default();
    let sums = weigh(weigh([0.0; N], before, older), after, newer);
    let inverse = 1.0 / sum16(scores);
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum * inverse;
    }
}

/// As [`fixed`], over two caches.
#[inline(always)]
fn hybrid<const C: usize, const N: usize>(
    parts: &[HeadF32<'_>; 2],
    query: &[Chunk],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let (Some(query), Some(out)) = (query.first_chunk::<C>(), out.first_chunk_mut::<N>()) else {
        return;
    };
    let weights = hybrid_weights(parts, scratch, |head, scores| score(head, query, scale, scores));
    let (mut sums, mut rest) = ([0.0; N], &*weights);
    for run in parts.iter().flat_map(|head| head.runs(N)) {
        let values = run.as_chunks::<N>().0;
        let (now, later) = rest.split_at_checked(values.len()).unwrap_or_default();
        sums = weigh(sums, now, values);
        rest = later;
    }
    let inverse = 1.0 / sum16(weights);
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum * inverse;
    }
}

/// The scores of a cache's slots, as they lie.
#[inline(always)]
fn score<const C: usize>(head: &HeadF32<'_>, query: &[Chunk; C], scale: f32, scores: &mut [f32]) {
    let rows = head.keys.as_chunks::<LANES>().0.as_chunks::<LANES>().0;
    let blocks = rows.as_chunks::<C>().0.iter().take(head.len.div_ceil(LANES));
    for (scores, block) in scores.as_chunks_mut::<LANES>().0.iter_mut().zip(blocks) {
        *scores = score_block(query, block, scale);
    }
}

/// Sixteen positions' `dot(query, key) · scale`; lane `j` is position `j`. The sixteen accumulators of `dot` are
/// summed as its tree is.
#[inline(always)]
fn score_block<const C: usize>(query: &[Chunk; C], block: &[[Chunk; LANES]; C], scale: f32) -> Chunk {
    let dot = Dot { query, block };
    let mut total = plus(dot.eight(0), dot.eight(1));
    for t in &mut total {
        *t *= scale;
    }
    total
}

/// The sums of a block, from the accumulators up.
struct Dot<'s, const C: usize> {
    query: &'s [Chunk; C],
    block: &'s [[Chunk; LANES]; C],
}

impl<const C: usize> Dot<'_, C> {
    /// Accumulator `i`: every sixteenth channel from `i` on.
    #[inline(always)]
    fn leaf(&self, i: usize) -> Chunk {
        let mut sums = [0.0; LANES];
        for (q, keys) in self.query.iter().zip(self.block) {
            if let (Some(q), Some(keys)) = (q.get(i), keys.get(i)) {
                multiply_add(&mut sums, *q, keys);
            }
        }
        sums
    }

    #[inline(always)]
    fn pair(&self, i: usize) -> Chunk {
        plus(self.leaf(i), self.leaf(i + 8))
    }

    #[inline(always)]
    fn four(&self, i: usize) -> Chunk {
        plus(self.pair(i), self.pair(i + 4))
    }

    #[inline(always)]
    fn eight(&self, i: usize) -> Chunk {
        plus(self.four(i), self.four(i + 2))
    }
}

/// `sums += x · y`, two roundings.
#[inline(always)]
fn multiply_add(sums: &mut Chunk, x: f32, y: &Chunk) {
    for (sum, y) in sums.iter_mut().zip(y) {
        *sum += x * y;
    }
}

#[inline(always)]
fn plus(mut a: Chunk, b: Chunk) -> Chunk {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
    a
}

/// `sums + Σ weights[j] · values[j]`, one position after another.
#[inline(always)]
fn weigh<const N: usize>(mut sums: [f32; N], weights: &[f32], values: &[[f32; N]]) -> [f32; N] {
    for (weight, value) in weights.iter().zip(values) {
        for (sum, v) in sums.iter_mut().zip(value) {
            *sum += weight * v;
        }
    }
    sums
}
