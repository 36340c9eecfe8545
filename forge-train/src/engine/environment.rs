//! What a run of training needs from around it, inside a phase or outside the pipeline.

use candle_core::Device;

use crate::error::Result;
use crate::nn::Network;
use crate::pipeline::{CheckpointDir, Progress, StopFlag};

/// Where a run keeps its state, shows how far it is, and computes.
pub struct Environment<'a> {
    /// Where checkpoints are kept.
    pub checkpoints: &'a CheckpointDir,
    /// Seconds between two of them; 0 saves after every step.
    pub checkpoint_seconds: u64,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// Polled after each step: on a request the run saves and returns [`crate::error::Error::Interrupted`].
    pub stop: &'a StopFlag,
    /// Where parameters and activations are.
    pub device: Device,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// 0-based step.
    pub step: u64,
    /// Loss before the update.
    pub loss: f32,
    /// Learning rate of the update: Muon's where projections use it, otherwise AdamW's.
    pub rate: f32,
    /// Global norm of the gradient before clipping, after the Grokfast filter.
    pub gradient_norm: f64,
    /// Attention heads that QK-clip rescaled.
    pub clipped_heads: usize,
    /// Positions computed, padding included.
    pub tokens: u64,
}

/// Follows a run; what it does must not depend on when it is called, since a resumed run repeats the steps after
/// its checkpoint.
pub trait Watcher {
    /// Called after the update of each step.
    ///
    /// # Errors
    /// What is returned ends the run.
    fn step(&mut self, _metrics: &StepMetrics) -> Result<()> {
        Ok(())
    }

    /// Steps between two calls of [`Watcher::evaluate`]; 0 for none.
    fn evaluate_every(&self) -> u64 {
        0
    }

    /// Called after every [`Watcher::evaluate_every`] steps and after the last one, with the number of steps done and
    /// the network to judge: the averaged weights where the stage keeps an average.
    ///
    /// # Errors
    /// What is returned ends the run.
    fn evaluate(&mut self, _network: &Network, _done: u64) -> Result<()> {
        Ok(())
    }
}

/// Follows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {}
