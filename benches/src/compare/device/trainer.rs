//! Our side: the trainer on random tokens.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_train::config::{Config, Preset, TrainConfig};
use forge_train::data::batch::Batch;
use forge_train::data::source::BatchSource;
use forge_train::device;
use forge_train::engine::environment::{Environment, StepMetrics, Watcher};
use forge_train::engine::objective::LanguageModel;
use forge_train::engine::trainer::{Stage, train_watched};
use forge_train::nn::Precision;
use forge_train::pipeline::{CheckpointDir, Silent, StopFlag};
use forge_train::rng::Rng;
use forge_train::weights::Weights;

use super::{Entry, Options, SHAPE};

/// Batches of random tokens.
struct Random {
    rows: usize,
}

impl BatchSource for Random {
    fn batch(&self, step: u64) -> Batch {
        let cols = SHAPE.length as usize;
        let mut rng = Rng::at_step(1, "tokens", step);
        let ids: Vec<u32> = (0..self.rows * cols).map(|_| rng.below(SHAPE.vocab as usize) as u32).collect();
        Batch { targets: ids.clone(), weights: vec![1.0; ids.len()], ids, rows: self.rows, cols }
    }
}

/// Notes when each step ended.
struct Clock(Vec<Instant>);

impl Watcher for Clock {
    fn step(&mut self, _metrics: &StepMetrics) -> forge_train::error::Result<()> {
        self.0.push(Instant::now());
        Ok(())
    }
}

fn model() -> ModelConfig {
    ModelConfig {
        vocab: SHAPE.vocab,
        dim: SHAPE.dim,
        layers: SHAPE.layers,
        heads: SHAPE.heads,
        kv_heads: SHAPE.heads,
        head_dim: SHAPE.dim / SHAPE.heads,
        ffn: SHAPE.ffn,
        activation: Activation::SwiGlu,
        window: SHAPE.length,
        rope_log2_theta: 13.287_712,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: true,
        recursion: 1,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache: CacheKind::F32,
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// Trains with `batch` sequences a step and times the steps after the warm-up.
///
/// # Errors
/// When the device runs out of memory or a step fails.
pub(super) fn measure(device: &Device, ternary: bool, batch: u32, options: &Options) -> Result<Entry> {
    let steps = u64::from(options.warmup + options.steps) + 1;
    let train = TrainConfig::adamw(steps, (batch * SHAPE.length) as usize, 1e-3);
    let precision = if ternary { Precision::TERNARY } else { Precision::FLOAT };
    let stage = Stage { name: "throughput", train: &train, precision, lambda_share: 0.0, frozen: &|_| false };
    let folder = tempfile::tempdir()?;
    let environment = Environment {
        checkpoints: &CheckpointDir::open(folder.path())?,
        checkpoint_seconds: u64::MAX,
        progress: &Silent,
        stop: &StopFlag::new(),
        device: device.clone(),
    };
    let source = Arc::new(Random { rows: batch as usize });
    let mut objective = LanguageModel::new(source, &Config::preset(Preset::Nano).phase1);
    let mut clock = Clock(Vec::new());
    device::reset_peak_memory(device)?;
    train_watched(&environment, &stage, &Weights::init(&model(), 1), &mut objective, &mut clock)?;
    let timed = &clock.0[options.warmup as usize..];
    let seconds: Vec<f64> = timed.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    Entry::new("Forge", ternary, batch, &seconds, device::peak_memory(device)?)
}
