//! Sampling completions of many prompts at once.

use forge_formats::tokenizer::SpecialKind;
use forge_runtime::{Model, Sampler};

use super::runner::failed;
use super::write::{Writing, write_all};
use crate::error::Result;
use crate::rng::Rng;

/// How completions are sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Tokens written at most, the end token included.
    pub max_tokens: usize,
    /// Sampling temperature; 0 takes the likeliest token.
    pub temperature: f32,
    /// Seed; each prompt has a stream of its own by its place in the list.
    pub seed: u64,
    /// A token besides `<eos>` after which nothing follows.
    pub stop: Option<u16>,
}

impl SampleOptions {
    /// The likeliest token each time.
    pub fn greedy(max_tokens: usize) -> Self {
        Self { max_tokens, temperature: 0.0, seed: 0, stop: None }
    }
}

/// Completes every prompt (token ids from `<bos>` on) with the model in `bytes`, through the runtime,
/// side by side and on all cores. A completion holds the new tokens only, and ends with `<eos>` or the stop token unless it was cut.
///
/// # Errors
/// [`crate::error::Error::Format`] for a file that is not a model, [`crate::error::Error::Usage`] for ids outside its
/// vocabulary.
pub fn generate(bytes: &[u8], prompts: &[Vec<u16>], options: &SampleOptions) -> Result<Vec<Vec<u16>>> {
    let model = Model::parse(bytes).map_err(failed)?;
    let end = model.tokenizer().special(SpecialKind::Control, "<eos>");
    let stops: Vec<u16> = end.into_iter().chain(options.stop).collect();
    let writing = prompts.iter().enumerate().map(|(index, prefix)| {
        let seed = Rng::at_step(options.seed, "sample", index as u64).next_u64();
        Writing {
            prefix,
            sampler: Sampler::new(options.temperature, seed),
            max_tokens: options.max_tokens,
            stops: &stops,
            banned: None,
            written: Vec::new(),
        }
    });
    write_all(&model, writing.collect())
}
