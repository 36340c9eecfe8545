//! Step 1, traces learned as text, and the controls that are trained for as long without them.

use forge_formats::role::Role;

use crate::config::TrainConfig;
use crate::data::{Completion, Example, Examples, Mix, Sequence, encode};
use crate::engine::mixture::Domains;
use crate::engine::objective::{LanguageModel, batcher};
use crate::engine::trainer::{Stage, train};
use crate::error::Result;
use crate::nn::Precision;
use crate::phases::common::encoding;
use crate::pipeline::PhaseContext;
use crate::rng::Rng;
use crate::tokenizer::{MARKERS, Tokenizer};
use crate::weights::Weights;

/// Gives the markers of thoughts an embedding to start from: that of `<sep>`, slightly perturbed so that they can part.
pub(super) fn add_rows(weights: &mut Weights, tokenizer: &Tokenizer, seed: u64) {
    let sep = weights.get(Role::Embedding, 0).row(usize::from(tokenizer.control("<sep>"))).to_vec();
    let table = weights.tensors.get_mut(&(Role::Embedding, 0)).expect("every model has an embedding");
    let scale = 0.1 * (sep.iter().map(|v| v * v).sum::<f32>() / sep.len() as f32).sqrt();
    for name in ["<think>", "</think>"].iter().chain(&MARKERS) {
        let Some(id) = tokenizer.marker(name) else { continue };
        let mut rng = Rng::new(seed, &["phase3", name]);
        let row = table.row_mut(usize::from(id));
        row.iter_mut().zip(&sep).for_each(|(r, s)| *r = s + scale * rng.normal());
    }
}

/// What stands in the place of a worked example's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// As many `<think>` as a trace has tokens on average, without loss (Goyal et al. 2023, arXiv 2310.02226).
    Pauses(usize),
    /// Nothing.
    Direct,
}

impl Control {
    fn name(self) -> &'static str {
        match self {
            Self::Pauses(_) => "control",
            Self::Direct => "direct",
        }
    }

    /// Pause tokens in front of an answer.
    pub(super) fn pauses(self) -> usize {
        match self {
            Self::Pauses(n) => n,
            Self::Direct => 0,
        }
    }
}

/// Learns the traces.
pub(super) fn bake(ctx: &PhaseContext<'_>, start: &Weights) -> Result<Weights> {
    let encoding = encoding(&ctx.data.tokenizer, ctx.config.data.prompt_weight, true);
    let domains = Domains::new(&ctx.data.dataset, &ctx.data.dataset.train, encoding)?;
    let sequences = domains.mix(ctx.config.phase3.shares, ctx.seed, "bake");
    supervise(ctx, "bake", start, sequences, &ctx.config.phase3.bake)
}

/// Trains a control on the same examples in the same order, for the steps of baking and reinforcement together.
pub(super) fn control(ctx: &PhaseContext<'_>, start: &Weights, control: Control) -> Result<Weights> {
    let tokenizer = &ctx.data.tokenizer;
    let mut config = ctx.config.phase3.bake.clone();
    config.steps += ctx.config.phase3.reinforce.steps;
    let plain = encoding(tokenizer, ctx.config.data.prompt_weight, false);
    let paused = |example: &Example| match example.is_reasoned() {
        true => with_pauses(plain(example), tokenizer, control.pauses()),
        false => plain(example),
    };
    let domains = Domains::new(&ctx.data.dataset, &ctx.data.dataset.train, paused)?;
    let sequences = domains.mix(ctx.config.phase3.shares, ctx.seed, "bake");
    supervise(ctx, control.name(), start, sequences, &config)
}

fn supervise(
    ctx: &PhaseContext<'_>,
    name: &str,
    start: &Weights,
    sequences: Mix,
    config: &TrainConfig,
) -> Result<Weights> {
    let batches = batcher(sequences, config.batch_tokens, &ctx.config.data, ctx.seed, name)?;
    let mut objective =
        LanguageModel::new(batches, &ctx.config.phase1).with_dropout(config.dropout, ctx.seed);
    let stage =
        Stage { name, train: config, precision: Precision::FLOAT, lambda_share: 0.0, frozen: &|_| false };
    Ok(train(&ctx.environment(), &stage, start, &mut objective)?.weights)
}

/// Inserts the pauses after the prompt of a worked example.
fn with_pauses(mut sequence: Sequence, tokenizer: &Tokenizer, pauses: usize) -> Sequence {
    let sep = tokenizer.control("<sep>");
    if let Some(at) = sequence.ids.iter().position(|id| *id == sep).map(|p| p + 1) {
        sequence.ids.splice(at..at, std::iter::repeat_n(tokenizer.control("<think>"), pauses));
        sequence.weights.splice(at..at, std::iter::repeat_n(0.0, pauses));
    }
    sequence
}

/// Tokens of a trace on average, markers included; at least 1.
pub(super) fn mean_thought_tokens(tokenizer: &Tokenizer, worked: &Examples) -> usize {
    let lengths: Vec<usize> = worked
        .iter()
        .take(200)
        .map(|e| match &e.completion {
            Completion::Reasoned { thought, .. } => encode::trace(tokenizer, thought).len() + 2,
            _ => 0,
        })
        .collect();
    (lengths.iter().sum::<usize>() / lengths.len().max(1)).max(1)
}
