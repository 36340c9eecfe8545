//! The checks behind every contract.

use std::collections::BTreeSet;

use forge_formats::config::ModelConfig;
use forge_formats::file::File;
use forge_formats::manifest::{Content, Section};
use forge_formats::tokenizer::{SpecialKind, TokenizerTable};
use serde_json::Value;

use super::{Check, Contract, Evidence};
use crate::error::{Error, Result};
use crate::pipeline::artifact::sha256_hex;
use crate::pipeline::phase::{ArtifactRef, PhaseId, PhaseOutput};

/// Special tokens every model of this project speaks.
const CONTROLS: [&str; 7] = ["<pad>", "<bos>", "<eos>", "<sys>", "<sep>", "<think>", "</think>"];

pub(super) fn all(contract: &Contract, evidence: &Evidence<'_>) -> Result<Vec<Check>> {
    let output = evidence
        .outputs
        .get(&contract.source)
        .ok_or_else(|| Error::Artifact(format!("phase {} left no output", contract.source)))?;
    let mut checks = metrics(contract, output);
    checks.extend(models(contract, evidence, output)?);
    checks.push(special_tokens(evidence.tokenizer));
    checks.extend(file(contract, evidence, output)?);
    Ok(checks)
}

fn check(rule: impl Into<String>, found: impl Into<String>, passed: bool) -> Check {
    Check { rule: rule.into(), found: found.into(), passed }
}

/// Required metrics, their bounds, and that no metric at all is other than finite.
fn metrics(contract: &Contract, output: &PhaseOutput) -> Vec<Check> {
    let value = |name: &str| output.metrics.get(name).copied();
    let shown = |v: Option<f64>| v.map_or_else(|| "missing".to_owned(), |v| v.to_string());
    let mut checks = Vec::new();
    for name in contract.required {
        let v = value(name);
        checks.push(check(format!("`{name}` is recorded"), shown(v), v.is_some_and(f64::is_finite)));
    }
    for limit in &contract.limits {
        let v = value(limit.metric);
        let (low, high) = (limit.min, limit.max);
        let rule = match (low == high, high == f64::MAX) {
            (true, _) => format!("`{}` = {low}", limit.metric),
            (_, true) => format!("`{}` ≥ {low:e}", limit.metric),
            _ => format!("{low} ≤ `{}` ≤ {high}", limit.metric),
        };
        checks.push(check(rule, shown(v), v.is_some_and(|v| limit.holds(v))));
    }
    let bad: Vec<_> =
        output.metrics.iter().filter(|(_, v)| !v.is_finite()).map(|(name, _)| &**name).collect();
    let found = if bad.is_empty() { "all are".to_owned() } else { bad.join(", ") };
    checks.push(check("every metric is finite", found, bad.is_empty()));
    checks
}

/// The models: all there, of one shape, of the right size, finite, and fitting the tokenizer.
fn models(contract: &Contract, evidence: &Evidence<'_>, output: &PhaseOutput) -> Result<Vec<Check>> {
    let present: Vec<(&str, &ArtifactRef)> =
        contract.models.iter().filter_map(|label| Some((*label, output.artifact(label)?))).collect();
    let (expected, found) = (contract.models.len(), present.len());
    let rule = format!("{expected} model(s): {}", contract.models.join(", "));
    let mut checks = vec![check(rule, found.to_string(), found == expected)];
    let distinct: BTreeSet<&str> = present.iter().map(|(_, artifact)| &*artifact.hash).collect();
    checks.push(check("the models differ", distinct.len().to_string(), distinct.len() == found));
    let vocab = TokenizerTable::parse(evidence.tokenizer).map_or(0, |table| table.vocab());
    let mut shape: Option<ModelConfig> = None;
    for (label, artifact) in present {
        let weights = evidence.store.weights(artifact)?;
        let (count, [low, high]) = (weights.parameters() as u64, contract.parameters);
        let rule = format!("`{label}` has {low}–{high} parameters");
        checks.push(check(rule, count.to_string(), (low..=high).contains(&count)));
        let finite = weights.is_finite();
        checks.push(check(format!("`{label}` is finite"), finite.to_string(), finite));
        let rule = format!("`{label}` has the tokenizer's {vocab} tokens");
        checks.push(check(rule, weights.config.vocab.to_string(), weights.config.vocab == vocab));
        // Branches halt at thresholds of their own; that is no part of the shape.
        let found = ModelConfig { halt_threshold: 0.0, ..weights.config };
        let same = shape.as_ref().is_none_or(|first| *first == found);
        checks.push(check(format!("`{label}` has the common shape"), same.to_string(), same));
        shape.get_or_insert(found);
    }
    Ok(checks)
}

fn special_tokens(tokenizer: &[u8]) -> Check {
    let rule = "the tokenizer has every control token";
    match TokenizerTable::parse(tokenizer) {
        Err(why) => check(rule, why.to_string(), false),
        Ok(table) => {
            let absent: Vec<_> = CONTROLS
                .into_iter()
                .filter(|name| table.special(SpecialKind::Control, name).is_none())
                .collect();
            let found =
                if absent.is_empty() { "all".to_owned() } else { format!("without {}", absent.join(" ")) };
            check(rule, found, absent.is_empty())
        }
    }
}

/// The `.forge` file: valid, as long as reported, with the run's tokenizer and its parents' hashes.
fn file(contract: &Contract, evidence: &Evidence<'_>, output: &PhaseOutput) -> Result<Vec<Check>> {
    let Some(artifact) = output.artifact("model") else {
        return Ok(vec![check("a `.forge` file was emitted", "none", false)]);
    };
    let bytes = evidence.store.bytes(artifact)?;
    let file = match File::parse(&bytes).and_then(|file| file.verify().map(|()| file)) {
        Ok(file) => file,
        Err(why) => return Ok(vec![check("the `.forge` file is valid", why.to_string(), false)]),
    };
    let reported = output.metrics.get("bytes").copied();
    let length = bytes.len() as f64;
    let rule = format!("`bytes` is the file's length, {length}");
    let mut checks = vec![check(rule, format!("{reported:?}"), reported == Some(length))];
    checks.push(tokenizer(&file, evidence.tokenizer));
    if let Some(before) = contract.source.previous() {
        let earlier = evidence.outputs.get(&before);
        checks.push(provenance(&file, artifact, before, earlier));
        if contract.no_growth {
            checks.push(growth(&file, evidence, before, earlier)?);
        }
    }
    Ok(checks)
}

/// The card is left out: a longer line of parents makes it longer.
fn growth(
    file: &File<'_>,
    evidence: &Evidence<'_>,
    before: PhaseId,
    earlier: Option<&PhaseOutput>,
) -> Result<Check> {
    let parent = earlier.and_then(|output| output.artifact("model"));
    let parent = parent.map(|artifact| evidence.store.bytes(artifact)).transpose()?.unwrap_or_default();
    let limit = File::parse(&parent).map_or(0, |file| payload(&file));
    let (rule, found) = (format!("tensors and tokenizer ≤ phase {before}'s {limit} B"), payload(file));
    Ok(check(rule, format!("{found} B"), found <= limit))
}

/// Bytes of all sections but the card.
fn payload(file: &File<'_>) -> u64 {
    let counted = |section: &Section| !matches!(section.content, Content::Card);
    file.sections().filter(counted).map(|section| u64::from(section.len)).sum()
}

fn tokenizer(file: &File<'_>, expected: &[u8]) -> Check {
    let is_table = |section: &Section| matches!(section.content, Content::Tokenizer);
    let table = file.sections().find(is_table).map_or(&[][..], |section| file.section_bytes(&section));
    let (expected, found) = (sha256_hex(expected), sha256_hex(table));
    let same = expected == found;
    check(format!("the file's tokenizer has SHA-256 {expected}"), found, same)
}

/// The file's card names the weights it descends from, or the file is the previous phase's own (a fallback).
fn provenance(
    file: &File<'_>,
    artifact: &ArtifactRef,
    before: PhaseId,
    earlier: Option<&PhaseOutput>,
) -> Check {
    let rule = format!("the file records its parent, phase {before}'s weights");
    let hash = |label: &str| earlier.and_then(|output| output.artifact(label)).map(|a| a.hash.clone());
    if hash("model").as_ref() == Some(&artifact.hash) {
        return check(rule, "the file is its parent's, unchanged", true);
    }
    let card: Value = serde_json::from_str(file.card()).unwrap_or_default();
    let chain = card["chain"].as_array().cloned().unwrap_or_default();
    let recorded = chain.iter().find(|link| link[0] == before.name()).and_then(|link| link[1].as_str());
    let passed = recorded.is_some() && recorded == hash("latent").as_deref();
    check(rule, recorded.unwrap_or("nothing").to_owned(), passed)
}
