//! Phase 1, Cognate: one trunk, then three branches that specialise on their own data mixes.
//!
//! The branches share the trunk so that phase 2 can merge them: networks trained from different random starts
//! lie in different basins and cannot be averaged (Frankle et al. 2020, linear mode connectivity).

use std::collections::BTreeMap;

use crate::config::TrainConfig;
use crate::engine::emit::float32;
use crate::engine::mixture::{Domain, Domains, domain_of, is_single_slice};
use crate::engine::objective::{LanguageModel, batcher};
use crate::engine::trainer::{Stage, Trained, train};
use crate::error::Result;
use crate::eval;
use crate::nn::Precision;
use crate::phases::common::{self, Prompting, encoding};
use crate::pipeline::{ArtifactKind, Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::weights::Weights;

/// Name of the first stage.
const TRUNK: &str = "trunk";
/// Share of each domain in the trunk's mix.
const TRUNK_SHARES: [f32; 3] = [0.15, 0.2, 0.65];
/// Share of a branch's own domain; the others keep the rest in equal parts.
const OWN_SHARE: f32 = 0.9;

/// The phase.
pub struct Cognate;

impl Phase for Cognate {
    fn id(&self) -> PhaseId {
        PhaseId::Cognate
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let cfg = &ctx.config.phase1;
        let data = &ctx.config.data;
        let domains = Domains::new(
            &ctx.data.dataset,
            &ctx.data.dataset.train,
            encoding(&ctx.data.tokenizer, data.prompt_weight, false),
        )?;
        let config = ctx.config.model_config(ctx.data.tokenizer.vocab());
        let start = Weights::init(&config, ctx.seed);
        let trunk = self.stage(ctx, TRUNK, &cfg.trunk, &start, &domains, TRUNK_SHARES, ctx.seed)?;
        let mut artifacts = vec![("trunk".to_owned(), ctx.store.put_weights(&trunk.weights)?)];
        let mut branches = Vec::new();
        let mut metrics = BTreeMap::new();
        for (domain, seed) in Domain::ALL.into_iter().zip(cfg.seeds) {
            let name = domain.branch();
            let rest = (1.0 - OWN_SHARE) / 2.0;
            let mut shares = [rest; 3];
            shares[domain as usize] = OWN_SHARE;
            let branch = self.stage(ctx, name, &cfg.branch, &trunk.weights, &domains, shares, seed)?;
            artifacts.push((name.to_owned(), ctx.store.put_weights(&branch.weights)?));
            metrics.insert(format!("{name}.final_loss"), f64::from(branch.final_loss));
            metrics.insert(format!("{name}.seed"), seed as f64);
            branches.push(branch.weights);
        }
        self.finish(ctx, &trunk, &branches, artifacts, metrics)
    }
}

impl Cognate {
    #[expect(clippy::too_many_arguments, reason = "one call per stage; a struct would only rename them")]
    fn stage(
        &self,
        ctx: &PhaseContext<'_>,
        name: &str,
        config: &TrainConfig,
        start: &Weights,
        domains: &Domains,
        shares: [f32; 3],
        seed: u64,
    ) -> Result<Trained> {
        let sequences = domains.mix(shares, seed, name);
        let batches = batcher(sequences, config.batch_tokens, &ctx.config.data, seed, name)?;
        let mut objective =
            LanguageModel::new(batches, &ctx.config.phase1).with_dropout(config.dropout, seed);
        if name == TRUNK {
            objective = objective.without_halting();
        }
        let stage =
            Stage { name, train: config, precision: Precision::FLOAT, lambda_share: 0.0, frozen: &|_| false };
        train(&ctx.environment(), &stage, start, &mut objective)
    }

    fn finish(
        &self,
        ctx: &PhaseContext<'_>,
        trunk: &Trained,
        branches: &[Weights],
        mut artifacts: Vec<(String, crate::pipeline::ArtifactRef)>,
        mut metrics: BTreeMap<String, f64>,
    ) -> Result<PhaseOutput> {
        let table = slice_table(ctx, branches)?;
        let mut own_best = 0;
        for (d, domain) in Domain::ALL.into_iter().enumerate() {
            let column: Vec<f64> = table.iter().map(|row| row[d]).collect();
            let best = (0..3).min_by(|a, b| column[*a].total_cmp(&column[*b])).unwrap_or(0);
            own_best += usize::from(best == d || column[d].is_nan());
            for (b, other) in Domain::ALL.into_iter().enumerate() {
                metrics.insert(format!("{}.bpb_on_{}", other.branch(), domain.branch()), finite(column[b]));
            }
        }
        let primary = &branches[Domain::Adaptive as usize];
        let emitted = common::emit_measured(ctx, PhaseId::Cognate, primary, &float32, Prompting::With)?;
        metrics.extend(common::metrics(primary, &emitted));
        metrics.insert("num_models".into(), branches.len() as f64);
        metrics.insert("trunk.first_loss".into(), f64::from(trunk.first_loss));
        metrics.insert("final_loss".into(), f64::from(trunk.final_loss));
        metrics.insert("seed".into(), ctx.seed as f64);
        let latent = ctx.store.put_weights(primary)?;
        artifacts.push(("model".into(), emitted.artifact));
        artifacts.push(("latent".into(), latent));
        artifacts.push((
            "tokenizer".into(),
            ctx.store.put_bytes(ArtifactKind::Tokenizer, ctx.data.tokenizer.table())?,
        ));
        let [low, high] = ctx.config.parameter_range();
        let count = primary.parameters() as u64;
        Ok(PhaseOutput {
            artifacts,
            metrics,
            summary: format!(
                "trunk loss {:.2} → {:.2}, 3 branches, {own_best}/3 best on their own slice",
                trunk.first_loss, trunk.final_loss
            ),
            gate: gate(low..=high, count, own_best),
        })
    }
}

/// Parameters must be in range; branches that do not all specialise are merged all the same.
fn gate(range: std::ops::RangeInclusive<u64>, count: u64, own_best: usize) -> Gate {
    let (low, high) = (range.start(), range.end());
    let rule = format!("3 models of {low}–{high} parameters, each best on its own slice");
    let measured = format!("{count} parameters, {own_best}/3");
    if range.contains(&count) && own_best < 3 {
        return Gate::fell_back(&rule, &format!("{measured}; merged all the same, the best one leading"));
    }
    Gate { passed: range.contains(&count), rule, measured, fallback: None }
}

fn finite(v: f64) -> f64 {
    if v.is_finite() { v } else { 0.0 }
}

/// Bits per byte of each branch (rows) on the held-out part of each domain (columns), through the runtime;
/// not a number where a domain has no held-out examples.
fn slice_table(ctx: &PhaseContext<'_>, branches: &[Weights]) -> Result<Vec<[f64; 3]>> {
    let single = is_single_slice(&ctx.data.dataset);
    let valid = &ctx.data.dataset.valid;
    let mut slices: [Vec<_>; 3] = Default::default();
    for (i, example) in valid.iter().enumerate() {
        let slice = &mut slices[domain_of(&example, i, valid.len(), single) as usize];
        if slice.len() < ctx.config.data.eval_examples {
            slice.push(example.without_thought());
        }
    }
    let card = common::card(ctx, PhaseId::Cognate, serde_json::json!({}));
    let mut table = Vec::new();
    for weights in branches {
        let bytes = crate::engine::emit::emit(weights, &ctx.data.tokenizer, &card, &float32)?;
        let mut row = [f64::NAN; 3];
        for (bpb, slice) in row.iter_mut().zip(&slices) {
            if !slice.is_empty() {
                *bpb = eval::bits_per_byte(&bytes, slice)?;
            }
        }
        table.push(row);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::gate;

    #[test]
    fn only_three_specialists_of_the_right_size_pass() {
        assert!(gate(10..=20, 15, 3).passed);
        let unspecialised = gate(10..=20, 15, 2);
        assert!(!unspecialised.passed && unspecialised.open());
        assert!(!gate(10..=20, 21, 3).open());
        assert!(!gate(10..=20, 21, 2).open());
    }
}
