//! The likelihood of given tokens.

use forge_runtime::Model;
use forge_runtime::sampler::argmax;

use super::runner::failed;
use super::together::{Job, run_all};
use crate::error::Result;

/// A sequence of tokens of which the end is scored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'t> {
    /// The tokens.
    pub(super) ids: &'t [u16],
    /// The first one that is scored: at least 1, because nothing predicts the first.
    pub(super) from: usize,
    /// The first one that is compared with what the model would write.
    pub(super) completion: usize,
}

/// What reading a sequence gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    /// Negative log-likelihood in nats of the scored tokens.
    pub(super) nats: f64,
    /// How many tokens of the completion the model would have written itself, from its first on.
    pub(super) agreed: usize,
    /// Recursions of all tokens read.
    pub(super) recursions: u64,
    /// Tokens read: all but the last.
    pub(super) tokens: u64,
}

/// The score of each span. `together` is as in [`run_all`].
pub(super) fn score_all(
    model: &Model<'_>,
    spans: &[Span<'_>],
    together: Option<usize>,
) -> Result<Vec<Score>> {
    let mut jobs: Vec<Scoring<'_>> = spans.iter().map(|span| Scoring::new(*span)).collect();
    run_all(model, &mut jobs, together)?;
    Ok(jobs.into_iter().map(|job| job.score).collect())
}

/// Negative log-likelihood in nats of the end of each sequence, from the given token (at least 1) on, by the model in
/// `bytes`, through the runtime.
///
/// # Errors
/// As [`super::generate`].
pub fn surprise_of(bytes: &[u8], sequences: &[(Vec<u16>, usize)]) -> Result<Vec<f64>> {
    let model = Model::parse(bytes).map_err(failed)?;
    let spans: Vec<Span<'_>> =
        sequences.iter().map(|(ids, from)| Span { ids, from: *from, completion: *from }).collect();
    Ok(score_all(&model, &spans, None)?.into_iter().map(|score| score.nats).collect())
}

struct Scoring<'t> {
    span: Span<'t>,
    /// Tokens that the next read ends before.
    read: usize,
    /// Whether the model has agreed with all of the completion so far.
    agrees: bool,
    score: Score,
}

impl<'t> Scoring<'t> {
    fn new(span: Span<'t>) -> Self {
        Self { span, read: span.from, agrees: true, score: Score::default() }
    }
}

impl Job for Scoring<'_> {
    fn unread(&self) -> &[u16] {
        // Nothing is behind the last.
        let more = self.read < self.span.ids.len();
        if more { &self.span.ids[self.score.tokens as usize..self.read] } else { &[] }
    }

    fn see(&mut self, logits: &mut [f32], recursions: u64) -> Result<()> {
        let right = self.span.ids[self.read];
        self.score.nats += surprise(logits, right);
        if self.agrees && self.read >= self.span.completion {
            self.agrees = argmax(logits) == right;
            self.score.agreed += usize::from(self.agrees);
        }
        self.score.recursions += recursions;
        self.score.tokens = self.read as u64;
        self.read += 1;
        Ok(())
    }
}

/// `−ln softmax(logits)[token]`, in f64.
pub(super) fn surprise(logits: &[f32], token: u16) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    match logits.get(usize::from(token)) {
        Some(logit) => sum.ln() - f64::from(logit - largest),
        None => f64::INFINITY,
    }
}
