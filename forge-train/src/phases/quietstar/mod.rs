//! Phase 3, Quiet-STaR: thoughts between `<think>` and `</think>` (Zelikman et al. 2024, arXiv 2403.09629).
//!
//! Reasoning traces are first learned as text ([`train`]); then thoughts are sampled and reinforced by how much they
//! raise the likelihood of what truly follows ([`policy`]). Thoughts stay on only when they beat every control
//! ([`judge`]).

mod config;
mod judge;
mod mixing;
mod policy;
mod rollout;
mod train;

use std::borrow::Cow;
use std::collections::BTreeMap;

use forge_formats::role::Role;
use half::f16;

use self::train::Control;
use crate::data::{Example, Examples};
use crate::engine::emit::float32;
use crate::engine::trainer::{Stage, train};
use crate::error::Result;
use crate::nn::Precision;
use crate::phases::common::{self, Prompting};
use crate::pipeline::{Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::weights::Weights;
pub use config::QuietStarConfig;
use judge::Models;
use policy::{Reinforce, Tally};

/// Figures that every run reports, whether or not there was anything to measure.
const ALWAYS: [&str; 4] = ["accuracy_with_thoughts", "accuracy_control", "coherence_score", "validity_rate"];

/// The phase.
pub struct QuietStar;

impl Phase for QuietStar {
    fn id(&self) -> PhaseId {
        PhaseId::QuietStar
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let mut start = common::latent(ctx, PhaseId::QuietStar)?;
        self::train::add_rows(&mut start, &ctx.data.tokenizer, ctx.seed);
        let worked = ctx.data.dataset.train.filter(Example::is_reasoned)?;
        let held_out = held_out(ctx);
        if worked.is_empty() || held_out.is_empty() {
            let why = "the data has no worked examples to learn thoughts from and to measure them on";
            return finish(ctx, start, BTreeMap::new(), Gate::fell_back("worked examples", why));
        }
        let baked = self::train::bake(ctx, &start)?;
        let (thinking, tally) = reinforce(ctx, &baked, &worked)?;
        let pauses = self::train::mean_thought_tokens(&ctx.data.tokenizer, &worked);
        let paused = self::train::control(ctx, &start, Control::Pauses(pauses))?;
        let direct = self::train::control(ctx, &start, Control::Direct)?;
        let models = Models { thinking: &thinking, baked: &baked, paused: &paused, direct: &direct };
        let verdict = judge::judge(ctx, &models, pauses, &held_out)?;
        let gate = verdict.gate();
        let mut metrics = verdict.metrics();
        metrics.extend(tally_metrics(tally));
        finish(ctx, if gate.passed { thinking } else { start }, metrics, gate)
    }
}

/// The held-out worked examples, at most `data.eval_examples`, evenly over the validation split.
fn held_out(ctx: &PhaseContext<'_>) -> Vec<Example> {
    let worked: Vec<Cow<'_, Example>> = ctx.data.dataset.valid.iter().filter(|e| e.is_reasoned()).collect();
    let stride = worked.len().div_ceil(ctx.config.data.eval_examples.max(1)).max(1);
    worked.into_iter().step_by(stride).map(Cow::into_owned).collect()
}

fn reinforce(ctx: &PhaseContext<'_>, start: &Weights, worked: &Examples) -> Result<(Weights, Tally)> {
    let card = common::card(ctx, PhaseId::QuietStar, serde_json::json!({}));
    let mut objective = Reinforce::new(ctx, card, worked, start)?;
    let stage = Stage {
        name: "reinforce",
        train: &ctx.config.phase3.reinforce,
        precision: Precision::FLOAT,
        lambda_share: 0.0,
        frozen: &|_| false,
    };
    let trained = train(&ctx.environment(), &stage, start, &mut objective)?;
    Ok((trained.weights, objective.tally))
}

fn tally_metrics(tally: Tally) -> [(String, f64); 3] {
    [
        ("thoughts_closed".into(), tally.closed as f64 / tally.thoughts.max(1) as f64),
        ("mixing_weight".into(), f64::from(tally.influence)),
        ("mixing_gain".into(), f64::from(tally.gain)),
    ]
}

fn finish(
    ctx: &PhaseContext<'_>,
    mut weights: Weights,
    mut metrics: BTreeMap<String, f64>,
    gate: Gate,
) -> Result<PhaseOutput> {
    // Tables leave this phase on the half-precision grid, so that phase 4 can preserve them bit for bit.
    for ((role, _), m) in &mut weights.tensors {
        if matches!(role, Role::Embedding | Role::Head) {
            m.data.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
        }
    }
    let emitted = common::emit_measured(ctx, PhaseId::QuietStar, &weights, &float32, Prompting::With)?;
    metrics.extend(common::metrics(&weights, &emitted));
    for name in ALWAYS {
        metrics.entry(name.into()).or_insert(0.0);
    }
    let thoughts = if gate.fallback.is_some() { "thoughts off, tokens kept" } else { "thoughts on" };
    let latent = ctx.store.put_weights(&weights)?;
    Ok(PhaseOutput {
        artifacts: vec![("model".into(), emitted.artifact), ("latent".into(), latent)],
        metrics,
        summary: format!("think tokens, traces baked, REINFORCE; {thoughts}"),
        gate,
    })
}
