//! This project's runtime as a contestant.

use std::time::Instant;

use anyhow::{Result, ensure};
use forge_formats::codec::encode::Simple;
use forge_runtime::testing::random_model;
use forge_runtime::{Model, ModelConfig, Session, Workspace};

use super::contestant::{Contestant, Speeds, TOKENS};
use super::shape::{SHAPES, Shape};

/// Seed of the random weights.
const SEED: u64 = 25;

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
        ..SHAPES[0].config()
    };
    random_model(&config, SEED, Simple::Ternary5x8)
}

/// The runtime with one set of kernels.
#[derive(Debug)]
pub(crate) struct Ours<'f> {
    label: String,
    file: &'f [u8],
}

impl<'f> Ours<'f> {
    /// One for each set of kernels this machine can run.
    pub(crate) fn all(file: &'f [u8]) -> Vec<Self> {
        vec![Self { label: "forge".into(), file }]
    }
}

impl Contestant for Ours<'_> {
    fn label(&self) -> &str {
        &self.label
    }

    fn measure(&mut self, threads: usize, repetitions: usize) -> Result<Speeds> {
        if threads != 1 {
            return Ok(Speeds::default());
        }
        let model = Model::parse(self.file)?;
        ensure!(model.file().verify().is_ok(), "a checksum of the model is wrong");
        let vocab = model.config().vocab as usize;
        let tokens: Vec<u16> = (0..TOKENS).map(|i| ((i * 7919 + 300) % vocab) as u16).collect();
        let mut workspace = Workspace::new(&model);
        let mut session = Session::new(&model, workspace.bytes())?;
        let mut speeds = Speeds::default();
        for repetition in 0..=repetitions {
            let (prefill, decode) = (prefill(&mut session, &tokens)?, decode(&mut session, &tokens)?);
            // The first warms caches and clock, as llama-bench's does.
            if repetition > 0 {
                speeds.prefill.push(prefill);
                speeds.decode.push(decode);
            }
        }
        Ok(speeds)
    }
}

/// Tokens a second of reading a prompt from an empty context, with the logits of its last token.
fn prefill(session: &mut Session<'_>, tokens: &[u16]) -> Result<f64> {
    session.reset();
    let start = Instant::now();
    let (last, rest) = tokens.split_last().expect("there are tokens");
    rest.iter().try_for_each(|token| session.feed(*token))?;
    std::hint::black_box(session.step(*last)?);
    Ok(tokens.len() as f64 / start.elapsed().as_secs_f64())
}

/// Tokens a second of reading tokens one by one from an empty context, with the logits of each.
fn decode(session: &mut Session<'_>, tokens: &[u16]) -> Result<f64> {
    session.reset();
    let start = Instant::now();
    for token in tokens {
        std::hint::black_box(session.step(*token)?);
    }
    Ok(tokens.len() as f64 / start.elapsed().as_secs_f64())
}
