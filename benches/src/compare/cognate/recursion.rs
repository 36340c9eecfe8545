//! `compare recursion`: the same stored blocks applied three times and once, at equal steps and at equal compute.
//!
//! Applied once, a model has the same tensors but for the three gains of the loop. At equal compute it trains for as many
//! times the steps as the other recurses: every recursion runs the blocks, and deep supervision the head.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use forge_train::config::{TokenizerConfig, TokenizerKind, TrainConfig};
use forge_train::engine::objective::{LanguageModel, Supervision};
use forge_train::tokenizer::{Tokenizer, controls};
use forge_train::weights::Weights;
use serde::Serialize;

use super::hops::{self, Hops};
use super::lab::{Bench, Judged, Lab, file};
use super::{Runs, figures, print};

/// Options of `compare recursion`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Tasks: builtin, the commands, problems, dialogue and prose of the built-in data; hops, following a permutation
    #[arg(long, value_delimiter = ',', default_value = "builtin,hops")]
    tasks: Vec<String>,
    /// Contestants: recursive, once, once-long (equal compute), and for hops deep (as many blocks as the recursive one
    /// applies)
    #[arg(long, value_delimiter = ',', default_value = "recursive,once,once-long,deep")]
    contestants: Vec<String>,
    /// Times the recursive contestant applies its blocks
    #[arg(long, default_value_t = 3)]
    recursion: u32,
    /// Steps on the built-in data, of the preset's tokens
    #[arg(long, default_value_t = 1600)]
    steps: u64,
    /// Steps on hops
    #[arg(long, default_value_t = 3000)]
    hops_steps: u64,
    /// Tokens of a step on hops
    #[arg(long, default_value_t = 4096)]
    hops_tokens: usize,
    /// Peak learning rate on hops
    #[arg(long, default_value_t = 2e-3)]
    hops_rate: f32,
    #[command(flatten)]
    runs: Runs,
}

/// One run.
#[derive(Debug, Serialize)]
struct Row {
    task: &'static str,
    contestant: String,
    layers: u32,
    recursion: u32,
    steps: u64,
    seed: u64,
    /// Parameters of the model.
    parameters: usize,
    /// Length of the file in f32.
    bytes: u64,
    /// Seconds of training.
    seconds: f64,
    /// On the built-in data.
    #[serde(skip_serializing_if = "Option::is_none")]
    judged: Option<Judged>,
    /// On hops: share of answers by applications from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<[f64; hops::MOST]>,
}

/// Blocks, times they are applied, and factor on the steps.
struct Contestant {
    layers: u32,
    recursion: u32,
    longer: u64,
}

impl Options {
    fn contestant(&self, name: &str, layers: u32) -> Result<Contestant> {
        let times = self.recursion;
        Ok(match name {
            "recursive" => Contestant { layers, recursion: times, longer: 1 },
            "once" => Contestant { layers, recursion: 1, longer: 1 },
            "once-long" => Contestant { layers, recursion: 1, longer: times.into() },
            "deep" => Contestant { layers: layers * times, recursion: 1, longer: 1 },
            other => {
                bail!("no contestant is called `{other}`; there are recursive, once, once-long and deep")
            }
        })
    }

    fn builtin(&self, name: &str, seed: u64) -> Result<Row> {
        let lab = Lab::new(&self.runs.set, seed, &self.runs.device)?;
        let Contestant { layers, recursion, longer } = self.contestant(name, lab.config.model.layers)?;
        let steps = self.steps * longer;
        let defaults = &lab.config.phase1.trunk;
        let warmup = TrainConfig::adamw(steps, defaults.batch_tokens, defaults.lr).warmup;
        let train = TrainConfig { steps, warmup, ..defaults.clone() };
        let start =
            lab.start(|model| (model.layers, model.recursion, model.halting) = (layers, recursion, false));
        let trained = lab.train("trunk", &train, &start, false)?;
        let judged = lab.judge(&trained.weights)?;
        Ok(Row {
            task: "builtin",
            contestant: name.into(),
            layers,
            recursion,
            steps,
            seed,
            parameters: start.parameters(),
            bytes: judged.bytes,
            seconds: trained.seconds,
            judged: Some(judged),
            hops: None,
        })
    }

    fn hops(&self, name: &str, seed: u64) -> Result<Row> {
        let config = TokenizerConfig { kind: TokenizerKind::Byte, vocab: 0 };
        let tokenizer = Tokenizer::train(std::iter::empty::<&str>(), controls(), &config)?;
        let Contestant { layers, recursion, longer } = self.contestant(name, 2)?;
        let steps = self.hops_steps * longer;
        let train =
            TrainConfig { weight_decay: 0.0, ..TrainConfig::adamw(steps, self.hops_tokens, self.hops_rate) };
        let task = Hops::new(&tokenizer, train.batch_tokens, seed)?;
        let supervision = Supervision { recursions: vec![0.5, 1.0], halt_weight: 0.0, halt_margin: 0.0 };
        let objective = LanguageModel::supervised(Arc::new(task.clone()), supervision);
        let start = Weights::init(&hops::model(layers, recursion, tokenizer.vocab()), seed);
        let trained = Bench::new(&self.runs.device)?.train("hops", &train, &start, objective)?;
        let file = file(&trained.weights, &tokenizer, seed)?;
        Ok(Row {
            task: "hops",
            contestant: name.into(),
            layers,
            recursion,
            steps,
            seed,
            parameters: start.parameters(),
            bytes: file.len() as u64,
            seconds: trained.seconds,
            judged: None,
            hops: Some(task.judge(&file)?),
        })
    }
}

/// Trains and judges every contestant.
///
/// # Errors
/// When an option is wrong or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    for task in &options.tasks {
        for name in options.contestants.iter().filter(|name| task != "builtin" || *name != "deep") {
            for seed in &options.runs.seeds {
                let row = match task.as_str() {
                    "builtin" => options.builtin(name, *seed)?,
                    "hops" => options.hops(name, *seed)?,
                    other => bail!("no task is called `{other}`; there are builtin and hops"),
                };
                eprintln!("  {}", serde_json::to_string(&row)?);
                rows.push(row);
            }
        }
    }
    let heading =
        ["task", "contestant", "blocks × times", "parameters", "bytes", "steps", "seed", "seconds", "result"];
    print(&rows, options.runs.json, &heading, cells)
}

fn cells(row: &Row) -> Vec<String> {
    let result = match (&row.judged, &row.hops) {
        (Some(j), _) => format!(
            "{:.4} bits per byte, {:.1} % of frames, {:.1} % of answers",
            j.bits_per_byte,
            100.0 * j.frames,
            100.0 * j.answers
        ),
        (None, Some(hops)) => figures(hops.iter().copied(), 3),
        (None, None) => String::new(),
    };
    vec![
        row.task.into(),
        row.contestant.clone(),
        format!("{} × {}", row.layers, row.recursion),
        row.parameters.to_string(),
        row.bytes.to_string(),
        row.steps.to_string(),
        row.seed.to_string(),
        format!("{:.0}", row.seconds),
        result,
    ]
}
