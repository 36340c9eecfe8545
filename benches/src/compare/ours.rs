//! This project's runtime as a contestant.

use std::time::Instant;

use anyhow::{Context, Result};
use forge_formats::codec::encode::Simple;
use forge_formats::config::CacheKind;
use forge_runtime::team::{TeamSession, with_team, worthwhile_threads};
use forge_runtime::testing::random_model;
use forge_runtime::{Error, Kernels, Model, ModelConfig, Options, Workspace};

use super::contestant::{Contestant, Speeds, TOKENS};
use super::shape::{SHAPES, Shape};

/// Seed of the random weights.
const SEED: u64 = 25;
/// Tokens of a prompt read at a time.
const BLOCK: usize = 64;

/// A model file of a shape: ternary blocks, int8 embedding.
pub(crate) fn model_file(shape: &Shape) -> Vec<u8> {
    random_model(&shape.config(), SEED, Simple::Ternary2b)
}

/// A model for a microcontroller: 1.1 M parameters in about 340 kB.
pub(crate) fn device_file() -> Vec<u8> {
    let config = ModelConfig {
        vocab: 768,
        dim: 128,
        layers: 6,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        ffn: 352,
        window: 256,
        cache: CacheKind::Int8,
        ..SHAPES[0].config()
    };
    random_model(&config, SEED, Simple::Ternary5x8)
}

/// The runtime with one set of kernels.
#[derive(Debug)]
pub(crate) struct Ours<'f> {
    label: String,
    kernels: &'static Kernels,
    file: &'f [u8],
}

impl<'f> Ours<'f> {
    /// One for each set of kernels of these names, `best` being the best of this machine. A name that is not there
    /// is left out when it is another machine's.
    ///
    /// # Errors
    /// When none is left.
    pub(crate) fn all(file: &'f [u8], names: &[String]) -> Result<Vec<Self>> {
        let wanted = |k: &&Kernels| names.iter().any(|n| n == k.name() || n == "best" && is_best(k));
        let one = |kernels: &'static Kernels| {
            let label = format!("forge {}", kernels.name());
            Self { label, kernels, file }
        };
        let all: Vec<Self> = Kernels::all().filter(wanted).map(one).collect();
        let there = || Kernels::all().map(Kernels::name).collect::<Vec<_>>().join(", ");
        let named = || format!("this machine has none of the kernels {names:?}, but {}", there());
        (!all.is_empty()).then_some(all).with_context(named)
    }
}

/// Whether these are what a session chooses by itself.
fn is_best(kernels: &Kernels) -> bool {
    kernels.name() == Kernels::best().name()
}

impl Contestant for Ours<'_> {
    fn label(&self) -> &str {
        &self.label
    }

    fn isa(&self) -> Option<&str> {
        Some(self.kernels.name())
    }

    fn measure(&mut self, threads: usize, repetitions: usize) -> Result<Speeds> {
        let model = Model::parse(self.file)?;
        model.file().verify()?;
        let mut memory = Workspace::of(model.prepared_bytes());
        let prepared = memory.prepare(&model)?;
        let options = Options::default().kernels(self.kernels).prepared(prepared).block(BLOCK);
        let vocab = model.config().vocab as usize;
        let tokens: Vec<u16> = (0..TOKENS).map(|i| ((i * 7919 + 300) % vocab) as u16).collect();
        let threads = worthwhile_threads(&model, threads);
        let speeds = with_team(&model, &options, threads, |session| {
            let mut speeds = Speeds { threads: Some(session.threads()), ..Speeds::default() };
            for repetition in 0..=repetitions {
                let (prefill, decode) = (prefill(session, &tokens)?, decode(session, &tokens)?);
                // The first warms caches and clock, as llama-bench's does.
                if repetition > 0 {
                    speeds.prefill.push(prefill);
                    speeds.decode.push(decode);
                }
            }
            Ok(speeds)
        })?;
        Ok(speeds)
    }
}

/// Tokens a second of reading a prompt from an empty context, with the logits of its last token.
fn prefill(session: &mut TeamSession<'_>, tokens: &[u16]) -> Result<f64, Error> {
    session.reset();
    let start = Instant::now();
    std::hint::black_box(session.extend(tokens)?);
    Ok(tokens.len() as f64 / start.elapsed().as_secs_f64())
}

/// Tokens a second of reading tokens one by one from an empty context, with the logits of each.
fn decode(session: &mut TeamSession<'_>, tokens: &[u16]) -> Result<f64, Error> {
    session.reset();
    let start = Instant::now();
    for token in tokens {
        std::hint::black_box(session.step_mut(*token)?);
    }
    Ok(tokens.len() as f64 / start.elapsed().as_secs_f64())
}
