//! Operations on whole vectors: norms, activations, gates, rotation.
#![forbid(unsafe_code)]

use crate::math::{relu, rsqrt, sigmoid, silu, sum_squares};

/// `rsqrt(sum_squares(x) / n + eps)`, which every element is multiplied with.
#[cfg_attr(not(little_code), inline(always))]
#[cfg_attr(little_code, inline(never))]
pub(crate) fn norm_factor(x: &[f32], eps: f32) -> f32 {
    rsqrt(sum_squares(x) / x.len() as f32 + eps)
}

/// `out = norm(x)`.
#[inline(always)]
pub(crate) fn norm(x: &[f32], eps: f32, out: &mut [f32]) {
    let r = norm_factor(x, eps);
    out.iter_mut().zip(x).for_each(|(o, x)| *o = x * r);
}

/// `x = norm(x)`.
#[inline(always)]
pub(crate) fn norm_in_place(x: &mut [f32], eps: f32) {
    let r = norm_factor(x, eps);
    x.iter_mut().for_each(|x| *x *= r);
}

/// `out = norm(x, gain)`.
#[inline(always)]
pub(crate) fn norm_gained(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let r = norm_factor(x, eps);
    out.iter_mut().zip(x).zip(gain).for_each(|((o, x), g)| *o = x * r * g);
}

/// `x += y`.
#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `out = silu(gate) ⊙ up`.
#[inline(always)]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(gate).zip(up).for_each(|((x, f), w)| *x = silu(*f) * w);
}

/// `out = relu(gate)² ⊙ up`.
#[inline(always)]
pub(crate) fn relu2(gate: &[f32], up: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(gate).zip(up).for_each(|((x, f), w)| *x = relu(*f) * relu(*f) * w);
}

/// `memory += sigmoid(rates + bias) ⊙ (values − memory)`.
#[inline(always)]
pub(crate) fn remember(memory: &mut [f32], values: &[f32], rates: &[f32], bias: &[f32]) {
    for (((m, v), r), b) in memory.iter_mut().zip(values).zip(rates).zip(bias) {
        *m += sigmoid(r + b) * (v - *m);
    }
}

/// `o = m + sigmoid(gate) ⊙ (o − m)`.
#[inline(always)]
pub(crate) fn blend(o: &mut [f32], m: &[f32], gate: &[f32]) {
    for ((o, m), g) in o.iter_mut().zip(m).zip(gate) {
        *o = m + sigmoid(*g) * (*o - m);
    }
}

/// Rotates each head of `x` by the angles of a position: `turns` holds the cosines of the `d/2` channel pairs of a
/// head, then the sines.
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32], turns: &[f32]) {
    let half = turns.len() / 2;
    let (cosines, sines) = turns.split_at_checked(half).unwrap_or_default();
    let mut rest = x;
    while let Some((head, after)) = core::mem::take(&mut rest).split_at_mut_checked(2 * half) {
        if half == 0 {
            break;
        }
        let (first, second) = head.split_at_mut_checked(half).unwrap_or_default();
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
        rest = after;
    }
}
