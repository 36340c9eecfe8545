//! The directory of a run.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config_load;
use crate::error::{Error, Result};
use crate::pipeline::lock::SessionLock;
use crate::pipeline::prepare::DataSource;
use crate::pipeline::{CheckpointDir, durable};
use crate::recipe::Recipe;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::weights_io;

const RECIPE: &str = "recipe.toml";
const INPUTS: &str = "inputs.json";
const TOKENIZER: &str = "tokenizer.tokens";
const BEST: &str = "best.safetensors";
const SCORE: &str = "best.json";

/// A run's directory, whose lock this process holds.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    recipe: Recipe,
    source: DataSource,
    _lock: SessionLock,
}

impl RunDirectory {
    /// Begins a run in `path`, which must not hold one already. One whose data could not be read holds nothing yet.
    ///
    /// # Errors
    /// [`Error::Usage`] when it does, [`Error::Io`] when it cannot be made.
    pub fn create(path: &Path, recipe: &Recipe, source: &DataSource) -> Result<Self> {
        if path.join(RECIPE).exists() && path.join(TOKENIZER).exists() {
            return Err(Error::Usage {
                what: format!("`{}` already holds a run", path.display()),
                hint: format!("go on with it by `--resume {}`, or choose another --out", path.display()),
            });
        }
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let lock = SessionLock::acquire(&path.join("lock"))?;
        durable::write(&path.join(INPUTS), &[source.to_json()?.as_bytes()])?;
        durable::write(&path.join(RECIPE), &[config_load::to_toml(recipe)?.as_bytes()])?;
        Ok(Self { path: path.to_owned(), recipe: recipe.clone(), source: source.clone(), _lock: lock })
    }

    /// Opens a run again.
    ///
    /// # Errors
    /// [`Error::Io`] when there is none, [`Error::Usage`] when another process works on it.
    pub fn open(path: &Path) -> Result<Self> {
        let recipe = config_load::read(&path.join(RECIPE))?;
        let lock = SessionLock::acquire(&path.join("lock"))?;
        durable::clean(path)?;
        let inputs = path.join(INPUTS);
        let source = DataSource::from_json(&fs::read(&inputs).map_err(Error::io("read", &inputs))?)?;
        Ok(Self { path: path.to_owned(), recipe, source, _lock: lock })
    }

    /// Its settings.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Where its data comes from.
    pub fn source(&self) -> &DataSource {
        &self.source
    }

    /// Its checkpoints.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub fn checkpoints(&self) -> Result<CheckpointDir> {
        CheckpointDir::open(&self.path.join("checkpoints"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the tokens of running text are kept.
    pub(super) fn tokens(&self) -> PathBuf {
        self.path.join("tokens")
    }

    /// Where the loss curve is.
    pub fn curve(&self) -> PathBuf {
        self.path.join("curve.csv")
    }

    /// Where the model is, once the run is done.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.forge")
    }

    /// Where the measures are, once the run is done.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.json")
    }

    /// Keeps the weights of the lowest held-out loss so far, and that loss in nats with the steps done.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be written.
    pub(super) fn keep_best(&self, weights: &Weights, score: (f64, u64)) -> Result<()> {
        durable::write(&self.path.join(BEST), &[&weights_io::to_bytes(weights)?])?;
        durable::write(&self.path.join(SCORE), &[json!(score).to_string().as_bytes()])
    }

    /// The lowest held-out loss of the run so far with the steps done then, if it was judged. A killed run may have
    /// been judged after its newest checkpoint: it repeats those steps and finds the same.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Artifact`] when it is damaged.
    pub(super) fn best_score(&self) -> Result<Option<(f64, u64)>> {
        let path = self.path.join(SCORE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Error::Artifact(format!("`{}`: {e}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// Keeps the tokenizer, for runs that learn from this one.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub(super) fn keep_tokenizer(&self, tokenizer: &Tokenizer) -> Result<()> {
        durable::write(&self.path.join(TOKENIZER), &[tokenizer.table()])
    }

    /// The weights kept last.
    ///
    /// # Errors
    /// [`Error::Io`] when there are none.
    pub(super) fn best(&self) -> Result<Weights> {
        best_of(&self.path)
    }
}

/// The best weights of the finished run in `path`.
///
/// # Errors
/// [`Error::Io`] when there are none, [`Error::Artifact`] when they are damaged.
pub(super) fn best_of(path: &Path) -> Result<Weights> {
    let path = path.join(BEST);
    weights_io::from_bytes(&fs::read(&path).map_err(Error::io("read", &path))?)
}

/// The tokenizer table and the recipe of the finished run in `path`.
///
/// # Errors
/// [`Error::Io`] when there is none.
pub(super) fn finished(path: &Path) -> Result<(Vec<u8>, Recipe)> {
    let table = path.join(TOKENIZER);
    Ok((fs::read(&table).map_err(Error::io("read", &table))?, config_load::read(&path.join(RECIPE))?))
}
