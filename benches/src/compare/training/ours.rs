//! This project's trainer, in a process of its own.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use forge_train::config::{CognateConfig, Config, Preset, TrainConfig};
use forge_train::engine::environment::{Environment, StepMetrics, Watcher};
use forge_train::engine::objective::LanguageModel;
use forge_train::engine::trainer::{Stage, train_watched};
use forge_train::error::Error;
use forge_train::nn::{Precision, Products, Projections, Tables};
use forge_train::pipeline::{CheckpointDir, Silent, StopFlag};
use serde::{Deserialize, Serialize};

use super::task::{DECAY, RATE, Task};

/// A contestant's run: what a process of either side prints as JSON.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Run {
    /// Seconds of each step, those that warm up included.
    pub(super) seconds: Vec<f64>,
    /// Loss of each step before its update.
    pub(super) losses: Vec<f64>,
    /// The most memory the process had, bytes; 0 where the system does not tell.
    pub(super) peak_bytes: u64,
    /// Program and version.
    pub(super) version: String,
}

/// Options of the process.
#[derive(Debug, Args)]
pub(crate) struct Steps {
    /// Name of the shape
    shape: String,
    /// `float` or `ternary`, and `-bf16` behind it for bf16 products
    arithmetic: String,
    /// Steps to take
    steps: usize,
    /// Threads to take part
    threads: usize,
}

/// Notes when steps end; after the last it ends the run, so that nothing is saved.
struct Clock {
    last: Instant,
    steps: usize,
    run: Run,
}

impl Watcher for Clock {
    fn step(&mut self, metrics: &StepMetrics) -> forge_train::error::Result<()> {
        self.run.seconds.push(self.last.elapsed().as_secs_f64());
        self.run.losses.push(f64::from(metrics.loss));
        if self.run.seconds.len() == self.steps {
            self.run.peak_bytes = peak_bytes();
            return Err(Error::Interrupted);
        }
        self.last = Instant::now();
        Ok(())
    }
}

impl Steps {
    /// Trains through the engine that every phase uses and prints the run as JSON.
    ///
    /// # Errors
    /// When an option is wrong or training fails.
    pub(crate) fn run(&self) -> Result<()> {
        forge_train::allocator::keep_pages();
        ensure!(self.steps > 0 && self.threads > 0, "a run needs a step and a thread");
        rayon::ThreadPoolBuilder::new().num_threads(self.threads).build_global()?;
        let run = train(&Task::named(&self.shape)?, &self.arithmetic, self.steps)?;
        println!("{}", serde_json::to_string(&run)?);
        Ok(())
    }
}

/// Precision and products of a name.
fn arithmetic(name: &str) -> Result<(Precision, Products)> {
    let (precision, products) = match name.strip_suffix("-bf16") {
        Some(precision) => (precision, Products::Bf16),
        None => (name, Products::F32),
    };
    let precision = match precision {
        "float" => Precision::FLOAT,
        "ternary" => Precision { projections: Projections::Ternary { lambda: 1.0 }, tables: Tables::Float },
        _ => {
            anyhow::bail!("there is no arithmetic {name:?}, but float, ternary, float-bf16 and ternary-bf16")
        }
    };
    Ok((precision, products))
}

/// Some steps from the task's first weights.
fn train(task: &Task, name: &str, steps: usize) -> Result<Run> {
    let (precision, products) = arithmetic(name)?;
    let folder = tempfile::tempdir().context("cannot make a folder for checkpoints")?;
    let train = TrainConfig {
        warmup: 0,
        decay_share: 0.0,
        weight_decay: DECAY,
        clip: f32::MAX,
        products,
        ..TrainConfig::adamw(steps as u64, task.tokens(), RATE)
    };
    let environment = Environment {
        checkpoints: &CheckpointDir::open(folder.path())?,
        checkpoint_seconds: u64::MAX,
        progress: &Silent,
        stop: &StopFlag::new(),
        device: candle_core::Device::Cpu,
    };
    let stage = Stage { name: "compare", train: &train, precision, lambda_share: 0.0, frozen: &|_| false };
    let cognate: CognateConfig = Config::preset(Preset::Nano).phase1;
    let mut objective = LanguageModel::new(Arc::new(task.batches(steps)), &cognate);
    let run = Run { version: format!("forge {}", env!("CARGO_PKG_VERSION")), ..Run::default() };
    let mut clock = Clock { last: Instant::now(), steps, run };
    match train_watched(&environment, &stage, &task.weights(), &mut objective, &mut clock) {
        Err(Error::Interrupted) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => anyhow::bail!("training ended before its last step was seen"),
    }
    Ok(clock.run)
}

/// `VmHWM` of this process.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib << 10)
}
