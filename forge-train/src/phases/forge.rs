//! Phase 5, Forge training: quantisation-aware training of the latent weights with the straight-through
//! estimator (Bengio et al. 2013), along a curriculum.
//!
//! Two controls keep it honest: the file of phase 4 (post-training quantisation alone), and a short run in which
//! the estimator is left out, so that the quantiser's true derivative (zero) reaches the projections.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use forge_formats::role::RoleKind;

use crate::config::TrainConfig;
use crate::data::{BatchSource, Example, Slice};
use crate::engine::emit::{Card, emit, ternary_int8};
use crate::engine::objective::{LanguageModel, batcher};
use crate::engine::shards::Pools;
use crate::engine::split::Split;
use crate::engine::trainer::{Objective, Shard, Stage, train};
use crate::error::Result;
use crate::eval::{self, Rate};
use crate::nn::{Network, Precision};
use crate::optim::Gradients;
use crate::phases::common::{self, Prompting};
use crate::phases::curriculum::{Curriculum, LEVELS, level_sequences};
use crate::pipeline::{Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::weights::{Key, Weights};

/// Shares of reasoning, memory and command data.
const SHARES: [f32; 3] = [0.2, 0.2, 0.6];
/// Held-out problems a level is assessed on.
const ASSESSED: usize = 40;

/// The phase.
pub struct Forge;

impl Phase for Forge {
    fn id(&self) -> PhaseId {
        PhaseId::Forge
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let start = common::latent(ctx, PhaseId::Forge)?;
        let cfg = &ctx.config.phase5;
        let thoughts = ctx.inputs.get(&PhaseId::QuietStar).is_some_and(|q| q.gate.fallback.is_none());
        let mut objective = CurriculumObjective::new(ctx, &start, thoughts)?;
        let smallest = smallest_gradient(ctx, &start, &mut objective.inner)?;
        let stage = Stage {
            name: "quantisation_aware",
            train: &cfg.train,
            precision: Precision::TERNARY,
            lambda_share: cfg.lambda_share,
            frozen: &|_| false,
        };
        let trained = train(&ctx.environment(), &stage, &start, &mut objective)?;
        let level = objective.curriculum.level;
        let control = no_ste_control(ctx, &start, thoughts)?;
        let weights = trained.weights;
        let emitted = common::emit_measured(ctx, PhaseId::Forge, &weights, &ternary_int8, Prompting::With)?;
        let ptq = ctx.inputs[&PhaseId::BitNet].metrics.get("bits_per_byte").copied().unwrap_or(f64::INFINITY);
        let mut metrics = common::metrics(&weights, &emitted);
        metrics.insert("final_loss".into(), f64::from(trained.final_loss));
        metrics.insert("final_accuracy".into(), emitted.report.frame_accuracy.value());
        metrics.insert("smallest_gradient_norm".into(), smallest);
        metrics.insert("ptq_bits_per_byte".into(), ptq);
        metrics.insert("level".into(), f64::from(level));
        metrics.insert("ste_control_loss".into(), control.with_ste);
        metrics.insert("no_ste_control_loss".into(), control.without_ste);
        let bpb = emitted.report.bits_per_byte;
        let control_ok = cfg.control_steps == 0 || control.with_ste < control.without_ste;
        let latent = ctx.store.put_weights(&weights)?;
        Ok(PhaseOutput {
            artifacts: vec![("model".into(), emitted.artifact), ("latent".into(), latent)],
            metrics,
            summary: format!("straight-through training to level {level} of {LEVELS}"),
            gate: Gate {
                passed: smallest > 0.0 && bpb < ptq && control_ok,
                rule: "gradient > 0 in every ternary layer; better than PTQ alone and than no STE".into(),
                measured: format!(
                    "min ‖g‖ {smallest:.1e}; bits/byte {bpb:.3} vs PTQ {ptq:.3}; loss {:.3} vs {:.3} without STE",
                    control.with_ste, control.without_ste
                ),
                fallback: None,
            },
        })
    }
}

/// The smallest gradient norm over the ternary layers at the start, with quantisation fully on. The batch is computed
/// in the parts and with the recomputation that training is set to, so that it needs no more memory than a step.
fn smallest_gradient(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    objective: &mut LanguageModel,
) -> Result<f64> {
    let train = &ctx.config.phase5.train;
    let mut network = Network::new(weights, Precision::TERNARY, ctx.device)?;
    network.set_recompute(train.recompute);
    let shards = objective.shards(&network, 0, Split::of(train, ctx.device))?;
    let (_, grads) = Pools::default().gradients(&network, shards)?;
    let norms = projection_gradient_norms(&network, &grads)?;
    ctx.progress.note(&format!("{} ternary layers receive a gradient", norms.len()));
    Ok(norms.values().copied().fold(f64::INFINITY, f64::min))
}

/// Norm of the gradient of every ternary layer; 0 where no gradient arrives at all.
///
/// # Errors
/// If a device cannot be read.
pub fn projection_gradient_norms(network: &Network, grads: &Gradients) -> Result<BTreeMap<Key, f64>> {
    let norms = grads.norms()?;
    let projections = network.vars().keys().filter(|key| key.0.kind() == RoleKind::Projection);
    Ok(projections.map(|key| (*key, norms.get(key).copied().unwrap_or(0.0))).collect())
}

/// Final losses of two equally short runs from the same start, quantisation fully on.
struct Control {
    with_ste: f64,
    without_ste: f64,
}

fn no_ste_control(ctx: &PhaseContext<'_>, start: &Weights, thoughts: bool) -> Result<Control> {
    let cfg = &ctx.config.phase5;
    if cfg.control_steps == 0 {
        return Ok(Control { with_ste: 0.0, without_ste: 0.0 });
    }
    let config = TrainConfig { steps: cfg.control_steps, warmup: cfg.control_steps / 4, ..cfg.train.clone() };
    let run = |name: &str, frozen: &dyn Fn(Key) -> bool| -> Result<f64> {
        let sequences = level_sequences(ctx, &ctx.data.dataset.train, 1, SHARES, thoughts)?;
        let batches = batcher(sequences, config.batch_tokens, &ctx.config.data, ctx.seed, "control")?;
        let mut objective =
            LanguageModel::new(batches, &ctx.config.phase1).with_dropout(config.dropout, ctx.seed);
        let precision = Precision::TERNARY;
        let stage = Stage { name, train: &config, precision, lambda_share: 0.0, frozen };
        Ok(f64::from(train(&ctx.environment(), &stage, start, &mut objective)?.final_loss))
    };
    Ok(Control {
        with_ste: run("control_ste", &|_| false)?,
        without_ste: run("control_no_ste", &|key| key.0.kind() == RoleKind::Projection)?,
    })
}

/// Language modelling on the mixture of the current level, assessed through the runtime.
struct CurriculumObjective<'a> {
    ctx: &'a PhaseContext<'a>,
    inner: LanguageModel,
    curriculum: Curriculum,
    problems: Vec<Example>,
    card: Card,
    thoughts: bool,
    /// Whether the level was put back and its batches are still to be made.
    moved: bool,
}

impl<'a> CurriculumObjective<'a> {
    fn new(ctx: &'a PhaseContext<'a>, start: &Weights, thoughts: bool) -> Result<Self> {
        let cfg = &ctx.config.phase5;
        let valid = ctx.data.dataset.valid.iter();
        let problems: Vec<Example> =
            valid.filter(|e| e.slice == Slice::Arithmetic && e.level > 0).map(Cow::into_owned).collect();
        let card = common::card(ctx, PhaseId::Forge, serde_json::json!({}));
        let bytes = emit(start, &ctx.data.tokenizer, &card, &ternary_int8)?;
        let accuracy =
            (1..=LEVELS).map(|level| assess(&bytes, &problems, level)).collect::<Result<Vec<Rate>>>()?;
        let curriculum = Curriculum::place(&accuracy, cfg.advance_at);
        let inner = LanguageModel::new(level_batches(ctx, curriculum.level, thoughts)?, &ctx.config.phase1)
            .with_dropout(cfg.train.dropout, ctx.seed);
        Ok(Self { ctx, inner, curriculum, problems, card, thoughts, moved: false })
    }
}

fn level_batches(ctx: &PhaseContext<'_>, level: u8, thoughts: bool) -> Result<Arc<dyn BatchSource>> {
    let sequences = level_sequences(ctx, &ctx.data.dataset.train, level, SHARES, thoughts)?;
    let tokens = ctx.config.phase5.train.batch_tokens;
    batcher(sequences, tokens, &ctx.config.data, ctx.seed, "phase5")
}

/// Accuracy on the held-out problems of a level, by the emitted file.
fn assess(bytes: &[u8], problems: &[Example], level: u8) -> Result<Rate> {
    let of_level: Vec<Example> =
        problems.iter().filter(|e| e.level == level).take(ASSESSED).cloned().collect();
    if of_level.is_empty() {
        return Ok(Rate { hits: 0, n: 0 });
    }
    Ok(eval::evaluate(bytes, &of_level, &eval::Options::default())?.answer_accuracy)
}

impl Objective for CurriculumObjective<'_> {
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>> {
        if std::mem::take(&mut self.moved) {
            self.inner.set_source(level_batches(self.ctx, self.curriculum.level, self.thoughts)?);
        }
        self.inner.shards(network, step, split)
    }

    fn after_step(&mut self, network: &Network, step: u64) -> Result<()> {
        let every = self.ctx.config.phase5.assess_every;
        if every == 0 || !(step + 1).is_multiple_of(every) || self.curriculum.level >= LEVELS {
            return Ok(());
        }
        let bytes = emit(&network.weights()?, &self.ctx.data.tokenizer, &self.card, &ternary_int8)?;
        while {
            let rate = assess(&bytes, &self.problems, self.curriculum.level)?;
            self.curriculum.advance(&rate)
        } {}
        self.inner.set_source(level_batches(self.ctx, self.curriculum.level, self.thoughts)?);
        Ok(())
    }

    fn state(&self) -> Vec<f32> {
        vec![f32::from(self.curriculum.level)]
    }

    fn restore(&mut self, state: &[f32]) {
        if let [level] = state {
            self.curriculum.level = (*level as u8).clamp(1, LEVELS);
            self.moved = true;
        }
    }
}
