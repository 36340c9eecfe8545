//! What the optimizers are compared on.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use forge_train::pipeline::prepare::DataSource;
use forge_train::recipe::Recipe;
use forge_train::rng::Rng;

/// The modulus of the additions.
const MODULUS: u32 = 97;
/// Share of all additions that are trained on.
const TRAINED: f32 = 0.4;

/// Data with a recipe.
pub(super) struct Task {
    pub(super) name: &'static str,
    /// Shipped recipe.
    pub(super) recipe: &'static str,
    pub(super) source: DataSource,
    /// Steps of a whole run.
    pub(super) steps: u64,
    /// Learning rates to choose from.
    pub(super) rates: [f64; 3],
}

impl Task {
    /// `characters` of `corpus`, or `modular`: addition modulo 97, whose examples are written to `scratch`.
    ///
    /// # Errors
    /// When no task has the name, or the text cannot be read.
    pub(super) fn named(name: &str, corpus: &Path, scratch: &Path) -> Result<Self> {
        let steps = |recipe| anyhow::Ok(Recipe::load(recipe, &[])?.train.steps);
        match name {
            "characters" => Ok(Self {
                name: "characters",
                recipe: "char-cpu",
                source: DataSource::corpus(corpus)?,
                steps: steps("char-cpu")?,
                rates: [1e-3, 3e-3, 6e-3],
            }),
            "modular" => {
                let (train, valid) = additions(scratch)?;
                Ok(Self {
                    name: "addition modulo 97",
                    recipe: "modular",
                    source: DataSource::jsonl(&train, Some(&valid))?,
                    steps: steps("modular")?,
                    rates: [3e-4, 1e-3, 3e-3],
                })
            }
            _ => bail!("no task is called `{name}`; tasks are characters and modular"),
        }
    }
}

/// Every sum of two numbers below the modulus, dealt to a file to train on and one to validate on.
fn additions(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut rng = Rng::new(0, &["modular addition"]);
    let mut files = [String::new(), String::new()];
    for (a, b) in (0..MODULUS).flat_map(|a| (0..MODULUS).map(move |b| (a, b))) {
        let sum = (a + b) % MODULUS;
        let file = &mut files[usize::from(!rng.chance(TRAINED))];
        writeln!(file, "{{\"prompt\":\"{a}+{b}\",\"completion\":\"{sum}\"}}")?;
    }
    let paths = ["train.jsonl", "valid.jsonl"].map(|name| folder.join(name));
    for (path, text) in paths.iter().zip(&files) {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let [train, valid] = paths;
    Ok((train, valid))
}
