//! Phase 3, Quiet-STaR: thoughts between `<think>` and `</think>` (Zelikman et al. 2024, arXiv 2403.09629).
//!
//! Reasoning traces are first learned as text; then thoughts are sampled and reinforced by how much they raise
//! the likelihood of the answer. Thoughts stay on only when they beat a control that spends the same number of
//! tokens on meaningless pauses (Goyal et al. 2023, arXiv 2310.02226).

use std::borrow::Cow;
use std::collections::BTreeMap;

use candle_core::Tensor;
use forge_formats::role::Role;
use half::f16;

use crate::config::TrainConfig;
use crate::data::batch::{Batch, collate};
use crate::data::{Completion, Example, Examples, Mix, Sequence, encode};
use crate::engine::emit::{Card, emit, float32};
use crate::engine::mixture::Domains;
use crate::engine::objective::{LanguageModel, batch_ids, batcher};
use crate::engine::split::Split;
use crate::engine::trainer::{Objective, Shard, Stage, train};
use crate::error::Result;
use crate::eval::{self, Rate, SampleOptions};
use crate::nn::{ForwardOptions, Network, Precision, loss};
use crate::phases::common::{self, Prompting, encoding};
use crate::pipeline::{Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::rng::Rng;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// Shares of reasoning, memory and command data while traces are learned.
const SHARES: [f32; 3] = [0.5, 0.15, 0.35];

/// The phase.
pub struct QuietStar;

impl Phase for QuietStar {
    fn id(&self) -> PhaseId {
        PhaseId::QuietStar
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let mut start = common::latent(ctx, PhaseId::QuietStar)?;
        add_think_rows(&mut start, &ctx.data.tokenizer, ctx.seed);
        let worked = ctx.data.dataset.train.filter(Example::is_reasoned)?;
        if worked.is_empty() {
            let why = "the data has no worked examples to learn thoughts from";
            return finish(ctx, start, BTreeMap::new(), Gate::fell_back("worked examples", why));
        }
        let baked = bake(ctx, "bake", &start, &ctx.data.dataset.train, ctx.config.phase3.bake.clone())?;
        let (thinking, sampled) = reinforce(ctx, &baked, &worked)?;
        let pauses = mean_thought_tokens(&ctx.data.tokenizer, &worked);
        let control = train_control(ctx, &start, pauses)?;
        let held_out: Vec<Example> = ctx
            .data
            .dataset
            .valid
            .iter()
            .filter(|e| e.is_reasoned())
            .take(ctx.config.data.eval_examples)
            .map(Cow::into_owned)
            .collect();
        let with = answers(ctx, &thinking, &held_out, 0)?;
        let without = answers(ctx, &control, &held_out, pauses)?;
        decide(ctx, start, thinking, &with, &without, sampled)
    }
}

/// Gives the thought markers an embedding to start from: that of `<sep>`, slightly perturbed so that the two
/// can part.
fn add_think_rows(weights: &mut Weights, tokenizer: &Tokenizer, seed: u64) {
    let sep = weights.get(Role::Embedding, 0).row(usize::from(tokenizer.control("<sep>"))).to_vec();
    let table = weights.tensors.get_mut(&(Role::Embedding, 0)).expect("every model has an embedding");
    for name in ["<think>", "</think>"] {
        let mut rng = Rng::new(seed, &["phase3", name]);
        let scale = 0.1 * (sep.iter().map(|v| v * v).sum::<f32>() / sep.len() as f32).sqrt();
        let row = table.row_mut(usize::from(tokenizer.control(name)));
        row.iter_mut().zip(&sep).for_each(|(r, s)| *r = s + scale * rng.normal());
    }
}

fn bake(
    ctx: &PhaseContext<'_>,
    name: &str,
    start: &Weights,
    examples: &Examples,
    config: TrainConfig,
) -> Result<Weights> {
    let encoding = encoding(&ctx.data.tokenizer, ctx.config.data.prompt_weight, true);
    let sequences = Domains::new(&ctx.data.dataset, examples, encoding)?.mix(SHARES, ctx.seed, name);
    supervise(ctx, name, start, sequences, &config)
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

/// The control: as many steps as baking and reinforcement together, with every thought replaced by `pauses`
/// copies of `<think>` that carry no loss.
fn train_control(ctx: &PhaseContext<'_>, start: &Weights, pauses: usize) -> Result<Weights> {
    let tokenizer = &ctx.data.tokenizer;
    let mut config = ctx.config.phase3.bake.clone();
    config.steps += ctx.config.phase3.reinforce.steps;
    let encoding = encoding(tokenizer, ctx.config.data.prompt_weight, false);
    let paused = |example: &Example| match example.is_reasoned() {
        true => with_pauses(encoding(example), tokenizer, pauses),
        false => encoding(example),
    };
    let domains = Domains::new(&ctx.data.dataset, &ctx.data.dataset.train, paused)?;
    supervise(ctx, "control", start, domains.mix(SHARES, ctx.seed, "bake"), &config)
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

fn mean_thought_tokens(tokenizer: &Tokenizer, worked: &Examples) -> usize {
    let sample = worked.iter().take(200);
    let lengths: Vec<usize> = sample
        .map(|e| match &e.completion {
            Completion::Reasoned { thought, .. } => encode::segment(tokenizer, thought).len() + 2,
            _ => 0,
        })
        .collect();
    (lengths.iter().sum::<usize>() / lengths.len().max(1)).max(1)
}

/// Whether each held-out answer is right, generated greedily after `pauses` pause tokens (0: free to think).
fn answers(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    examples: &[Example],
    pauses: usize,
) -> Result<Vec<bool>> {
    let tokenizer = &ctx.data.tokenizer;
    let card = common::card(ctx, PhaseId::QuietStar, serde_json::json!({}));
    let bytes = emit(weights, tokenizer, &card, &float32)?;
    let prefixes: Vec<Vec<u16>> = examples
        .iter()
        .map(|e| {
            let mut ids = encode::prefix(tokenizer, e);
            ids.extend(std::iter::repeat_n(tokenizer.control("<think>"), pauses));
            ids
        })
        .collect();
    let limit = ctx.config.data.max_len;
    let outputs = eval::generate(&bytes, &prefixes, &SampleOptions::greedy(limit))?;
    Ok(examples.iter().zip(&outputs).map(|(e, out)| eval::answer_matches(tokenizer, e, out)).collect())
}

/// What policy-gradient training saw.
#[derive(Clone, Copy, Default)]
struct Sampled {
    /// Thoughts sampled and thoughts closed properly.
    thoughts: usize,
    valid: usize,
}

fn reinforce(ctx: &PhaseContext<'_>, start: &Weights, worked: &Examples) -> Result<(Weights, Sampled)> {
    let cfg = &ctx.config.phase3;
    let mut objective = Reinforce {
        ctx,
        card: common::card(ctx, PhaseId::QuietStar, serde_json::json!({})),
        worked,
        sampled: Sampled::default(),
    };
    let stage = Stage {
        name: "reinforce",
        train: &cfg.reinforce,
        precision: Precision::FLOAT,
        lambda_share: 0.0,
        frozen: &|_| false,
    };
    let trained = train(&ctx.environment(), &stage, start, &mut objective)?;
    Ok((trained.weights, objective.sampled))
}

/// REINFORCE with the mean reward of a prompt's thoughts as baseline; thoughts below it are dropped, as in the
/// paper (eq. 8 and the note under it).
struct Reinforce<'a> {
    ctx: &'a PhaseContext<'a>,
    card: Card,
    worked: &'a Examples,
    sampled: Sampled,
}

impl Objective for Reinforce<'_> {
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>> {
        let cfg = &self.ctx.config.phase3;
        let rollouts = self.rollouts(network, step)?;
        let pad = self.ctx.data.tokenizer.control("<pad>");
        // Thoughts of one prompt stay together: their mean reward is the baseline.
        let prompts: Vec<&[Rollout]> = rollouts.chunks(cfg.thoughts.max(1)).collect();
        let longest = rollouts.iter().map(|r| r.sequence.ids.len()).max().unwrap_or(0);
        let parts = split.parts(prompts.len(), longest * cfg.thoughts);
        let frozen = network.detached();
        (0..parts)
            .map(|part| {
                let rows: Vec<&Rollout> =
                    prompts.iter().skip(part).step_by(parts).copied().flatten().collect();
                let batch = weighted(&frozen, &rows, pad, cfg.thoughts, cfg.policy_weight)?;
                let (weight, tokens) = (batch.weights.iter().sum(), batch.ids.len());
                Ok(Shard { weight, tokens, work: Box::new(move |network| likelihood(network, &batch)) })
            })
            .collect()
    }

    fn state(&self) -> Vec<f32> {
        vec![self.sampled.thoughts as f32, self.sampled.valid as f32]
    }

    fn restore(&mut self, state: &[f32]) {
        if let [thoughts, valid] = state {
            self.sampled = Sampled { thoughts: *thoughts as usize, valid: *valid as usize };
        }
    }
}

/// One sampled thought with the true answer behind it.
struct Rollout {
    sequence: Sequence,
    thought: std::ops::Range<usize>,
    answer: std::ops::Range<usize>,
}

impl Rollout {
    /// Mean log-likelihood of the answer, given that token `i` of the sequence is predicted at `losses[i - 1]`.
    fn reward(&self, losses: &[f32]) -> f32 {
        let sum: f32 = self.answer.clone().map(|i| -losses[i - 1]).sum();
        sum / self.answer.len().max(1) as f32
    }

    /// Loss weights: the advantage on the thought, 1 on the answer.
    fn weigh(&self, weights: &mut [f32], advantage: f32) {
        self.thought.clone().for_each(|i| weights[i - 1] = advantage);
        self.answer.clone().for_each(|i| weights[i - 1] = 1.0);
    }
}

/// The rows as a batch whose loss weights are the advantage on thoughts and 1 on answers. Rewards are measured
/// by `network`, which records no graph.
fn weighted(network: &Network, rows: &[&Rollout], pad: u16, thoughts: usize, policy: f32) -> Result<Batch> {
    let mut batch = collate(&rows.iter().map(|r| &r.sequence).collect::<Vec<_>>(), pad);
    let forward = network.forward(&batch_ids(&batch)?, ForwardOptions::default())?;
    let logits = network.logits(forward.answer())?;
    let losses: Vec<f32> = loss::token_scores(&logits, &batch.targets)?.iter().map(|s| s.loss).collect();
    let rewards: Vec<f32> =
        rows.iter().enumerate().map(|(i, r)| r.reward(&losses[i * batch.cols..])).collect();
    batch.weights.fill(0.0);
    for (i, row) in rows.iter().enumerate() {
        let group = &rewards[i - i % thoughts..];
        let group = &group[..thoughts.min(group.len())];
        let baseline = group.iter().sum::<f32>() / group.len() as f32;
        let advantage = (rewards[i] - baseline).max(0.0) * policy;
        row.weigh(&mut batch.weights[i * batch.cols..(i + 1) * batch.cols], advantage);
    }
    Ok(batch)
}

/// Weighted likelihood of thoughts and answers.
fn likelihood(network: &Network, batch: &Batch) -> Result<Tensor> {
    let forward = network.forward(&batch_ids(batch)?, ForwardOptions::default())?;
    let logits = network.logits(forward.answer())?;
    loss::weighted_cross_entropy(&logits, &batch.targets, &batch.weights)
}

impl Reinforce<'_> {
    fn rollouts(&mut self, network: &Network, step: u64) -> Result<Vec<Rollout>> {
        let cfg = &self.ctx.config.phase3;
        let tokenizer = &self.ctx.data.tokenizer;
        let (open, close) = (tokenizer.control("<think>"), tokenizer.control("</think>"));
        let bytes = emit(&network.weights()?, tokenizer, &self.card, &float32)?;
        let mut rng = Rng::at_step(self.ctx.seed, "phase3.prompts", step);
        let chosen: Vec<_> =
            (0..cfg.prompts).map(|_| self.worked.get(rng.below(self.worked.len()))).collect();
        let mut prefixes = Vec::new();
        for example in &chosen {
            let mut ids = encode::prefix(tokenizer, example);
            ids.push(open);
            prefixes.extend(std::iter::repeat_n(ids, cfg.thoughts));
        }
        let options = SampleOptions {
            max_tokens: cfg.thought_tokens,
            temperature: cfg.temperature,
            seed: rng.next_u64(),
            stop: Some(close),
        };
        let thoughts = eval::generate(&bytes, &prefixes, &options)?;
        let mut rollouts = Vec::new();
        for (i, (mut ids, thought)) in prefixes.into_iter().zip(thoughts).enumerate() {
            let begin = ids.len();
            let closed = thought.last() == Some(&close);
            self.sampled.thoughts += 1;
            self.sampled.valid += usize::from(closed);
            ids.extend(&thought);
            if !closed {
                ids.push(close);
            }
            let middle = ids.len();
            if let Completion::Reasoned { answer, .. } = &chosen[i / cfg.thoughts].completion {
                ids.extend(encode::segment(tokenizer, answer));
            }
            ids.push(tokenizer.control("<eos>"));
            let weights = vec![1.0; ids.len()];
            let answer = middle..ids.len();
            rollouts.push(Rollout { sequence: Sequence { ids, weights }, thought: begin..middle, answer });
        }
        Ok(rollouts)
    }
}

fn decide(
    ctx: &PhaseContext<'_>,
    start: Weights,
    thinking: Weights,
    with: &[bool],
    without: &[bool],
    sampled: Sampled,
) -> Result<PhaseOutput> {
    let (gain, low, high) = paired_gain(with, without);
    let rate = |hits: &[bool]| Rate { hits: hits.iter().filter(|h| **h).count(), n: hits.len() };
    let mut metrics = BTreeMap::new();
    metrics.insert("accuracy_with_thoughts".into(), rate(with).value());
    metrics.insert("accuracy_control".into(), rate(without).value());
    metrics.insert("coherence_score".into(), gain);
    metrics.insert("validity_rate".into(), sampled.valid as f64 / sampled.thoughts.max(1) as f64);
    let measured = format!(
        "{:.1} % with thoughts, {:.1} % with pauses; gain {:+.1} points [{:+.1}, {:+.1}]",
        100.0 * rate(with).value(),
        100.0 * rate(without).value(),
        100.0 * gain,
        100.0 * low,
        100.0 * high
    );
    let rule = "thoughts beat equally many pause tokens, 95 % interval above 0";
    if low > 0.0 {
        let gate = Gate { passed: true, rule: rule.into(), measured, fallback: None };
        finish(ctx, thinking, metrics, gate)
    } else {
        finish(ctx, start, metrics, Gate::fell_back(rule, &format!("{measured}; thoughts off, tokens kept")))
    }
}

/// Mean of the paired differences with its 95 % normal interval.
fn paired_gain(with: &[bool], without: &[bool]) -> (f64, f64, f64) {
    let n = with.len().max(1) as f64;
    let diffs: Vec<f64> =
        with.iter().zip(without).map(|(a, b)| f64::from(u8::from(*a)) - f64::from(u8::from(*b))).collect();
    let mean = diffs.iter().sum::<f64>() / n;
    let variance = diffs.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let half = 1.96 * (variance / n).sqrt();
    (mean, mean - half, mean + half)
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
    for name in ["accuracy_with_thoughts", "accuracy_control", "coherence_score", "validity_rate"] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gain_interval_excludes_zero_only_for_a_real_difference() {
        let better: Vec<bool> = (0..200).map(|i| i % 10 < 6).collect();
        let worse: Vec<bool> = (0..200).map(|i| i % 10 < 3).collect();
        let (gain, low, _) = paired_gain(&better, &worse);
        assert!((gain - 0.3).abs() < 1e-9 && low > 0.0);
        let (_, low, high) = paired_gain(&better, &better);
        assert!(low <= 0.0 && high >= 0.0);
    }

    #[test]
    fn reward_and_weights_use_the_position_before_each_token() {
        let rollout = Rollout {
            sequence: Sequence { ids: vec![0; 6], weights: vec![1.0; 6] },
            thought: 2..4,
            answer: 4..6,
        };
        let losses = [9.0, 8.0, 7.0, 1.0, 3.0, 5.0];
        assert_eq!(rollout.reward(&losses), -2.0);
        let mut weights = [0.0; 6];
        rollout.weigh(&mut weights, 0.5);
        assert_eq!(weights, [0.0, 0.5, 0.5, 1.0, 1.0, 0.0]);
    }
}
