//! One optimiser step as a stage configures it: Grokfast filter, clipping, AdamW or Muon, QK-clip, and the average of
//! the weights.

use std::collections::BTreeMap;

use forge_formats::config::ModelConfig;

use crate::config::TrainConfig;
use crate::error::Result;
use crate::nn::Network;
use crate::optim::{AdamW, Average, Gradients, Grokfast, Muon, Optimizer, Schedule, State, qk_clip};
use crate::weights::{Matrix, Weights};

/// The optimiser of a stage with its schedule.
pub struct UpdateRule {
    filter: Option<Grokfast>,
    optimizer: Box<dyn Optimizer>,
    average: Option<Average>,
    schedule: Schedule,
    peak: f32,
    clip: f32,
    tau: f32,
    measure_every: u64,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Applied {
    /// Learning rate, Muon's where projections use it.
    pub rate: f32,
    /// Global norm of the gradient after the filter, before clipping.
    pub gradient_norm: f64,
    /// Attention heads whose largest logit exceeded τ.
    pub clipped_heads: usize,
}

impl UpdateRule {
    /// What `config` asks for, for the parameters of `network`.
    ///
    /// # Errors
    /// If the parameters cannot be copied for their average.
    pub fn new(config: &TrainConfig, network: &Network) -> Result<Self> {
        let filter = (config.grokfast_lambda > 0.0)
            .then(|| Grokfast::new(config.grokfast_alpha, config.grokfast_lambda));
        let (optimizer, peak): (Box<dyn Optimizer>, f32) = if config.uses_muon() {
            (Box::new(Muon::new(config.muon_config(), network.config())), config.muon_lr)
        } else {
            (Box::new(AdamW::new(config.adamw_config())), config.lr)
        };
        let average = (config.ema > 0.0).then(|| Average::new(config.ema, network.vars())).transpose()?;
        let (schedule, clip) = (config.schedule(), config.clip);
        let (tau, measure_every) = (config.qk_clip, config.qk_clip_every);
        Ok(Self { filter, optimizer, average, schedule, peak, clip, tau, measure_every })
    }

    /// Whether step `step` needs the largest attention logits of its forward passes.
    pub fn measures_logits(&self, step: u64) -> bool {
        self.tau > 0.0 && (step + 1).is_multiple_of(self.measure_every)
    }

    /// Filters, clips and applies `grads` for step `step`. `peaks` has the largest logit of each head,
    /// `[layers · heads]`, where they were measured.
    ///
    /// # Errors
    /// If a gradient does not fit its variable.
    pub fn apply(
        &mut self,
        network: &Network,
        mut grads: Gradients,
        peaks: Option<&[f32]>,
        step: u64,
    ) -> Result<Applied> {
        if let Some(filter) = &mut self.filter {
            filter.apply(&mut grads)?;
        }
        let gradient_norm = grads.clip(f64::from(self.clip))?;
        let rate = self.schedule.rate(self.peak, step);
        self.optimizer.step(network.vars(), &grads, rate)?;
        let clipped_heads = match peaks {
            Some(peaks) => qk_clip(network.vars(), network.config(), peaks, self.tau)?,
            None => 0,
        };
        if let Some(average) = &mut self.average {
            average.update(network.vars())?;
        }
        Ok(Applied { rate, gradient_norm, clipped_heads })
    }

    /// The averaged weights, where the stage keeps an average.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn averaged(&self, model: &ModelConfig) -> Result<Option<Weights>> {
        let Some(average) = &self.average else { return Ok(None) };
        let mut weights = Weights { config: model.clone(), tensors: BTreeMap::new() };
        for (key, value) in average.values() {
            let (rows, cols) = value.dims2()?;
            let data = value.flatten_all()?.to_vec1()?;
            weights.tensors.insert(*key, Matrix { rows, cols, data });
        }
        Ok(Some(weights))
    }

    /// Everything needed to go on.
    ///
    /// # Errors
    /// If it cannot be read from where it is.
    pub fn state(&self) -> Result<State> {
        let mut state = self.optimizer.state()?;
        if let Some(filter) = &self.filter {
            state.extend(filter.state()?);
        }
        if let Some(average) = &self.average {
            state.extend(average.state()?);
        }
        Ok(state)
    }

    /// Takes over what [`UpdateRule::state`] gave.
    ///
    /// # Errors
    /// If it is incomplete.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        if let Some(filter) = &mut self.filter {
            filter.restore(state)?;
        }
        if let Some(average) = &mut self.average {
            average.restore(state)?;
        }
        self.optimizer.restore(state)
    }
}
