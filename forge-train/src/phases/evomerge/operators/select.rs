//! Merges that choose between donors: whole blocks (FrankenMerge) or shares of tensors (DFS).

use serde::{Deserialize, Serialize};

use super::interpolate::linear_slices;
use super::{build, check_models, shares, slices};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::weights::Weights;

/// Part of the mean variance that [`dfs`] adds to every variance, so that no donor is weighed without bound.
const VARIANCE_FLOOR: f64 = 0.01;

/// Which donor gives which block, where no score decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Donors in turn: 0 1 2 0 1 2 …
    Cycle,
    /// Donors there and back: 0 1 1 0 0 1 1 0 … for two, 0 1 2 2 1 0 … for three.
    Mirror,
    /// Donors in turn, then shuffled, so that each gives as many blocks as the others, give or take one.
    Shuffled {
        /// Names the permutation.
        seed: u64,
    },
}

impl Pattern {
    /// The donor of each of `blocks` blocks, out of `donors`; empty when there is no donor.
    pub fn donors(self, blocks: usize, donors: usize) -> Vec<usize> {
        if donors == 0 {
            return Vec::new();
        }
        let cycle = (0..blocks).map(|b| b % donors);
        match self {
            Pattern::Cycle => cycle.collect(),
            Pattern::Mirror => {
                let place = |b: usize| (b % (2 * donors)).min(2 * donors - 1 - b % (2 * donors));
                (0..blocks).map(place).collect()
            }
            Pattern::Shuffled { seed } => {
                let mut rng = Rng::new(seed, &["franken"]);
                let mut names: Vec<usize> = (0..donors).collect();
                rng.shuffle(&mut names);
                let mut chosen: Vec<usize> = cycle.map(|d| names[d]).collect();
                rng.shuffle(&mut chosen);
                chosen
            }
        }
    }
}

/// For every block the donor of the lowest score (a loss: for instance that of a reference model whose block
/// was replaced by the donor's); of equals the first. `scores[donor][block]`; NaN never wins over a number.
///
/// # Errors
/// When there is no donor or the donors have different numbers of scores.
pub fn best_donors(scores: &[Vec<f64>]) -> Result<Vec<usize>> {
    let blocks = scores.first().map_or(0, Vec::len);
    if scores.is_empty() || scores.iter().any(|s| s.len() != blocks) {
        return Err(Error::Config("every donor needs one score for each block".into()));
    }
    let best = |block: usize| {
        let losses = scores.iter().map(|s| s[block]).map(|v| if v.is_nan() { f64::INFINITY } else { v });
        losses.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(donor, _)| donor)
    };
    Ok((0..blocks).map(best).collect())
}

/// FrankenMerge (mergekit `passthrough` at constant depth): block `l` is that of `donors[blocks[l]]`,
/// everything outside the blocks is that of `donors[rest]`, the best donor.
///
/// # Errors
/// When the donors differ in shape, there is not one choice for each block, or a choice is no donor.
pub fn franken(donors: &[&Weights], blocks: &[usize], rest: usize) -> Result<Weights> {
    check_models(donors)?;
    let layers = donors[0].config.layers as usize;
    if blocks.len() != layers || blocks.iter().chain([&rest]).any(|&d| d >= donors.len()) {
        return Err(Error::Config(format!("{layers} blocks each need one of {} donors", donors.len())));
    }
    Ok(build(donors[rest], |(role, layer), _| {
        let donor = if role.per_layer() { blocks[layer as usize] } else { rest };
        donors[donor].get(role, layer).data.clone()
    }))
}

/// DFS, inverse-variance weighting per tensor: `Σ_d c_d T_d` with `c_d ∝ prior_d / (var_d + ε)`, normalised
/// to 1, where `var_d` is the population variance of the entries of donor `d`'s delta `T_d − base` and `ε` is
/// 1 % of the donors' mean variance. A donor that moved a tensor little and evenly from the base counts for
/// more than one that moved it far, as a measurement of small variance does. `prior` carries the donors'
/// importance. Tensors that no donor moved are averaged by the prior alone.
///
/// (DFS is also the name of Sakana's data-flow search, which rearranges layers; the phase specification means
/// this.)
///
/// # Errors
/// When the models differ in shape, or the prior in number, is negative or all zero.
pub fn dfs(base: &Weights, donors: &[&Weights], prior: &[f32]) -> Result<Weights> {
    let all: Vec<&Weights> = std::iter::once(base).chain(donors.iter().copied()).collect();
    check_models(&all)?;
    let prior = shares(donors.len(), prior)?;
    Ok(build(base, |key, origin| dfs_slices(&origin.data, &slices(donors, key), &prior)))
}

/// [`dfs`] of one tensor, with a prior that sums to 1. All slices have the length of `base`.
pub fn dfs_slices(base: &[f32], values: &[&[f32]], prior: &[f64]) -> Vec<f32> {
    let variances: Vec<f64> = values.iter().map(|v| delta_variance(v, base)).collect();
    linear_slices(values, &inverse_variance(&variances, prior))
}

/// Population variance of the entries of `values − base`.
fn delta_variance(values: &[f32], base: &[f32]) -> f64 {
    let n = values.len().max(1) as f64;
    let deltas = || values.iter().zip(base).map(|(&v, &b)| f64::from(v) - f64::from(b));
    let mean = deltas().sum::<f64>() / n;
    deltas().map(|d| (d - mean) * (d - mean)).sum::<f64>() / n
}

/// Shares in proportion to `prior / (variance + ε)`.
fn inverse_variance(variances: &[f64], prior: &[f64]) -> Vec<f64> {
    let floor = VARIANCE_FLOOR * variances.iter().sum::<f64>() / variances.len().max(1) as f64;
    if floor <= 0.0 {
        return prior.to_vec();
    }
    let raw: Vec<f64> = variances.iter().zip(prior).map(|(v, p)| p / (v + floor)).collect();
    let total: f64 = raw.iter().sum();
    raw.iter().map(|r| r / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{config, model, model_of, values};
    use forge_formats::role::Role;

    #[test]
    fn patterns_name_a_donor_for_each_block() {
        assert_eq!(Pattern::Cycle.donors(5, 3), [0, 1, 2, 0, 1]);
        assert_eq!(Pattern::Mirror.donors(5, 2), [0, 1, 1, 0, 0]);
        assert_eq!(Pattern::Mirror.donors(7, 3), [0, 1, 2, 2, 1, 0, 0]);
        assert_eq!(Pattern::Cycle.donors(3, 0), Vec::<usize>::new());
        let shuffled = Pattern::Shuffled { seed: 3 }.donors(6, 3);
        assert_eq!(shuffled, Pattern::Shuffled { seed: 3 }.donors(6, 3));
        for donor in 0..3 {
            assert_eq!(shuffled.iter().filter(|&&d| d == donor).count(), 2);
        }
        let distinct: std::collections::BTreeSet<_> =
            (0..20).map(|seed| Pattern::Shuffled { seed }.donors(6, 3)).collect();
        assert!(distinct.len() > 5);
    }

    #[test]
    fn the_lowest_score_gives_the_block() {
        let scores = [vec![1.0, 2.0, f64::NAN], vec![0.5, 2.0, 3.0]];
        assert_eq!(best_donors(&scores).unwrap(), [1, 0, 1]);
        assert!(best_donors(&[]).is_err());
        assert!(best_donors(&[vec![1.0], vec![]]).is_err());
    }

    #[test]
    fn franken_takes_blocks_whole() {
        let (a, b) = (model(1), model(2));
        let merged = franken(&[&a, &b], &[1, 0], 0).unwrap();
        for (role, layer, _) in config().tensors() {
            let donor = if role.per_layer() && layer == 0 { &b } else { &a };
            assert_eq!(merged.get(role, layer), donor.get(role, layer), "{role:?} {layer}");
        }
        assert_ne!(merged, a);
        assert!(franken(&[&a, &b], &[1], 0).is_err());
        assert!(franken(&[&a, &b], &[1, 2], 0).is_err());
        assert!(franken(&[&a, &b], &[1, 0], 2).is_err());
    }

    #[test]
    fn shares_are_inverse_to_the_variance() {
        // Variances 1 and 3, prior even: floor 0.02, so 3.02 to 1.02.
        let shares = inverse_variance(&[1.0, 3.0], &[0.5, 0.5]);
        assert!(
            (shares[0] - 3.02 / 4.04).abs() < 1e-12 && (shares[1] - 1.02 / 4.04).abs() < 1e-12,
            "{shares:?}"
        );
        // The prior multiplies.
        let shares = inverse_variance(&[1.0, 1.0], &[0.75, 0.25]);
        assert!((shares[0] - 0.75).abs() < 1e-12);
        assert_eq!(inverse_variance(&[0.0, 0.0], &[0.2, 0.8]), [0.2, 0.8]);
        // 0 and 8 around a base of 1: deltas −1 and 7, mean 3, variance 16.
        assert_eq!(delta_variance(&[0.0, 8.0], &[1.0, 1.0]), 16.0);
    }

    #[test]
    fn dfs_stays_near_the_donor_that_moved_least() {
        let base = model(1);
        let moved = |scale: f32| build(&base, |_, m| alternate(&m.data, scale));
        let (near, far) = (moved(0.1), moved(0.4));
        let merged = dfs(&base, &[&near, &far], &[1.0, 1.0]).unwrap();
        let at = |w: &Weights| w.get(Role::Down, 0).data[0] - base.get(Role::Down, 0).data[0];
        // Variances 0.01 and 0.16, floor 0.00085.
        let (p, q) = (1.0 / 0.01085, 1.0 / 0.16085);
        let expected = (p * 0.1 + q * 0.4) / (p + q);
        assert!((at(&merged) - expected).abs() < 1e-5, "{} instead of {expected}", at(&merged));
        assert!((at(&merged) - 0.25).abs() > 0.1, "a plain mean would be 0.25");
    }

    /// Adds `scale` to even and subtracts it from odd entries.
    fn alternate(data: &[f32], scale: f32) -> Vec<f32> {
        data.iter().enumerate().map(|(i, v)| if i % 2 == 0 { v + scale } else { v - scale }).collect()
    }

    #[test]
    fn dfs_of_evenly_moved_donors_is_their_mean() {
        let merged = dfs(&model_of(0.0), &[&model_of(1.0), &model_of(3.0)], &[1.0, 1.0]).unwrap();
        assert!(values(&merged).all(|v| v == 2.0));
    }
}
