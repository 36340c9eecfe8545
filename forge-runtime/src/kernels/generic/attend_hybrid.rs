//! Attention of one head over two caches: global positions that have left the window, then the window
//! (Beltagy et al. 2020, arXiv 2004.05150, section 3.1, causal). One softmax over both, as if they lay in one.
#![forbid(unsafe_code)]

use forge_formats::config::Globals;

use super::attend::{HeadF32, Weighing, score, softmax_weights, weigh};
use super::attend_int8::HeadInt8;
use crate::math::sum16;

/// As [`super::attend`], over the positions of `parts` one after another, the older first. `scratch` holds twice as much
/// as both have slots, rounded up to sixteen.
#[inline(always)]
pub(crate) fn attend_hybrid(
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
    let [[oldest, older], [newer, newest]] = parts.each_ref().map(|head| head.runs(out.len()));
    let runs = [oldest, older, newer, newest];
    weigh(&Weighing { runs, weights, width: out.len() }, out);
    let inverse = 1.0 / sum16(weights);
    out.iter_mut().for_each(|o| *o *= inverse);
}

/// A cache whose oldest position may lie anywhere.
pub(super) trait Ring {
    /// Slots in use, and the slot of the oldest position.
    fn extent(&self) -> (usize, usize);
}

impl Ring for HeadF32<'_> {
    fn extent(&self) -> (usize, usize) {
        (self.len, self.first)
    }
}

impl Ring for HeadInt8<'_> {
    fn extent(&self) -> (usize, usize) {
        (self.len, self.first)
    }
}

impl<'c> HeadF32<'c> {
    /// The values of the slots in use, `[position][channel]`: the ring's older part, then its newer one.
    #[inline(always)]
    pub(super) fn runs(&self, width: usize) -> [&'c [f32]; 2] {
        let values = self.values.get(..self.len * width).unwrap_or(&[]);
        let (newer, older) = values.split_at_checked(self.first * width).unwrap_or_default();
        [older, newer]
    }
}

/// `exp(s − max s)` of all positions' scores, by age. `score` writes those of a cache's slots as they lie.
#[inline(always)]
pub(super) fn hybrid_weights<'s, R: Ring>(
    parts: &[R; 2],
    scratch: &'s mut [f32],
    mut score: impl FnMut(&R, &mut [f32]),
) -> &'s mut [f32] {
    let half = scratch.len() / 2;
    let (scores, ordered) = scratch.split_at_mut_checked(half).unwrap_or_default();
    let mut all = 0;
    for part in parts {
        let (len, first) = part.extent();
        score(part, scores);
        let (newer, older) = scores.get(..len).unwrap_or(&[]).split_at_checked(first).unwrap_or_default();
        let places = ordered.get_mut(all..).unwrap_or(&mut []);
        places.iter_mut().zip(older.iter().chain(newer)).for_each(|(o, s)| *o = *s);
        all += len;
    }
    let weights = ordered.get_mut(..all).unwrap_or(&mut []);
    softmax_weights(weights);
    weights
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::super::attend;
    use super::super::attend_compact::attend_hybrid_compact;
    use super::super::attend_fixed::attend_hybrid_fixed;
    use super::*;
    use crate::testing::Noise;

    /// Keys and values of a ring of `slots`, keys in blocks of sixteen positions.
    struct Cache {
        keys: Vec<f32>,
        values: Vec<f32>,
        width: usize,
    }

    impl Cache {
        fn new(slots: usize, width: usize) -> Self {
            let keys = vec![f32::NAN; slots.next_multiple_of(16) * width];
            Self { keys, values: vec![f32::NAN; slots * width], width }
        }

        fn put(&mut self, slot: usize, key: &[f32], value: &[f32]) {
            for (channel, k) in key.iter().enumerate() {
                self.keys[(slot / 16 * self.width + channel) * 16 + slot % 16] = *k;
            }
            self.values[slot * self.width..][..self.width].copy_from_slice(value);
        }

        fn head(&self, len: usize, first: usize) -> HeadF32<'_> {
            HeadF32 { keys: &self.keys, values: &self.values, len, first }
        }
    }

    /// What two rings hold gives the bits that one cache of all of it gives, whatever slots are not in use hold.
    #[test]
    fn two_caches_are_as_one() {
        let mut noise = Noise(7);
        for width in [2, 6, 16, 24, 32, 64, 80, 128] {
            for (far, near) in [([3, 0], [5, 2]), ([16, 5], [16, 0]), ([7, 6], [20, 19]), ([1, 0], [1, 0])] {
                let mut random = || (0..width).map(|_| noise.uniform() * 3.0).collect::<Vec<f32>>();
                let mut all = Cache::new(far[0] + near[0], width);
                let mut rings = [far, near]
                    .map(|[len, first]| (Cache::new(len + usize::from(first == 0), width), len, first));
                let mut at = 0;
                for (ring, len, first) in &mut rings {
                    for age in 0..*len {
                        let (key, value) = (random(), random());
                        all.put(at, &key, &value);
                        ring.put((*first + age) % *len, &key, &value);
                        at += 1;
                    }
                }
                let query = random();
                let scratch = |n: usize| vec![f32::NAN; 2 * n.next_multiple_of(16)];
                let mut want = vec![f32::NAN; width];
                attend(&all.head(at, 0), &query, 0.3, &mut scratch(at), &mut want);
                let parts = rings.each_ref().map(|(ring, len, first)| ring.head(*len, *first));
                for kernel in [attend_hybrid, attend_hybrid_fixed, attend_hybrid_compact] {
                    let mut got = vec![f32::NAN; width];
                    kernel(&parts, &query, 0.3, &mut scratch(at + 2), &mut got);
                    let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                    assert_eq!(bits(&got), bits(&want), "{width} channels, {far:?} and {near:?}");
                }
                // Control: another order of the parts is another sum.
                let mut got = vec![f32::NAN; width];
                let other = [parts[0], rings[0].0.head(far[0], far[1])];
                attend_hybrid(&other, &query, 0.3, &mut scratch(2 * at), &mut got);
                assert_ne!(got, want);
            }
        }
    }
}
