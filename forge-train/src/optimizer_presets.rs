//! Optimisers for all stages at once, with the settings of each phase.

use serde::{Deserialize, Serialize};

use crate::config::{Config, TrainConfig};

/// Which optimisers the stages of a run use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerPreset {
    /// AdamW for everything.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Muon for projections, AdamW for the rest.
    Muon,
    /// Muon behind Grokfast, with QK-clip.
    MuonGrokfast,
}

impl Config {
    /// The configuration with the optimisers of `preset`: Muon at the rate of AdamW, whose size its updates have, and
    /// Grokfast's λ and QK-clip's τ of each phase.
    pub fn with_optimizer(mut self, preset: OptimizerPreset) -> Self {
        self.run.optimizer = preset;
        let stages: [(&mut TrainConfig, f32, f32); 7] = [
            (&mut self.phase1.trunk, 0.3, 30.0),
            (&mut self.phase1.branch, 0.3, 30.0),
            (&mut self.phase3.bake, 0.2, 30.0),
            (&mut self.phase3.reinforce, 0.1, 25.0),
            (&mut self.phase5.train, 2.0, 30.0),
            (&mut self.phase6.train, 0.2, 30.0),
            (&mut self.phase7.train, 0.15, 28.0),
        ];
        for (train, lambda, tau) in stages {
            train.muon_lr = if preset == OptimizerPreset::AdamW { 0.0 } else { train.lr };
            let all = preset == OptimizerPreset::MuonGrokfast;
            (train.grokfast_lambda, train.qk_clip) = if all { (lambda, tau) } else { (0.0, 0.0) };
        }
        self
    }

    /// Refuses settings of stages that cannot work.
    ///
    /// # Errors
    /// [`crate::error::Error::Usage`] naming the setting and what it may be.
    pub fn check(&self) -> crate::error::Result<()> {
        use crate::pipeline::{PhaseId, stages::stages};
        for stage in PhaseId::ALL.into_iter().flat_map(|phase| stages(phase, self)) {
            stage.train.check(stage.section, stage.ternary)?;
        }
        self.phase1.check()
    }
}
