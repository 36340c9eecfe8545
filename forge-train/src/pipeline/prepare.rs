//! From where the data comes from to what phases train on.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::data::augment::Augmenter;
use crate::data::builtin::{self, Sizes};
use crate::data::cache::hash_file;
use crate::data::examples::Part;
use crate::data::load::{self, Files};
use crate::data::mix::{self, Weighted};
use crate::data::{Dataset, Examples};
use crate::error::{Error, Result};
use crate::pipeline::phase::PreparedData;
use crate::tokenizer::Tokenizer;

/// Passes over a user's examples in the training data: one as they are, the others with slot values swapped.
const PASSES: u64 = 4;
/// Bytes of running text in an excerpt for each token a sequence may have.
pub(crate) const BYTES_PER_TOKEN: usize = 2;

/// A user's file, recognised by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Where it is; absolute.
    pub path: PathBuf,
    /// SHA-256 of its content.
    pub sha256: String,
}

impl SourceFile {
    fn new(path: &Path) -> Result<Self> {
        let hash = hash_file(path)?;
        let absolute = fs::canonicalize(path).map_err(Error::io("read", path))?;
        Ok(Self { path: absolute, sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    /// Its path, after a look at whether it is still the same.
    ///
    /// # Errors
    /// [`Error::Usage`] when it has changed, [`Error::Io`] when it cannot be read.
    pub(crate) fn verify(&self) -> Result<&Path> {
        if Self::new(&self.path)?.sha256 != self.sha256 {
            return Err(Error::Usage {
                what: format!("`{}` has changed since the session began", self.path.display()),
                hint: "put the old content back, or start a new session".into(),
            });
        }
        Ok(&self.path)
    }
}

/// Where a run's data comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DataSource {
    /// Generated from the seed.
    Builtin,
    /// Examples, one JSON object a line.
    Jsonl {
        /// To train on.
        train: SourceFile,
        /// To validate on; a tenth of `train` when absent.
        valid: Option<SourceFile>,
    },
    /// Running text.
    Corpus {
        /// The text.
        text: SourceFile,
    },
    /// Several files, whose batches are mixed by weight.
    Mixed {
        /// Examples to train on.
        examples: Vec<WeightedFile>,
        /// Examples to validate on; a tenth of the others when absent.
        valid: Option<SourceFile>,
        /// Running text.
        texts: Vec<WeightedFile>,
    },
}

/// One of several files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedFile {
    /// The file.
    pub file: SourceFile,
    /// Its share of the batches, among the weights of all files.
    pub weight: u64,
}

impl DataSource {
    /// Examples in JSONL files.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read.
    pub fn jsonl(train: &Path, valid: Option<&Path>) -> Result<Self> {
        let valid = valid.map(SourceFile::new).transpose()?;
        Ok(DataSource::Jsonl { train: SourceFile::new(train)?, valid })
    }

    /// Running text in a file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read.
    pub fn corpus(path: &Path) -> Result<Self> {
        Ok(DataSource::Corpus { text: SourceFile::new(path)? })
    }

    /// Files of a command line: none is the built-in data, one is that file alone, whatever its weight.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Usage`] for weights that cannot be mixed.
    pub fn of(examples: &[Weighted], valid: Option<&Path>, texts: &[Weighted]) -> Result<Self> {
        let files = |list: &[Weighted]| {
            let file = |w: &Weighted| Ok(WeightedFile { file: SourceFile::new(&w.path)?, weight: w.weight });
            list.iter().map(file).collect::<Result<Vec<_>>>()
        };
        match (examples, texts) {
            ([], []) => Ok(DataSource::Builtin),
            ([one], []) => Self::jsonl(&one.path, valid),
            ([], [one]) => Self::corpus(&one.path),
            _ => {
                let weights: Vec<u64> = examples.iter().chain(texts).map(|w| w.weight).collect();
                mix::reduced(&weights)?;
                Ok(DataSource::Mixed {
                    examples: files(examples)?,
                    valid: valid.map(SourceFile::new).transpose()?,
                    texts: files(texts)?,
                })
            }
        }
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|e| Error::Config(format!("data source: {e}")))
    }

    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::Artifact(format!("`inputs.json` is damaged: {e}")))
    }
}

/// Makes the data set and trains the tokenizer: a pure function of files, seed and configuration. What is too large for
/// memory goes to temporary files in `scratch`.
///
/// # Errors
/// [`Error::Io`] and [`Error::Data`] for files that cannot be used, [`Error::Usage`] for files that changed since the
/// session began or a vocabulary that does not fit.
pub fn prepare(source: &DataSource, config: &Config, scratch: &Path) -> Result<PreparedData> {
    let excerpt = config.data.max_len * BYTES_PER_TOKEN;
    let dataset = match source {
        DataSource::Builtin => {
            let sizes =
                Sizes { train: config.data.builtin_thousands * 1000, eval: config.data.eval_examples };
            builtin::generate(config.run.seed, &sizes)
        }
        files => read(files, excerpt, config.data.augment, config.run.seed, scratch)?,
    };
    let tokenizer = Tokenizer::for_dataset(&dataset, &config.tokenizer)?;
    Ok(PreparedData { dataset, tokenizer })
}

/// A user's files as a data set, with passes over examples in which slot values are swapped with probability `augment`.
/// The built-in data needs none: its generator draws values as freely already. Text is cut into excerpts of `excerpt`
/// bytes at most.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn read(
    source: &DataSource,
    excerpt: usize,
    augment: f32,
    seed: u64,
    scratch: &Path,
) -> Result<Dataset> {
    let weighted = |files: &'_ [WeightedFile]| -> Result<Vec<(PathBuf, u64)>> {
        files.iter().map(|w| Ok((w.file.verify()?.to_owned(), w.weight))).collect()
    };
    let (examples, valid, texts) = match source {
        DataSource::Builtin => (Vec::new(), None, Vec::new()),
        DataSource::Jsonl { train, valid } => {
            (vec![(train.verify()?.to_owned(), 1)], valid.as_ref(), Vec::new())
        }
        DataSource::Corpus { text } => (Vec::new(), None, vec![(text.verify()?.to_owned(), 1)]),
        DataSource::Mixed { examples, valid, texts } => {
            (weighted(examples)?, valid.as_ref(), weighted(texts)?)
        }
    };
    let mut dataset = load::mixed(&Files {
        examples: examples.iter().map(|(path, weight)| (path.as_path(), *weight)).collect(),
        valid: valid.map(SourceFile::verify).transpose()?,
        texts: texts.iter().map(|(path, weight)| (path.as_path(), *weight)).collect(),
        excerpt,
        scratch: Some(scratch),
    })?;
    if augment > 0.0 && !examples.is_empty() {
        let augmenter = Augmenter::new(dataset.train.iter(), augment, seed);
        let expand = |(at, part): (usize, &Part)| {
            // Running text has no slots.
            let passes = if at < examples.len() { PASSES } else { 1 };
            Ok(Part { weight: part.weight, examples: augmenter.expand(&part.examples, passes)? })
        };
        let parts = dataset.train.parts().iter().enumerate().map(expand).collect::<Result<_>>()?;
        dataset.train = Examples::mixed(parts);
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn a_file_that_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.txt");
        let text: String = (0..400).map(|i| format!("line {i} of a small text\n")).collect();
        fs::write(&path, &text).unwrap();
        let source = DataSource::corpus(&path).unwrap();
        let config = Config::preset(Preset::Nano);
        let once = prepare(&source, &config, dir.path()).unwrap();
        let twice = prepare(
            &DataSource::from_json(source.to_json().unwrap().as_bytes()).unwrap(),
            &config,
            dir.path(),
        );
        assert_eq!(twice.unwrap().tokenizer.table(), once.tokenizer.table());
        fs::write(&path, text.replace("small", "large")).unwrap();
        let error = prepare(&source, &config, dir.path()).unwrap_err();
        assert!(error.to_string().contains("has changed"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_users_commands_are_augmented_as_configured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calls.jsonl");
        let line = |i: usize| {
            format!(
                "{{\"prompt\":\"play song{i}x now\",\"tool\":\"play\",\"args\":{{\"song\":\"song{i}x\"}}}}\n"
            )
        };
        fs::write(&path, (0..200).map(line).collect::<String>()).unwrap();
        let source = DataSource::jsonl(&path, None).unwrap();
        let mut config = Config::preset(Preset::Nano);
        config.data.augment = 0.0;
        let plain = prepare(&source, &config, dir.path()).unwrap().dataset.train.to_vec();
        config.data.augment = 1.0;
        let varied = prepare(&source, &config, dir.path()).unwrap().dataset.train.to_vec();
        assert_eq!(varied.len(), plain.len() * PASSES as usize);
        assert_eq!(varied[..plain.len()], plain[..]);
        assert_ne!(varied[plain.len()..2 * plain.len()], plain[..]);
    }

    #[test]
    fn missing_and_damaged_sources_are_errors() {
        assert!(matches!(DataSource::corpus(Path::new("/nowhere.txt")), Err(Error::Io { .. })));
        assert!(matches!(DataSource::jsonl(Path::new("/nowhere"), None), Err(Error::Io { .. })));
        assert!(DataSource::from_json(b"{\"kind\":\"magic\"}").is_err());
    }
}
