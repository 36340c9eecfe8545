//! One optimiser step as a phase configures it: Grokfast filter, clipping, then AdamW or Muon.

use std::collections::BTreeMap;

use forge_formats::config::ModelConfig;

use crate::config::TrainConfig;
use crate::error::Result;
use crate::nn::Network;
use crate::optim::{AdamW, Gradients, Grokfast, Muon, Optimizer, Schedule, State};

/// The optimiser of a stage with its schedule.
pub struct UpdateRule {
    filter: Option<Grokfast>,
    optimizer: Box<dyn Optimizer>,
    schedule: Schedule,
    peak: f32,
    clip: f32,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Applied {
    /// Learning rate, Muon's where projections use it.
    pub rate: f32,
    /// Global norm of the gradient after the filter, before clipping.
    pub gradient_norm: f64,
}

impl UpdateRule {
    /// What `config` asks for, for models of shape `model`.
    pub fn new(config: &TrainConfig, model: &ModelConfig) -> Self {
        let filter = (config.grokfast_lambda > 0.0)
            .then(|| Grokfast::new(config.grokfast_alpha, config.grokfast_lambda));
        let (optimizer, peak): (Box<dyn Optimizer>, f32) = if config.uses_muon() {
            (Box::new(Muon::new(config.muon_config(), model)), config.muon_lr)
        } else {
            (Box::new(AdamW::new(config.adamw_config())), config.lr)
        };
        let schedule = config.schedule();
        Self { filter, optimizer, schedule, peak, clip: config.clip }
    }

    /// Filters, clips and applies `grads` for step `step`.
    ///
    /// # Errors
    /// If a gradient does not fit its variable.
    pub fn apply(&mut self, network: &Network, mut grads: Gradients, step: u64) -> Result<Applied> {
        if let Some(filter) = &mut self.filter {
            filter.apply(&mut grads)?;
        }
        let gradient_norm = grads.clip(f64::from(self.clip))?;
        let rate = self.schedule.rate(self.peak, step);
        self.optimizer.step(network.vars(), &grads, rate)?;
        Ok(Applied { rate, gradient_norm })
    }

    /// Everything needed to go on.
    ///
    /// # Errors
    /// If a device cannot be read.
    pub fn state(&self) -> Result<State> {
        let mut state = self.optimizer.state()?;
        if let Some(filter) = &self.filter {
            state.extend(filter.state()?);
        }
        Ok(state)
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
