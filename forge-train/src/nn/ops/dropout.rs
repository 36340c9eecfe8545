//! Dropout (Srivastava et al. 2014) whose mask is a hash of where an element stands, so that nothing is stored:
//! the backward pass, a recomputed forward pass and another device find the same mask again.
//!
//! The hash is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Its key is the
//! seed; its counter is (element / 4, site, part, step); the word of an element is number element % 4 of the four.
//! An element is kept, and multiplied by `1 / (1 − rate)`, where its word is at least `rate · 2³²`.

use candle_core::{Result, Shape, bail};
use rayon::prelude::*;

use super::simd::vectorised;
use super::{Arg, Op};

/// Elements of a chunk, a multiple of [`TILE`].
const CHUNK: usize = 1 << 14;
/// Counters hashed side by side.
const LANES: usize = 8;
/// Elements whose words are made at once.
const TILE: usize = 4 * LANES;
/// Rounds of the hash.
const ROUNDS: usize = 10;
/// Multipliers of the hash.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key grows by each round: the golden ratio and √3 − 1.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Dropout of one part of a training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is dropped, in `[0, 1)`.
    pub rate: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run; its lower 32 bits count.
    pub step: u64,
    /// Which part of the step's batch this is, so that parts have masks of their own.
    pub part: u32,
}

/// One place of the network that drops: the embedding, or the outcome of a residual branch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mask {
    key: [u32; 2],
    /// Site, part and step: the words of the counter that all elements share.
    place: [u32; 3],
    threshold: u32,
    /// What kept elements are multiplied by.
    pub(crate) scale: f32,
}

impl Mask {
    /// The mask of the embedding, site 0.
    ///
    /// # Errors
    /// If the rate is outside `[0, 1)`.
    pub(crate) fn embedding(dropout: &Dropout) -> Result<Self> {
        Self::new(dropout, 0)
    }

    /// The masks of the attention's and the feed-forward network's outcomes, sites `2 block + 1` and `2 block + 2`
    /// of the block applied as number `block`, recursions counted on.
    ///
    /// # Errors
    /// If the rate is outside `[0, 1)`.
    pub(crate) fn branches(dropout: &Dropout, block: u32) -> Result<[Self; 2]> {
        Ok([Self::new(dropout, 2 * block + 1)?, Self::new(dropout, 2 * block + 2)?])
    }

    fn new(dropout: &Dropout, site: u32) -> Result<Self> {
        if !(0.0..1.0).contains(&dropout.rate) {
            bail!("a dropout rate of {} is outside [0, 1)", dropout.rate);
        }
        Ok(Self {
            key: [dropout.seed as u32, (dropout.seed >> 32) as u32],
            place: [site, dropout.part, dropout.step as u32],
            threshold: (f64::from(dropout.rate) * 2f64.powi(32)) as u32,
            scale: 1.0 / (1.0 - dropout.rate),
        })
    }

    /// What a device needs to find the mask: key, site, part, step and threshold.
    #[cfg(feature = "cuda")]
    pub(super) fn words(&self) -> [u32; 6] {
        let ([a, b], [c, d, e]) = (self.key, self.place);
        [a, b, c, d, e, self.threshold]
    }

    /// Adds the masked values of `x` to `out`; both begin at element `first`, a multiple of [`TILE`].
    pub(crate) fn add(self, first: usize, x: &[f32], out: &mut [f32]) {
        add_masked(self, first, x, out);
    }

    /// Masks `x`, which begins at element `first`, a multiple of [`TILE`].
    pub(crate) fn apply(self, first: usize, x: &mut [f32]) {
        apply_mask(self, first, x);
    }

    /// Adds the masked values of a whole tensor to `out`.
    pub(crate) fn add_all(self, x: &[f32], out: &mut [f32]) {
        out.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(c, (out, x))| self.add(c * CHUNK, x, out));
    }

    /// The masked copy of a whole tensor.
    pub(crate) fn applied(self, x: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(c, out)| self.apply(c * CHUNK, out));
        out
    }

    /// Factors of the elements from `first` on: 0 or the scale.
    #[inline(always)]
    fn factors(self, first: usize) -> [f32; TILE] {
        let words = philox(self.key, (first / 4) as u32, self.place);
        let mut factors = [0.0; TILE];
        for (lane, four) in factors.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            for (factor, word) in four.iter_mut().zip(&words) {
                *factor = if word[lane] >= self.threshold { self.scale } else { 0.0 };
            }
        }
        factors
    }
}

/// Philox4x32-10 of the counters `(block + lane, place…)`: four words for each lane.
#[inline(always)]
fn philox(mut key: [u32; 2], block: u32, place: [u32; 3]) -> [[u32; LANES]; 4] {
    let mut c: [[u32; LANES]; 4] = [
        std::array::from_fn(|lane| block.wrapping_add(lane as u32)),
        [place[0]; LANES],
        [place[1]; LANES],
        [place[2]; LANES],
    ];
    for _ in 0..ROUNDS {
        let mut next = [[0; LANES]; 4];
        for lane in 0..LANES {
            let first = u64::from(MULTIPLIERS[0]) * u64::from(c[0][lane]);
            let second = u64::from(MULTIPLIERS[1]) * u64::from(c[2][lane]);
            next[0][lane] = (second >> 32) as u32 ^ c[1][lane] ^ key[0];
            next[1][lane] = second as u32;
            next[2][lane] = (first >> 32) as u32 ^ c[3][lane] ^ key[1];
            next[3][lane] = first as u32;
        }
        c = next;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

vectorised! {
fn add_masked(mask: Mask, first: usize, x: &[f32], out: &mut [f32]) {
    for (tile, (out, x)) in out.chunks_mut(TILE).zip(x.chunks(TILE)).enumerate() {
        let factors = mask.factors(first + tile * TILE);
        for ((out, x), factor) in out.iter_mut().zip(x).zip(&factors) {
            *out += x * factor;
        }
    }
}

fn apply_mask(mask: Mask, first: usize, x: &mut [f32]) {
    for (tile, x) in x.chunks_mut(TILE).enumerate() {
        let factors = mask.factors(first + tile * TILE);
        x.iter_mut().zip(&factors).for_each(|(x, factor)| *x *= factor);
    }
}
}

/// `mask ⊙ x`, or `base + mask ⊙ x` with operands `base` and `x` of one shape.
pub(crate) struct Dropped(pub(crate) Mask);

impl Op<1> for Dropped {
    const NAME: &'static str = "dropout";

    fn forward(&self, [x]: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        Ok((self.0.applied(x.data), x.dims.into()))
    }

    fn backward(
        &self,
        _args: [Arg<'_>; 1],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        Ok([Some(self.0.applied(grad))])
    }
}

impl Op<2> for Dropped {
    const NAME: &'static str = "dropout-residual";

    fn forward(&self, [base, x]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        if base.dims != x.dims {
            bail!("a residual of {:?} beside a branch of {:?}", base.dims, x.dims);
        }
        let mut out = base.data.to_vec();
        self.0.add_all(x.data, &mut out);
        Ok((out, x.dims.into()))
    }

    fn backward(
        &self,
        _args: [Arg<'_>; 2],
        _result: &[f32],
        grad: &[f32],
        wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        Ok([wanted[0].then(|| grad.to_vec()), wanted[1].then(|| self.0.applied(grad))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(dropout: Dropout, site: u32) -> Vec<f32> {
        Mask::new(&dropout, site).unwrap().applied(&vec![1.0; 100_001])
    }

    const HALF: Dropout = Dropout { rate: 0.5, seed: 0x0123_4567_89AB_CDEF, step: 7, part: 1 };

    /// The known answers of the authors' own library (Random123, `kat_vectors`).
    #[test]
    fn the_hash_is_philox4x32_10() {
        let first = |key, [a, b, c, d]: [u32; 4]| philox(key, a, [b, c, d]).map(|word| word[0]);
        assert_eq!(first([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(first([!0; 2], [!0; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            first([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn an_element_has_its_own_word_wherever_a_chunk_begins() {
        let mask = Mask::new(&HALF, 3).unwrap();
        let whole = mask.applied(&vec![1.0; 5000]);
        for first in [0, TILE, 37 * TILE, 4992] {
            let mut part = vec![1.0; (5000 - first).min(100)];
            mask.apply(first, &mut part);
            assert_eq!(part, whole[first..first + part.len()]);
            let mut sum = vec![0.0; part.len()];
            mask.add(first, &vec![1.0; part.len()], &mut sum);
            assert_eq!(sum, part);
        }
        for element in [0usize, 1, 6, 4999] {
            let word = philox(mask.key, (element / 4) as u32, mask.place)[element % 4][0];
            assert_eq!(whole[element] != 0.0, word >= 1 << 31);
        }
    }

    #[test]
    fn the_share_of_dropped_elements_is_the_rate_and_the_mean_stays() {
        for rate in [0.0, 0.1, 0.5, 0.9] {
            let values = mask(Dropout { rate, ..HALF }, 0);
            let n = values.len() as f64;
            let dropped = values.iter().filter(|v| **v == 0.0).count() as f64 / n;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            // Five standard deviations of a binomial share.
            let bound = 5.0 * (f64::from(rate) * (1.0 - f64::from(rate)) / n).sqrt();
            assert!((dropped - f64::from(rate)).abs() <= bound, "{rate}: {dropped}");
            assert!((mean - 1.0).abs() <= bound / (1.0 - f64::from(rate)) + 1e-6, "{rate}: {mean}");
        }
        assert!(Mask::new(&Dropout { rate: 1.0, ..HALF }, 0).is_err());
        assert!(Mask::new(&Dropout { rate: f32::NAN, ..HALF }, 0).is_err());
    }

    #[test]
    fn every_part_of_the_place_changes_the_mask_and_nothing_else_does() {
        let one = mask(HALF, 0);
        assert_eq!(one, mask(HALF, 0));
        let others = [
            mask(HALF, 1),
            mask(Dropout { seed: HALF.seed ^ 1, ..HALF }, 0),
            mask(Dropout { seed: HALF.seed ^ (1 << 40), ..HALF }, 0),
            mask(Dropout { step: 8, ..HALF }, 0),
            mask(Dropout { part: 0, ..HALF }, 0),
        ];
        for other in others {
            let same = one.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / one.len() as f64;
            assert!((same - 0.5).abs() < 0.01, "independent masks agree on half of the elements: {same}");
        }
    }
}
