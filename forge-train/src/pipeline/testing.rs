//! Outputs that meet every handoff contract, for tests of what happens when one does not.

use std::collections::BTreeMap;

use forge_formats::codec::Codec;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec};
use forge_formats::write::Writer;

use crate::config::{Config, Preset};
use crate::data::Dataset;
use crate::pipeline::artifact::ArtifactStore;
use crate::pipeline::handoff::Contract;
use crate::pipeline::phase::{ArtifactKind, Gate, PhaseId, PhaseOutput, PreparedData};
use crate::tokenizer::{CONTROLS, Tokenizer};
use crate::weights::Weights;

/// Tokens of the test tokenizer; a nano model has to have about this many to be of nano size.
pub(super) const VOCAB: u16 = 512;

/// A configuration whose models are small and quick, yet of nano size.
pub(super) fn config() -> Config {
    Config::preset(Preset::Nano)
}

/// A tokenizer table with these control tokens and arbitrary merges.
pub(super) fn table(controls: &[&str]) -> Vec<u8> {
    let specials: Vec<_> = controls.iter().map(|name| (SpecialKind::Control, (*name).to_owned())).collect();
    let first = specials.len() as u16;
    let merges = (0..VOCAB - 256 - first).map(|i| (first + i % 256, first + i / 256)).collect();
    TokenizerSpec { specials, merges, ..TokenizerSpec::default() }.to_bytes().unwrap()
}

/// Data without examples.
pub(super) fn data() -> PreparedData {
    let tokenizer = Tokenizer::from_bytes(&table(&CONTROLS)).unwrap();
    PreparedData { dataset: Dataset::default(), tokenizer }
}

/// Weights of a model of the configured size; phase 7 and later have fewer.
pub(super) fn weights(config: &Config, phase: PhaseId, seed: u64) -> Weights {
    let mut model = config.model_config(u32::from(VOCAB));
    if phase >= PhaseId::Edge {
        model.ffn -= 4;
    }
    Weights::init(&model, seed)
}

/// The card of a file that descends from `inputs`.
pub(super) fn card(inputs: &BTreeMap<PhaseId, PhaseOutput>, phase: PhaseId) -> String {
    let latent = |output: &PhaseOutput| output.expect("latent").unwrap().hash.clone();
    let chain: Vec<_> = inputs.range(..phase).map(|(id, output)| (id.name(), latent(output))).collect();
    serde_json::json!({ "chain": chain }).to_string()
}

fn forge(weights: &Weights, tokenizer: &[u8], card: &str) -> Vec<u8> {
    let mut writer = Writer::new(weights.config.clone());
    for (&(role, layer), m) in &weights.tensors {
        let payload = m.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer = writer.tensor(role, layer, Codec::F32, payload);
    }
    writer.tokenizer(tokenizer).card(card).finish().unwrap()
}

/// An output of `phase` with an open gate that meets its contract.
pub(super) fn output(
    phase: PhaseId,
    config: &Config,
    store: &ArtifactStore,
    tokenizer: &[u8],
    weights: &Weights,
    card: &str,
) -> PhaseOutput {
    let file = forge(weights, tokenizer, card);
    let mut artifacts = vec![
        ("latent".to_owned(), store.put_weights(weights).unwrap()),
        ("model".to_owned(), store.put_bytes(ArtifactKind::Forge, &file).unwrap()),
    ];
    let mut metrics = BTreeMap::new();
    if let Some(contract) = Contract::after(phase, config) {
        for (i, label) in contract.models.iter().enumerate().filter(|(_, label)| **label != "latent") {
            let branch = self::weights(config, phase, 100 + i as u64);
            artifacts.push(((*label).to_owned(), store.put_weights(&branch).unwrap()));
        }
        metrics.extend(contract.required.iter().map(|name| ((*name).to_owned(), 1.0)));
        metrics.extend(contract.limits.iter().map(|limit| (limit.metric.to_owned(), limit.min)));
    }
    metrics.insert("bytes".into(), file.len() as f64);
    let gate = Gate { passed: true, rule: "works".into(), measured: "it does".into(), fallback: None };
    PhaseOutput { artifacts, metrics, summary: format!("ran {phase}"), gate }
}
