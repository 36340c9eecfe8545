//! Phase 2, EvoMerge: three branches become one model by evolving merges of their weights
//! (Akiba et al. 2024, arXiv 2403.13187, parameter space).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::data::batch::{Batch, collate};
use crate::data::{Example, Sequence, encode};
use crate::device;
use crate::engine::emit::{emit, float32};
use crate::engine::mixture::Domain;
use crate::engine::objective::batch_ids;
use crate::error::Result;
use crate::eval;
use crate::nn::{ForwardOptions, Network, Precision, loss};
use crate::phases::common::{self, Prompting};
use crate::phases::evomerge::lineage::Founders;
use crate::phases::evomerge::{Evolution, Generation, Objective, evolve};
use crate::pipeline::table;
use crate::pipeline::{ArtifactKind, Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::weights::Weights;

/// Rows of an evaluation batch.
const ROWS: usize = 32;

/// The phase.
pub struct EvoMerge;

impl Phase for EvoMerge {
    fn id(&self) -> PhaseId {
        PhaseId::EvoMerge
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let trunk = ctx.input_weights(PhaseId::Cognate, "trunk")?;
        let mut branches = Domain::ALL
            .iter()
            .map(|d| ctx.input_weights(PhaseId::Cognate, d.branch()))
            .collect::<Result<Vec<Weights>>>()?;
        // A branch's halting threshold is its own; what they become halts as the model is set to.
        branches.iter_mut().for_each(|b| b.config.halt_threshold = trunk.config.halt_threshold);
        let (search_set, holdout) = split(common::held_out(ctx, Prompting::With));
        // What phase 1 took in the same process is not this phase's.
        device::reset_peak_memory(ctx.device)?;
        let mut fitness = Fitness::new(ctx, &search_set);
        let founders = Founders { base: &trunk, originals: &branches.iter().collect::<Vec<_>>() };
        let settings = &ctx.config.phase2.search;
        ctx.progress.start("evolution", settings.generations as u64);
        let evolution = evolve(founders, settings, ctx.seed, &mut fitness)?;
        ctx.progress.finish();
        let parents = branches.iter().map(|b| bits(ctx, b, &holdout)).collect::<Result<Vec<f64>>>()?;
        let best = (0..3).min_by(|a, b| parents[*a].total_cmp(&parents[*b])).unwrap_or(0);
        let champion = bits(ctx, &evolution.champion, &holdout)?;
        finish(ctx, evolution, &branches[best], champion, parents[best])
    }
}

/// Every other example: those the search sees, and those the gate is measured on.
fn split(examples: Vec<Example>) -> (Vec<Example>, Vec<Example>) {
    let (even, odd): (Vec<_>, Vec<_>) = examples.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let strip = |v: Vec<(usize, Example)>| v.into_iter().map(|(_, e)| e.without_thought()).collect();
    (strip(even), strip(odd))
}

fn bits(ctx: &PhaseContext<'_>, weights: &Weights, examples: &[Example]) -> Result<f64> {
    let card = common::card(ctx, PhaseId::EvoMerge, json!({}));
    eval::bits_per_byte(&emit(weights, &ctx.data.tokenizer, &card, &float32)?, examples)
}

/// What the search minimises, on the search set: cross-entropy in nats per weighted token, plus
/// `phase2.accuracy_weight` times the share of examples whose completion is not right in every token, each token
/// given the true ones before it.
struct Fitness<'a> {
    ctx: &'a PhaseContext<'a>,
    batches: Vec<Batch>,
    /// Tokens of all batches, padding included.
    tokens: usize,
    /// Candidates judged since the last generation, and the time that took. Logged, never part of a result.
    judged: usize,
    spent: Duration,
}

impl<'a> Fitness<'a> {
    fn new(ctx: &'a PhaseContext<'a>, examples: &[Example]) -> Self {
        let limit = ctx.config.phase2.fitness_examples;
        let stride = (examples.len() / limit.max(1)).max(1);
        let mut sequences = examples
            .iter()
            .step_by(stride)
            .take(limit)
            .map(|e| encode::encode(&ctx.data.tokenizer, e, ctx.config.data.prompt_weight))
            .collect::<Vec<Sequence>>();
        sequences.sort_by_key(|s| s.ids.len());
        let pad = ctx.data.tokenizer.control("<pad>");
        let batches: Vec<Batch> =
            sequences.chunks(ROWS).map(|c| collate(&c.iter().collect::<Vec<_>>(), pad)).collect();
        let tokens = batches.iter().map(|b| b.ids.len()).sum();
        Self { ctx, batches, tokens, judged: 0, spent: Duration::ZERO }
    }
}

/// Rows of a batch and those right in every position of full weight, that is behind the prompt. Rows without such a
/// position do not count.
fn exact(batch: &Batch, correct: &[bool]) -> (usize, usize) {
    let rows = correct.chunks(batch.cols.max(1)).zip(batch.weights.chunks(batch.cols.max(1)));
    let judged = rows.filter(|(_, weights)| weights.iter().any(|w| *w >= 1.0));
    judged.fold((0, 0), |(all, right), (correct, weights)| {
        let hit = correct.iter().zip(weights).all(|(c, w)| *c || *w < 1.0);
        (all + 1, right + usize::from(hit))
    })
}

impl Objective for Fitness<'_> {
    fn loss(&mut self, model: &Weights) -> Result<f64> {
        let began = Instant::now();
        let network = Network::new(model, Precision::FLOAT, self.ctx.device)?.detached();
        let (mut sum, mut total, mut rows, mut right) = (0.0, 0.0, 0, 0);
        for batch in &self.batches {
            let forward = network.forward(&batch_ids(batch)?, ForwardOptions::default())?;
            let scores = loss::token_scores(&network.logits(forward.answer())?, &batch.targets)?;
            for (score, weight) in scores.iter().zip(&batch.weights) {
                sum += f64::from(score.loss) * f64::from(*weight);
                total += f64::from(*weight);
            }
            let hits = exact(batch, &scores.iter().map(|s| s.correct).collect::<Vec<_>>());
            rows += hits.0;
            right += hits.1;
        }
        self.judged += 1;
        self.spent += began.elapsed();
        let wrong = (rows - right) as f64 / rows.max(1) as f64;
        Ok(sum / total.max(f64::MIN_POSITIVE) + self.ctx.config.phase2.accuracy_weight * wrong)
    }

    fn generation(&mut self, generation: &Generation) {
        let speed = (self.judged * self.tokens) as f64 / self.spent.as_secs_f64().max(1e-9);
        let memory = device::peak_memory(self.ctx.device).ok().flatten().or_else(device::peak_resident);
        let memory = memory.map_or(String::new(), |bytes| format!(", peak {}", table::bytes(bytes)));
        let message = format!(
            "fitness loss {:.4}, diversity {:.2}, {speed:.0} tokens/s{memory}",
            generation.champion, generation.diversity
        );
        self.ctx.progress.tick(generation.index as u64, &message);
        (self.judged, self.spent) = (0, Duration::ZERO);
    }

    fn stop(&self) -> bool {
        self.ctx.stop.requested()
    }
}

fn finish(
    ctx: &PhaseContext<'_>,
    evolution: Evolution,
    best_parent: &Weights,
    champion_bits: f64,
    parent_bits: f64,
) -> Result<PhaseOutput> {
    let better = champion_bits <= parent_bits;
    let chosen = if better { &evolution.champion } else { best_parent };
    let emitted = common::emit_measured(ctx, PhaseId::EvoMerge, chosen, &float32, Prompting::With)?;
    let report = &evolution.report;
    let mut metrics = common::metrics(chosen, &emitted);
    metrics.insert("fitness".into(), -report.loss);
    metrics.insert("champion_bits_per_byte".into(), champion_bits);
    metrics.insert("best_parent_bits_per_byte".into(), parent_bits);
    metrics.insert("generations".into(), report.generations.len() as f64);
    metrics.insert("evaluations".into(), report.evaluations as f64);
    let combinations = report.combinations.iter().filter(|t| t.tried > 0).count();
    metrics.insert("combinations_explored".into(), combinations as f64);
    metrics.insert("merge_technique".into(), merge_technique(&evolution));
    insert_history(&mut metrics, &evolution);
    let log =
        json!({ "report": report, "lineage": evolution.lineage, "losses": evolution.losses }).to_string();
    let log = ctx.store.put_bytes(ArtifactKind::Report, log.as_bytes())?;
    let rule = "champion's held-out bits per byte ≤ best parent's";
    let measured = format!("{champion_bits:.4} vs {parent_bits:.4}");
    let gate = if better {
        Gate { passed: true, rule: rule.into(), measured, fallback: None }
    } else {
        Gate::fell_back(rule, &format!("{measured}; best parent kept"))
    };
    let summary = format!(
        "{} merges in {} generations, {combinations}/8 combinations",
        report.evaluations,
        report.generations.len()
    );
    let latent = ctx.store.put_weights(chosen)?;
    Ok(PhaseOutput {
        artifacts: vec![
            ("model".into(), emitted.artifact),
            ("latent".into(), latent),
            ("evolution".into(), log),
        ],
        metrics,
        summary,
        gate,
    })
}

/// Number of the combination most often better than its parents (see [`crate::phases::evomerge::Combination`]).
fn merge_technique(evolution: &Evolution) -> f64 {
    let rates = evolution.report.combinations.iter().map(|t| t.success_rate()).enumerate();
    rates.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0.0, |(i, _)| i as f64)
}

fn insert_history(metrics: &mut BTreeMap<String, f64>, evolution: &Evolution) {
    for (name, tally) in &evolution.report.techniques {
        metrics.insert(format!("merge_technique.{name}.success_rate"), tally.success_rate());
    }
    if let (Some(first), Some(last)) =
        (evolution.report.generations.first(), evolution.report.generations.last())
    {
        metrics.insert("initial_fitness".into(), -first.best);
        metrics.insert("final_diversity".into(), last.diversity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_right_only_whole() {
        let batch = Batch {
            ids: vec![1; 9],
            targets: vec![1; 9],
            // A prompt token of low weight, two of the completion; the last row has no completion.
            weights: vec![0.1, 1.0, 1.0, 0.1, 1.0, 1.0, 0.1, 0.1, 0.0],
            rows: 3,
            cols: 3,
        };
        let correct = [false, true, true, true, true, false, true, true, true];
        assert_eq!(exact(&batch, &correct), (2, 1));
        assert_eq!(exact(&batch, &[false; 9]), (2, 0));
    }
}
