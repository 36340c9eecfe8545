//! Handoff contracts: what a phase must have left behind before the next one may start.
//!
//! A contract is data; the checks every handoff shares (models whole and finite, tokenizer unchanged, special tokens
//! present, provenance recorded, reported size equal to the file's length) are in `checks`.

mod checks;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::Config;
use crate::error::Result;
use crate::pipeline::artifact::ArtifactStore;
use crate::pipeline::phase::{PhaseId, PhaseOutput};

/// Uniform guessing of bytes: a model that needs more than this has learnt nothing.
const MAX_BITS_PER_BYTE: f64 = 8.0;

/// Bounds of a metric; both are inclusive, and a metric that is not finite meets none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Name of the metric.
    pub metric: &'static str,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Limit {
    const fn new(metric: &'static str, min: f64, max: f64) -> Self {
        Self { metric, min, max }
    }

    /// Whether `value` is within the bounds.
    pub fn holds(&self, value: f64) -> bool {
        value.is_finite() && (self.min..=self.max).contains(&value)
    }
}

/// The contract between two neighbouring phases.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// The phase that hands on.
    pub source: PhaseId,
    /// The phase that takes over.
    pub target: PhaseId,
    /// Labels of the f32 models handed on; their number is the number of models.
    pub models: &'static [&'static str],
    /// Parameters each of them may have.
    pub parameters: [u64; 2],
    /// Metrics that must be there and finite.
    pub required: &'static [&'static str],
    /// Bounds of metrics; a metric with a bound must be there too.
    pub limits: Vec<Limit>,
    /// Whether what the device reads (the file without its card) may not be larger than the source's input.
    pub no_growth: bool,
}

/// One rule that was checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The rule in words.
    pub rule: String,
    /// What was found.
    pub found: String,
    /// Whether it was met.
    pub passed: bool,
}

/// What a contract is checked against.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// Outputs of all phases so far, the source's among them.
    pub outputs: &'a BTreeMap<PhaseId, PhaseOutput>,
    /// Where their artifacts are.
    pub store: &'a ArtifactStore,
    /// The tokenizer table of the run.
    pub tokenizer: &'a [u8],
}

impl Contract {
    /// The contract that `source` has to meet, or `None` for the last phase.
    pub fn after(source: PhaseId, config: &Config) -> Option<Self> {
        let target = source.next()?;
        let (required, limits) = terms(source, config);
        Some(Self {
            source,
            target,
            models: match source {
                PhaseId::Cognate => &["reasoning", "memory_integration", "adaptive_computation"],
                _ => &["latent"],
            },
            parameters: parameters(source, config),
            required,
            limits,
            no_growth: source == PhaseId::Edge,
        })
    }

    /// Checks everything and returns every check, passed or not.
    ///
    /// # Errors
    /// [`crate::error::Error::Artifact`] when an artifact is damaged.
    pub fn check(&self, evidence: &Evidence<'_>) -> Result<Vec<Check>> {
        checks::all(self, evidence)
    }
}

/// Phase 1 makes models of the preset's size; later phases may only keep or shrink them.
fn parameters(source: PhaseId, config: &Config) -> [u64; 2] {
    let [low, high] = config.parameter_range();
    match source {
        PhaseId::Edge => [1, high],
        _ => [low, high],
    }
}

/// Required metrics and bounds of each handoff (the reference's table where it has figures).
fn terms(source: PhaseId, config: &Config) -> (&'static [&'static str], Vec<Limit>) {
    let bits = Limit::new("bits_per_byte", 0.0, MAX_BITS_PER_BYTE);
    let share = |metric| Limit::new(metric, 0.0, 1.0);
    let largest = config.phase4.max_bytes as f64;
    match source {
        PhaseId::Cognate => (
            &[
                "seed",
                "reasoning.seed",
                "memory_integration.seed",
                "adaptive_computation.seed",
                "reasoning.final_loss",
                "memory_integration.final_loss",
                "adaptive_computation.final_loss",
            ],
            vec![bits, Limit::new("final_loss", 0.0, f64::MAX), Limit::new("num_models", 3.0, 3.0)],
        ),
        PhaseId::EvoMerge => (&["fitness", "merge_technique"], vec![bits]),
        PhaseId::QuietStar => (
            &[],
            vec![
                bits,
                share("validity_rate"),
                share("accuracy_with_thoughts"),
                Limit::new("coherence_score", -30.0, 30.0),
            ],
        ),
        PhaseId::BitNet => (
            &["accuracy_retention"],
            vec![
                bits,
                Limit::new("bytes", 1.0, largest),
                Limit::new("compression_ratio", config.phase4.min_ratio, f64::MAX),
                Limit::new("special_rows_identical", 1.0, 1.0),
            ],
        ),
        PhaseId::Forge => (
            &[],
            vec![
                bits,
                share("final_accuracy"),
                Limit::new("final_loss", 0.0, f64::MAX),
                Limit::new("smallest_gradient_norm", f64::MIN_POSITIVE, f64::MAX),
            ],
        ),
        PhaseId::Baking => (&[], vec![bits, share("tool_success_rate"), share("persona_consistency")]),
        PhaseId::Edge => (
            // What the device needs beside the file; a latency would be a time, which no output may hold.
            &["model_size_mb", "workspace_bytes"],
            vec![
                bits,
                Limit::new("bytes", 1.0, largest),
                Limit::new("accuracy_retention", config.phase7.min_retention, f64::MAX),
            ],
        ),
        PhaseId::Compression => (&[], Vec::new()),
    }
}

#[cfg(test)]
mod tests;
