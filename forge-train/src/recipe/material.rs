//! What a run trains on and what it is judged on.

use std::sync::Arc;

use crate::data::batch::{Batch, Batcher, collate};
use crate::data::blocks::{Blocks, Order, Tokens};
use crate::data::builtin::{self, Sizes};
use crate::data::cache::TokenFile;
use crate::data::corpus::{self, Settings};
use crate::data::lines::Chunks;
use crate::data::load::held_out_from;
use crate::data::mix::Mixture;
use crate::data::{BatchSource, Dataset, Example, ToolSchema, encode};
use crate::error::{Error, Result};
use crate::eval::TextTokens;
use crate::pipeline::Progress;
use crate::pipeline::prepare::{BYTES_PER_TOKEN, DataSource, SourceFile, read};
use crate::recipe::{Recipe, RunDirectory};
use crate::tokenizer::Tokenizer;

/// Data in the form that training takes it.
pub(super) struct Material {
    /// The tokenizer of the training data, or of the teacher.
    pub(super) tokenizer: Tokenizer,
    /// Batches to train on.
    pub(super) source: Arc<dyn BatchSource>,
    /// What is never trained on.
    pub(super) held_out: HeldOut,
    /// Tools the examples call.
    pub(super) tools: Vec<ToolSchema>,
    /// Name of the data.
    pub(super) name: String,
}

/// Data a run is judged on.
pub(super) enum HeldOut {
    /// The end of a running text, with its tokens.
    Text(SourceFile, Arc<TokenFile>),
    /// Examples.
    Examples(Vec<Example>),
}

impl Material {
    /// Reads the data of a run. `table` is the tokenizer to use, one of the training data is made without it.
    ///
    /// # Errors
    /// When a file has changed or cannot be read, or there is too little in it.
    pub(super) fn prepare(
        directory: &RunDirectory,
        table: Option<&[u8]>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let recipe = directory.recipe();
        match directory.source() {
            DataSource::Corpus { text } => Self::of_text(directory, text, table, progress),
            files @ (DataSource::Jsonl { .. } | DataSource::Mixed { .. }) => {
                let (augment, seed) = (recipe.data.augment, recipe.run.seed);
                let excerpt = recipe.data.block * BYTES_PER_TOKEN;
                Self::of_examples(recipe, read(files, excerpt, augment, seed, directory.path())?, table)
            }
            DataSource::Builtin => {
                let sizes = Sizes { train: 24_000, eval: 400 };
                Self::of_examples(recipe, builtin::generate(recipe.run.seed, &sizes), table)
            }
        }
    }

    fn of_text(
        directory: &RunDirectory,
        text: &SourceFile,
        table: Option<&[u8]>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (recipe, path) = (directory.recipe(), text.verify()?);
        let settings = Settings {
            tokenizer: &recipe.tokenizer,
            table,
            valid_share: recipe.data.valid_share,
            seed: recipe.run.seed,
            clean: recipe.data.clean,
            cache: &directory.tokens(),
        };
        let corpus = corpus::prepare(path, &settings)?;
        corpus.hygiene.note().iter().for_each(|note| progress.note(note));
        let block = recipe.data.block;
        let rows = (recipe.train.batch_tokens / block).max(1);
        let blocks = Blocks::new(corpus.train, block, rows, Order::Random, recipe.run.seed, "recipe")?;
        Ok(Self {
            tokenizer: corpus.tokenizer,
            source: Arc::new(blocks),
            held_out: HeldOut::Text(text.clone(), corpus.valid),
            tools: Vec::new(),
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        })
    }

    fn of_examples(recipe: &Recipe, dataset: Dataset, table: Option<&[u8]>) -> Result<Self> {
        let tokenizer = match table {
            Some(table) => Tokenizer::from_bytes(table)?,
            None => Tokenizer::for_dataset(&dataset, &recipe.tokenizer)?,
        };
        let longest = recipe.data.block + 1;
        let mut sources = Vec::new();
        for (at, part) in dataset.train.parts().iter().enumerate() {
            let weight = recipe.data.prompt_weight;
            let encoded = encode::encode_all(&tokenizer, &part.examples, weight, longest)?;
            let (sequences, tokens) = (Arc::new(encoded.sequences), recipe.train.batch_tokens);
            // The first source has the label that a single one has.
            let label = if at == 0 { "recipe".to_owned() } else { format!("recipe source {at}") };
            let batches = Batcher::new(sequences, tokens, longest, recipe.run.seed, &label);
            if batches.steps_per_epoch() == 0 {
                return Err(Error::Usage {
                    what: "no example is long enough to learn from".into(),
                    hint: "see docs/data.md for what an example is".into(),
                });
            }
            sources.push((Arc::new(batches) as Arc<dyn BatchSource>, part.weight));
        }
        let source: Arc<dyn BatchSource> = match sources.len() {
            1 => sources.remove(0).0,
            _ => Arc::new(Mixture::new(sources)?),
        };
        Ok(Self {
            tokenizer,
            source,
            held_out: HeldOut::Examples(dataset.valid.to_vec()),
            tools: dataset.tools,
            name: dataset.name,
        })
    }
}

impl HeldOut {
    /// Batches of about `batch_tokens` positions that read at most `limit` of them: text in blocks side by side, each
    /// from an empty state; examples in their order, whose prompts count nothing.
    pub(super) fn batches(&self, tokenizer: &Tokenizer, recipe: &Recipe, limit: usize) -> Vec<Batch> {
        let (block, batch_tokens) = (recipe.data.block, recipe.train.batch_tokens);
        match self {
            HeldOut::Text(_, tokens) => {
                let tokens = tokens.tokens();
                let blocks = tokens.len().saturating_sub(1).min(limit.max(block)) / block;
                let rows: Vec<usize> = (0..blocks).collect();
                rows.chunks((batch_tokens / block).max(1))
                    .map(|rows| text_rows(tokens, rows, block))
                    .collect()
            }
            HeldOut::Examples(examples) => {
                let encoded: Vec<_> =
                    examples.iter().map(|example| encode::encode(tokenizer, example, 0.0)).collect();
                let mut left = limit;
                let kept: Vec<_> = encoded
                    .iter()
                    .take_while(|s| {
                        let fits = left > 0;
                        left = left.saturating_sub(s.ids.len());
                        fits && s.ids.len() <= block + 1
                    })
                    .collect();
                let rows = (batch_tokens / (block + 1)).max(1);
                kept.chunks(rows).map(|rows| collate(rows, 0)).collect()
            }
        }
    }
}

/// The held-out end of a text, in the tokens of a model.
///
/// # Errors
/// [`Error::Io`] or [`Error::Data`] when it cannot be read.
pub(super) fn text_tokens(text: &SourceFile, share: f64, tokenizer: &Tokenizer) -> Result<TextTokens> {
    let path = text.verify()?;
    let end = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    let mut chunks = Chunks::open(path, held_out_from(path, share)?, end)?;
    let mut tokens = TextTokens::default();
    while let Some(chunk) = chunks.next()? {
        tokens.extend(tokenizer, &chunk);
    }
    Ok(tokens)
}

/// Blocks `rows` of a text side by side; every target weighs 1.
fn text_rows(tokens: &[u16], rows: &[usize], block: usize) -> Batch {
    let ids = |from: usize| -> Vec<u32> {
        rows.iter()
            .flat_map(|row| &tokens[row * block + from..row * block + from + block])
            .map(|id| u32::from(*id))
            .collect()
    };
    let weights = vec![1.0; rows.len() * block];
    Batch { ids: ids(0), targets: ids(1), weights, rows: rows.len(), cols: block }
}
