use std::collections::BTreeMap;

use forge_formats::role::Role;

use super::*;
use crate::config::Preset;
use crate::pipeline::phase::ArtifactKind;
use crate::pipeline::testing::{self, VOCAB, table};
use crate::tokenizer::CONTROLS;
use crate::weights::Weights;

/// Outputs of all phases up to and including `source` that meet every contract.
struct Case {
    config: Config,
    source: PhaseId,
    store: ArtifactStore,
    outputs: BTreeMap<PhaseId, PhaseOutput>,
    tokenizer: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Case {
    fn new(source: PhaseId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::scratch(dir.path()).unwrap();
        let config = testing::config();
        let outputs = BTreeMap::new();
        let mut case = Self { config, source, store, outputs, tokenizer: table(&CONTROLS), _dir: dir };
        for phase in PhaseId::ALL.into_iter().take_while(|phase| *phase <= source) {
            let weights = testing::weights(&case.config, phase, u64::from(phase.number()));
            let card = case.card(phase);
            case.put_phase(phase, &weights, &card);
        }
        case
    }

    fn weights(&self, seed: u64) -> Weights {
        testing::weights(&self.config, self.source, seed)
    }

    fn card(&self, phase: PhaseId) -> String {
        testing::card(&self.outputs, phase)
    }

    fn put_phase(&mut self, phase: PhaseId, weights: &Weights, card: &str) {
        let output = testing::output(phase, &self.config, &self.store, &self.tokenizer, weights, card);
        self.outputs.insert(phase, output);
    }

    fn output(&mut self) -> &mut PhaseOutput {
        self.outputs.get_mut(&self.source).unwrap()
    }

    fn replace(&mut self, label: &str, artifact: crate::pipeline::ArtifactRef) {
        self.output().artifacts.retain(|(name, _)| name != label);
        self.output().artifacts.push((label.to_owned(), artifact));
    }

    /// The rules that are not met.
    fn broken(&self) -> Vec<String> {
        let evidence = Evidence { outputs: &self.outputs, store: &self.store, tokenizer: &self.tokenizer };
        let contract = Contract::after(self.source, &self.config).unwrap();
        let checks = contract.check(&evidence).unwrap();
        checks.into_iter().filter(|c| !c.passed).map(|c| format!("{} ({})", c.rule, c.found)).collect()
    }

    #[track_caller]
    fn assert_breaks(&self, rule: &str) {
        let broken = self.broken();
        assert!(broken.iter().any(|b| b.contains(rule)), "{}: {rule}: {broken:?}", self.source);
    }
}

const SOURCES: [PhaseId; 7] = [
    PhaseId::Cognate,
    PhaseId::EvoMerge,
    PhaseId::QuietStar,
    PhaseId::BitNet,
    PhaseId::Forge,
    PhaseId::Baking,
    PhaseId::Edge,
];

#[test]
fn there_are_seven_contracts_and_each_can_be_met() {
    let config = Config::preset(Preset::Nano);
    assert_eq!(PhaseId::ALL.into_iter().filter_map(|p| Contract::after(p, &config)).count(), 7);
    for source in SOURCES {
        assert_eq!(Case::new(source).broken(), [""; 0], "{source}");
    }
}

#[test]
fn every_required_metric_is_missed_and_must_be_finite() {
    for source in SOURCES {
        let contract = Contract::after(source, &Config::preset(Preset::Nano)).unwrap();
        let mut case = Case::new(source);
        let good = case.output().metrics.clone();
        for name in contract.required.iter().copied().chain(contract.limits.iter().map(|l| l.metric)) {
            case.output().metrics.remove(name);
            case.assert_breaks(&format!("`{name}`"));
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                case.output().metrics.insert(name.to_owned(), bad);
                case.assert_breaks(&format!("`{name}`"));
            }
            case.output().metrics = good.clone();
        }
        case.output().metrics.insert("anything".into(), f64::NAN);
        case.assert_breaks("every metric is finite (anything)");
    }
}

#[test]
fn every_limit_is_enforced_on_both_sides() {
    for source in SOURCES {
        let mut case = Case::new(source);
        for limit in Contract::after(source, &case.config).unwrap().limits {
            let good = case.output().metrics[limit.metric];
            let below = if limit.min == f64::MIN_POSITIVE { 0.0 } else { limit.min - 0.01 };
            case.output().metrics.insert(limit.metric.to_owned(), below);
            case.assert_breaks(&format!("`{}`", limit.metric));
            if limit.max < f64::MAX {
                case.output().metrics.insert(limit.metric.to_owned(), limit.max + 0.01);
                case.assert_breaks(&format!("`{}`", limit.metric));
            }
            case.output().metrics.insert(limit.metric.to_owned(), good);
        }
        assert_eq!(case.broken(), [""; 0]);
    }
}

#[test]
fn the_number_of_models_counts() {
    let mut case = Case::new(PhaseId::Cognate);
    case.output().artifacts.retain(|(label, _)| label != "reasoning");
    case.assert_breaks("3 model(s)");
    let mut case = Case::new(PhaseId::Cognate);
    let twice = case.output().expect("reasoning").unwrap().clone();
    case.replace("memory_integration", twice);
    case.assert_breaks("the models differ (2)");
    let mut case = Case::new(PhaseId::EvoMerge);
    case.output().artifacts.clear();
    case.assert_breaks("1 model(s)");
    case.assert_breaks("`.forge` file was emitted");
}

#[test]
fn models_of_the_wrong_size_shape_or_content_are_refused() {
    let mut case = Case::new(PhaseId::Cognate);
    let mut config = case.weights(1).config;
    config.layers = 64;
    let huge = case.store.put_weights(&Weights::init(&config, 1)).unwrap();
    case.replace("reasoning", huge);
    case.assert_breaks("`reasoning` has 200000–500000 parameters");
    case.assert_breaks("has the common shape");

    let mut case = Case::new(PhaseId::Cognate);
    let mut hasty = case.weights(1);
    hasty.config.halt_threshold *= 0.5;
    let hasty = case.store.put_weights(&hasty).unwrap();
    case.replace("reasoning", hasty);
    assert_eq!(case.broken(), [""; 0], "branches may halt at thresholds of their own");

    let mut case = Case::new(PhaseId::Forge);
    let mut sick = case.weights(1);
    sick.tensors.get_mut(&(Role::Down, 0)).unwrap().data[7] = f32::NAN;
    let sick = case.store.put_weights(&sick).unwrap();
    case.replace("latent", sick);
    case.assert_breaks("`latent` is finite");

    let mut case = Case::new(PhaseId::Forge);
    let other = Weights::init(&case.config.model_config(u32::from(VOCAB) - 1), 1);
    let other = case.store.put_weights(&other).unwrap();
    case.replace("latent", other);
    case.assert_breaks("has the tokenizer's 512 tokens (511)");
}

#[test]
fn the_tokenizer_must_be_whole_and_the_same() {
    let mut case = Case::new(PhaseId::QuietStar);
    case.tokenizer = table(&["<pad>", "<bos>", "<eos>", "<sys>", "<sep>", "<think>", "<think/>"]);
    case.assert_breaks("every control token (without </think>)");
    case.assert_breaks("the file's tokenizer");
    case.tokenizer = b"nothing".to_vec();
    case.assert_breaks("every control token");
}

#[test]
fn the_file_must_be_whole_as_long_as_reported_and_of_this_line() {
    let mut case = Case::new(PhaseId::BitNet);
    let length = case.output().metrics["bytes"];
    case.output().metrics.insert("bytes".into(), length - 1.0);
    case.assert_breaks("`bytes` is the file's length");

    let mut case = Case::new(PhaseId::BitNet);
    let weights = case.weights(9);
    case.put_phase(PhaseId::BitNet, &weights, r#"{"chain":[["quietstar","0000"]]}"#);
    case.assert_breaks("records its parent, phase quietstar's weights (0000)");
    case.put_phase(PhaseId::BitNet, &weights, "{}");
    case.assert_breaks("records its parent, phase quietstar's weights (nothing)");
    let parent = case.outputs[&PhaseId::QuietStar].clone();
    case.replace("model", parent.expect("model").unwrap().clone());
    case.output().metrics.insert("bytes".into(), parent.metrics["bytes"]);
    assert_eq!(case.broken(), [""; 0], "a fallback hands the parent's file on");

    let broken = case.store.put_bytes(ArtifactKind::Forge, b"\x89FORGE\r\n").unwrap();
    case.replace("model", broken);
    case.assert_breaks("the `.forge` file is valid");
}

#[test]
fn the_edge_phase_may_not_grow_the_file() {
    let mut case = Case::new(PhaseId::Edge);
    let mut config = case.weights(7).config;
    config.ffn += 8;
    let (weights, card) = (Weights::init(&config, 7), case.card(PhaseId::Edge));
    case.put_phase(PhaseId::Edge, &weights, &card);
    case.assert_breaks("tensors and tokenizer ≤ phase baking's");
}

#[test]
fn a_damaged_artifact_is_an_error_of_its_own() {
    let case = Case::new(PhaseId::EvoMerge);
    let latent = case.outputs[&PhaseId::EvoMerge].expect("latent").unwrap().clone();
    std::fs::write(case.store.path(&latent), b"damaged").unwrap();
    let evidence = Evidence { outputs: &case.outputs, store: &case.store, tokenizer: &case.tokenizer };
    let error = Contract::after(PhaseId::EvoMerge, &case.config).unwrap().check(&evidence).unwrap_err();
    assert!(matches!(error, crate::error::Error::Artifact(_)));
}
