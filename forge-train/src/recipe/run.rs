//! Runs a recipe from its start or its newest checkpoint to a file that is measured.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use forge_formats::codec::Codec;
use forge_formats::config::ModelConfig;
use forge_formats::role::RoleKind;
use serde::Serialize;
use serde_json::Value;

use crate::codec::{self, Metric};
use crate::engine::emit::{Card, emit_with};
use crate::engine::environment::Environment;
use crate::engine::objective::{Distillation, LanguageModel};
use crate::engine::trainer::{Objective, Stage, train_watched};
use crate::error::{Error, Result};
use crate::eval::{self, TextOptions, evaluate_text};
use crate::nn::{Network, Precision};
use crate::pipeline::memory::{Place, check_stage};
use crate::pipeline::stages::StageKind;
use crate::pipeline::{Progress, StopFlag, durable};
use crate::recipe::curve::Curve;
use crate::recipe::directory::{RunDirectory, best_of, finished};
use crate::recipe::judge::Judge;
use crate::recipe::material::{HeldOut, Material, text_tokens};
use crate::recipe::{Recipe, TernaryCodec};
use crate::tokenizer::Tokenizer;
use crate::weights::{Key, Weights};

/// Name of the run's only stage.
const STAGE: &str = "train";

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this document.
    pub schema: u32,
    /// Parameters of the model.
    pub parameters: usize,
    /// Length of the file.
    pub bytes: usize,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens trained on, padding included.
    pub tokens: u64,
    /// Seconds of training, evaluations not counted.
    pub seconds: f64,
    /// Steps done when the held-out loss was lowest; the file holds those weights.
    pub best_step: u64,
    /// Held-out loss then in nats, measured by the trainer.
    pub best_loss: f64,
    /// What was measured on the file, through the runtime.
    pub eval: Value,
}

impl Report {
    /// The measures of the file that are single numbers or estimates, as people read them.
    pub fn measures(&self) -> impl Iterator<Item = (&str, String)> {
        self.eval.as_object().into_iter().flatten().filter_map(|(name, value)| {
            let number = |v: &Value| v.as_f64().map(|v| format!("{v:.4}"));
            let interval = || {
                Some(format!(
                    "{} [{}, {}]",
                    number(value.get("value")?)?,
                    number(value.get("low")?)?,
                    number(value.get("high")?)?
                ))
            };
            let text = value.as_u64().map(|v| v.to_string()).or_else(|| number(value)).or_else(interval)?;
            Some((name.as_str(), text))
        })
    }
}

/// Runs `directory`'s recipe on `device`, in at most about `memory` bytes where that is given.
///
/// # Errors
/// [`Error::Interrupted`] after a stop request, with state saved; [`Error::Gate`] when the loss is not finite;
/// [`Error::Usage`] when it would not fit into `memory`, with settings that do.
pub fn run(
    directory: &RunDirectory,
    device: &Device,
    memory: Option<u64>,
    progress: &dyn Progress,
    stop: &StopFlag,
) -> Result<Report> {
    let recipe = directory.recipe();
    let teacher = Teaching::of(recipe)?;
    let table = teacher.as_ref().map(|teacher| teacher.tokenizer.as_slice());
    let material = Material::prepare(directory, table, progress)?;
    let config = recipe.model_config(material.tokenizer.vocab());
    if let Some(budget) = memory {
        let place = if device.is_cuda() { Place::Gpu } else { Place::Cpu };
        fits(recipe, &config, teacher.as_ref(), place, budget)?;
    }
    directory.keep_tokenizer(&material.tokenizer)?;
    let start = Weights::init(&config, recipe.run.seed);
    let (name, parameters) = (&material.name, start.parameters());
    progress.note(&format!("{name}: {parameters} parameters, {} tokens known", config.vocab));
    let precision = recipe.precision();
    let data = LanguageModel::supervised(Arc::clone(&material.source), recipe.supervision())
        .with_dropout(recipe.train.dropout, recipe.run.seed);
    let mut objective: Box<dyn Objective> = match &teacher {
        None => Box::new(data),
        Some(teacher) => {
            let network = Network::new(&teacher.weights, teacher.precision, device)?.detached().prepared()?;
            Box::new(Distillation { data, teacher: network, weight: recipe.teacher.weight })
        }
    };
    let checkpoints = directory.checkpoints()?;
    let done = checkpoints.latest(STAGE)?.map_or(0, |checkpoint| checkpoint.step);
    let limit = recipe.run.evaluate_tokens;
    let mut judge = Judge {
        directory,
        progress,
        every: recipe.run.evaluate_every,
        batches: material.held_out.batches(&material.tokenizer, recipe, limit),
        curve: Curve::open(&directory.curve(), done)?,
        best: directory.best_score()?,
    };
    let environment = Environment {
        checkpoints: &checkpoints,
        checkpoint_seconds: recipe.run.checkpoint_seconds,
        progress,
        stop,
        device: device.clone(),
    };
    let lambda_share = recipe.precision.lambda_share;
    let stage = Stage { name: STAGE, train: &recipe.train, precision, lambda_share, frozen: &|_| false };
    train_watched(&environment, &stage, &start, objective.as_mut(), &mut judge)?;
    finish(directory, &material, &judge)
}

/// Refuses a run that does not fit into `budget` bytes.
fn fits(
    recipe: &Recipe,
    model: &ModelConfig,
    teacher: Option<&Teaching>,
    place: Place,
    budget: u64,
) -> Result<()> {
    let longest = recipe.data.block + 1;
    let stage = StageKind {
        section: STAGE,
        train: &recipe.train,
        positions: recipe.train.batch_tokens.max(longest),
        count: 1,
        ternary: recipe.precision.ternary,
        // The weights it begins with and the best so far.
        others: 2,
        distils: teacher.is_some(),
    };
    let taught = teacher.map_or(0, |teacher| 4 * teacher.weights.parameters() as u64);
    check_stage(model, &stage, longest as u64, place, taught, budget)
}

/// A finished run to learn from.
struct Teaching {
    weights: Weights,
    precision: Precision,
    tokenizer: Vec<u8>,
}

impl Teaching {
    fn of(recipe: &Recipe) -> Result<Option<Self>> {
        if recipe.teacher.run.is_empty() {
            return Ok(None);
        }
        let path = Path::new(&recipe.teacher.run);
        let (tokenizer, taught) = finished(path)?;
        Ok(Some(Self { weights: best_of(path)?, precision: taught.precision(), tokenizer }))
    }
}

/// Writes the file of the best weights, measures it and reports.
fn finish(directory: &RunDirectory, material: &Material, judge: &Judge<'_>) -> Result<Report> {
    let recipe = directory.recipe();
    let weights = directory.best()?;
    let mut card = Card {
        forge: env!("CARGO_PKG_VERSION"),
        phase: "train".into(),
        chain: Vec::new(),
        seed: recipe.run.seed,
        data: material.name.clone(),
        tools: material.tools.clone(),
        eval: Value::Null,
    };
    let draft = file(&weights, &material.tokenizer, &card, recipe)?;
    card.eval = measure(&draft, material, recipe)?;
    let bytes = file(&weights, &material.tokenizer, &card, recipe)?;
    durable::write(&directory.model(), &[&bytes])?;
    let (best_loss, best_step) = judge.best.unwrap_or((f64::NAN, 0));
    let report = Report {
        schema: 1,
        parameters: weights.parameters(),
        bytes: bytes.len(),
        steps: recipe.train.steps,
        tokens: judge.curve.tokens(),
        seconds: judge.curve.seconds(),
        best_step,
        best_loss,
        eval: card.eval,
    };
    let json = serde_json::to_vec_pretty(&report).expect("a report is plain data");
    durable::write(&directory.report(), &[&json])?;
    Ok(report)
}

/// The model's file: f32, or ternary projections with byte tables.
fn file(weights: &Weights, tokenizer: &Tokenizer, card: &Card, recipe: &Recipe) -> Result<Vec<u8>> {
    let codecs: &[Codec] = match recipe.precision.codec {
        TernaryCodec::TwoBits => &[Codec::Ternary2b],
        TernaryCodec::FiveInAByte => &[Codec::Ternary5x8],
        TernaryCodec::Smallest => &[Codec::Ternary5x8, Codec::TernaryRans, Codec::TernarySparse],
    };
    emit_with(weights, tokenizer, card, |key: Key| {
        let codecs = match key.0.kind() {
            _ if !recipe.precision.ternary => &[Codec::F32][..],
            RoleKind::Vector => &[Codec::F32],
            RoleKind::Table => &[Codec::Int8Row],
            RoleKind::Projection => codecs,
        };
        let matrix = &weights.tensors[&key];
        let coded: Vec<_> =
            codecs.iter().map(|codec| codec::encode(codec, matrix, Metric::Plain)).collect::<Result<_>>()?;
        let smallest = coded.into_iter().min_by_key(|coded| coded.payload.len());
        let coded = smallest.ok_or_else(|| Error::Config("no codec to choose from".into()))?;
        Ok((coded.codec, coded.payload))
    })
}

/// Measures that differ from run to run or are said elsewhere: a file's card must depend on its weights alone.
const LEFT_OUT: [&str; 2] = ["tokens_per_second", "bytes"];

/// What the file does on everything held out, through the runtime.
fn measure(bytes: &[u8], material: &Material, recipe: &Recipe) -> Result<Value> {
    let measured = match &material.held_out {
        HeldOut::Text(text, _) => {
            let tokens = text_tokens(text, recipe.data.valid_share, &material.tokenizer)?;
            serde_json::to_value(evaluate_text(bytes, &tokens, &TextOptions::blocks(recipe.data.block))?)
        }
        HeldOut::Examples(examples) => {
            serde_json::to_value(eval::evaluate(bytes, examples, &eval::Options::default())?)
        }
    };
    let mut measured = measured.expect("measures are plain data");
    if let Some(measures) = measured.as_object_mut() {
        measures.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
    }
    Ok(measured)
}
