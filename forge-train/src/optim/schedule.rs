//! Learning-rate schedules, as pure functions of the step.

use serde::{Deserialize, Serialize};

/// Shape of the learning rate over a run, relative to its peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Linear warm-up, then half a cosine down to `floor` at `total`.
    Cosine {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps of the run.
        total: u64,
        /// Fraction of the peak at the end.
        floor: f32,
    },
    /// Linear warm-up, constant, linear decay to `floor` over the last `decay` steps (warm-up–stable–decay).
    Stable {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps of the run.
        total: u64,
        /// Steps of the decay.
        decay: u64,
        /// Fraction of the peak at the end.
        floor: f32,
    },
}

impl Schedule {
    /// Learning rate at 0-based `step` for a peak of `peak`; the floor from `total` on.
    pub fn rate(self, peak: f32, step: u64) -> f32 {
        peak * self.factor(step)
    }

    fn factor(self, step: u64) -> f32 {
        let (warmup, total, start, floor) = match self {
            Schedule::Cosine { warmup, total, floor } => (warmup, total, warmup, floor),
            Schedule::Stable { warmup, total, decay, floor } => {
                (warmup, total, total.saturating_sub(decay).max(warmup), floor)
            }
        };
        if step < warmup {
            return (step + 1) as f32 / warmup as f32;
        }
        if step < start {
            return 1.0;
        }
        let span = total.saturating_sub(start).max(1);
        let progress = ((step - start) as f32 / span as f32).min(1.0);
        let left = match self {
            Schedule::Cosine { .. } => 0.5 * (1.0 + (std::f32::consts::PI * progress).cos()),
            Schedule::Stable { .. } => 1.0 - progress,
        };
        floor + (1.0 - floor) * left
    }
}
