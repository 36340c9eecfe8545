//! Whether halting has learnt anything: recursions of easy and of hard tokens, and what halting costs.
//!
//! The same file is read three times: as it halts, halting after the first recursion, and never halting. A token's
//! difficulty is its loss after one recursion, which no halting decision has touched.

use forge_formats::file::File;
use forge_formats::write::Writer;
use forge_runtime::Model;
use serde::Serialize;

use super::Thoughts;
use super::examples::Asked;
use super::runner::failed;
use super::score::{Span, surprise};
use super::together::{Job, run_all};
use crate::data::{Example, encode};
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// A threshold that every probability exceeds, and one that none does.
const ALWAYS: f32 = -1.0;
const NEVER: f32 = 1.0;

/// A quarter of the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quarter {
    /// Tokens.
    pub tokens: usize,
    /// Their mean loss in nats after one recursion.
    pub loss_at_one: f64,
    /// Their mean loss in nats after all recursions.
    pub loss_at_all: f64,
    /// Mean recursions they took.
    pub steps: f64,
}

/// How a file halts on given examples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HaltingReport {
    /// Most recursions of a token.
    pub recursions: u32,
    /// Mean recursions of a scored token.
    pub steps: f64,
    /// Quarters of the scored tokens by their loss after one recursion, the easiest first.
    pub quarters: [Quarter; 4],
    /// Bits per byte as the file halts.
    pub bits_per_byte: f64,
    /// Bits per byte when every token halts after its first recursion.
    pub bits_per_byte_at_one: f64,
    /// Bits per byte when none halts.
    pub bits_per_byte_at_all: f64,
}

impl HaltingReport {
    /// Whether tokens halt neither always nor never, and the hardest quarter goes on longer than the easiest: the mean
    /// lies between 1 and the most recursions, from three on not below 1.5 (issue text of phase 1).
    pub fn has_learnt(&self) -> bool {
        let least = if self.recursions > 2 { 1.5 } else { 1.0 };
        let inside = self.steps > 1.0 && self.steps >= least && self.steps < f64::from(self.recursions);
        inside && self.quarters[3].steps > self.quarters[0].steps
    }
}

/// The file with another halting threshold: a token halts where its halting probability is above it.
///
/// # Errors
/// [`crate::error::Error::Format`] for bytes that are not a model, or a threshold that is not finite.
pub fn with_threshold(bytes: &[u8], threshold: f32) -> Result<Vec<u8>> {
    Ok(Writer::from_file(&File::parse(bytes)?).halt_threshold(threshold).finish()?)
}

/// How a file halts on `examples`; `None` for one that does not, or without a token to score.
///
/// # Errors
/// As [`super::evaluate`].
pub fn halting(bytes: &[u8], examples: &[Example]) -> Result<Option<HaltingReport>> {
    let file = File::parse(bytes)?;
    let config = file.config();
    if !config.halting {
        return Ok(None);
    }
    let tokenizer = Tokenizer::from_spec(file.tokenizer().to_spec())?;
    encode::check(&tokenizer, examples)?;
    let asked: Vec<Asked> = examples.iter().map(|e| Asked::new(&tokenizer, e, Thoughts::Free)).collect();
    let [as_is, one, all] = [config.halt_threshold, ALWAYS, NEVER].map(|t| traced(bytes, t, &asked));
    let (as_is, one, all) = (as_is?, one?, all?);
    if as_is.is_empty() {
        return Ok(None);
    }
    let text = asked.iter().map(|a| a.bytes).sum::<usize>().max(1);
    let bits =
        |tokens: &[Token]| tokens.iter().map(|t| t.nats).sum::<f64>() / std::f64::consts::LN_2 / text as f64;
    Ok(Some(HaltingReport {
        recursions: config.recursion,
        steps: mean(as_is.iter().map(|t| t.recursions as f64)),
        quarters: quarters(&as_is, &one, &all),
        bits_per_byte: bits(&as_is),
        bits_per_byte_at_one: bits(&one),
        bits_per_byte_at_all: bits(&all),
    }))
}

/// A scored token.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Token {
    /// Its surprise in nats.
    nats: f64,
    /// How often the token before it, which predicts it, went through the block stack.
    recursions: u64,
}

/// Every scored token of `asked`, in order, as the file with this threshold reads it.
fn traced(bytes: &[u8], threshold: f32, asked: &[Asked]) -> Result<Vec<Token>> {
    let bytes = with_threshold(bytes, threshold)?;
    let model = Model::parse(&bytes).map_err(failed)?;
    let mut jobs: Vec<Tracing<'_>> = asked.iter().map(|a| Tracing::new(a.span())).collect();
    run_all(&model, &mut jobs, None)?;
    Ok(jobs.into_iter().flat_map(|job| job.tokens).collect())
}

/// Reads a span token by token, so that the recursions of each are known.
struct Tracing<'t> {
    span: Span<'t>,
    /// Tokens read, and tokens that the next read ends before.
    done: usize,
    read: usize,
    tokens: Vec<Token>,
}

impl<'t> Tracing<'t> {
    fn new(span: Span<'t>) -> Self {
        // What is before the first token that predicts a scored one is read at once.
        Self { span, done: 0, read: (span.from - 1).max(1), tokens: Vec::new() }
    }
}

impl Job for Tracing<'_> {
    fn unread(&self) -> &[u16] {
        let more = self.read < self.span.ids.len();
        if more { &self.span.ids[self.done..self.read] } else { &[] }
    }

    fn see(&mut self, logits: &mut [f32], recursions: u64) -> Result<()> {
        if self.read >= self.span.from {
            self.tokens.push(Token { nats: surprise(logits, self.span.ids[self.read]), recursions });
        }
        self.done = self.read;
        self.read += 1;
        Ok(())
    }
}

/// The quarters by difficulty; among equally difficult tokens the earlier one is the easier.
fn quarters(as_is: &[Token], one: &[Token], all: &[Token]) -> [Quarter; 4] {
    let mut order: Vec<usize> = (0..one.len()).collect();
    order.sort_by(|a, b| one[*a].nats.total_cmp(&one[*b].nats).then(a.cmp(b)));
    std::array::from_fn(|quarter| {
        let part = &order[quarter * order.len() / 4..(quarter + 1) * order.len() / 4];
        Quarter {
            tokens: part.len(),
            loss_at_one: mean(part.iter().map(|i| one[*i].nats)),
            loss_at_all: mean(part.iter().map(|i| all[*i].nats)),
            steps: mean(part.iter().map(|i| as_is[*i].recursions as f64)),
        }
    })
}

/// The mean, 0 of nothing.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1);
    values.sum::<f64>() / count as f64
}

#[cfg(test)]
#[path = "halting_tests.rs"]
mod tests;
