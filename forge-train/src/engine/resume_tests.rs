//! Runs with everything switched on, stopped, damaged and resumed: they end with the bytes of a run that was not.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::Device;

use crate::config::{Config, LengthStage, Preset, ScheduleKind, TrainConfig};
use crate::data::batch::Batch;
use crate::data::source::BatchSource;
use crate::data::{Mix, Sequence};
use crate::engine::environment::{Environment, StepMetrics, Watcher};
use crate::engine::lengths::staged;
use crate::engine::objective::LanguageModel;
use crate::engine::shards::{Pools, SHARDS};
use crate::engine::split::Split;
use crate::engine::trainer::{Objective, Shard, Stage, Trained, train_watched};
use crate::error::{Error, Result};
use crate::nn::{Network, Precision};
use crate::optim::Gradients;
use crate::pipeline::checkpoint::KEEP;
use crate::pipeline::disk::checkpoint_bytes;
use crate::pipeline::{CheckpointDir, Progress, StopFlag};
use crate::rng::Rng;
use crate::weights::Weights;

const STEPS: u64 = 9;

/// Random rows of rising tokens.
struct Counting;

impl BatchSource for Counting {
    fn batch(&self, step: u64) -> Batch {
        let (rows, cols) = (12, 16);
        let mut rng = Rng::at_step(3, "counting", step);
        let mut batch = Batch { ids: vec![], targets: vec![], weights: vec![], rows, cols };
        for _ in 0..rows {
            let (first, stride) = (rng.below(40) as u32, 1 + rng.below(3) as u32);
            for i in 0..cols as u32 {
                batch.ids.push((first + stride * i) % 40);
                batch.targets.push((first + stride * (i + 1)) % 40);
                batch.weights.push(rng.uniform());
            }
        }
        batch
    }
}

/// Everything at once: Muon behind Grokfast, a cosine, QK-clip, an average, micro-batches, recomputation.
fn everything() -> TrainConfig {
    TrainConfig {
        micro_tokens: 64,
        recompute: true,
        schedule: ScheduleKind::Cosine,
        warmup: 2,
        floor: 0.1,
        muon_lr: 1e-2,
        muon_iterations: 3,
        grokfast_lambda: 0.3,
        qk_clip: 0.05,
        qk_clip_every: 2,
        ema: 0.9,
        dropout: 0.1,
        ..TrainConfig::adamw(STEPS, 192, 1e-2)
    }
}

fn start() -> Weights {
    let mut model = Config::preset(Preset::Nano).model_config(40);
    model.dim = 16;
    (model.heads, model.kv_heads, model.head_dim, model.ffn) = (4, 2, 8, 24);
    (model.mem_dim, model.mem_gate, model.window) = (8, 8, 8);
    Weights::init(&model, 5)
}

fn objective(dropout: f32) -> LanguageModel {
    LanguageModel::new(std::sync::Arc::new(Counting), &Config::preset(Preset::Nano).phase1)
        .with_dropout(dropout, 7)
}

/// Progress whose notes are kept.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, _what: &str, _total: u64) {}
    fn tick(&self, _done: u64, _message: &str) {}
    fn finish(&self) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// Asks the run to stop after a step and looks at what it did on the way.
struct Stopper<'a> {
    stop: &'a StopFlag,
    after: Option<u64>,
    directory: &'a Path,
    clipped: usize,
    most_on_disk: u64,
}

impl Watcher for Stopper<'_> {
    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.clipped += metrics.clipped_heads;
        assert!(metrics.rate > 0.0 && metrics.gradient_norm > 0.0 && metrics.tokens == 192);
        self.most_on_disk = self.most_on_disk.max(bytes_in(self.directory));
        if self.after == Some(metrics.step + 1) {
            self.stop.request();
        }
        Ok(())
    }
}

fn bytes_in(directory: &Path) -> u64 {
    fs::read_dir(directory).map_or(0, |files| files.map(|f| f.unwrap().metadata().unwrap().len()).sum())
}

/// What a run came to: its result, heads clipped, most bytes on disk, notes.
type Ran = (Result<Trained>, usize, u64, Vec<String>);

fn run(directory: &Path, config: &TrainConfig, objective: &mut dyn Objective, after: Option<u64>) -> Ran {
    let checkpoints = CheckpointDir::open(directory).unwrap();
    let (stop, notes) = (StopFlag::new(), Notes::default());
    let env = Environment {
        checkpoints: &checkpoints,
        checkpoint_seconds: 0,
        progress: &notes,
        stop: &stop,
        device: Device::Cpu,
    };
    let precision = Precision::FLOAT;
    let stage = Stage { name: "stage", train: config, precision, lambda_share: 0.0, frozen: &|_| false };
    let mut stopper = Stopper { stop: &stop, after, directory, clipped: 0, most_on_disk: 0 };
    let result = train_watched(&env, &stage, &start(), objective, &mut stopper);
    let notes = notes.0.lock().unwrap().clone();
    (result, stopper.clipped, stopper.most_on_disk, notes)
}

/// Final weights, losses and the newest checkpoint of a run that is let finish.
fn finished(directory: &Path, config: &TrainConfig) -> (Weights, [u32; 2], Vec<u8>) {
    let trained = run(directory, config, &mut objective(config.dropout), None).0.unwrap();
    let losses = [trained.first_loss.to_bits(), trained.final_loss.to_bits()];
    (trained.weights, losses, fs::read(directory.join(format!("stage-{STEPS:010}.ckpt"))).unwrap())
}

#[test]
fn stopped_anywhere_a_run_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = everything();
    let whole = finished(&dir.path().join("whole"), &config);
    for after in 1..STEPS {
        let broken = dir.path().join(format!("broken{after}"));
        let (result, ..) = run(&broken, &config, &mut objective(config.dropout), Some(after));
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!(finished(&broken, &config) == whole, "stopped after step {after}");
    }
    let plain = TrainConfig { ema: 0.0, ..config };
    assert!(finished(&dir.path().join("plain"), &plain).0 != whole.0, "the average is what is handed on");
}

#[test]
fn any_of_the_five_checkpoints_leads_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = everything();
    let home = dir.path().join("run");
    let whole = finished(&home, &config);
    for lost in 0..KEEP as u64 {
        for step in STEPS - lost + 1..=STEPS {
            fs::remove_file(home.join(format!("stage-{step:010}.ckpt"))).unwrap();
        }
        assert!(finished(&home, &config) == whole, "without the newest {lost}");
    }
}

#[test]
fn a_damaged_checkpoint_falls_back_with_a_note_and_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = everything();
    let whole = finished(dir.path(), &config);
    let newest = dir.path().join(format!("stage-{STEPS:010}.ckpt"));
    let intact = fs::read(&newest).unwrap();
    let mut flipped = intact.clone();
    flipped[intact.len() / 3] ^= 4;
    for damaged in [&flipped[..], &intact[..intact.len() / 2]] {
        fs::write(&newest, damaged).unwrap();
        let (result, _, _, notes) = run(dir.path(), &config, &mut objective(config.dropout), None);
        assert!(result.unwrap().weights == whole.0);
        assert!(notes.iter().any(|n| n.contains("went back to step 8")), "{notes:?}");
        assert!(fs::read(&newest).unwrap() == intact);
    }
}

/// Fails in the middle of an accumulation.
struct Failing(LanguageModel, u64);

impl Objective for Failing {
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>> {
        let mut shards = self.0.shards(network, step, split)?;
        assert!(shards.len() > 2 * SHARDS, "several micro-batches");
        if step == self.1 {
            let middle = shards.len() / 2;
            shards[middle].work = Box::new(|_| Err(Error::Config("the machine went down".into())));
        }
        Ok(shards)
    }
}

#[test]
fn a_run_that_dies_inside_an_accumulation_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = everything();
    let whole = finished(&dir.path().join("whole"), &config);
    let broken = dir.path().join("broken");
    let mut failing = Failing(objective(config.dropout), 4);
    assert!(run(&broken, &config, &mut failing, None).0.is_err());
    assert!(finished(&broken, &config) == whole);
}

#[test]
fn checkpoints_stay_within_their_budget_and_heads_are_clipped() {
    let dir = tempfile::tempdir().unwrap();
    let config = everything();
    let (result, clipped, most, _) = run(dir.path(), &config, &mut objective(config.dropout), None);
    result.unwrap();
    assert!(clipped > 0, "τ is low enough to matter");
    let budget = KEEP as u64 * checkpoint_bytes(&start().config, &config);
    assert!(most <= budget && most > budget / 2, "{most} of {budget} bytes");
}

#[test]
fn recomputation_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let config = everything();
    let kept = TrainConfig { recompute: false, ..config.clone() };
    let (a, b) = (finished(&dir.path().join("a"), &config), finished(&dir.path().join("b"), &kept));
    assert!(a == b);
}

/// Sequences of two lengths, the short ones alone for the first half of the steps; all batches have 192 positions.
fn staged_objective(curriculum: &[LengthStage]) -> LanguageModel {
    let sequence = |i: u16| {
        let len = if i.is_multiple_of(2) { 9 } else { 17 };
        Sequence { ids: (0..len).map(|at| (i + at) % 40).collect(), weights: vec![1.0; usize::from(len)] }
    };
    let sequences: Vec<Sequence> = (0..960).map(sequence).collect();
    let config = Config::preset(Preset::Nano);
    let mix = Mix::from(Arc::new(sequences));
    let batches = staged(mix, 192, &config.data, [5, STEPS], "stage", curriculum).unwrap();
    LanguageModel::new(batches, &config.phase1)
}

#[test]
fn a_curriculum_of_lengths_goes_on_where_it_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let config = TrainConfig::adamw(STEPS, 192, 1e-2);
    let curriculum = [LengthStage { until: 0.5, max_len: 10 }];
    let weights = |name: &str, curriculum: &[LengthStage], after: Option<u64>| {
        let directory = dir.path().join(name);
        if after.is_some() {
            let (result, ..) = run(&directory, &config, &mut staged_objective(curriculum), after);
            assert!(matches!(result, Err(Error::Interrupted)));
        }
        run(&directory, &config, &mut staged_objective(curriculum), None).0.unwrap().weights
    };
    let whole = weights("whole", &curriculum, None);
    for after in 1..STEPS {
        assert!(
            weights(&format!("broken{after}"), &curriculum, Some(after)) == whole,
            "stopped after {after}"
        );
    }
    assert!(weights("plain", &[], None) != whole, "the curriculum changes what is learnt");
}

fn gradients(micro_tokens: usize, step: u64) -> Gradients {
    let network = Network::new(&start(), Precision::FLOAT, &Device::Cpu).unwrap();
    let mut objective = objective(0.0);
    let shards = objective.shards(&network, step, Split { parallel: SHARDS, micro_tokens }).unwrap();
    Pools::default().gradients(&network, shards).unwrap().1
}

/// Largest distance of two gradients, relative to the larger one's norm.
fn distance(a: &Gradients, b: &Gradients) -> f64 {
    let mut worst = 0f64;
    for (key, _) in a.iter() {
        let (a, b) = (a.get(key).unwrap(), b.get(key).unwrap());
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
        worst = worst.max(difference / norm(&mut a.iter().copied()).max(1e-12));
    }
    worst
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    // Step 0 teaches the halting head, in step 1 tokens halt.
    for step in 0..2 {
        let whole = gradients(0, step);
        for micro_tokens in [96, 64, 1] {
            let parts = gradients(micro_tokens, step);
            assert!(distance(&whole, &parts) < 1e-4, "{micro_tokens}: {}", distance(&whole, &parts));
            assert!(parts == gradients(micro_tokens, step), "the same parts give the same bits");
        }
    }
    assert!(distance(&gradients(0, 0), &gradients(0, 2)) > 0.1, "other batches have other gradients");
}

#[test]
fn averages_of_ternary_latents_are_refused_unless_forced() {
    let config = TrainConfig { ema: 0.9, ..TrainConfig::adamw(STEPS, 192, 1e-2) };
    assert!(config.check("phase5.train", false).is_ok());
    let error = config.check("phase5.train", true).unwrap_err();
    assert!(error.hint().unwrap().contains("phase5.train.ema_ternary=true"));
    assert!(TrainConfig { ema_ternary: true, ..config.clone() }.check("phase5.train", true).is_ok());
    assert!(TrainConfig { floor: 2.0, ..config }.check("phase5.train", false).is_err());
}
