//! Settings of the evolution.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Largest population.
pub const MAX_POPULATION: usize = 20;

/// What is searched over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// A population of merges by all operators, mutated and merged again.
    #[default]
    Evolve,
    /// CMA-ES over a coefficient for each original and block.
    Cmaes,
}

/// How [`super::evolve()`] searches. One generation after the first costs
/// `elite * mutants + groups` evaluations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvolveConfig {
    /// What is searched over. [`Strategy::Cmaes`] heeds `generations`, `patience`, `min_improvement`,
    /// `max_evaluations` and `diversity_sample` only.
    pub strategy: Strategy,
    /// Generations after the first one, which holds the eight combinations.
    pub generations: usize,
    /// Best individuals kept unmutated.
    pub elite: usize,
    /// Mutated copies of each of them; every fourth mutant is made by noise, the others in task space.
    pub mutants: usize,
    /// Groups into which the losers are split, each merged to one child.
    pub groups: usize,
    /// Largest standard deviation of a noise mutation, as a share of the tensor's root mean square.
    pub noise_sigma: f32,
    /// Share of the weights a noise mutation touches.
    pub noise_fraction: f32,
    /// Largest standard deviation of the coefficients by which a task mutation adds the originals' deltas.
    pub task_sigma: f32,
    /// Below this diversity the loser merges are replaced by merges of the originals.
    pub diversity_reseed: f64,
    /// Below this diversity mutations grow by half a generation, up to four times their size.
    pub diversity_raise: f64,
    /// Weights compared by the diversity measure.
    pub diversity_sample: usize,
    /// Generations without a relative improvement of `min_improvement` after which the search stops; 0 never
    /// stops.
    pub patience: usize,
    /// Smallest relative improvement of the champion's loss that counts.
    pub min_improvement: f64,
    /// Most candidates judged, the originals included; a generation that would pass it is not begun.
    pub max_evaluations: usize,
    /// Density of DARE in the first generation. The paper drops 90 % of the small deltas of fine-tuned large
    /// models; deltas of a small model are large, and dividing them by 0.1 drowns them in their own noise.
    pub dare_density: f32,
    /// Density of TIES in the first generation (the paper's top 20 %).
    pub ties_density: f32,
    /// Factor of merged deltas in the first generation.
    pub lambda: f32,
}

impl Default for EvolveConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::Evolve,
            generations: 50,
            elite: 2,
            mutants: 2,
            groups: 2,
            noise_sigma: 0.1,
            noise_fraction: 0.01,
            task_sigma: 0.15,
            diversity_reseed: 0.2,
            diversity_raise: 0.3,
            diversity_sample: 4096,
            patience: 5,
            min_improvement: 0.001,
            max_evaluations: 320,
            dare_density: 0.5,
            ties_density: 0.2,
            lambda: 1.0,
        }
    }
}

impl EvolveConfig {
    /// Most candidates a full run judges with `originals` originals, if `max_evaluations` allows.
    pub fn evaluations(&self, originals: usize) -> usize {
        let per_generation = match self.strategy {
            Strategy::Evolve => self.children(),
            Strategy::Cmaes => MAX_POPULATION,
        };
        (originals + 8 + self.generations * per_generation).min(self.max_evaluations.max(originals + 8))
    }

    /// Candidates a generation after the first makes.
    pub fn children(&self) -> usize {
        self.elite.saturating_mul(self.mutants).saturating_add(self.groups)
    }

    /// Individuals of a generation after the first.
    pub fn population(&self) -> usize {
        self.elite.saturating_add(self.children())
    }

    /// Most models in host memory at a time, founders and the candidate being judged included, for `originals`
    /// originals.
    pub fn held(&self, originals: usize) -> usize {
        let bred = (2 * self.elite + 2 * self.groups).max(8);
        originals + 1 + if self.strategy == Strategy::Evolve { bred } else { 0 } + 1
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first one out of range.
    pub fn validate(&self) -> Result<()> {
        let share = |v: f32| v > 0.0 && v <= 1.0;
        let size = |v: f32| v.is_finite() && v >= 0.0;
        let checks = [
            ((1..=6).contains(&self.elite), "elite must be 1 to 6"),
            (self.groups >= 1, "groups must be at least 1"),
            (
                self.elite.saturating_mul(self.mutants) >= self.groups,
                "elite * mutants must be at least groups",
            ),
            (self.groups <= 6, "groups must be at most 6"),
            (
                self.population() <= MAX_POPULATION,
                "elite + elite * mutants + groups, the population, must be at most 20",
            ),
            (self.mutants <= 16, "mutants must be at most 16"),
            (size(self.noise_sigma), "noise_sigma must not be negative"),
            (share(self.noise_fraction), "noise_fraction must lie in (0, 1]"),
            (size(self.task_sigma), "task_sigma must not be negative"),
            (self.diversity_reseed >= 0.0, "diversity_reseed must not be negative"),
            (
                self.diversity_raise >= self.diversity_reseed,
                "diversity_raise must be at least diversity_reseed",
            ),
            (self.diversity_sample >= 16, "diversity_sample must be at least 16"),
            (self.min_improvement >= 0.0, "min_improvement must not be negative"),
            (share(self.dare_density), "dare_density must lie in (0, 1]"),
            (share(self.ties_density), "ties_density must lie in (0, 1]"),
            (self.lambda.is_finite(), "lambda must be finite"),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, rule)) => Err(Error::Config(format!("evolution: {rule}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_bounded() {
        let config = EvolveConfig::default();
        config.validate().unwrap();
        assert_eq!(config.population(), 8);
        assert_eq!(config.evaluations(3), 3 + 8 + 50 * 6);
        assert_eq!(EvolveConfig { max_evaluations: 100, ..config }.evaluations(3), 100);
    }

    #[test]
    fn bad_numbers_and_unknown_keys_are_named() {
        let bad = EvolveConfig { noise_fraction: 0.0, ..EvolveConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("noise_fraction"));
        let starved = EvolveConfig { mutants: 0, ..EvolveConfig::default() };
        assert!(starved.validate().is_err());
        let full = EvolveConfig { elite: 4, mutants: 3, groups: 4, ..EvolveConfig::default() };
        assert_eq!(full.population(), 20);
        full.validate().unwrap();
        let crowded = EvolveConfig { groups: 5, ..full };
        assert!(crowded.validate().unwrap_err().to_string().contains("at most 20"));
        assert!(toml::from_str::<EvolveConfig>("generation = 3").is_err());
        assert_eq!(toml::from_str::<EvolveConfig>("generations = 3").unwrap().generations, 3);
    }
}
