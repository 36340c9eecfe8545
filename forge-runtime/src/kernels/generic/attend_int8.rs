//! Attention of one head over a ring of cached positions, keys and values in int8: a quarter of the memory.
#![forbid(unsafe_code)]

use super::attend::{by_age, softmax_weights};
use super::quantise::to_int8;
use crate::math::{max_abs, sum16};

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
    // No head is wider (`forge_formats::ModelConfig::validate`).
    let mut buffer = [0i8; 256];
    let width = query.len();
    let quantised = buffer.get_mut(..width).unwrap_or(&mut []);
    let unit = store_int8(query, quantised);
    let half = scratch.len() / 2;
    let (scores, ordered) = scratch.split_at_mut_checked(half).unwrap_or_default();
    let mut keys = head.keys;
    for (score, key_unit) in scores.iter_mut().zip(head.key_units).take(head.len) {
        let (key, after) = keys.split_at_checked(width).unwrap_or_default();
        keys = after;
        *score = dot_int8(key, quantised) as f32 * (unit * key_unit) * scale;
    }
    let scores = by_age(scores, ordered, head.len, head.first);
    softmax_weights(scores);
    out.fill(0.0);
    let slots = (head.first..head.len).chain(0..head.first);
    for (weight, slot) in scores.iter().zip(slots) {
        let weight = weight * head.value_units.get(slot).copied().unwrap_or(0.0);
        let value = head.values.get(slot * width..).unwrap_or(&[]);
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * f32::from(*v));
    }
    let inverse = 1.0 / sum16(scores);
    out.iter_mut().for_each(|o| *o *= inverse);
}

#[inline(always)]
fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
