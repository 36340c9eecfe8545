//! Attention of one head over a ring of cached positions, keys and values in int8: a quarter of the memory.
#![forbid(unsafe_code)]

use forge_formats::config::Globals;

use super::attend::{by_age, softmax_weights};
use super::attend_hybrid::hybrid_weights;
use super::quantise::to_int8;
use crate::math::{max_abs, sum16};

/// Channels of the widest head (`forge_formats::ModelConfig::validate`).
const WIDEST: usize = 256;

/// One key/value head's caches, each position with the real value of one unit of its key and of its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadInt8<'c> {
    /// `[window][channels]`.
    pub(crate) keys: &'c [i8],
    /// `[window][channels]`.
    pub(crate) values: &'c [i8],
    /// `[window]`.
    pub(crate) key_units: &'c [f32],
    /// `[window]`.
    pub(crate) value_units: &'c [f32],
    /// Slots in use.
    pub(crate) len: usize,
    /// The slot of the oldest position; 0 until the ring has wrapped.
    pub(crate) first: usize,
}

/// Quantises one position's key or value; returns the real value of one unit.
#[inline(always)]
pub(crate) fn store_int8(x: &[f32], q: &mut [i8]) -> f32 {
    let amax = max_abs(x);
    if amax <= 1e-30 {
        q.fill(0);
        return 0.0;
    }
    let scale = 127.0 / amax;
    q.iter_mut().zip(x).for_each(|(q, x)| *q = to_int8(x * scale) as i8);
    amax / 127.0
}

/// `out = Σ softmax(query · keys · scale) · values`, the query quantised as the keys are. `scratch` holds twice the
/// window rounded up to sixteen.
#[inline(always)]
pub(crate) fn attend_int8(
    head: &HeadInt8<'_>,
    query: &[f32],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let mut buffer = [0i8; WIDEST];
    let quantised = buffer.get_mut(..query.len()).unwrap_or(&mut []);
    let unit = store_int8(query, quantised);
    let half = scratch.len() / 2;
    let (scores, ordered) = scratch.split_at_mut_checked(half).unwrap_or_default();
    score(head, quantised, unit, scale, scores);
    let scores = by_age(scores, ordered, head.len, head.first);
    softmax_weights(scores);
    out.fill(0.0);
    add_weighted(head, scores, out);
    let inverse = 1.0 / sum16(scores);
    out.iter_mut().for_each(|o| *o *= inverse);
}

/// As [`attend_int8`], over two caches: see [`super::attend_hybrid`].
#[cfg_attr(not(little_code), inline(always))]
pub(crate) fn attend_hybrid_int8(
    parts: &[HeadInt8<'_>; 2],
    query: &[f32],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    if !Globals::LINKED {
        return;
    }
    let mut buffer = [0i8; WIDEST];
    let quantised = buffer.get_mut(..query.len()).unwrap_or(&mut []);
    let unit = store_int8(query, quantised);
    let weights = hybrid_weights(parts, scratch, |head, scores| score(head, quantised, unit, scale, scores));
    out.fill(0.0);
    let mut rest = &*weights;
    for head in parts {
        let (now, later) = rest.split_at_checked(head.len).unwrap_or_default();
        add_weighted(head, now, out);
        rest = later;
    }
    let inverse = 1.0 / sum16(weights);
    out.iter_mut().for_each(|o| *o *= inverse);
}

/// The scores of a cache's slots, as they lie, of a query whose unit has the real value `unit`.
#[inline(always)]
fn score(head: &HeadInt8<'_>, query: &[i8], unit: f32, scale: f32, scores: &mut [f32]) {
    let mut keys = head.keys;
    for (score, key_unit) in scores.iter_mut().zip(head.key_units).take(head.len) {
        let (key, after) = keys.split_at_checked(query.len()).unwrap_or_default();
        keys = after;
        *score = dot_int8(key, query) as f32 * (unit * key_unit) * scale;
    }
}

/// `out += Σ weights[j] · values[j]`, j by age.
#[inline(always)]
fn add_weighted(head: &HeadInt8<'_>, weights: &[f32], out: &mut [f32]) {
    let slots = (head.first..head.len).chain(0..head.first);
    for (weight, slot) in weights.iter().zip(slots) {
        let weight = weight * head.value_units.get(slot).copied().unwrap_or(0.0);
        let value = head.values.get(slot * out.len()..).unwrap_or(&[]);
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * f32::from(*v));
    }
}

#[inline(always)]
fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
