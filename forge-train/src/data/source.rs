//! Where batches come from.

use super::batch::{Batch, Batcher};

/// Batches for training: a pure function of the step. Whoever resumes needs the step's number and nothing else, and
/// batches may be made ahead of time, by any thread, in any order.
pub trait BatchSource: Send + Sync {
    /// The batch of a step.
    fn batch(&self, step: u64) -> Batch;
}

impl BatchSource for Batcher {
    fn batch(&self, step: u64) -> Batch {
        Batcher::batch(self, step)
    }
}
