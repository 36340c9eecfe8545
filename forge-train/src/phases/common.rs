//! What every phase does with its result: emit the file, measure it through the runtime, record it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::json;

use crate::data::{Example, Sequence, Slice, System, encode};
use crate::engine::emit::{Card, CodecPlan, emit};
use crate::error::{Error, Result};
use crate::eval::{self, EvalReport};
use crate::pipeline::{ArtifactKind, ArtifactRef, PhaseContext, PhaseId};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// Whether tool examples are asked with the system text that phases 1 to 5 train on, or, once phase 6 has baked
/// it in, without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompting {
    /// With the system text.
    With,
    /// Without.
    Without,
}

/// The newest output of the phases before `phase` that holds an artifact called `name`.
///
/// # Errors
/// [`Error::Artifact`] when no earlier phase left one.
pub fn input(ctx: &PhaseContext<'_>, phase: PhaseId, name: &str) -> Result<ArtifactRef> {
    ctx.inputs
        .range(..phase)
        .rev()
        .find_map(|(_, output)| output.artifact(name))
        .cloned()
        .ok_or_else(|| Error::Artifact(format!("no phase before {} left a `{name}`", phase.name())))
}

/// The latent weights handed on by the phase before `phase`.
///
/// # Errors
/// If there are none, or they are damaged.
pub fn latent(ctx: &PhaseContext<'_>, phase: PhaseId) -> Result<Weights> {
    ctx.store.weights(&input(ctx, phase, "latent")?)
}

/// The card of a file that `phase` emits.
pub fn card(ctx: &PhaseContext<'_>, phase: PhaseId, eval: serde_json::Value) -> Card {
    let chain = ctx
        .inputs
        .range(..phase)
        .filter_map(|(id, out)| Some((id.name().to_owned(), out.artifact("latent")?.hash.clone())));
    Card {
        forge: env!("CARGO_PKG_VERSION"),
        phase: phase.name().to_owned(),
        chain: chain.collect(),
        seed: ctx.seed,
        data: ctx.data.dataset.name.clone(),
        tools: ctx.data.dataset.tools.clone(),
        eval,
    }
}

/// How examples are encoded for training, with their traces or without.
pub fn encoding(
    tokenizer: &Tokenizer,
    prompt_weight: f32,
    thoughts: bool,
) -> impl Fn(&Example) -> Sequence + Sync + use<'_> {
    move |example| match thoughts {
        true => encode::encode(tokenizer, example, prompt_weight),
        false => encode::encode(tokenizer, &example.without_thought(), prompt_weight),
    }
}

/// The held-out examples of a slice that decisions are measured on, at most `data.eval_examples`.
pub fn held_out(ctx: &PhaseContext<'_>, prompting: Prompting) -> Vec<Example> {
    let limit = ctx.config.data.eval_examples;
    let system = match prompting {
        Prompting::With => System::With,
        Prompting::Without => System::Without,
    };
    let tools = ctx.data.dataset.tool_calls(&ctx.data.dataset.valid, system);
    let others = ctx.data.dataset.valid.iter().filter(|e| e.slice != Slice::Tool);
    let mut chosen: Vec<Example> = tools.take(limit).collect();
    for slice in [Slice::Arithmetic, Slice::Dialogue, Slice::Prose] {
        chosen.extend(others.clone().filter(|e| e.slice == slice).take(limit / 2).map(Cow::into_owned));
    }
    chosen
}

/// Measures a file on the held-out examples, through the runtime.
///
/// # Errors
/// If the file cannot be run.
pub fn measure(ctx: &PhaseContext<'_>, bytes: &[u8], prompting: Prompting) -> Result<EvalReport> {
    eval::evaluate(bytes, &held_out(ctx, prompting), &eval::Options::default())
}

/// A file emitted, measured and stored.
pub struct Emitted {
    /// Where it is.
    pub artifact: ArtifactRef,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What was measured on it.
    pub report: EvalReport,
}

/// Emits `weights`, measures the file and stores it with the measures in its card.
///
/// # Errors
/// If the weights are not finite, or emission, evaluation or storage fails.
pub fn emit_measured(
    ctx: &PhaseContext<'_>,
    phase: PhaseId,
    weights: &Weights,
    plan: CodecPlan<'_>,
    prompting: Prompting,
) -> Result<Emitted> {
    if !weights.is_finite() {
        return Err(Error::Gate(format!("{}: a weight is not finite", phase.name())));
    }
    let tokenizer = &ctx.data.tokenizer;
    let draft = emit(weights, tokenizer, &card(ctx, phase, json!({})), plan)?;
    let report = measure(ctx, &draft, prompting)?;
    let bytes = emit(weights, tokenizer, &card(ctx, phase, eval_card(&report, prompting)), plan)?;
    let artifact = ctx.store.put_bytes(ArtifactKind::Forge, &bytes)?;
    Ok(Emitted { artifact, bytes, report })
}

/// The deterministic part of a report, as the card and the registry keep it.
pub fn eval_card(report: &EvalReport, prompting: Prompting) -> serde_json::Value {
    json!({
        "examples": report.n,
        "prompted": prompting == Prompting::With,
        "bits_per_byte": report.bits_per_byte,
        "tool_accuracy": report.tool_accuracy,
        "frame_accuracy": report.frame_accuracy,
        "answer_accuracy": report.answer_accuracy,
        "mean_recursions": report.mean_recursions,
    })
}

/// The measures every phase reports, by metric name.
pub fn metrics(weights: &Weights, emitted: &Emitted) -> BTreeMap<String, f64> {
    let r = &emitted.report;
    let mut m = BTreeMap::new();
    m.insert("parameters".into(), weights.parameters() as f64);
    m.insert("bytes".into(), emitted.bytes.len() as f64);
    m.insert("bits_per_byte".into(), r.bits_per_byte);
    m.insert("tool_accuracy".into(), r.tool_accuracy.value());
    m.insert("frame_accuracy".into(), r.frame_accuracy.value());
    m.insert("tool_examples".into(), r.frame_accuracy.n as f64);
    m.insert("answer_accuracy".into(), r.answer_accuracy.value());
    m.insert("mean_recursions".into(), r.mean_recursions);
    m
}

/// Share of `before` that `after` keeps: frame accuracy where there are tool examples, otherwise the inverse
/// ratio of bits per byte, so that 1 means nothing was lost on either.
pub fn retention(before: &EvalReport, after: &EvalReport) -> f64 {
    if before.frame_accuracy.n > 0 && before.frame_accuracy.hits > 0 {
        after.frame_accuracy.value() / before.frame_accuracy.value()
    } else {
        before.bits_per_byte / after.bits_per_byte
    }
}
