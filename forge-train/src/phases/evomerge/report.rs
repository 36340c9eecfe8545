//! What an evolution says about itself; pure data for the registry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Measures of one generation. Losses: lower is better; individuals that could not be judged (not finite) are
/// left out of mean, worst and deviation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Number, from 0.
    pub index: usize,
    /// Lowest loss of the population.
    pub best: f64,
    /// Mean loss.
    pub mean: f64,
    /// Highest loss.
    pub worst: f64,
    /// Standard deviation of the losses (of the population, not a sample).
    pub std: f64,
    /// Mean normalised distance of the individuals, see [`super::diversity::diversity`].
    pub diversity: f64,
    /// Relative improvement of the champion's loss since the generation before.
    pub improvement: f64,
    /// Lowest loss of any individual or original so far.
    pub champion: f64,
    /// Factor on the size of the mutations that made this generation.
    pub mutation_scale: f32,
    /// Whether its merges were of the originals, because diversity had been lost.
    pub reseeded: bool,
    /// Candidates judged so far.
    pub evaluations: usize,
}

/// How often something was tried, and how often the child was better than the best of its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Children made.
    pub tried: u32,
    /// Children better than the best of their parents.
    pub improved: u32,
}

impl Tally {
    /// Counts one child.
    pub fn count(&mut self, improved: bool) {
        self.tried += 1;
        self.improved += u32::from(improved);
    }

    /// Share of children better than their parents; 0 when none was made.
    pub fn success_rate(&self) -> f64 {
        f64::from(self.improved) / f64::from(self.tried.max(1))
    }
}

/// Why the search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// All generations were run.
    Generations,
    /// The champion did not improve any more.
    Patience,
    /// Another generation would have exceeded the number of evaluations allowed.
    Evaluations,
}

/// The course of an evolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Losses of the originals, in the order given.
    pub originals: Vec<f64>,
    /// Identity of the champion.
    pub champion: String,
    /// Its loss, at most the lowest of `originals`.
    pub loss: f64,
    /// Generation that made it; `None` when it is one of the originals.
    pub made_in: Option<usize>,
    /// One entry for each generation.
    pub generations: Vec<Generation>,
    /// By technique: "linear", "slerp", "dare", "ties", "franken", "dfs", "noise", "task"; "blend" in a search by CMA-ES.
    pub techniques: BTreeMap<String, Tally>,
    /// By combination, numbered as [`super::Combination::from_bits`].
    pub combinations: Vec<Tally>,
    /// Candidates rejected because a weight or the loss was not finite.
    pub rejected: usize,
    /// Candidates judged.
    pub evaluations: usize,
    /// Why the search ended.
    pub stopped: StopReason,
}

impl Report {
    /// Relative improvement of the champion over the best original: 0.02 is a loss lower by 2 %.
    pub fn improvement(&self) -> f64 {
        let best = self.originals.iter().copied().fold(f64::INFINITY, f64::min);
        relative(best, self.loss)
    }
}

/// Relative decrease from `before` to `after`; 0 when `before` is 0 or not finite.
pub(crate) fn relative(before: f64, after: f64) -> f64 {
    if before.is_finite() && before != 0.0 { (before - after) / before.abs() } else { 0.0 }
}
