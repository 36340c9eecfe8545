//! Merges of what each model learned beyond the common base: task arithmetic, TIES and DARE.

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

/// How the deltas of one tensor are summed.
#[derive(Clone, Copy)]
enum Consensus {
    /// `Σ w_i δ_i`.
    Sum,
    /// The same over the entries whose sign is the elected one.
    Elected,
    /// That, divided by the weights of these entries.
    ElectedMean,
}

/// Task arithmetic (Ilharco et al. 2023): `base + λ Σ w_i δ_i`. Weights are taken as they are; a negative one
/// unlearns.
///
/// # Errors
/// When the models differ in shape, or the weights in number or are not finite.
pub fn task_arithmetic(base: &Weights, models: &[&Weights], weights: &[f32], lambda: f32) -> Result<Weights> {
    merge(base, models, weights, lambda, Consensus::Sum, |_, _, _| ())
}

/// TIES (Yadav et al. 2023): each delta is trimmed to its `density` largest entries per tensor, every
/// position elects the sign of `Σ w_i δ_i` (0 counts as +), and the entries of that sign are averaged: `base
/// + λ · Σ_agree w_i δ_i / Σ_agree w_i`.
///
/// # Errors
/// As [`task_arithmetic`], or when the density is outside (0, 1].
pub fn ties(base: &Weights, models: &[&Weights], weights: &[f32], how: Ties) -> Result<Weights> {
    check_density(how.density)?;
    merge(base, models, weights, how.lambda, Consensus::ElectedMean, |_, _, delta| trim(delta, how.density))
}

/// DARE (Yu et al. 2024): every entry of a delta is kept with probability `density` and then divided by it,
/// so that its expectation stays; the deltas are then summed as in [`task_arithmetic`]. The choice of entries
/// depends on the seed, the model's place in `models` and the tensor. Each model draws its own.
///
/// # Errors
/// As [`task_arithmetic`], or when the density is outside (0, 1].
pub fn dare(base: &Weights, models: &[&Weights], weights: &[f32], how: Dare) -> Result<Weights> {
    check_density(how.density)?;
    let consensus = if how.elect_sign { Consensus::Elected } else { Consensus::Sum };
    merge(base, models, weights, how.lambda, consensus, |key, model, delta| {
        drop_and_rescale(delta, how.density, &mut mask_stream(how.seed, model, key));
    })
}

fn check_density(density: f32) -> Result<()> {
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
    lambda: f32,
    consensus: Consensus,
    sparsify: impl Fn(Key, usize, &mut [f64]) + Sync,
) -> Result<Weights> {
    let all: Vec<&Weights> = std::iter::once(base).chain(models.iter().copied()).collect();
    check_models(&all)?;
    check_weights(models.len(), weights)?;
    if models.is_empty() || !lambda.is_finite() {
        return Err(Error::Config("a merge of deltas needs a model and a finite lambda".into()));
    }
    Ok(build(base, |key, origin| {
        let deltas: Vec<Vec<f64>> = slices(models, key)
            .iter()
            .enumerate()
            .map(|(i, values)| {
                let pairs = values.iter().zip(&origin.data);
                let mut delta: Vec<f64> = pairs.map(|(&w, &b)| f64::from(w) - f64::from(b)).collect();
                sparsify(key, i, &mut delta);
                delta
            })
            .collect();
        let add = |(i, &b): (usize, &f32)| {
            (f64::from(b) + f64::from(lambda) * combine(&deltas, weights, consensus, i)) as f32
        };
        origin.data.iter().enumerate().map(add).collect()
    }))
}

/// Entry `i` of the merged delta.
fn combine(deltas: &[Vec<f64>], weights: &[f32], consensus: Consensus, i: usize) -> f64 {
    let terms = || deltas.iter().zip(weights).map(|(d, &w)| (f64::from(w), f64::from(w) * d[i]));
    let sum: f64 = terms().map(|(_, d)| d).sum();
    if matches!(consensus, Consensus::Sum) {
        return sum;
    }
    let agrees = |d: f64| if sum >= 0.0 { d > 0.0 } else { d < 0.0 };
    let elected: f64 = terms().filter(|t| agrees(t.1)).map(|t| t.1).sum();
    let divisor: f64 = terms().filter(|t| agrees(t.1)).map(|t| t.0).sum();
    match consensus {
        Consensus::ElectedMean if divisor != 0.0 => elected / divisor,
        _ => elected,
    }
}

/// Zeroes all but the `density · n` entries of largest magnitude (rounded down, at least one); of equals, the
/// earlier stays.
fn trim(delta: &mut [f64], density: f32) {
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

/// Keeps each entry with probability `density`, divided by it.
fn drop_and_rescale(delta: &mut [f64], density: f32, rng: &mut Rng) {
    if density >= 1.0 {
        return;
    }
    for d in delta {
        *d = if rng.chance(density) { *d / f64::from(density) } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{model, model_of, near, values};
    use forge_formats::role::Role;

    /// Combines single entries: deltas `d`, weights `w`.
    fn one(d: &[f64], w: &[f32], consensus: Consensus) -> f64 {
        combine(&d.iter().map(|&d| vec![d]).collect::<Vec<_>>(), w, consensus, 0)
    }

    #[test]
    fn task_arithmetic_adds_scaled_deltas() {
        let (base, a, b) = (model_of(1.0), model_of(3.0), model_of(5.0));
        let merged = task_arithmetic(&base, &[&a, &b], &[0.5, -0.25], 2.0).unwrap();
        assert!(values(&merged).all(|v| v == 1.0 + 2.0 * (0.5 * 2.0 - 0.25 * 4.0)));
    }

    #[test]
    fn ties_elects_a_sign_and_averages_those_who_agree() {
        // Σ = 3 + 1 − 2 > 0: the mean of 3 and 1. Then Σ = 1 − 5 < 0: only −5 is left, not averaged with 1.
        assert_eq!(one(&[3.0, 1.0, -2.0], &[1.0; 3], Consensus::ElectedMean), 2.0);
        assert_eq!(one(&[1.0, -5.0], &[1.0; 2], Consensus::ElectedMean), -5.0);
        // Weights move the election: 4·1 against 1·(−3), and the mean is weighted.
        assert_eq!(one(&[1.0, -3.0], &[4.0, 1.0], Consensus::ElectedMean), 1.0);
        assert_eq!(one(&[1.0, 4.0], &[2.0, 1.0], Consensus::ElectedMean), 2.0);
        // A tie counts as +, and nothing at all stays nothing.
        assert_eq!(one(&[2.0, -2.0], &[1.0; 2], Consensus::ElectedMean), 2.0);
        assert_eq!(one(&[0.0, 0.0], &[1.0; 2], Consensus::ElectedMean), 0.0);
        // Without election the same entries cancel.
        assert_eq!(one(&[2.0, -2.0], &[1.0; 2], Consensus::Sum), 0.0);
        assert_eq!(one(&[2.0, 1.0, -2.0], &[0.5; 3], Consensus::Elected), 1.5);
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
