//! Phase 6, prompt baking (Bhargava et al. 2024, arXiv 2409.13697): the model without a system text learns the
//! distribution it has with one, `min KL(P(·|system, x) ‖ P_baked(·|x))` over trajectories sampled from the
//! prompted model. A-cycles bake the tools, B-cycles the persona; the best cycle is kept.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::data::{Completion, Example, Examples, Mix, Sequence, Slice, encode};
use crate::engine::emit::{emit, ternary_int8};
use crate::engine::mixture::shuffled;
use crate::engine::objective::{LanguageModel, batch_ids, batcher};
use crate::engine::split::Split;
use crate::engine::trainer::{Objective, Shard, Stage, train};
use crate::error::Result;
use crate::eval::{self, EvalReport, SampleOptions};
use crate::nn::{ForwardOptions, Network, Precision, loss};
use crate::phases::common::{self, Prompting, encoding};
use crate::pipeline::{Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::rng::Rng;
use crate::weights::Weights;

/// Trajectories a step trains on.
pub const BATCH: usize = 64;
/// Trajectories held out to measure the divergence, at most half of them.
const PROBE: usize = 64;
/// Of them, those that are computed at once.
const PROBE_ROWS: usize = 8;

/// The phase.
pub struct Baking;

/// A completion sampled from the prompted model, as the teacher and as the student see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// With the system text.
    pub prompted: Vec<u16>,
    /// Without it.
    pub bare: Vec<u16>,
    /// Tokens of the completion, at the end of both.
    pub completion: usize,
}

/// State of one candidate for the phase's result.
struct Candidate {
    weights: Weights,
    report: EvalReport,
    persona: f64,
    cycle: u32,
}

impl Candidate {
    fn score(&self) -> f64 {
        let tools = &self.report.frame_accuracy;
        if tools.n == 0 { self.persona } else { tools.value() + 0.25 * self.persona }
    }
}

impl Phase for Baking {
    fn id(&self) -> PhaseId {
        PhaseId::Baking
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let start = common::latent(ctx, PhaseId::Baking)?;
        let tools = prompted_examples(ctx, Slice::Tool)?;
        let personas = prompted_examples(ctx, Slice::Dialogue)?;
        let mut best = candidate(ctx, start.clone(), 0)?;
        let unbaked_persona = best.persona;
        let reference = retained_bits(ctx, &start)?;
        if tools.is_empty() && personas.is_empty() {
            let why = "the data has no system texts to bake";
            return finish(ctx, best, BTreeMap::new(), Gate::fell_back("something to bake", why));
        }
        let mut metrics = BTreeMap::new();
        let mut weights = start.clone();
        let mut pool = Vec::new();
        for cycle in 1..=ctx.config.phase6.cycles {
            let bake_tools = personas.is_empty() || (cycle % 2 == 1 && !tools.is_empty());
            let sources = if bake_tools { &tools } else { &personas };
            let fresh = sample(ctx, &start, sources, cycle)?;
            if fresh.len() < 2 {
                // One to measure on and one to learn from. A cycle without measures never passes the gate.
                ctx.progress.note(&format!("cycle {cycle}: the model ended none of its samples"));
                continue;
            }
            let (baked, before, after) = bake(ctx, &start, &weights, &fresh, &pool, cycle)?;
            metrics.insert(format!("cycle{cycle}.kl_before"), before);
            metrics.insert(format!("cycle{cycle}.kl_after"), after);
            pool.extend(fresh);
            weights = interpolate(&weights, &baked, ctx.config.phase6.strength);
            let forgetting = retained_bits(ctx, &weights)? / reference;
            metrics.insert(format!("cycle{cycle}.forgetting"), forgetting);
            let next = candidate(ctx, weights.clone(), cycle)?;
            if forgetting <= ctx.config.phase6.max_forgetting && next.score() > best.score() {
                best = next;
            }
        }
        metrics.insert("unbaked_persona_consistency".into(), unbaked_persona);
        let gate = gate(ctx, &best, &start, &metrics)?;
        finish(ctx, best, metrics, gate)
    }
}

/// Training examples of a slice that carry a system text.
fn prompted_examples(ctx: &PhaseContext<'_>, slice: Slice) -> Result<Examples> {
    let train = &ctx.data.dataset.train;
    match slice {
        Slice::Tool => train.filter(|e| matches!(e.completion, Completion::Tool { .. })),
        _ => train.filter(|e| e.slice == slice && e.system.is_some()),
    }
}

fn candidate(ctx: &PhaseContext<'_>, weights: Weights, cycle: u32) -> Result<Candidate> {
    let card = common::card(ctx, PhaseId::Baking, serde_json::json!({}));
    let bytes = emit(&weights, &ctx.data.tokenizer, &card, &ternary_int8)?;
    let report = common::measure(ctx, &bytes, Prompting::Without)?;
    let persona = eval::persona_consistency(&bytes, &ctx.data.dataset.valid)?.value();
    Ok(Candidate { weights, report, persona, cycle })
}

/// Bits per byte on what baking must not touch: commands with the system text, problems and prose.
fn retained_bits(ctx: &PhaseContext<'_>, weights: &Weights) -> Result<f64> {
    let card = common::card(ctx, PhaseId::Baking, serde_json::json!({}));
    let bytes = emit(weights, &ctx.data.tokenizer, &card, &ternary_int8)?;
    let kept: Vec<Example> = common::held_out(ctx, Prompting::With)
        .into_iter()
        .filter(|e| e.slice != Slice::Dialogue || e.system.is_some())
        .collect();
    eval::bits_per_byte(&bytes, &kept)
}

/// Samples completions of training prompts from the prompted model, through the runtime.
fn sample(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    sources: &Examples,
    cycle: u32,
) -> Result<Vec<Trajectory>> {
    let cfg = &ctx.config.phase6;
    let tokenizer = &ctx.data.tokenizer;
    let card = common::card(ctx, PhaseId::Baking, serde_json::json!({}));
    let bytes = emit(weights, tokenizer, &card, &ternary_int8)?;
    let mut rng = Rng::new(ctx.seed, &["phase6", "trajectories", &cycle.to_string()]);
    let chosen: Vec<_> = (0..cfg.trajectories).map(|_| sources.get(rng.below(sources.len()))).collect();
    let prompted: Vec<Vec<u16>> = chosen.iter().map(|e| encode::prefix(tokenizer, e)).collect();
    let options = SampleOptions {
        max_tokens: ctx.config.data.max_len / 2,
        temperature: cfg.temperature,
        seed: rng.next_u64(),
        stop: None,
    };
    let completions = eval::generate(&bytes, &prompted, &options)?;
    let eos = tokenizer.control("<eos>");
    let mut out = Vec::new();
    for ((example, mut prompted), completion) in chosen.iter().zip(prompted).zip(completions) {
        let mut bare = encode::prefix(tokenizer, &example.without_system());
        if completion.last() != Some(&eos) {
            continue;
        }
        prompted.extend(&completion);
        bare.extend(&completion);
        out.push(Trajectory { prompted, bare, completion: completion.len() });
    }
    Ok(out)
}

fn bake(
    ctx: &PhaseContext<'_>,
    teacher: &Weights,
    student: &Weights,
    fresh: &[Trajectory],
    pool: &[Trajectory],
    cycle: u32,
) -> Result<(Weights, f64, f64)> {
    let cfg = &ctx.config.phase6;
    let precision = Precision::TERNARY;
    let teacher = Network::new(teacher, precision, ctx.device)?.detached().prepared()?;
    let probe = &fresh[..PROBE.min(fresh.len() / 2)];
    let before = divergence(ctx, &teacher, &Network::new(student, precision, ctx.device)?, probe)?;
    let name = format!("cycle{cycle}");
    let replay = replay_sequences(ctx, cycle)?;
    let label = format!("phase6.replay{cycle}");
    let tokens = (cfg.train.batch_tokens as f32 * cfg.replay) as usize;
    let batches = batcher(replay, tokens.max(256), &ctx.config.data, ctx.seed, &label)?;
    let mut objective = BakeObjective {
        ctx,
        teacher,
        fresh: fresh[probe.len()..].to_vec(),
        pool: pool.to_vec(),
        replay: LanguageModel::new(batches, &ctx.config.phase1).with_dropout(cfg.train.dropout, ctx.seed),
        cycle,
    };
    let stage = Stage { name: &name, train: &cfg.train, precision, lambda_share: 0.0, frozen: &|_| false };
    let baked = train(&ctx.environment(), &stage, student, &mut objective)?.weights;
    let network = Network::new(&baked, precision, ctx.device)?;
    let after = divergence(ctx, &objective.teacher, &network, probe)?;
    Ok((baked, before, after))
}

/// Training data that baking does not contradict: everything but commands and dialogues without a system text.
fn replay_sequences(ctx: &PhaseContext<'_>, cycle: u32) -> Result<Mix> {
    let mut rng = Rng::new(ctx.seed, &["phase6", "replay", &cycle.to_string()]);
    let thoughts = ctx.inputs.get(&PhaseId::QuietStar).is_some_and(|q| q.gate.fallback.is_none());
    let kept = |e: &Example| e.system.is_some() || matches!(e.slice, Slice::Arithmetic | Slice::Prose);
    let replayed = ctx.data.dataset.train.filter(kept)?;
    let encoding = encoding(&ctx.data.tokenizer, ctx.config.data.prompt_weight, thoughts);
    shuffled(&replayed, &mut rng, encoding)
}

/// KL from the prompted teacher to the bare student on completions, plus replayed data.
struct BakeObjective<'a> {
    ctx: &'a PhaseContext<'a>,
    teacher: Network,
    fresh: Vec<Trajectory>,
    pool: Vec<Trajectory>,
    replay: LanguageModel,
    cycle: u32,
}

impl Objective for BakeObjective<'_> {
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>> {
        let label = format!("phase6.cycle{}", self.cycle);
        let mut rng = Rng::at_step(self.ctx.seed, &label, step);
        let rehearse = if self.pool.is_empty() { 0.0 } else { 0.5 };
        let chosen: Vec<&Trajectory> = (0..BATCH)
            .map(|_| if rng.chance(rehearse) { rng.pick(&self.pool) } else { rng.pick(&self.fresh) })
            .collect();
        let pad = self.ctx.data.tokenizer.control("<pad>");
        let (teacher, share) = (&self.teacher, self.ctx.config.phase6.replay);
        let longest = chosen.iter().map(|t| t.bare.len().max(t.prompted.len())).max().unwrap_or(0);
        let parts = split.parts(chosen.len(), longest);
        let completions: usize = chosen.iter().map(|t| t.completion).sum();
        let mut shards: Vec<Shard<'_>> = (0..parts)
            .map(|part| {
                let part: Vec<&Trajectory> = chosen.iter().skip(part).step_by(parts).copied().collect();
                let weight = part.iter().map(|t| t.completion).sum::<usize>() as f32 / completions as f32;
                let tokens = part.len() * part.iter().map(|t| t.bare.len() - 1).max().unwrap_or(0);
                let work = move |network: &Network| {
                    let kl = baking_loss(pad, teacher, network, &part, ForwardOptions::default())?;
                    Ok((kl * f64::from(1.0 + share))?)
                };
                Shard { weight, tokens, work: Box::new(work) }
            })
            .collect();
        let replay = self.replay.shards(network, step, split)?;
        let total = replay.iter().map(|data| data.weight).sum::<f32>().max(f32::MIN_POSITIVE);
        // Shares of a step add up to 1 + `share`, by which the engine divides.
        shards.extend(replay.into_iter().map(|data| Shard {
            weight: share * data.weight / total,
            tokens: data.tokens,
            work: Box::new(move |network| Ok(((data.work)(network)? * f64::from(1.0 + share))?)),
        }));
        Ok(shards)
    }
}

/// Mean divergence in nats per completion token, without training and without a graph, a few rows at a time.
fn divergence(
    ctx: &PhaseContext<'_>,
    teacher: &Network,
    student: &Network,
    probe: &[Trajectory],
) -> Result<f64> {
    let pad = ctx.data.tokenizer.control("<pad>");
    let options = ForwardOptions { halting: true, ..Default::default() };
    let student = student.detached().prepared()?;
    let (mut nats, mut tokens) = (0.0, 0);
    for rows in probe.chunks(PROBE_ROWS) {
        let rows: Vec<&Trajectory> = rows.iter().collect();
        let kl = f64::from(baking_loss(pad, teacher, &student, &rows, options)?.to_scalar::<f32>()?);
        let completions: usize = rows.iter().map(|row| row.completion).sum();
        nats += kl * completions as f64;
        tokens += completions;
    }
    Ok(nats / tokens.max(1) as f64)
}

/// `KL(P_teacher(·|system, x, y_<t) ‖ P_student(·|x, y_<t))`, mean over all completion tokens.
pub(super) fn baking_loss(
    pad: u16,
    teacher: &Network,
    student: &Network,
    chosen: &[&Trajectory],
    options: ForwardOptions,
) -> Result<Tensor> {
    let with: Vec<&[u16]> = chosen.iter().map(|t| t.prompted.as_slice()).collect();
    let without: Vec<&[u16]> = chosen.iter().map(|t| t.bare.as_slice()).collect();
    let target = completion_logits(
        teacher,
        &with,
        chosen,
        pad,
        ForwardOptions { halting: true, ..Default::default() },
    )?
    .detach();
    let output = completion_logits(student, &without, chosen, pad, options)?;
    let weights = vec![1.0; target.dim(0)?];
    loss::kl(&output, &target, &weights, 1.0)
}

/// Logits at the positions that predict completion tokens, `(positions, vocab)`.
fn completion_logits(
    network: &Network,
    rows: &[&[u16]],
    chosen: &[&Trajectory],
    pad: u16,
    options: ForwardOptions,
) -> Result<Tensor> {
    let sequences: Vec<Sequence> =
        rows.iter().map(|ids| Sequence { ids: ids.to_vec(), weights: vec![1.0; ids.len()] }).collect();
    let batch = crate::data::batch::collate(&sequences.iter().collect::<Vec<_>>(), pad);
    let mut positions = Vec::new();
    for (r, (ids, trajectory)) in rows.iter().zip(chosen).enumerate() {
        let begin = ids.len() - trajectory.completion;
        positions.extend((begin..ids.len()).map(|i| (r * batch.cols + i - 1) as u32));
    }
    let forward = network.forward(&batch_ids(&batch)?, options)?;
    let positions = Tensor::from_slice(&positions, positions.len(), network.device())?;
    network.logits(&forward.answer().index_select(&positions, 0)?)
}

/// Half-baking: `strength` of the way from `from` to `to`.
pub fn interpolate(from: &Weights, to: &Weights, strength: f32) -> Weights {
    let mut out = to.clone();
    for (key, m) in &mut out.tensors {
        let base = &from.tensors[key].data;
        m.data.iter_mut().zip(base).for_each(|(t, f)| *t = f + strength * (*t - f));
    }
    out
}

/// Whether every cycle began with a divergence above 0 and ended with a smaller one. A prompt on both sides gives 0
/// before, and nothing can be baked.
fn divergence_fell(metrics: &BTreeMap<String, f64>, cycles: u32) -> bool {
    (1..=cycles).all(|c| {
        let get = |name: &str| metrics.get(&format!("cycle{c}.{name}")).copied().unwrap_or(f64::NAN);
        get("kl_before") > 0.0 && get("kl_after") < get("kl_before")
    })
}

fn gate(
    ctx: &PhaseContext<'_>,
    best: &Candidate,
    start: &Weights,
    metrics: &BTreeMap<String, f64>,
) -> Result<Gate> {
    let fell = divergence_fell(metrics, ctx.config.phase6.cycles);
    let card = common::card(ctx, PhaseId::Baking, serde_json::json!({}));
    let bytes = emit(start, &ctx.data.tokenizer, &card, &ternary_int8)?;
    let prompted = common::measure(ctx, &bytes, Prompting::With)?.frame_accuracy;
    let bare = best.report.frame_accuracy;
    let measured = format!(
        "divergence fell in every cycle: {fell}; frames {:.1} % without prompt (unbaked with prompt {:.1} %)",
        100.0 * bare.value(),
        100.0 * prompted.value()
    );
    let rule = "KL > 0 before and falling; a cycle beats the unbaked model within the forgetting bound";
    if fell && best.cycle > 0 {
        Ok(Gate { passed: true, rule: rule.into(), measured, fallback: None })
    } else {
        Ok(Gate::fell_back(rule, &format!("{measured}; cycle {} kept", best.cycle)))
    }
}

fn finish(
    ctx: &PhaseContext<'_>,
    best: Candidate,
    mut metrics: BTreeMap<String, f64>,
    gate: Gate,
) -> Result<PhaseOutput> {
    let emitted =
        common::emit_measured(ctx, PhaseId::Baking, &best.weights, &ternary_int8, Prompting::Without)?;
    metrics.extend(common::metrics(&best.weights, &emitted));
    metrics.insert("tool_success_rate".into(), emitted.report.frame_accuracy.value());
    metrics.insert("persona_consistency".into(), best.persona);
    let latent = ctx.store.put_weights(&best.weights)?;
    Ok(PhaseOutput {
        artifacts: vec![("model".into(), emitted.artifact), ("latent".into(), latent)],
        metrics,
        summary: format!(
            "prompts baked in, cycle {} kept; persona {:.0} %",
            best.cycle,
            100.0 * best.persona
        ),
        gate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_divergence_that_was_there_and_fell_passes() {
        let cycle = |before, after| {
            BTreeMap::from([("cycle1.kl_before".to_owned(), before), ("cycle1.kl_after".to_owned(), after)])
        };
        assert!(divergence_fell(&cycle(0.6, 0.1), 1));
        assert!(!divergence_fell(&cycle(0.0, 0.0), 1), "a prompt on both sides");
        assert!(!divergence_fell(&cycle(0.6, 0.6), 1));
        assert!(!divergence_fell(&cycle(0.6, f64::NAN), 1));
        assert!(!divergence_fell(&cycle(0.6, 0.1), 2), "a cycle that left no measure");
    }

    #[test]
    fn half_baking_goes_half_the_way() {
        let config = crate::config::Config::preset(crate::config::Preset::Nano).model_config(300);
        let (a, b) = (Weights::init(&config, 1), Weights::init(&config, 2));
        assert_eq!(interpolate(&a, &b, 0.0), a);
        let half = interpolate(&a, &b, 0.5);
        for (key, m) in &half.tensors {
            for ((h, x), y) in m.data.iter().zip(&a.tensors[key].data).zip(&b.tensors[key].data) {
                assert!((h - 0.5 * (x + y)).abs() < 1e-6);
            }
        }
    }
}
