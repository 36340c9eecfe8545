//! Phase 8, final compression: per tensor, the codec that loses least for its bytes, under a byte budget.
//!
//! SeedLM, VPTQ and Hyper are alternative lossy codes of the same numbers, so they compete rather than stack:
//! every candidate is encoded from the master weights, never from another codec's output. Each stage adds one
//! codec's candidates, chooses anew, and is kept only if the file it emits passes the gate; otherwise it is tried
//! once more with its gentler settings and then dropped.

use std::collections::BTreeMap;

use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams};
use forge_formats::role::RoleKind;
use rayon::prelude::*;
use serde_json::json;

use crate::codec::{self, Candidate, Distortion, Metric};
use crate::engine::emit::{emit_with, ternary_int8};
use crate::error::Result;
use crate::eval::EvalReport;
use crate::phases::common::{self, Emitted, Prompting};
use crate::pipeline::{ArtifactKind, Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::weights::{Key, Matrix, Weights};

/// The phase.
pub struct Compression;

/// A tensor's encodings to choose from; the first is the one it arrives with.
type Options = BTreeMap<Key, Vec<Encoded>>;

/// One encoding of a tensor.
#[derive(Clone)]
struct Encoded {
    codec: Codec,
    payload: Vec<u8>,
    distortion: f64,
}

/// A file made from one choice.
struct Attempt {
    choice: BTreeMap<Key, usize>,
    bytes: Vec<u8>,
    report: EvalReport,
}

impl Phase for Compression {
    fn id(&self) -> PhaseId {
        PhaseId::Compression
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let weights = common::latent(ctx, PhaseId::Compression)?;
        let mut options = arrival(&weights)?;
        let all_first = options.keys().map(|k| (*k, 0)).collect();
        let before = attempt(ctx, &weights, &options, all_first)?;
        for (key, list) in &mut options {
            list.extend(lossless(*key, &weights.tensors[key])?);
        }
        let smallest = choose_smallest(&options);
        let mut current = attempt(ctx, &weights, &options, smallest)?;
        let mut log = vec![format!("packing {} → {} B", before.bytes.len(), current.bytes.len())];
        let stages = stages();
        ctx.progress.start("codecs", stages.len() as u64);
        for (done, (name, gentle, strong)) in stages.iter().enumerate() {
            ctx.progress.tick(done as u64, name);
            let (next, note) = stage(ctx, &weights, &mut options, &before, &current, [strong, gentle])?;
            log.push(format!("{name}: {note}"));
            if let Some(next) = next {
                current = next;
            }
        }
        ctx.progress.finish();
        finish(ctx, &weights, &options, &before, current, &log)
    }
}

/// The stages in the order of the source documents: name, gentle settings, strong settings.
fn stages() -> [(&'static str, Vec<Codec>, Vec<Codec>); 3] {
    let seed = |block, coeffs| Codec::SeedLm(SeedLmParams { block, coeffs, bits: 16, exponent: 0 });
    let vptq = |dim, index_bits, residual_bits| Codec::Vptq(VptqParams { dim, index_bits, residual_bits });
    let hyper = |nodes| Codec::Hyper(HyperParams { nodes, rings: 2 });
    [
        ("SeedLM", vec![seed(8, 3)], vec![seed(12, 4)]),
        ("VPTQ", vec![vptq(2, 8, 0), vptq(4, 8, 8)], vec![vptq(3, 8, 0), vptq(4, 8, 0)]),
        ("Hyper", vec![hyper(1600)], vec![hyper(225)]),
    ]
}

/// The encodings phase 7's file uses.
fn arrival(weights: &Weights) -> Result<Options> {
    weights.tensors.iter().map(|(key, m)| Ok((*key, vec![encode(ternary_int8(*key), m)?]))).collect()
}

/// Smaller encodings that cost nothing (ternary) or next to nothing (half precision vectors).
fn lossless(key: Key, m: &Matrix) -> Result<Vec<Encoded>> {
    Ok(match key.0.kind() {
        RoleKind::Projection => vec![Encoded { distortion: 0.0, ..encode(Codec::Ternary5x8, m)? }],
        RoleKind::Vector => vec![encode(Codec::F16, m)?],
        RoleKind::Table => Vec::new(),
    })
}

fn encode(codec: Codec, m: &Matrix) -> Result<Encoded> {
    let codec::Encoded { codec, payload } = codec::encode(&codec, m, Metric::Plain)?;
    // A ternary projection was trained as trits: coded as trits it loses nothing.
    let ternary = matches!(codec, Codec::Ternary2b | Codec::Ternary5x8);
    let distortion = if ternary { 0.0 } else { error_of(codec, m, &payload)? };
    Ok(Encoded { codec, payload, distortion })
}

/// Sum of squared errors of a payload.
fn error_of(codec: Codec, m: &Matrix, payload: &[u8]) -> Result<f64> {
    let encoded = codec::Encoded { codec, payload: payload.to_vec() };
    Ok(Distortion::of(m, &encoded, Metric::Plain)?.error)
}

fn choose_smallest(options: &Options) -> BTreeMap<Key, usize> {
    options
        .iter()
        .map(|(key, list)| {
            let best = (0..list.len()).min_by_key(|i| list[*i].payload.len()).unwrap_or(0);
            (*key, best)
        })
        .collect()
}

/// Bytes of a file besides its payloads: header, manifest, tokenizer, card and alignment.
fn overhead(attempt: &Attempt, options: &Options) -> u64 {
    let payloads: usize = attempt.choice.iter().map(|(k, i)| options[k][*i].payload.len()).sum();
    // Another choice may shift every section's padding by up to 63 bytes.
    attempt.bytes.len().saturating_sub(payloads) as u64 + 63
}

fn attempt(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    options: &Options,
    choice: BTreeMap<Key, usize>,
) -> Result<Attempt> {
    let draft = file(ctx, weights, options, &choice, json!({}))?;
    let report = common::measure(ctx, &draft, Prompting::Without)?;
    let bytes = file(ctx, weights, options, &choice, common::eval_card(&report, Prompting::Without))?;
    Ok(Attempt { choice, bytes, report })
}

fn file(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    options: &Options,
    choice: &BTreeMap<Key, usize>,
    eval: serde_json::Value,
) -> Result<Vec<u8>> {
    let card = common::card(ctx, PhaseId::Compression, eval);
    emit_with(weights, &ctx.data.tokenizer, &card, |key| {
        let encoded = &options[&key][choice[&key]];
        Ok((encoded.codec, encoded.payload.clone()))
    })
}

/// One codec's turn: its strong settings first, then only the gentle ones. Gives the attempt to keep, if any.
fn stage(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    options: &mut Options,
    before: &Attempt,
    current: &Attempt,
    settings: [&Vec<Codec>; 2],
) -> Result<(Option<Attempt>, String)> {
    let [strong, gentle] = settings;
    let mut note = String::new();
    let base: BTreeMap<Key, usize> = options.iter().map(|(k, l)| (*k, l.len())).collect();
    add_candidates(weights, options, gentle)?;
    let gentle_end: BTreeMap<Key, usize> = options.iter().map(|(k, l)| (*k, l.len())).collect();
    add_candidates(weights, options, strong)?;
    for (limit, label) in [(None, "all settings"), (Some(&gentle_end), "gentle settings")] {
        let Some(choice) = choose(ctx, options, current, limit) else {
            note = "no choice meets the budget".into();
            continue;
        };
        let used = choice.iter().any(|(k, i)| *i >= base[k]);
        if !used || choice == current.choice {
            note = format!("wins no tensor ({label})");
            continue;
        }
        let next = attempt(ctx, weights, options, choice)?;
        let kept = common::retention(&before.report, &next.report);
        note = format!("{} B, retention {:.1} % ({label})", next.bytes.len(), 100.0 * kept);
        if acceptable(ctx, before, &next) {
            return Ok((Some(next), note));
        }
        note.push_str(", below the gate");
    }
    for (key, list) in options.iter_mut() {
        list.truncate(base[key]);
    }
    Ok((None, format!("{note}; dropped")))
}

fn add_candidates(weights: &Weights, options: &mut Options, codecs: &[Codec]) -> Result<()> {
    let tables: Vec<Key> = options.keys().filter(|k| k.0.kind() == RoleKind::Table).copied().collect();
    for key in tables {
        let m = &weights.tensors[&key];
        let encoded: Vec<Encoded> = codecs.par_iter().map(|c| encode(*c, m)).collect::<Result<Vec<_>>>()?;
        options.get_mut(&key).expect("the key came from the map").extend(encoded);
    }
    Ok(())
}

/// The choice of least distortion whose file stays within the budget.
fn choose(
    ctx: &PhaseContext<'_>,
    options: &Options,
    current: &Attempt,
    limit: Option<&BTreeMap<Key, usize>>,
) -> Option<BTreeMap<Key, usize>> {
    let budget = ctx.config.phase8.budget.checked_sub(overhead(current, options))?;
    let candidates: Vec<Vec<Candidate>> = options
        .iter()
        .map(|(key, list)| {
            let end = limit.map_or(list.len(), |l| l[key]);
            list[..end]
                .iter()
                .map(|e| Candidate {
                    codec: e.codec,
                    bytes: e.payload.len() as u64,
                    distortion: e.distortion,
                })
                .collect()
        })
        .collect();
    let picked = codec::choose(&candidates, budget)?;
    Some(options.keys().copied().zip(picked).collect())
}

/// Whether an attempt keeps enough of what phase 7's file could do.
fn acceptable(ctx: &PhaseContext<'_>, before: &Attempt, after: &Attempt) -> bool {
    let cfg = &ctx.config.phase8;
    let bpb = after.report.bits_per_byte / before.report.bits_per_byte;
    common::retention(&before.report, &after.report) >= cfg.min_retention && bpb <= cfg.max_bpb_ratio
}

fn finish(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    options: &Options,
    before: &Attempt,
    current: Attempt,
    log: &[String],
) -> Result<PhaseOutput> {
    let cfg = &ctx.config.phase8;
    let artifact = ctx.store.put_bytes(ArtifactKind::Forge, &current.bytes)?;
    let kept = common::retention(&before.report, &current.report);
    let fp32 = ctx.inputs.get(&PhaseId::Cognate).and_then(|o| o.artifact("model")).map_or(0, |a| a.bytes);
    let size = current.bytes.len() as u64;
    let codecs = codec_summary(options, &current.choice);
    let emitted = Emitted { artifact, bytes: current.bytes, report: current.report };
    let mut metrics = common::metrics(weights, &emitted);
    metrics.insert("retention".into(), kept);
    metrics.insert("bytes_before".into(), before.bytes.len() as f64);
    metrics.insert("total_compression_ratio".into(), fp32 as f64 / size as f64);
    let report =
        ctx.store.put_bytes(ArtifactKind::Report, json!({ "stages": log }).to_string().as_bytes())?;
    log.iter().for_each(|line| ctx.progress.note(line));
    let rule = format!("≤ {} B with ≥ {:.0} % retention", cfg.budget, 100.0 * cfg.min_retention);
    let measured = format!("{size} B, {:.1} %", 100.0 * kept);
    let passed = size <= cfg.budget && kept >= cfg.min_retention;
    let gate = if passed {
        Gate { passed, rule, measured, fallback: None }
    } else {
        Gate::fell_back(&rule, &format!("{measured}; the last stage that passed is kept"))
    };
    Ok(PhaseOutput {
        artifacts: vec![
            ("model".into(), emitted.artifact),
            ("latent".into(), ctx.store.put_weights(weights)?),
            ("stages".into(), report),
        ],
        metrics,
        summary: format!("{codecs}; {:.1}× under FP32", fp32 as f64 / size as f64),
        gate,
    })
}

/// "Ternary5x8 ×11, VPTQ ×1": the codecs a file uses.
fn codec_summary(options: &Options, choice: &BTreeMap<Key, usize>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, i) in choice {
        *counts.entry(options[key][*i].codec.name()).or_default() += 1;
    }
    counts.iter().map(|(name, n)| format!("{name} ×{n}")).collect::<Vec<_>>().join(", ")
}
