//! What the experiments share: data of a preset, stages of training, and files judged by the runtime.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use forge_formats::config::ModelConfig;
use forge_train::config::{Config, TrainConfig};
use forge_train::config_load::{Layers, load};
use forge_train::data::encode;
use forge_train::data::source::BatchSource;
use forge_train::device;
use forge_train::engine::emit::{Card, emit, float32};
use forge_train::engine::environment::Environment;
use forge_train::engine::lengths::staged;
use forge_train::engine::mixture::Domains;
use forge_train::engine::objective::LanguageModel;
use forge_train::engine::trainer::{Stage, train};
use forge_train::eval::{self, EvalReport, HaltingReport, Options};
use forge_train::nn::Precision;
use forge_train::pipeline::prepare::{DataSource, prepare};
use forge_train::pipeline::{CheckpointDir, PreparedData, Silent, StopFlag};
use forge_train::tokenizer::Tokenizer;
use forge_train::weights::Weights;
use serde::Serialize;
use tempfile::TempDir;

/// The trunk's shares of the domains (phase 1).
const SHARES: [f32; 3] = [0.15, 0.2, 0.65];

/// The built-in data of a seed, and where stages train on it.
pub(super) struct Lab {
    /// The preset's settings.
    pub(super) config: Config,
    data: PreparedData,
    domains: Domains,
    bench: Bench,
}

/// What a file of the built-in data came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Judged {
    /// Length of the file.
    pub(super) bytes: u64,
    /// Bits per byte of the held-out examples.
    pub(super) bits_per_byte: f64,
    /// Share of commands with the right tool and arguments.
    pub(super) frames: f64,
    /// Share of worked problems answered right.
    pub(super) answers: f64,
    /// Mean recursions of a token.
    pub(super) recursions: f64,
    /// How it halts, where it does.
    pub(super) halting: Option<HaltingReport>,
}

/// A stage's outcome.
pub(super) struct Trained {
    pub(super) weights: Weights,
    /// Seconds it took.
    pub(super) seconds: f64,
}

/// Where stages train, whatever on.
pub(super) struct Bench {
    folder: TempDir,
    device: Device,
}

impl Bench {
    pub(super) fn new(device: &str) -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, device: device::open(device)? })
    }

    /// Trains from `start`, in f32.
    pub(super) fn train(
        &self,
        name: &str,
        config: &TrainConfig,
        start: &Weights,
        mut objective: LanguageModel,
    ) -> Result<Trained> {
        // Nothing is resumed: each stage begins in a folder of its own.
        let folder = tempfile::tempdir_in(self.folder.path())?;
        let environment = Environment {
            checkpoints: &CheckpointDir::open(folder.path())?,
            checkpoint_seconds: u64::MAX,
            progress: &Silent,
            stop: &StopFlag::new(),
            device: self.device.clone(),
        };
        let (precision, frozen) = (Precision::FLOAT, |_| false);
        let stage = Stage { name, train: config, precision, lambda_share: 0.0, frozen: &frozen };
        let began = Instant::now();
        let trained = train(&environment, &stage, start, &mut objective)?;
        Ok(Trained { weights: trained.weights, seconds: began.elapsed().as_secs_f64() })
    }
}

impl Lab {
    /// The preset `nano` with assignments, its data and everything else from `seed`.
    pub(super) fn new(set: &[String], seed: u64, device: &str) -> Result<Self> {
        let set = [set, &[format!("run.seed={seed}")]].concat();
        let config = load(&Layers { set: &set, ..Layers::default() })?;
        let bench = Bench::new(device)?;
        let data = prepare(&DataSource::Builtin, &config, bench.folder.path())?;
        let weight = config.data.prompt_weight;
        let domains = Domains::new(&data.dataset, &data.dataset.train, |example| {
            encode::encode(&data.tokenizer, &example.without_thought(), weight)
        })?;
        Ok(Self { config, data, domains, bench })
    }

    /// Fresh parameters of a model of this shape; the shape as the preset has it with `change` made to it.
    pub(super) fn start(&self, change: impl FnOnce(&mut ModelConfig)) -> Weights {
        let mut model = self.config.model_config(self.data.tokenizer.vocab());
        change(&mut model);
        Weights::init(&model, self.config.run.seed)
    }

    /// The batches of a stage, in the trunk's mixture and with its curriculum of lengths.
    fn batches(&self, name: &str, train: &TrainConfig) -> Result<Arc<dyn BatchSource>> {
        let seed = self.config.run.seed;
        let (data, lengths) = (&self.config.data, &self.config.phase1.length_curriculum);
        let sequences = self.domains.mix(SHARES, seed, name);
        Ok(staged(sequences, train.batch_tokens, data, [seed, train.steps], name, lengths)?)
    }

    /// A stage of training on the trunk's mixture.
    pub(super) fn train(
        &self,
        name: &str,
        train: &TrainConfig,
        start: &Weights,
        halts: bool,
    ) -> Result<Trained> {
        let objective = LanguageModel::new(self.batches(name, train)?, &self.config.phase1);
        let objective = if halts { objective } else { objective.without_halting() };
        self.bench.train(name, train, start, objective)
    }

    /// The emitted file, judged on all held-out examples.
    pub(super) fn judge(&self, weights: &Weights) -> Result<Judged> {
        let file = file(weights, &self.data.tokenizer, self.config.run.seed)?;
        let examples: Vec<_> = self.data.dataset.valid.iter().map(|e| e.without_thought()).collect();
        let report: EvalReport = eval::evaluate(&file, &examples, &Options::default())?;
        Ok(Judged {
            bytes: report.bytes,
            bits_per_byte: report.bits_per_byte,
            frames: report.frame_accuracy.value(),
            answers: report.answer_accuracy.value(),
            recursions: report.mean_recursions,
            halting: eval::halting(&file, &examples)?,
        })
    }
}

/// The file of a model in f32.
pub(super) fn file(weights: &Weights, tokenizer: &Tokenizer, seed: u64) -> Result<Vec<u8>> {
    let card = Card {
        forge: env!("CARGO_PKG_VERSION"),
        phase: "experiment".into(),
        chain: Vec::new(),
        seed,
        data: "experiment".into(),
        tools: Vec::new(),
        eval: serde_json::Value::Null,
    };
    Ok(emit(weights, tokenizer, &card, &float32)?)
}
