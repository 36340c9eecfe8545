//! Ways to get a phase wrong that must be caught, each with the mistake made on purpose.

use std::collections::BTreeMap;

use candle_core::Device;
use forge_formats::codec::Codec;
use forge_formats::config::ModelConfig;
use forge_formats::file::File;
use forge_formats::role::{Role, RoleKind};
use half::f16;

use crate::config::{Config, Preset};
use crate::data::builtin::{Sizes, generate};
use crate::data::{Sequence, encode};
use crate::engine::emit::{emit, float32, ternary_f16};
use crate::nn::{ForwardOptions, Network, Precision, loss};
use crate::optim::{AdamW, AdamWConfig, Gradients, Optimizer};
use crate::phases::baking::{Trajectory, baking_loss};
use crate::phases::bitnet::special_rows_identical;
use crate::phases::common::{self, Prompting};
use crate::phases::compression::Compression;
use crate::phases::edge::fit::Edge;
use crate::phases::forge::projection_gradient_norms;
use crate::pipeline::phase::Silent;
use crate::pipeline::{
    ArtifactStore, CheckpointDir, Gate, Phase, PhaseContext, PhaseId, PhaseOutput, PreparedData, StopFlag,
};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// A small run: data, configuration and a directory for its artifacts.
struct Run {
    directory: tempfile::TempDir,
    config: Config,
    data: PreparedData,
}

impl Run {
    fn new() -> Self {
        let dataset = generate(3, &Sizes { train: 60, eval: 8 });
        let tokenizer = Tokenizer::for_dataset(&dataset, &crate::config::TokenizerConfig::bpe(320)).unwrap();
        let mut config = Config::preset(Preset::Nano);
        config.data.eval_examples = 8;
        config.phase7.train.steps = 2;
        config.phase7.train.batch_tokens = 256;
        Self { directory: tempfile::tempdir().unwrap(), config, data: PreparedData { dataset, tokenizer } }
    }

    fn model(&self) -> ModelConfig {
        let nano = self.config.model_config(self.data.tokenizer.vocab());
        ModelConfig { dim: 32, heads: 2, kv_heads: 1, head_dim: 16, ffn: 32, mem_dim: 8, mem_gate: 8, ..nano }
    }

    fn weights(&self) -> Weights {
        Weights::init(&self.model(), 5)
    }

    /// Calls `act` in the context of a phase that `inputs` precede.
    fn with<T>(
        &self,
        inputs: &[(PhaseId, &Weights)],
        act: impl FnOnce(&PhaseContext<'_>, &ArtifactStore) -> T,
    ) -> T {
        let store = ArtifactStore::scratch(self.directory.path()).unwrap();
        let output = |weights: &Weights| PhaseOutput {
            artifacts: vec![("latent".into(), store.put_weights(weights).unwrap())],
            metrics: BTreeMap::new(),
            summary: String::new(),
            gate: Gate { passed: true, rule: String::new(), measured: String::new(), fallback: None },
        };
        let inputs = inputs.iter().map(|(id, weights)| (*id, output(weights))).collect();
        let context = PhaseContext {
            config: &self.config,
            seed: 1,
            data: &self.data,
            inputs: &inputs,
            store: &store,
            checkpoints: CheckpointDir::open(&self.directory.path().join("checkpoints")).unwrap(),
            progress: &Silent,
            stop: &StopFlag::new(),
            device: &Device::Cpu,
        };
        act(&context, &store)
    }

    /// Runs `phase` on `weights`, from its start.
    fn run(&self, phase: &dyn Phase, weights: &Weights) -> PhaseOutput {
        let _ = std::fs::remove_dir_all(self.directory.path().join("checkpoints"));
        let before = phase.id().previous().unwrap();
        self.with(&[(before, weights)], |ctx, _| phase.run(ctx).unwrap())
    }
}

fn on_the_f16_grid(mut weights: Weights) -> Weights {
    let table = weights.tensors.get_mut(&(Role::Embedding, 0)).unwrap();
    table.data.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
    weights
}

#[test]
fn roles_decide_what_becomes_ternary_and_special_rows_survive_to_the_bit() {
    let run = Run::new();
    let mut weights = on_the_f16_grid(run.weights());
    let file = |weights: &Weights| {
        run.with(&[], |ctx, _| {
            let card = common::card(ctx, PhaseId::BitNet, serde_json::json!({}));
            emit(weights, &run.data.tokenizer, &card, &ternary_f16).unwrap()
        })
    };
    let bytes = file(&weights);
    let parsed = File::parse(&bytes).unwrap();
    for (role, layer, _) in weights.config.tensors() {
        let codec = parsed.tensor(role, layer).unwrap().codec();
        assert_eq!(codec == Codec::Ternary2b, role.kind() == RoleKind::Projection, "{}", role.name());
    }
    assert_eq!(parsed.tensor(Role::Embedding, 0).unwrap().codec(), Codec::F16);
    assert!(special_rows_identical(&weights, &bytes).unwrap());
    let think = usize::from(run.data.tokenizer.control("<think>"));
    weights.tensors.get_mut(&(Role::Embedding, 0)).unwrap().row_mut(think)[3] += 1e-6;
    assert!(!special_rows_identical(&weights, &file(&weights)).unwrap(), "a row off the grid is lost");
}

#[test]
fn every_ternary_layer_learns_only_through_the_straight_through_estimator() {
    let run = Run::new();
    let mut network = Network::new(&run.weights(), Precision::TERNARY, &Device::Cpu).unwrap();
    let sequences: Vec<Sequence> =
        run.data.dataset.train.iter().take(8).map(|e| encode::encode(&run.data.tokenizer, &e, 1.0)).collect();
    let batch = crate::data::batch::collate(&sequences.iter().collect::<Vec<_>>(), 0);
    let norms = |network: &Network| {
        let ids = crate::engine::objective::batch_ids(&batch).unwrap();
        let forward = network.forward(&ids, ForwardOptions::default()).unwrap();
        let logits = network.logits(forward.answer()).unwrap();
        let ce = loss::weighted_cross_entropy(&logits, &batch.targets, &batch.weights).unwrap();
        projection_gradient_norms(network, &network.gradients(&ce).unwrap()).unwrap()
    };
    let with = norms(&network);
    assert_eq!(with.len(), 12);
    assert!(with.values().all(|n| *n > 0.0 && n.is_finite()), "{with:?}");
    network.set_straight_through(false);
    assert!(norms(&network).values().all(|n| *n == 0.0));
}

/// Completions of some prompted commands as the teacher and the student see them.
fn trajectories(run: &Run, system_on_both_sides: bool) -> Vec<Trajectory> {
    let tokenizer = &run.data.tokenizer;
    let calls = run.data.dataset.train.iter().filter(|e| e.system.is_some()).take(8);
    calls
        .map(|example| {
            let example = example.into_owned();
            let completion = encode::completion(tokenizer, &example);
            let bare = if system_on_both_sides { example.clone() } else { example.without_system() };
            let prompted = [encode::prefix(tokenizer, &example), completion.clone()].concat();
            let bare = [encode::prefix(tokenizer, &bare), completion.clone()].concat();
            Trajectory { prompted, bare, completion: completion.len() }
        })
        .collect()
}

#[test]
fn baking_has_something_to_learn_only_without_the_prompt_on_both_sides() {
    let run = Run::new();
    // An untrained model is nearly uniform whatever it is told; larger embeddings give it opinions.
    let mut weights = run.weights();
    let table = weights.tensors.get_mut(&(Role::Embedding, 0)).unwrap();
    table.data.iter_mut().for_each(|v| *v *= 20.0);
    let teacher = Network::new(&weights, Precision::FLOAT, &Device::Cpu).unwrap().detached();
    let student = Network::new(&weights, Precision::FLOAT, &Device::Cpu).unwrap();
    let options = ForwardOptions { halting: true, ..Default::default() };
    let divergence = |student: &Network, chosen: &[Trajectory]| {
        baking_loss(0, &teacher, student, &chosen.iter().collect::<Vec<_>>(), options).unwrap()
    };
    let value =
        |student: &Network, chosen: &[Trajectory]| divergence(student, chosen).to_scalar::<f32>().unwrap();
    assert!(value(&student, &trajectories(&run, true)).abs() < 1e-6, "the mistake: nothing to bake");
    let chosen = trajectories(&run, false);
    let before = value(&student, &chosen);
    assert!(before > 0.01, "{before}");
    let mut optimizer = AdamW::new(AdamWConfig::default());
    for _ in 0..40 {
        let mut grads = divergence(&student, &chosen).backward().unwrap();
        let grads = Gradients::collect(student.vars(), &mut grads).unwrap();
        optimizer.step(student.vars(), &grads, 2e-3).unwrap();
    }
    let after = value(&student, &chosen);
    assert!(after < 0.5 * before, "{before} → {after}");
}

#[test]
fn the_reported_size_is_the_files_length() {
    let run = Run::new();
    let weights = run.weights();
    run.with(&[], |ctx, store| {
        let emitted =
            common::emit_measured(ctx, PhaseId::Cognate, &weights, &float32, Prompting::With).unwrap();
        let length = std::fs::metadata(store.path(&emitted.artifact)).unwrap().len();
        assert_eq!(common::metrics(&weights, &emitted)["bytes"], length as f64);
        assert_eq!((emitted.artifact.bytes, emitted.report.bytes <= length), (length, true));
        let mut broken = weights.clone();
        broken.tensors.get_mut(&(Role::Qkv, 0)).unwrap().data[0] = f32::NAN;
        assert!(common::emit_measured(ctx, PhaseId::Cognate, &broken, &float32, Prompting::With).is_err());
    });
}

#[test]
fn fitting_a_device_keeps_the_parent_when_too_much_is_lost_or_nothing_fits() {
    let mut run = Run::new();
    let weights = run.weights();
    run.config.phase7.min_retention = 0.0;
    let fitted = run.run(&Edge, &weights);
    assert!(fitted.gate.passed, "{}", fitted.gate.measured);
    assert!(fitted.metrics["parameters"] < weights.parameters() as f64);
    assert!(fitted.metrics["bytes"] < fitted.metrics["bytes_before"]);
    run.config.phase7.min_retention = 9.0;
    let lost = run.run(&Edge, &weights);
    assert!(!lost.gate.passed && lost.gate.open());
    assert_eq!(lost.metrics["parameters"], weights.parameters() as f64);
    run.config.phase7.min_retention = 0.0;
    let small = run.directory.path().join("small.toml");
    let profile = include_str!("../../profiles/cortex-m4-1m.toml");
    let number = |key: &str| profile.lines().find(|l| l.starts_with(key)).unwrap();
    let tiny = profile
        .replace(number("ram_bytes"), "ram_bytes = 2048")
        .replace(number("reserved_ram_bytes"), "reserved_ram_bytes = 1024");
    std::fs::write(&small, tiny).unwrap();
    run.config.phase7.profile = small.display().to_string();
    let misfit = run.run(&Edge, &weights);
    assert!(!misfit.gate.passed && misfit.gate.measured.contains("RAM"), "{}", misfit.gate.measured);
}

#[test]
fn compression_meets_its_budget_or_says_that_it_did_not() {
    let mut run = Run::new();
    let weights = run.weights();
    let budget = |output: &PhaseOutput| output.metrics["bytes"];
    run.config.phase8.min_retention = 0.5;
    run.config.phase8.max_bpb_ratio = 2.0;
    run.config.phase8.budget = 1_000_000;
    let free = run.run(&Compression, &weights);
    assert!(free.gate.passed && budget(&free) < free.metrics["bytes_before"]);
    run.config.phase8.budget = budget(&free) as u64 - 3000;
    let tight = run.run(&Compression, &weights);
    assert!(tight.gate.passed, "{}", tight.gate.measured);
    assert!(budget(&tight) <= run.config.phase8.budget as f64);
    run.config.phase8.budget = 2000;
    let impossible = run.run(&Compression, &weights);
    assert!(!impossible.gate.passed && impossible.gate.open(), "{}", impossible.gate.measured);
    run.config.phase8.budget = budget(&free) as u64 - 3000;
    run.config.phase8.min_retention = 1.5;
    let lossy = run.run(&Compression, &weights);
    assert!(!lossy.gate.passed, "no codec gains half: {}", lossy.gate.measured);
    assert_eq!(budget(&lossy), budget(&free), "every lossy stage was dropped");
}
