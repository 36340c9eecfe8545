//! The training loop: optimiser steps with exact resume.
//!
//! Everything a step depends on is a pure function of the step number (batches, learning rate, quantisation
//! strength) or part of the checkpoint (weights, optimiser state, the objective's state), so that a run killed
//! at any instant ends with the same bytes as one that was not.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::Tensor;

use crate::config::TrainConfig;
use crate::device;
use crate::engine::environment::{Environment, StepMetrics, Unwatched, Watcher};
use crate::engine::shards::Pools;
use crate::engine::split::Split;
use crate::engine::update::{Applied, UpdateRule};
use crate::error::{Error, Result};
use crate::nn::{Network, Precision, Projections};
use crate::pipeline::Checkpoint;
use crate::pipeline::table::bytes as size;
use crate::weights::{Key, Matrix, Weights};

/// Makes a loss: a scalar with a graph back to the network's parameters.
pub type Work<'w> = Box<dyn FnOnce(&Network) -> Result<Tensor> + Send + 'w>;

/// A part of a step's batch that is computed on its own thread.
pub struct Shard<'w> {
    /// Its share of the step's loss is `weight / Σ weights`.
    pub weight: f32,
    /// Positions it computes, padding included.
    pub tokens: usize,
    /// Its loss.
    pub work: Work<'w>,
}

/// What is minimised.
pub trait Objective {
    /// The parts of step `step`'s loss, cut as `split` says, the same for any number of processors. Sampling, and
    /// whatever else must be done in order, is done here.
    ///
    /// # Errors
    /// If the step cannot be prepared.
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>>;

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
    /// The trained parameters; their average where the stage keeps one.
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
    env: &Environment<'_>,
    stage: &Stage<'_>,
    weights: &Weights,
    objective: &mut dyn Objective,
) -> Result<Trained> {
    train_watched(env, stage, weights, objective, &mut Unwatched)
}

/// As [`train`], followed by `watcher`.
///
/// # Errors
/// As [`train`], and what the watcher returns.
pub fn train_watched(
    env: &Environment<'_>,
    stage: &Stage<'_>,
    weights: &Weights,
    objective: &mut dyn Objective,
    watcher: &mut dyn Watcher,
) -> Result<Trained> {
    device::reset_peak_memory(&env.device)?;
    let mut run = Run::new(env, stage, weights, objective)?;
    let steps = stage.train.steps;
    env.progress.start(stage.name, steps);
    let mut saved = Instant::now();
    while run.step < steps {
        watcher.step(&run.advance(objective)?)?;
        env.progress.tick(run.step, &format!("loss {:.3}", run.mean_loss));
        let every = watcher.evaluate_every();
        if every > 0 && (run.step.is_multiple_of(every) || run.step == steps) {
            watcher.evaluate(&run.judged()?, run.step)?;
        }
        let stop = env.stop.requested();
        if stop || run.step == steps || saved.elapsed().as_secs() >= env.checkpoint_seconds {
            run.save(env, objective)?;
            saved = Instant::now();
        }
        if stop && run.step < steps {
            env.progress.finish();
            return Err(Error::Interrupted);
        }
    }
    env.progress.finish();
    if let Some(bytes) = device::peak_memory(&env.device)? {
        env.progress.note(&format!("{}: at most {} on the device", stage.name, size(bytes)));
    }
    let weights = run.judged()?.weights()?;
    Ok(Trained { weights, first_loss: run.first_loss, final_loss: run.mean_loss })
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
        env: &Environment<'_>,
        stage: &'a Stage<'a>,
        weights: &Weights,
        objective: &mut dyn Objective,
    ) -> Result<Self> {
        let mut network = Network::new(weights, stage.precision, &env.device)?;
        network.set_recompute(stage.train.recompute);
        network.set_products(stage.train.products)?;
        stage.train.check(stage.name, matches!(stage.precision.projections, Projections::Ternary { .. }))?;
        let rule = UpdateRule::new(stage.train, &network)?;
        let mut run = Self {
            stage,
            network,
            rule,
            pools: Pools::default(),
            step: 0,
            first_loss: f32::NAN,
            mean_loss: f32::NAN,
        };
        if let Some(checkpoint) = env.checkpoints.latest(stage.name)? {
            if let Some(note) = &checkpoint.note {
                env.progress.note(note);
            }
            run.restore(checkpoint, weights, objective)?;
        }
        Ok(run)
    }

    /// The network that the stage is judged by and hands on, in the precision it ends with.
    fn judged(&self) -> Result<Network> {
        let mut network = match self.rule.averaged(self.network.config())? {
            Some(weights) => Network::new(&weights, self.stage.precision, self.network.device())?,
            None => self.network.detached(),
        };
        network.set_precision(self.stage.precision);
        Ok(network.detached())
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

    fn advance(&mut self, objective: &mut dyn Objective) -> Result<StepMetrics> {
        self.network.set_precision(self.precision());
        self.network.measure_logits(self.rule.measures_logits(self.step));
        let shards =
            objective.shards(&self.network, self.step, Split::of(self.stage.train, self.network.device()))?;
        let tokens = shards.iter().map(|shard| shard.tokens as u64).sum();
        let (value, mut grads) = self.pools.gradients(&self.network, shards)?;
        if !value.is_finite() {
            return Err(Error::Gate(format!(
                "{}: loss became {value} at step {}; lower the learning rate",
                self.stage.name, self.step
            )));
        }
        grads.retain(|key| !(self.stage.frozen)(*key));
        let peaks = self.network.logit_peaks();
        let applied = self.rule.apply(&self.network, grads, peaks.as_deref(), self.step)?;
        if self.step == 0 {
            self.first_loss = value;
            self.mean_loss = value;
        }
        self.mean_loss = 0.9 * self.mean_loss + 0.1 * value;
        let step = self.step;
        self.step += 1;
        objective.after_step(&self.network, step)?;
        let Applied { rate, gradient_norm, clipped_heads } = applied;
        Ok(StepMetrics { step, loss: value, rate, gradient_norm, clipped_heads, tokens })
    }

    fn save(&self, env: &Environment<'_>, objective: &dyn Objective) -> Result<()> {
        let mut state = BTreeMap::new();
        for ((role, layer), m) in &self.network.weights()?.tensors {
            state.insert(format!("weights.{}.{layer}", role.name()), m.data.clone());
        }
        for (name, values) in self.rule.state()? {
            state.insert(format!("optimizer.{name}"), values);
        }
        state.insert("loss".into(), vec![self.first_loss, self.mean_loss]);
        state.insert("objective".into(), objective.state());
        env.checkpoints.save(self.stage.name, self.step, &state)
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
