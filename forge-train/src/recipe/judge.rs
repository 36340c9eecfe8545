//! Follows a run: writes its curve, measures it on held-out data and keeps the best weights.

use crate::data::batch::Batch;
use crate::engine::environment::{StepMetrics, Watcher};
use crate::engine::objective::batch_ids;
use crate::error::Result;
use crate::nn::{ForwardOptions, Network, loss};
use crate::pipeline::Progress;
use crate::recipe::curve::Curve;
use crate::recipe::directory::RunDirectory;

/// Judges a run every so many steps.
pub(super) struct Judge<'a> {
    pub(super) directory: &'a RunDirectory,
    pub(super) progress: &'a dyn Progress,
    pub(super) every: u64,
    pub(super) batches: Vec<Batch>,
    pub(super) curve: Curve,
    /// The lowest held-out loss in nats and the steps done then.
    pub(super) best: Option<(f64, u64)>,
}

/// How held-out targets are predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct HeldOutScore {
    /// Mean cross entropy in nats.
    pub(super) loss: f64,
    /// Share of targets whose logit is the largest.
    pub(super) accuracy: f64,
}

impl Watcher for Judge<'_> {
    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.curve.step(metrics)
    }

    fn evaluate_every(&self) -> u64 {
        // The last step is judged in any case.
        if self.every == 0 { u64::MAX } else { self.every }
    }

    fn evaluate(&mut self, network: &Network, done: u64) -> Result<()> {
        let score = score(network, &self.batches)?;
        self.curve.held_out(score.loss, score.accuracy)?;
        if self.best.is_none_or(|(lowest, _)| score.loss < lowest) {
            self.best = Some((score.loss, done));
            self.directory.keep_best(&network.weights()?, (score.loss, done))?;
        }
        let HeldOutScore { loss, accuracy } = score;
        let share = 100.0 * accuracy;
        self.progress
            .note(&format!("step {done}: held-out loss {loss:.4} nats, {share:.1} % of tokens right"));
        Ok(())
    }
}

/// Scores every weighted target of `batches`; zeros without any.
///
/// # Errors
/// If the network cannot run them.
pub(super) fn score(network: &Network, batches: &[Batch]) -> Result<HeldOutScore> {
    let network = network.detached();
    let (mut nats, mut right, mut total) = (0.0, 0.0, 0.0);
    for batch in batches {
        let halting = network.config().halting;
        let options = ForwardOptions { halting, ..ForwardOptions::default() };
        let forward = network.forward(&batch_ids(batch)?, options)?;
        let scores = loss::token_scores(&network.logits(forward.answer())?, &batch.targets)?;
        for (score, weight) in scores.iter().zip(&batch.weights) {
            let weight = f64::from(*weight);
            nats += weight * f64::from(score.loss);
            right += weight * f64::from(u8::from(score.correct));
            total += weight;
        }
    }
    let total = f64::max(total, f64::MIN_POSITIVE);
    Ok(HeldOutScore { loss: nats / total, accuracy: right / total })
}
