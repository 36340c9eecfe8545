//! Attention in little code, for programs compiled for size: position after position, nothing unrolled.
#![forbid(unsafe_code)]

use forge_formats::config::Globals;

use super::attend::{HeadF32, by_age, softmax_weights};
use super::attend_hybrid::hybrid_weights;
use crate::math::{LANES, sum16, sum16_of};

/// As [`super::attend`], to the bit.
#[cfg_attr(not(little_code), allow(dead_code, reason = "for programs compiled for size"))]
pub(crate) fn attend_compact(
    head: &HeadF32<'_>,
    query: &[f32],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let half = scratch.len() / 2;
    let (scores, ordered) = scratch.split_at_mut_checked(half).unwrap_or_default();
    score(head, query, scale, scores);
    let scores = by_age(scores, ordered, head.len, head.first);
    softmax_weights(scores);
    out.fill(0.0);
    add_weighted(head, scores, out);
    let inverse = 1.0 / sum16(scores);
    out.iter_mut().for_each(|o| *o *= inverse);
}

/// As [`super::attend_hybrid`], to the bit.
#[cfg_attr(not(little_code), allow(dead_code, reason = "for programs compiled for size"))]
pub(crate) fn attend_hybrid_compact(
    parts: &[HeadF32<'_>; 2],
    query: &[f32],
    scale: f32,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    if !Globals::LINKED {
        return;
    }
    let weights = hybrid_weights(parts, scratch, |head, scores| score(head, query, scale, scores));
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

/// The scores of a cache's slots, as they lie.
#[inline(always)]
fn score(head: &HeadF32<'_>, query: &[f32], scale: f32, scores: &mut [f32]) {
    for (slot, score) in scores.iter_mut().enumerate().take(head.len) {
        let block = head.keys.get(slot / LANES * LANES * query.len()..).unwrap_or(&[]);
        let key = block.iter().skip(slot % LANES).step_by(LANES);
        *score = sum16_of(query.iter().zip(key).map(|(q, k)| q * k)) * scale;
    }
}

/// `out += Σ weights[j] · values[j]`, j by age.
#[inline(always)]
fn add_weighted(head: &HeadF32<'_>, weights: &[f32], out: &mut [f32]) {
    let slots = (head.first..head.len).chain(0..head.first);
    for (weight, slot) in weights.iter().zip(slots) {
        let value = head.values.get(slot * out.len()..).unwrap_or(&[]);
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::kernels::generic::attend;
    use crate::testing::Noise;

    #[test]
    fn little_code_gives_the_same_bits() {
        let mut noise = Noise(3);
        for width in [2, 6, 16, 24, 32, 64, 80, 128] {
            for (window, read) in [(1, 1), (5, 3), (16, 16), (20, 33), (37, 36), (48, 131)] {
                let mut random = |n: usize| (0..n).map(|_| noise.uniform() * 3.0).collect::<Vec<f32>>();
                let (keys, values) = (random(48usize.max(window) * width), random(window * width));
                let query = random(width);
                let (len, first) = (read.min(window), if read > window { read % window } else { 0 });
                let head = HeadF32 { keys: &keys, values: &values, len, first };
                let mut scratch = vec![f32::NAN; 96];
                let (mut want, mut got) = (vec![0.0; width], vec![f32::NAN; width]);
                attend(&head, &query, 0.3, &mut scratch, &mut want);
                attend_compact(&head, &query, 0.3, &mut scratch, &mut got);
                let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(&got), bits(&want), "{width} channels, {read} positions in {window}");
            }
        }
    }
}
