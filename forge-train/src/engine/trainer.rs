//! The training loop: optimiser steps with exact resume.
//!
//! Everything a step depends on is a pure function of the step number (batches, learning rate, quantisation
//! strength) or part of the checkpoint (weights, optimiser state, the objective's state), so that a run killed
//! at any instant ends with the same bytes as one that was not.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::Tensor;

use crate::config::TrainConfig;
use crate::engine::shards::Pools;
use crate::engine::update::UpdateRule;
use crate::error::{Error, Result};
use crate::nn::{Network, Precision, Projections};
use crate::pipeline::{Checkpoint, PhaseContext};
use crate::weights::{Key, Matrix, Weights};

/// Makes a loss: a scalar with a graph back to the network's parameters.
pub type Work<'w> = Box<dyn FnOnce(&Network) -> Result<Tensor> + Send + 'w>;

/// A part of a step's batch that is computed on its own thread.
pub struct Shard<'w> {
    /// Its share of the step's loss is `weight / Σ weights`.
    pub weight: f32,
    /// Its loss.
    pub work: Work<'w>,
}

/// What is minimised.
pub trait Objective {
    /// The parts of step `step`'s loss, the same for any number of processors. Sampling, and whatever else must be
    /// done in order, is done here.
    ///
    /// # Errors
    /// If the step cannot be prepared.
    fn shards(&mut self, network: &Network, step: u64) -> Result<Vec<Shard<'_>>>;

    /// Runs after the update of `step`; may measure and adapt (a curriculum, for instance).
    ///
    /// # Errors
    /// If a measurement fails.
    fn after_step(&mut self, _network: &Network, _step: u64) -> Result<()> {
        Ok(())
    }

    /// State that later losses depend on, saved with each checkpoint.
    fn state(&self) -> Vec<f32> {
        Vec::new()
    }

    /// Puts back what [`Objective::state`] gave.
    fn restore(&mut self, _state: &[f32]) {}
}

/// How a stage of training runs.
pub struct Stage<'a> {
    /// Name of the stage, unique within the phase; checkpoints and progress carry it.
    pub name: &'a str,
    /// Optimiser and schedule.
    pub train: &'a TrainConfig,
    /// Arithmetic of the forward pass once quantisation is fully on.
    pub precision: Precision,
    /// Share of the steps over which ternary quantisation is faded in.
    pub lambda_share: f32,
    /// Parameters that keep their value.
    pub frozen: &'a dyn Fn(Key) -> bool,
}

/// What came out of a stage.
pub struct Trained {
    /// The trained parameters.
    pub weights: Weights,
    /// Loss of the first step.
    pub first_loss: f32,
    /// Exponential mean (decay 0.9) of the loss at the end.
    pub final_loss: f32,
}

/// Trains `weights` under `objective` and returns them; resumes from the stage's newest checkpoint.
///
/// # Errors
/// [`Error::Interrupted`] when asked to stop (state is saved), [`Error::Gate`] when the loss is not finite.
pub fn train(
    ctx: &PhaseContext<'_>,
    stage: &Stage<'_>,
    weights: &Weights,
    objective: &mut dyn Objective,
) -> Result<Trained> {
    let mut run = Run::new(ctx, stage, weights, objective)?;
    let steps = stage.train.steps;
    ctx.progress.start(stage.name, steps);
    let mut saved = Instant::now();
    while run.step < steps {
        run.advance(objective)?;
        ctx.progress.tick(run.step, &format!("loss {:.3}", run.mean_loss));
        let stop = ctx.stop.requested();
        if stop || run.step == steps || saved.elapsed().as_secs() >= ctx.config.run.checkpoint_seconds {
            run.save(ctx, objective)?;
            saved = Instant::now();
        }
        if stop && run.step < steps {
            ctx.progress.finish();
            return Err(Error::Interrupted);
        }
    }
    ctx.progress.finish();
    Ok(Trained { weights: run.network.weights()?, first_loss: run.first_loss, final_loss: run.mean_loss })
}

struct Run<'a> {
    stage: &'a Stage<'a>,
    network: Network,
    rule: UpdateRule,
    pools: Pools,
    step: u64,
    first_loss: f32,
    mean_loss: f32,
}

impl<'a> Run<'a> {
    fn new(
        ctx: &PhaseContext<'_>,
        stage: &'a Stage<'a>,
        weights: &Weights,
        objective: &mut dyn Objective,
    ) -> Result<Self> {
        let network = Network::new(weights, stage.precision, ctx.device)?;
        let rule = UpdateRule::new(stage.train, &weights.config);
        let mut run = Self {
            stage,
            network,
            rule,
            pools: Pools::default(),
            step: 0,
            first_loss: f32::NAN,
            mean_loss: f32::NAN,
        };
        if let Some(checkpoint) = ctx.checkpoints.latest(stage.name)? {
            run.restore(checkpoint, weights, objective)?;
        }
        Ok(run)
    }

    fn precision(&self) -> Precision {
        let ramp = self.stage.lambda_share * self.stage.train.steps as f32;
        let mut precision = self.stage.precision;
        if let Projections::Ternary { lambda } = &mut precision.projections
            && ramp >= 1.0
        {
            *lambda = ((self.step as f32 + 1.0) / ramp).min(1.0);
        }
        precision
    }

    fn advance(&mut self, objective: &mut dyn Objective) -> Result<()> {
        self.network.set_precision(self.precision());
        let shards = objective.shards(&self.network, self.step)?;
        let (value, mut grads) = self.pools.gradients(&self.network, shards)?;
        if !value.is_finite() {
            return Err(Error::Gate(format!(
                "{}: loss became {value} at step {}; lower the learning rate",
                self.stage.name, self.step
            )));
        }
        grads.retain(|key| !(self.stage.frozen)(*key));
        self.rule.apply(&self.network, grads, self.step)?;
        if self.step == 0 {
            self.first_loss = value;
            self.mean_loss = value;
        }
        self.mean_loss = 0.9 * self.mean_loss + 0.1 * value;
        let done = self.step;
        self.step += 1;
        objective.after_step(&self.network, done)
    }

    fn save(&self, ctx: &PhaseContext<'_>, objective: &dyn Objective) -> Result<()> {
        let mut state = BTreeMap::new();
        for ((role, layer), m) in &self.network.weights()?.tensors {
            state.insert(format!("weights.{}.{layer}", role.name()), m.data.clone());
        }
        for (name, values) in self.rule.state() {
            state.insert(format!("optimizer.{name}"), values);
        }
        state.insert("loss".into(), vec![self.first_loss, self.mean_loss]);
        state.insert("objective".into(), objective.state());
        ctx.checkpoints.save(self.stage.name, self.step, &state)
    }

    fn restore(
        &mut self,
        checkpoint: Checkpoint,
        weights: &Weights,
        objective: &mut dyn Objective,
    ) -> Result<()> {
        let damaged = || Error::Artifact(format!("checkpoint of stage {} does not fit", self.stage.name));
        let mut state = checkpoint.state;
        let mut restored = Weights { config: weights.config.clone(), tensors: BTreeMap::new() };
        for (key, m) in &weights.tensors {
            let name = format!("weights.{}.{}", key.0.name(), key.1);
            let data = state.remove(&name).filter(|d| d.len() == m.data.len()).ok_or_else(damaged)?;
            restored.tensors.insert(*key, Matrix { rows: m.rows, cols: m.cols, data });
        }
        let losses = state.remove("loss").filter(|l| l.len() == 2).ok_or_else(damaged)?;
        objective.restore(&state.remove("objective").unwrap_or_default());
        let optimizer =
            state.into_iter().filter_map(|(k, v)| Some((k.strip_prefix("optimizer.")?.to_owned(), v)));
        self.rule.restore(&optimizer.collect())?;
        self.network.load(&restored)?;
        (self.first_loss, self.mean_loss) = (losses[0], losses[1]);
        self.step = checkpoint.step;
        Ok(())
    }
}
