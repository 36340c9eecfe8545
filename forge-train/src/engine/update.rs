//! One optimiser step as a phase configures it: Grokfast filter, clipping, then AdamW or Muon.

use std::collections::BTreeMap;

use forge_formats::config::ModelConfig;

use crate::config::TrainConfig;
use crate::error::Result;
use crate::nn::Network;
use crate::optim::{
    AdamW, AdamWConfig, Gradients, Grokfast, Muon, MuonConfig, MuonScale, Optimizer, Schedule, State,
};

/// The optimiser of a stage with its schedule.
pub struct UpdateRule {
    filter: Option<Grokfast>,
    optimizer: Box<dyn Optimizer>,
    schedule: Schedule,
    peak: f32,
    clip: f32,
}

impl UpdateRule {
    /// What `config` asks for, for models of shape `model`.
    pub fn new(config: &TrainConfig, model: &ModelConfig) -> Self {
        let filter = (config.grokfast_lambda > 0.0)
            .then(|| Grokfast::new(config.grokfast_alpha, config.grokfast_lambda));
        let rest = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
        let (optimizer, peak): (Box<dyn Optimizer>, f32) = if config.muon_lr > 0.0 {
            let muon = MuonConfig {
                scale: MuonScale::MatchAdamW,
                weight_decay: config.weight_decay,
                rest_rate: config.lr / config.muon_lr,
                rest,
                ..MuonConfig::default()
            };
            (Box::new(Muon::new(muon, model)), config.muon_lr)
        } else {
            (Box::new(AdamW::new(rest)), config.lr)
        };
        let decay = (config.decay_share.clamp(0.0, 1.0) * config.steps as f32) as u64;
        let schedule = Schedule::Stable { warmup: config.warmup, total: config.steps, decay, floor: 0.0 };
        Self { filter, optimizer, schedule, peak, clip: config.clip }
    }

    /// Filters, clips and applies `grads` for step `step`.
    ///
    /// # Errors
    /// If a gradient does not fit its variable.
    pub fn apply(&mut self, network: &Network, mut grads: Gradients, step: u64) -> Result<()> {
        if let Some(filter) = &mut self.filter {
            filter.apply(&mut grads);
        }
        grads.clip(f64::from(self.clip));
        self.optimizer.step(network.vars(), &grads, self.schedule.rate(self.peak, step))
    }

    /// Everything needed to go on.
    pub fn state(&self) -> State {
        let mut state = self.optimizer.state();
        state.extend(self.filter.iter().flat_map(Grokfast::state));
        state
    }

    /// Takes over what [`UpdateRule::state`] gave.
    ///
    /// # Errors
    /// If it is incomplete.
    pub fn restore(&mut self, state: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        if let Some(filter) = &mut self.filter {
            filter.restore(state)?;
        }
        self.optimizer.restore(state)
    }
}
