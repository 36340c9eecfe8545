//! The phase: fold, prune, distil, and check against the device profile.

use std::collections::BTreeMap;

use forge_formats::role::Role;
use forge_runtime::{Model, Options};

use crate::data::examples::Part;
use crate::data::{Completion, Examples, Mix, Sequence, Slice};
use crate::engine::emit::ternary_int8;
use crate::engine::mixture::shuffled;
use crate::engine::objective::{Distillation, LanguageModel, batcher};
use crate::engine::trainer::{Stage, train};
use crate::error::{Error, Result};
use crate::nn::{Network, Precision};
use crate::phases::common::{self, Emitted, Prompting, encoding};
use crate::phases::edge::profile::Profile;
use crate::phases::edge::prune;
use crate::pipeline::{Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::rng::Rng;
use crate::weights::Weights;

/// The phase.
pub struct Edge;

impl Phase for Edge {
    fn id(&self) -> PhaseId {
        PhaseId::Edge
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let cfg = &ctx.config.phase7;
        let profile = load_profile(&cfg.profile)?;
        let parent = common::latent(ctx, PhaseId::Edge)?;
        let before = common::emit_measured(ctx, PhaseId::Edge, &parent, &ternary_int8, Prompting::Without)?;
        let folded = prune::fold_gains(&parent)?;
        let importance = channel_importance(ctx, &parent)?;
        let keep = ((1.0 - cfg.prune_ffn) * parent.config.ffn as f32 / 4.0).round().max(1.0) as usize * 4;
        let kept = prune::select(&importance, &[], keep.min(parent.config.ffn as usize))?;
        let pruned = prune::keep_ffn(&folded, &kept)?;
        let student = distil(ctx, &parent, &pruned)?;
        let after = common::emit_measured(ctx, PhaseId::Edge, &student, &ternary_int8, Prompting::Without)?;
        decide(ctx, &profile, (parent, before), (student, after))
    }
}

/// Importance of every feed-forward channel of every block: root mean square of its activation on the baked
/// behaviours times the norm of its outgoing weights (Wanda's score summed over a structure).
fn channel_importance(ctx: &PhaseContext<'_>, weights: &Weights) -> Result<Vec<Vec<f32>>> {
    let moments = crate::phases::calibration::input_moments(
        ctx,
        weights,
        Precision::TERNARY,
        &first_of(&behaviours(ctx)?, ctx.config.phase4.calibration_examples),
    )?;
    let rms = |layer| moments[&(Role::Down, layer)].data.iter().map(|m| m.sqrt()).collect();
    let rms: Vec<Vec<f32>> = (0..weights.config.layers).map(rms).collect();
    prune::column_scores(weights, Role::Down, &rms)
}

/// A shipped profile by name, or a user's own by path.
fn load_profile(name: &str) -> Result<Profile> {
    let path = std::path::Path::new(name);
    if path.extension().is_some_and(|e| e == "toml") {
        Profile::parse(&std::fs::read_to_string(path).map_err(Error::io("read", path))?)
    } else {
        Profile::named(name)
    }
}

/// Training sequences of what the model now does unprompted, and of everything else it should keep; shuffled.
fn behaviours(ctx: &PhaseContext<'_>) -> Result<Mix> {
    let thoughts = ctx.inputs.get(&PhaseId::QuietStar).is_some_and(|q| q.gate.fallback.is_none());
    let calls = ctx.data.dataset.train.filter(|e| matches!(e.completion, Completion::Tool { .. }))?;
    let others = ctx.data.dataset.train.filter(|e| e.slice != Slice::Tool)?;
    let mut parts = Vec::new();
    for (calls, others) in calls.parts().iter().zip(others.parts()) {
        let mut out = calls.examples.writer();
        out.extend(calls.examples.iter().map(|e| e.without_system()))?;
        out.extend(others.examples.iter().map(|e| match e.slice {
            Slice::Dialogue => e.without_system(),
            _ => e.into_owned(),
        }))?;
        parts.push(Part { weight: calls.weight, examples: out.finish()? });
    }
    let mut rng = Rng::new(ctx.seed, &["phase7", "behaviours"]);
    let encoding = encoding(&ctx.data.tokenizer, ctx.config.data.prompt_weight, thoughts);
    shuffled(&Examples::mixed(parts), &mut rng, encoding)
}

/// The first `limit` of these sequences, the sources in turn.
fn first_of(mix: &Mix, limit: usize) -> Vec<Sequence> {
    let longest = mix.0.iter().map(|(_, sequences)| sequences.len()).max().unwrap_or(0);
    let in_turn = (0..longest).flat_map(|i| mix.0.iter().map(move |(_, sequences)| (i, sequences)));
    let there = in_turn.filter(|(i, sequences)| *i < sequences.len());
    there.take(limit).map(|(i, sequences)| sequences.get(i).into_owned()).collect()
}

fn distil(ctx: &PhaseContext<'_>, teacher: &Weights, student: &Weights) -> Result<Weights> {
    let cfg = &ctx.config.phase7;
    let precision = Precision::TERNARY;
    let batches = batcher(behaviours(ctx)?, cfg.train.batch_tokens, &ctx.config.data, ctx.seed, "phase7")?;
    let mut objective = Distillation {
        data: LanguageModel::new(batches, &ctx.config.phase1).with_dropout(cfg.train.dropout, ctx.seed),
        teacher: Network::new(teacher, precision, ctx.device)?.detached().prepared()?,
        weight: cfg.distil_weight,
    };
    let stage = Stage { name: "distil", train: &cfg.train, precision, lambda_share: 0.0, frozen: &|_| false };
    Ok(train(&ctx.environment(), &stage, student, &mut objective)?.weights)
}

fn decide(
    ctx: &PhaseContext<'_>,
    profile: &Profile,
    (parent, before): (Weights, Emitted),
    (student, after): (Weights, Emitted),
) -> Result<PhaseOutput> {
    let workspace = Model::parse(&after.bytes)?.workspace_for(&Options::device());
    let misfit = profile.fits(after.bytes.len() as u64, workspace as u64).err();
    let kept = common::retention(&before.report, &after.report);
    let smaller = after.bytes.len() <= before.bytes.len();
    let mut extra = BTreeMap::new();
    extra.insert("accuracy_retention".to_owned(), kept);
    extra.insert("workspace_bytes".to_owned(), workspace as f64);
    extra.insert("bytes_before".to_owned(), before.bytes.len() as f64);
    let removed = parent.parameters() - student.parameters();
    extra.insert("parameters_removed".to_owned(), removed as f64);
    let rule = format!(
        "no growth, fits {}, ≥ {:.0} % of phase 6 kept",
        profile.name,
        100.0 * ctx.config.phase7.min_retention
    );
    let measured = format!(
        "{} → {} B, {workspace} B RAM{}, {:.1} % kept",
        before.bytes.len(),
        after.bytes.len(),
        misfit.map_or(String::new(), |m| format!(" ({m})")),
        100.0 * kept
    );
    let passed = smaller && misfit.is_none() && kept >= ctx.config.phase7.min_retention;
    let (gate, weights, emitted) = if passed {
        (Gate { passed, rule, measured, fallback: None }, student, after)
    } else {
        extra.insert("accuracy_retention".to_owned(), 1.0);
        (Gate::fell_back(&rule, &format!("{measured}; phase 6's model kept")), parent, before)
    };
    let mut metrics = common::metrics(&weights, &emitted);
    metrics.extend(extra);
    metrics.insert("model_size_mb".into(), emitted.bytes.len() as f64 / 1e6);
    let latent = ctx.store.put_weights(&weights)?;
    Ok(PhaseOutput {
        artifacts: vec![("model".into(), emitted.artifact), ("latent".into(), latent)],
        metrics,
        summary: format!(
            "gains folded, {removed} parameters ({:.0} % of the FFN) removed, distilled for {}",
            100.0 * ctx.config.phase7.prune_ffn,
            profile.name
        ),
        gate,
    })
}
