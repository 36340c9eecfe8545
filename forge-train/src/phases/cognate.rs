//! Phase 1, Cognate: one trunk, then three branches that specialise on their own data mixes.
//!
//! The branches share the trunk so that phase 2 can merge them: networks trained from different random starts
//! lie in different basins and cannot be averaged (Frankle et al. 2020, linear mode connectivity).

mod measure;

use std::collections::BTreeMap;

use forge_formats::config::MemoryKind;
use forge_formats::role::Role;

use crate::config::{BranchConfig, TrainConfig};
use crate::engine::emit::float32;
use crate::engine::lengths::staged;
use crate::engine::mixture::{Domain, Domains};
use crate::engine::objective::{LanguageModel, batcher};
use crate::engine::trainer::{Stage, Trained, train};
use crate::error::Result;
use crate::nn::Precision;
use crate::phases::common::{self, Prompting, encoding};
use crate::pipeline::{ArtifactKind, Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::weights::Weights;
use measure::{halting_metrics, slice_table};

/// Name of the first stage.
const TRUNK: &str = "trunk";
/// Share of each domain in the trunk's mix.
const TRUNK_SHARES: [f32; 3] = [0.15, 0.2, 0.65];

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
        let trunk = trunk(ctx, &start, &domains)?;
        let mut artifacts = vec![("trunk".to_owned(), ctx.store.put_weights(&trunk.weights)?)];
        let mut branches = Vec::new();
        let mut metrics = BTreeMap::new();
        for (domain, seed) in Domain::ALL.into_iter().zip(cfg.seeds) {
            let name = domain.branch();
            let branch = branch(ctx, domain, &trunk.weights, &domains, seed)?;
            artifacts.push((name.to_owned(), ctx.store.put_weights(&branch.weights)?));
            metrics.insert(format!("{name}.final_loss"), f64::from(branch.final_loss));
            metrics.insert(format!("{name}.seed"), seed as f64);
            branches.push(branch.weights);
        }
        finish(ctx, &trunk, &branches, artifacts, metrics)
    }
}

/// Trains the trunk: every domain, every recursion of every token, short sequences first where the configuration says so.
fn trunk(ctx: &PhaseContext<'_>, start: &Weights, domains: &Domains) -> Result<Trained> {
    let (cfg, data) = (&ctx.config.phase1, &ctx.config.data);
    let sequences = domains.mix(TRUNK_SHARES, ctx.seed, TRUNK);
    let span = [ctx.seed, cfg.trunk.steps];
    let batches = staged(sequences, cfg.trunk.batch_tokens, data, span, TRUNK, &cfg.length_curriculum)?;
    let objective = LanguageModel::new(batches, cfg).without_halting();
    stage(ctx, TRUNK, &cfg.trunk, start, objective, ctx.seed)
}

/// Trains a branch from the trunk, on its domain's mixture and with its settings of memory and halting.
fn branch(
    ctx: &PhaseContext<'_>,
    domain: Domain,
    trunk: &Weights,
    domains: &Domains,
    seed: u64,
) -> Result<Trained> {
    let (cfg, name) = (&ctx.config.phase1, domain.branch());
    let settings = cfg.branches.of(domain);
    let sequences = domains.mix(settings.shares(domain), seed, name);
    let batches = batcher(sequences, cfg.branch.batch_tokens, &ctx.config.data, seed, name)?;
    let objective = LanguageModel::new(batches, cfg).with_halt_margin(settings.margin(cfg.halt_margin));
    stage(ctx, name, &cfg.branch, &branched(trunk, settings), objective, seed)
}

/// The trunk as a branch with these settings begins: its halting threshold, and its memory's speed. Shapes stay, so that
/// the branches can be merged.
fn branched(trunk: &Weights, settings: &BranchConfig) -> Weights {
    let mut start = trunk.clone();
    start.config.halt_threshold = settings.threshold(trunk.config.halt_threshold);
    for ((role, _), bias) in &mut start.tensors {
        if *role == Role::MemBias {
            // Running averages have a rate for each channel; of a matrix's three gates the last one forgets.
            let forgetting = match trunk.config.memory {
                MemoryKind::Ema => 0,
                MemoryKind::Titans => bias.data.len() - 1,
            };
            bias.data[forgetting..].iter_mut().for_each(|bias| *bias += settings.memory_shift);
        }
    }
    start
}

fn stage(
    ctx: &PhaseContext<'_>,
    name: &str,
    config: &TrainConfig,
    start: &Weights,
    objective: LanguageModel,
    seed: u64,
) -> Result<Trained> {
    let mut objective = objective.with_dropout(config.dropout, seed);
    let stage =
        Stage { name, train: config, precision: Precision::FLOAT, lambda_share: 0.0, frozen: &|_| false };
    train(&ctx.environment(), &stage, start, &mut objective)
}

fn finish(
    ctx: &PhaseContext<'_>,
    trunk: &Trained,
    branches: &[Weights],
    mut artifacts: Vec<(String, crate::pipeline::ArtifactRef)>,
    mut metrics: BTreeMap<String, f64>,
) -> Result<PhaseOutput> {
    let table = slice_table(ctx, branches)?;
    let own_best = table.own_best();
    metrics.extend(table.metrics());
    let primary = &branches[Domain::Adaptive as usize];
    let emitted = common::emit_measured(ctx, PhaseId::Cognate, primary, &float32, Prompting::With)?;
    metrics.extend(common::metrics(primary, &emitted));
    metrics.extend(halting_metrics(ctx, &emitted.bytes)?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Preset};

    #[test]
    fn only_three_specialists_of_the_right_size_pass() {
        assert!(gate(10..=20, 15, 3).passed);
        let unspecialised = gate(10..=20, 15, 2);
        assert!(!unspecialised.passed && unspecialised.open());
        assert!(!gate(10..=20, 21, 3).open());
        assert!(!gate(10..=20, 21, 2).open());
    }

    fn trunk(memory: MemoryKind) -> Weights {
        let mut config = Config::preset(Preset::Nano);
        config.model.memory = memory;
        Weights::init(&config.model_config(300), 1)
    }

    /// The tensors in which two models differ.
    fn changed(a: &Weights, b: &Weights) -> Vec<Role> {
        a.tensors.iter().filter(|(key, m)| b.tensors[*key] != **m).map(|(key, _)| key.0).collect()
    }

    #[test]
    fn a_branch_begins_with_its_threshold_and_its_memorys_speed() {
        let settings =
            BranchConfig { halt_threshold: 0.95, halt_margin: 0.0, memory_shift: -0.5, share: 0.0 };
        let averages = trunk(MemoryKind::Ema);
        let branch = branched(&averages, &settings);
        assert_eq!(branch.config.halt_threshold, 0.95);
        assert_eq!(changed(&averages, &branch), [Role::MemBias]);
        assert!(branch.get(Role::MemBias, 1).data.iter().all(|bias| *bias == -3.5));
        let matrix = trunk(MemoryKind::Titans);
        let gates = branched(&matrix, &settings).get(Role::MemBias, 1).data.clone();
        assert_eq!(gates, [0.0, -2.0, -7.5], "it forgets less, and writes as before");
        // Without settings a branch begins as the trunk.
        assert_eq!(branched(&averages, &BranchConfig::default()), averages);
    }

    #[test]
    fn branches_of_the_presets_differ_and_can_be_merged() {
        let config = Config::preset(Preset::Nano);
        let trunk = trunk(MemoryKind::Ema);
        let branches = Domain::ALL.map(|d| branched(&trunk, config.phase1.branches.of(d)));
        let [thinks, remembers, stops] = branches.each_ref().map(|b| b.config.halt_threshold);
        assert!(thinks > remembers && remembers > stops, "the higher the threshold, the later tokens halt");
        let margin = |d| config.phase1.branches.of(d).margin(config.phase1.halt_margin);
        assert!(margin(Domain::Reasoning) < margin(Domain::Memory));
        assert!(margin(Domain::Memory) < margin(Domain::Adaptive));
        let rates = branches.each_ref().map(|b| b.get(Role::MemBias, 1).data[0]);
        assert!(rates[1] < rates[0] && rates[1] < rates[2], "memory_integration remembers longest");
        crate::phases::evomerge::operators::check_models(&branches.each_ref()).unwrap();
    }
}
