//! Merges of what each model learned beyond the common base: task arithmetic, TIES and DARE.

use serde::{Deserialize, Serialize};

use super::{build, check_models, check_weights, slices};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::weights::{Key, Weights};

/// Settings of [`ties`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ties {
    /// Share of each delta's entries kept, the largest by magnitude; in (0, 1].
    pub density: f32,
    /// Factor of the merged delta.
    pub lambda: f32,
}

/// Settings of [`dare`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dare {
    /// Probability of keeping an entry of a delta; in (0, 1].
    pub density: f32,
    /// Factor of the merged delta.
    pub lambda: f32,
    /// Names the random choice of entries.
    pub seed: u64,
    /// Whether entries that disagree with the elected sign are dropped (`dare_ties` of mergekit, which does
    /// not divide by the weights that agree).
    pub elect_sign: bool,
}

/// How the deltas of one tensor are combined and added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaSum {
    /// Factor of the merged delta.
    pub lambda: f32,
    /// Whether entries that disagree with the elected sign, that of `Σ w_i δ_i` (0 counts as +), are left out.
    pub elect_sign: bool,
    /// Whether the sum is divided by the weights of the entries in it; weights that cancel divide by 1.
    pub normalize: bool,
}

impl DeltaSum {
    /// Task arithmetic and DARE: `Σ w_i δ_i`.
    fn plain(lambda: f32) -> Self {
        Self { lambda, elect_sign: false, normalize: false }
    }
}

/// What makes up for the entries that DARE drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rescale {
    /// The delta is scaled to the L1 norm it had, as mergekit does today.
    #[default]
    L1,
    /// What is left is divided by the density, as the paper does.
    Density,
    /// Nothing.
    None,
}

/// Sum of weights below which mergekit does not divide by them.
const NO_WEIGHT: f64 = 1e-8;

/// Task arithmetic (Ilharco et al. 2023): `base + λ Σ w_i δ_i`. Weights are taken as they are; a negative one
/// unlearns.
///
/// # Errors
/// When the models differ in shape, or the weights in number or are not finite.
pub fn task_arithmetic(base: &Weights, models: &[&Weights], weights: &[f32], lambda: f32) -> Result<Weights> {
    merge(base, models, weights, DeltaSum::plain(lambda), |_, _, _| ())
}

/// TIES (Yadav et al. 2023): each delta is trimmed to its `density` largest entries per tensor, every
/// position elects the sign of `Σ w_i δ_i` (0 counts as +), and the entries of that sign are averaged: `base
/// + λ · Σ_agree w_i δ_i / Σ_agree w_i`.
///
/// # Errors
/// As [`task_arithmetic`], or when the density is outside (0, 1].
pub fn ties(base: &Weights, models: &[&Weights], weights: &[f32], how: Ties) -> Result<Weights> {
    check_density(how.density)?;
    let sum = DeltaSum { lambda: how.lambda, elect_sign: true, normalize: true };
    merge(base, models, weights, sum, |_, _, delta| trim(delta, how.density))
}

/// DARE (Yu et al. 2024): every entry of a delta is kept with probability `density` and then divided by it,
/// so that its expectation stays; the deltas are then summed as in [`task_arithmetic`]. The choice of entries
/// depends on the seed, the model's place in `models` and the tensor. Each model draws its own.
///
/// # Errors
/// As [`task_arithmetic`], or when the density is outside (0, 1].
pub fn dare(base: &Weights, models: &[&Weights], weights: &[f32], how: Dare) -> Result<Weights> {
    check_density(how.density)?;
    let sum = DeltaSum { elect_sign: how.elect_sign, ..DeltaSum::plain(how.lambda) };
    merge(base, models, weights, sum, |key, model, delta| {
        drop_entries(delta, how.density, Rescale::Density, &mut mask_stream(how.seed, model, key));
    })
}

/// Checks that a density lies in (0, 1].
///
/// # Errors
/// [`Error::Config`] otherwise.
pub(crate) fn check_density(density: f32) -> Result<()> {
    if density > 0.0 && density <= 1.0 {
        return Ok(());
    }
    Err(Error::Config(format!("the density of a merge must lie in (0, 1], not {density}")))
}

/// The common frame: deltas, thinned by `sparsify(key, model, delta)`, combined, and added to the base.
fn merge(
    base: &Weights,
    models: &[&Weights],
    weights: &[f32],
    how: DeltaSum,
    sparsify: impl Fn(Key, usize, &mut [f64]) + Sync,
) -> Result<Weights> {
    let all: Vec<&Weights> = std::iter::once(base).chain(models.iter().copied()).collect();
    check_models(&all)?;
    check_weights(models.len(), weights)?;
    if models.is_empty() || !how.lambda.is_finite() {
        return Err(Error::Config("a merge of deltas needs a model and a finite lambda".into()));
    }
    Ok(build(base, |key, origin| {
        merge_deltas(&origin.data, &slices(models, key), weights, how, |i, delta| sparsify(key, i, delta))
    }))
}

/// The merge of one tensor's deltas: each is thinned by `sparsify(model, delta)`, and all are combined and added to
/// `base`. All slices have the length of `base`; there is one weight for each of `values`.
pub fn merge_deltas(
    base: &[f32],
    values: &[&[f32]],
    weights: &[f32],
    how: DeltaSum,
    sparsify: impl Fn(usize, &mut [f64]),
) -> Vec<f32> {
    let thinned = |(i, values): (usize, &&[f32])| {
        let mut delta: Vec<f64> =
            values.iter().zip(base).map(|(&w, &b)| f64::from(w) - f64::from(b)).collect();
        sparsify(i, &mut delta);
        delta
    };
    let deltas: Vec<Vec<f64>> = values.iter().enumerate().map(thinned).collect();
    let add = |(i, &b): (usize, &f32)| {
        (f64::from(b) + f64::from(how.lambda) * combine(&deltas, weights, how, i)) as f32
    };
    base.iter().enumerate().map(add).collect()
}

/// [`ties`] of one tensor.
pub fn ties_slices(base: &[f32], values: &[&[f32]], weights: &[f32], how: Ties) -> Vec<f32> {
    let sum = DeltaSum { lambda: how.lambda, elect_sign: true, normalize: true };
    merge_deltas(base, values, weights, sum, |_, delta| trim(delta, how.density))
}

/// [`dare`] of the tensor `key`, which names the random choice.
pub fn dare_slices(key: Key, base: &[f32], values: &[&[f32]], weights: &[f32], how: Dare) -> Vec<f32> {
    let sum = DeltaSum { elect_sign: how.elect_sign, ..DeltaSum::plain(how.lambda) };
    merge_deltas(base, values, weights, sum, |model, delta| {
        drop_entries(delta, how.density, Rescale::Density, &mut mask_stream(how.seed, model, key));
    })
}

/// Entry `i` of the merged delta.
fn combine(deltas: &[Vec<f64>], weights: &[f32], how: DeltaSum, i: usize) -> f64 {
    let terms = || deltas.iter().zip(weights).map(|(d, &w)| (f64::from(w), f64::from(w) * d[i]));
    let sum: f64 = terms().map(|(_, d)| d).sum();
    let agrees = |d: f64| if sum >= 0.0 { d > 0.0 } else { d < 0.0 };
    let (combined, divisor) = match how.elect_sign {
        true => (
            terms().filter(|t| agrees(t.1)).map(|t| t.1).sum(),
            terms().filter(|t| agrees(t.1)).map(|t| t.0).sum::<f64>(),
        ),
        false => (sum, terms().map(|t| t.0).sum()),
    };
    let none = if how.elect_sign { divisor == 0.0 } else { divisor.abs() < NO_WEIGHT };
    if how.normalize && !none { combined / divisor } else { combined }
}

/// Zeroes all but the `density · n` entries of largest magnitude (rounded down, at least one); of equals, the
/// earlier stays.
pub fn trim(delta: &mut [f64], density: f32) {
    let keep = ((f64::from(density) * delta.len() as f64) as usize).max(1);
    if keep >= delta.len() {
        return;
    }
    let mut sizes: Vec<f64> = delta.iter().map(|d| d.abs()).collect();
    let (larger, &mut threshold, _) = sizes.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
    let mut equals = keep - larger.iter().filter(|&&d| d > threshold).count();
    for d in delta {
        let stays = d.abs() > threshold || d.abs() == threshold && equals > 0;
        equals -= usize::from(stays && d.abs() == threshold);
        if !stays {
            *d = 0.0;
        }
    }
}

/// The stream that chooses the entries of `model` in tensor `key`.
fn mask_stream(seed: u64, model: usize, key: Key) -> Rng {
    Rng::new(seed, &["dare", &model.to_string(), key.0.name(), &key.1.to_string()])
}

/// Keeps each entry with probability `density` and makes up for the others as `rescale` says. At density 1 nothing
/// changes.
pub fn drop_entries(delta: &mut [f64], density: f32, rescale: Rescale, rng: &mut Rng) {
    if density >= 1.0 {
        return;
    }
    let norm = |delta: &[f64]| delta.iter().map(|d| d.abs()).sum::<f64>();
    let before = if rescale == Rescale::L1 { norm(delta) } else { 0.0 };
    let divisor = if rescale == Rescale::Density { f64::from(density) } else { 1.0 };
    for d in delta.iter_mut() {
        *d = if rng.chance(density) { *d / divisor } else { 0.0 };
    }
    let after = if rescale == Rescale::L1 { norm(delta) } else { 0.0 };
    if before > NO_WEIGHT && after > NO_WEIGHT {
        delta.iter_mut().for_each(|d| *d *= before / after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{model, model_of, near, values};
    use forge_formats::role::Role;

    /// Combines single entries: deltas `d`, weights `w`.
    fn one(d: &[f64], w: &[f32], how: DeltaSum) -> f64 {
        combine(&d.iter().map(|&d| vec![d]).collect::<Vec<_>>(), w, how, 0)
    }

    const SUM: DeltaSum = DeltaSum { lambda: 1.0, elect_sign: false, normalize: false };
    const MEAN: DeltaSum = DeltaSum { normalize: true, ..SUM };
    const ELECTED: DeltaSum = DeltaSum { elect_sign: true, ..SUM };
    const ELECTED_MEAN: DeltaSum = DeltaSum { elect_sign: true, ..MEAN };

    #[test]
    fn task_arithmetic_adds_scaled_deltas() {
        let (base, a, b) = (model_of(1.0), model_of(3.0), model_of(5.0));
        let merged = task_arithmetic(&base, &[&a, &b], &[0.5, -0.25], 2.0).unwrap();
        assert!(values(&merged).all(|v| v == 1.0 + 2.0 * (0.5 * 2.0 - 0.25 * 4.0)));
    }

    #[test]
    fn ties_elects_a_sign_and_averages_those_who_agree() {
        // Σ = 3 + 1 − 2 > 0: the mean of 3 and 1. Then Σ = 1 − 5 < 0: only −5 is left, not averaged with 1.
        assert_eq!(one(&[3.0, 1.0, -2.0], &[1.0; 3], ELECTED_MEAN), 2.0);
        assert_eq!(one(&[1.0, -5.0], &[1.0; 2], ELECTED_MEAN), -5.0);
        // Weights move the election: 4·1 against 1·(−3), and the mean is weighted.
        assert_eq!(one(&[1.0, -3.0], &[4.0, 1.0], ELECTED_MEAN), 1.0);
        assert_eq!(one(&[1.0, 4.0], &[2.0, 1.0], ELECTED_MEAN), 2.0);
        // A tie counts as +, and nothing at all stays nothing.
        assert_eq!(one(&[2.0, -2.0], &[1.0; 2], ELECTED_MEAN), 2.0);
        assert_eq!(one(&[0.0, 0.0], &[1.0; 2], ELECTED_MEAN), 0.0);
        // Without election the same entries cancel.
        assert_eq!(one(&[2.0, -2.0], &[1.0; 2], SUM), 0.0);
        assert_eq!(one(&[2.0, 1.0, -2.0], &[0.5; 3], ELECTED), 1.5);
    }

    #[test]
    fn a_normalised_sum_divides_by_all_weights_unless_they_cancel() {
        // (1·2 + 3·4) / (1 + 3) = 3.5; weights 1 and −1 leave 2 − 4 undivided.
        assert_eq!(one(&[2.0, 4.0], &[1.0, 3.0], MEAN), 3.5);
        assert_eq!(one(&[2.0, 4.0], &[1.0, -1.0], MEAN), -2.0);
        assert_eq!(one(&[2.0, 4.0], &[1.0, 3.0], SUM), 14.0);
    }

    #[test]
    fn what_is_dropped_is_made_up_for_as_asked() {
        let drop = |rescale| {
            let mut d = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0];
            drop_entries(&mut d, 0.5, rescale, &mut Rng::new(3, &["test"]));
            d
        };
        let plain = drop(Rescale::None);
        let kept: f64 = plain.iter().map(|d| d.abs()).sum();
        assert!(kept > 0.0 && kept < 36.0, "{plain:?}");
        for ((p, halved), l1) in plain.iter().zip(drop(Rescale::Density)).zip(drop(Rescale::L1)) {
            assert_eq!(halved, 2.0 * p);
            assert!((l1 - p * 36.0 / kept).abs() < 1e-12);
        }
    }

    #[test]
    fn trimming_keeps_the_largest_by_magnitude() {
        let mut d = [0.1, -5.0, 2.0, -0.3, 4.0, 0.0, 1.0, -1.0, 0.2, 3.0];
        trim(&mut d, 0.45);
        assert_eq!(d, [0.0, -5.0, 2.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 3.0]);
        let mut equal = [1.0, -1.0, 1.0, -1.0];
        trim(&mut equal, 0.5);
        assert_eq!(equal, [1.0, -1.0, 0.0, 0.0]);
        let mut tiny = [0.5, 0.2];
        trim(&mut tiny, 0.2);
        assert_eq!(tiny, [0.5, 0.0]);
    }

    #[test]
    fn ties_of_one_delta_is_that_model_only_at_density_one() {
        let (base, a) = (model(1), model(2));
        assert_eq!(ties(&base, &[&a], &[0.7], Ties { density: 1.0, lambda: 1.0 }).unwrap(), a);
        let trimmed = ties(&base, &[&a], &[0.7], Ties { density: 0.2, lambda: 1.0 }).unwrap();
        let m = |w: &Weights| w.get(Role::Qkv, 0).data.clone();
        let (base, a, trimmed) = (m(&base), m(&a), m(&trimmed));
        let changed = trimmed.iter().zip(&base).filter(|(t, b)| t != b).count();
        assert_eq!(changed, (0.2 * base.len() as f64) as usize);
        assert!(trimmed.iter().zip(&a).zip(&base).all(|((t, a), b)| t == a || t == b));
    }

    #[test]
    fn dare_at_density_one_is_task_arithmetic() {
        let (base, a, b) = (model(1), model(2), model(3));
        let plain = task_arithmetic(&base, &[&a, &b], &[0.5, 0.25], 1.5).unwrap();
        let how = Dare { density: 1.0, lambda: 1.5, seed: 9, elect_sign: false };
        assert_eq!(dare(&base, &[&a, &b], &[0.5, 0.25], how).unwrap(), plain);
        assert_ne!(dare(&base, &[&a, &b], &[0.5, 0.25], Dare { density: 0.5, ..how }).unwrap(), plain);
        assert_ne!(dare(&base, &[&a, &b], &[0.5, 0.25], Dare { elect_sign: true, ..how }).unwrap(), plain);
    }

    #[test]
    fn dare_drops_at_random_and_keeps_the_expectation() {
        let (base, a) = (model_of(1.0), model_of(3.0));
        let how = Dare { density: 0.1, lambda: 1.0, seed: 5, elect_sign: false };
        let merged = dare(&base, &[&a], &[1.0], how).unwrap();
        // Dropped entries are the base; kept ones are base + 2 / 0.1.
        assert!(values(&merged).all(|v| v == 1.0 || near(v, 21.0, 1e-5)));
        let n = values(&merged).count() as f64;
        let kept = values(&merged).filter(|&v| v > 1.0).count() as f64 / n;
        let five_sigma = 5.0 * (0.1 * 0.9 / n).sqrt();
        assert!((kept - 0.1).abs() < five_sigma, "kept {kept} of {n}");
        assert_eq!(dare(&base, &[&a], &[1.0], how).unwrap(), merged);
        assert_ne!(dare(&base, &[&a], &[1.0], Dare { seed: 6, ..how }).unwrap(), merged);
    }

    #[test]
    fn each_model_draws_its_own_mask() {
        let (base, a) = (model_of(0.0), model_of(1.0));
        let how = Dare { density: 0.5, lambda: 1.0, seed: 5, elect_sign: false };
        let merged = dare(&base, &[&a, &a], &[1.0, 1.0], how).unwrap();
        for expected in [0.0, 2.0, 4.0] {
            assert!(values(&merged).any(|v| v == expected), "{expected} never occurs");
        }
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let (base, a) = (model(1), model(2));
        assert!(ties(&base, &[&a], &[1.0], Ties { density: 0.0, lambda: 1.0 }).is_err());
        assert!(ties(&base, &[&a], &[1.0], Ties { density: 1.5, lambda: 1.0 }).is_err());
        assert!(ties(&base, &[&a], &[1.0, 1.0], Ties { density: 0.5, lambda: 1.0 }).is_err());
        assert!(task_arithmetic(&base, &[], &[], 1.0).is_err());
        assert!(task_arithmetic(&base, &[&a], &[1.0], f32::NAN).is_err());
    }
}
