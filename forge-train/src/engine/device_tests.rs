//! Runs of the trainer on each device there is: the same bytes again, also when interrupted, and much the same loss.

use std::sync::Arc;

use candle_core::Device;

use crate::config::{Config, Preset, TrainConfig};
use crate::data::batch::Batch;
use crate::data::source::BatchSource;
use crate::engine::environment::{Environment, StepMetrics, Watcher};
use crate::engine::objective::LanguageModel;
use crate::engine::trainer::{Stage, Trained, train_watched};
use crate::error::{Error, Result};
use crate::nn::Precision;
use crate::pipeline::{CheckpointDir, Silent, StopFlag};
use crate::rng::Rng;
use crate::weights::Weights;

const VOCAB: u32 = 300;

/// Sequences in which each token decides the next, so that a few steps learn something.
struct Chains;

impl BatchSource for Chains {
    fn batch(&self, step: u64) -> Batch {
        let (rows, cols) = (16, 24);
        let mut rng = Rng::at_step(3, "chains", step);
        let mut batch = Batch { ids: vec![], targets: vec![], weights: vec![1.0; rows * cols], rows, cols };
        for _ in 0..rows {
            let mut id = rng.below(VOCAB as usize) as u32;
            for _ in 0..cols {
                batch.ids.push(id);
                id = (7 * id + 3) % VOCAB;
                batch.targets.push(id);
            }
        }
        batch
    }
}

/// Asks to stop after a step.
struct StopAfter<'a>(u64, &'a StopFlag);

impl Watcher for StopAfter<'_> {
    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        if metrics.step == self.0 {
            self.1.request();
        }
        Ok(())
    }
}

/// Trains a small model on `device`, interrupted after each of the given steps.
fn trained(device: &Device, train: &TrainConfig, precision: Precision, stops: &[u64]) -> Trained {
    let config = Config::preset(Preset::Nano);
    let folder = tempfile::tempdir().unwrap();
    let start = Weights::init(&config.model_config(VOCAB), 5);
    let stage = Stage { name: "test", train, precision, lambda_share: 0.0, frozen: &|_| false };
    let run = |stop_after: u64| {
        let stop = StopFlag::new();
        let environment = Environment {
            checkpoints: &CheckpointDir::open(folder.path()).unwrap(),
            checkpoint_seconds: u64::MAX,
            progress: &Silent,
            stop: &stop,
            device: device.clone(),
        };
        let mut objective = LanguageModel::new(Arc::new(Chains), &config.phase1);
        train_watched(&environment, &stage, &start, &mut objective, &mut StopAfter(stop_after, &stop))
    };
    for stop in stops {
        assert!(matches!(run(*stop), Err(Error::Interrupted)));
    }
    run(u64::MAX).unwrap()
}

/// Settings that between them use every part of an update.
fn settings() -> [TrainConfig; 2] {
    let adamw =
        TrainConfig { grokfast_lambda: 0.5, micro_tokens: 8 * 24, ..TrainConfig::adamw(8, 384, 3e-3) };
    let muon = TrainConfig {
        muon_lr: 3e-3,
        qk_clip: 0.5,
        qk_clip_every: 2,
        ema: 0.9,
        ema_ternary: true,
        recompute: true,
        ..adamw.clone()
    };
    [adamw, muon]
}

fn repeats_and_resumes(device: &Device) {
    for train in settings() {
        for precision in [Precision::FLOAT, Precision::TERNARY] {
            let whole = trained(device, &train, precision, &[]);
            assert!(whole.final_loss < whole.first_loss, "{} → {}", whole.first_loss, whole.final_loss);
            assert_eq!(trained(device, &train, precision, &[]).weights, whole.weights, "run again");
            let parts = trained(device, &train, precision, &[1, 4]);
            assert_eq!(parts.weights, whole.weights, "interrupted twice");
            assert_eq!(parts.final_loss, whole.final_loss);
        }
    }
}

#[test]
fn runs_repeat_and_resume_to_the_byte() {
    repeats_and_resumes(&Device::Cpu);
}

#[cfg(feature = "cuda")]
#[test]
fn runs_on_a_gpu_repeat_and_resume_to_the_byte() {
    let Some(gpu) = crate::nn::ops::cuda::tests::gpu() else { return };
    repeats_and_resumes(&gpu.device);
}

#[cfg(feature = "cuda")]
#[test]
fn a_gpu_learns_as_the_cpu_does() {
    let Some(gpu) = crate::nn::ops::cuda::tests::gpu() else { return };
    for train in settings() {
        for precision in [Precision::FLOAT, Precision::TERNARY] {
            let (host, device) =
                (trained(&Device::Cpu, &train, precision, &[]), trained(&gpu.device, &train, precision, &[]));
            let (first, last) = (host.first_loss - device.first_loss, host.final_loss - device.final_loss);
            println!("losses differ by {first:.1e} at first, by {last:.1e} at the end");
            assert!(first.abs() < 0.01 && last.abs() < 0.05, "{first} {last}");
        }
    }
}
