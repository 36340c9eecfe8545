//! Comparisons with other runtimes and trainers, on random models of the same shapes.

mod cognate;
mod contestant;
mod device;
mod gguf;
mod inference;
mod install;
mod load;
mod optimizers;
mod ours;
mod peer;
mod recall;
mod report;
mod shape;
pub(crate) mod training;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use peer::Peer;
use shape::Shape;

/// What to compare.
#[derive(Debug, Subcommand)]
pub(crate) enum Compare {
    /// Tokens a second of generating and of reading a prompt
    Inference(inference::Options),
    /// Time from the start of the process to the first token, and peak memory
    Load(load::Options),
    /// Tokens a second of training steps, beside PyTorch
    Training(training::Options),
    /// Tokens a second of training on a GPU
    Device(device::Options),
    /// What AdamW, Muon and Grokfast learn in equal tokens and in equal time
    Optimizers(optimizers::Options),
    /// What each kind of memory recalls from beyond the attention window
    Recall(recall::Options),
    /// The same blocks applied several times and once, at equal steps and at equal compute
    Recursion(cognate::recursion::Options),
    /// What halting saves and costs, and whether it goes by difficulty
    Halting(cognate::halting::Options),
    /// Phase 1's trunk with and without a curriculum of lengths
    Lengths(cognate::lengths::Options),
}

impl Compare {
    /// Measures and prints.
    ///
    /// # Errors
    /// When an option is wrong or a measurement fails.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Inference(options) => inference::run(options),
            Self::Load(options) => load::run(options),
            Self::Training(options) => training::run(options),
            Self::Device(options) => device::run(options),
            Self::Optimizers(options) => optimizers::run(options),
            Self::Recall(options) => recall::run(options),
            Self::Recursion(options) => cognate::recursion::run(options),
            Self::Halting(options) => cognate::halting::run(options),
            Self::Lengths(options) => cognate::lengths::run(options),
        }
    }
}

/// Which peers take part.
#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// A built runtime with a model: NAME[@SHAPE]=PROGRAM:MODEL[:TOKENIZER]; PROGRAM is llama-bench of llama.cpp or a
    /// descendant, or for the names llama2.c… and bitnet.c their programs; without @SHAPE the model's file name
    /// begins with it
    #[arg(long = "peer", value_name = "PEER")]
    named: Vec<Peer>,
    /// Leave out llama.cpp instead of building it
    #[arg(long)]
    no_install: bool,
    /// Where llama.cpp is built and kept [default: forge-benches in the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

impl Peers {
    /// The named ones on these shapes; and llama.cpp, unless it is among them or not wanted.
    fn find(&self, shapes: &[Shape]) -> Result<Vec<Peer>> {
        let mut all: Vec<Peer> = self.named.iter().filter(|p| shapes.contains(&p.shape())).cloned().collect();
        if !self.no_install && !self.named.iter().any(Peer::is_llama_cpp) {
            let cache = self.cache.clone().unwrap_or_else(install::default_cache);
            all.extend(install::llama_cpp(&cache, shapes)?);
        }
        Ok(all)
    }
}

/// Writes a random model of a name: as a peer's when the path ends in `.gguf`, else as ours.
///
/// # Errors
/// When no shape has the name, or the file cannot be written.
pub(crate) fn write_model(name: &str, path: &Path) -> Result<()> {
    let peers = path.extension().is_some_and(|e| e == "gguf");
    let bytes = match (name, peers) {
        ("device", false) => ours::device_file(),
        (_, false) => ours::model_file(&Shape::named(name)?),
        (_, true) => gguf::model(&Shape::named(name)?),
    };
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
