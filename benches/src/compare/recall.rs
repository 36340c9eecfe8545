//! `compare recall`: associative recall beyond the attention window, with each kind of memory, with global positions that
//! stay in sight, and without either.
//!
//! A sequence states pairs of a key and a value, then says nothing for longer than attention reaches back through all
//! blocks, then asks for every key in another order. What counts is the value behind each question, by the emitted
//! ternary file in the runtime, on sequences that were never trained on. Chance is one in as many values as there are.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_runtime::{Model, Session, Workspace};
use forge_train::config::{TokenizerConfig, TokenizerKind, TrainConfig};
use forge_train::data::batch::Batch;
use forge_train::data::source::BatchSource;
use forge_train::device;
use forge_train::engine::emit::{Card, emit, ternary_int8};
use forge_train::engine::environment::Environment;
use forge_train::engine::objective::{LanguageModel, Supervision};
use forge_train::engine::trainer::{Stage, train};
use forge_train::nn::Precision;
use forge_train::pipeline::{CheckpointDir, Silent, StopFlag};
use forge_train::rng::Rng;
use forge_train::tokenizer::{Tokenizer, controls};
use forge_train::weights::Weights;
use serde::Serialize;

/// Sequences the file is judged on.
const JUDGED: u64 = 200;
/// Positions a token sees, itself included, in each of two blocks.
const WINDOW: u32 = 16;
/// Tokens that say nothing between the pairs and the questions: more than both blocks' windows reach together.
const GAP: usize = 34;
/// Distance between global positions: as long as a pair, so that each pair has one.
const EVERY: u32 = 2;
const KEYS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const VALUES: &[u8] = b"0123456789";

/// Options of `compare recall`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pairs of a sequence, 26 at most
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=26))]
    pairs: u8,
    /// Steps of 4,096 tokens
    #[arg(long, default_value_t = 1500)]
    steps: u64,
    /// Width of the memory
    #[arg(long, default_value_t = 32)]
    width: u32,
    /// Seeds that are reported
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Kinds of memory: none, ema, titans, or globals: no memory, but global positions
    #[arg(long, value_delimiter = ',', default_value = "none,ema,titans,globals")]
    memories: Vec<String>,
    /// Where training computes
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What one kind of memory came to.
#[derive(Debug, Serialize)]
struct Row {
    memory: String,
    parameters: usize,
    bytes: usize,
    /// Share of questions answered, one a seed.
    accuracy: Vec<f64>,
}

/// Sequences of pairs, a gap, and questions.
struct Pairs {
    ids: Symbols,
    pairs: usize,
    rows: usize,
    seed: u64,
}

/// Ids of what sequences are made of.
#[derive(Clone)]
struct Symbols {
    keys: Vec<u16>,
    values: Vec<u16>,
    silence: u16,
}

/// One sequence, and the places of tokens behind which a value is asked for.
struct Recall {
    ids: Vec<u16>,
    asked: Vec<usize>,
}

impl Symbols {
    fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let ids = |bytes: &[u8]| {
            let one = |b: &u8| tokenizer.encode(&char::from(*b).to_string()).first().copied();
            bytes.iter().map(one).collect::<Option<Vec<_>>>().context("a byte without a token")
        };
        Ok(Self { keys: ids(KEYS)?, values: ids(VALUES)?, silence: ids(b".")?[0] })
    }
}

impl Pairs {
    fn recall(&self, rng: &mut Rng) -> Recall {
        let mut keys = self.ids.keys.clone();
        rng.shuffle(&mut keys);
        keys.truncate(self.pairs);
        let mut pairs: Vec<(u16, u16)> =
            keys.iter().map(|k| (*k, self.ids.values[rng.below(self.ids.values.len())])).collect();
        let flat = |pairs: &[(u16, u16)]| pairs.iter().flat_map(|(k, v)| [*k, *v]).collect::<Vec<_>>();
        let mut ids = flat(&pairs);
        ids.resize(ids.len() + GAP, self.ids.silence);
        rng.shuffle(&mut pairs);
        let asked = (0..self.pairs).map(|i| ids.len() + 2 * i).collect();
        ids.extend(flat(&pairs));
        Recall { ids, asked }
    }
}

impl BatchSource for Pairs {
    fn batch(&self, step: u64) -> Batch {
        let mut rng = Rng::at_step(self.seed, "recall", step);
        let mut batch = Batch { ids: vec![], targets: vec![], weights: vec![], rows: self.rows, cols: 0 };
        for _ in 0..self.rows {
            let Recall { ids, asked } = self.recall(&mut rng);
            batch.cols = ids.len() - 1;
            batch.ids.extend(ids[..batch.cols].iter().map(|id| u32::from(*id)));
            batch.targets.extend(ids[1..].iter().map(|id| u32::from(*id)));
            batch.weights.extend((0..batch.cols).map(|at| f32::from(u8::from(asked.contains(&at)))));
        }
        batch
    }
}

fn model(memory: &str, width: u32, vocab: u32, length: usize) -> Result<ModelConfig> {
    let kind = match memory {
        "none" | "ema" | "globals" => MemoryKind::Ema,
        "titans" => MemoryKind::Titans,
        other => anyhow::bail!("no memory is called `{other}`; there are none, ema, titans and globals"),
    };
    let width = if ["none", "globals"].contains(&memory) { 0 } else { width };
    let every = if memory == "globals" { EVERY } else { 0 };
    Ok(ModelConfig {
        vocab,
        dim: 64,
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        ffn: 172,
        activation: Activation::SwiGlu,
        window: WINDOW,
        rope_log2_theta: 13.287_712,
        norm_eps: 1e-6,
        norm_gain: true,
        tied: true,
        recursion: 1,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: width,
        mem_gate: width,
        mem_layers: if width > 0 { 0b10 } else { 0 },
        cache: CacheKind::F32,
        memory: kind,
        globals: Globals::within(u32::try_from(length)?, every, WINDOW),
    })
}

/// Share of the questions that the file answers.
fn judged(file: &[u8], pairs: &Pairs) -> Result<f64> {
    let model = Model::parse(file).map_err(|e| anyhow::anyhow!("{e}"))?;
    let (mut right, mut asked) = (0u64, 0u64);
    for number in 0..JUDGED {
        // Training draws from the same seed's `recall`.
        let recall = pairs.recall(&mut Rng::at_step(pairs.seed, "judged recall", number));
        let mut memory = Workspace::new(&model);
        let mut session = Session::new(&model, memory.bytes()).map_err(|e| anyhow::anyhow!("{e}"))?;
        for (at, id) in recall.ids.iter().enumerate().take(recall.ids.len() - 1) {
            let logits = session.step(*id).map_err(|e| anyhow::anyhow!("{e}"))?;
            if recall.asked.contains(&at) {
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                right += u64::from(best == Some(recall.ids[at + 1].into()));
                asked += 1;
            }
        }
    }
    Ok(right as f64 / asked as f64)
}

fn run_one(options: &Options, memory: &str, seed: u64) -> Result<(usize, usize, f64)> {
    let device = device::open(&options.device)?;
    let config = TokenizerConfig { kind: TokenizerKind::Byte, vocab: 0 };
    let tokenizer = Tokenizer::train(std::iter::empty::<&str>(), controls(), &config)?;
    let ids = Symbols::of(&tokenizer)?;
    let length = 4 * usize::from(options.pairs) + GAP;
    let pairs = || Pairs { ids: ids.clone(), pairs: options.pairs.into(), rows: 4096 / length, seed };
    let train_config = TrainConfig { weight_decay: 0.0, ..TrainConfig::adamw(options.steps, 4096, 3e-3) };
    let (precision, frozen) = (Precision::TERNARY, |_| false);
    let stage = Stage { name: "recall", train: &train_config, precision, lambda_share: 0.1, frozen: &frozen };
    let folder = tempfile::tempdir()?;
    let environment = Environment {
        checkpoints: &CheckpointDir::open(folder.path())?,
        checkpoint_seconds: u64::MAX,
        progress: &Silent,
        stop: &StopFlag::new(),
        device,
    };
    let supervision = Supervision { recursions: vec![1.0], halt_weight: 0.0, halt_margin: 0.0 };
    let mut objective = LanguageModel::supervised(Arc::new(pairs()), supervision);
    let start = Weights::init(&model(memory, options.width, tokenizer.vocab(), length)?, seed);
    let trained = train(&environment, &stage, &start, &mut objective)?;
    let card = Card {
        forge: env!("CARGO_PKG_VERSION"),
        phase: "recall".into(),
        chain: Vec::new(),
        seed,
        data: "pairs of keys and values".into(),
        tools: Vec::new(),
        eval: serde_json::Value::Null,
    };
    let file = emit(&trained.weights, &tokenizer, &card, &ternary_int8)?;
    Ok((start.parameters(), file.len(), judged(&file, &pairs())?))
}

/// Trains and judges each kind of memory.
///
/// # Errors
/// When an option is wrong or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    for memory in &options.memories {
        let mut row = Row { memory: memory.clone(), parameters: 0, bytes: 0, accuracy: Vec::new() };
        for seed in &options.seeds {
            let (parameters, bytes, accuracy) = run_one(options, memory, *seed)?;
            eprintln!("  {memory}, seed {seed}: {accuracy:.3}");
            (row.parameters, row.bytes) = (parameters, bytes);
            row.accuracy.push(accuracy);
        }
        rows.push(row);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("{:<8} {:>10} {:>9}  accuracy, one a seed", "memory", "parameters", "bytes");
    for row in &rows {
        let accuracy: Vec<String> = row.accuracy.iter().map(|a| format!("{a:.3}")).collect();
        println!("{:<8} {:>10} {:>9}  {}", row.memory, row.parameters, row.bytes, accuracy.join(" "));
    }
    Ok(())
}
