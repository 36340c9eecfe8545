//! What a model makes of examples: how likely it finds each, and what it says itself.

use forge_runtime::constrain::Mode;
use forge_runtime::{Model, Sampler};
use rayon::prelude::*;

use super::score::{Score, Span, score_all};
use super::write::{Writing, hold_all, write_all};
use super::{Options, Steps, Thoughts, is_persona, read};
use crate::data::{Completion, Example, encode};
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// What one example gave.
pub(super) struct Outcome {
    /// The likelihood of its tokens.
    pub(super) score: Score,
    /// Bytes of its prompt and completion.
    pub(super) bytes: usize,
    /// Tokens that were read and written to have the completion.
    pub(super) written: usize,
    /// The model's completion, where one was asked for.
    pub(super) said: Option<Completion>,
    /// What it took under a constraint.
    pub(super) steps: Steps,
}

/// An example in tokens.
pub(super) struct Asked {
    ids: Vec<u16>,
    /// The first token that is scored, and the completion's first.
    scored: usize,
    completion: usize,
    /// Bytes of prompt and completion.
    pub(super) bytes: usize,
    /// Whether a completion can be judged.
    checkable: bool,
}

impl Asked {
    pub(super) fn new(tokenizer: &Tokenizer, example: &Example, thoughts: Thoughts) -> Self {
        let plain = (thoughts == Thoughts::Skipped).then(|| example.without_thought());
        let example = plain.as_ref().unwrap_or(example);
        let prefix = encode::prefix(tokenizer, example);
        let sys = tokenizer.control("<sys>");
        Self {
            scored: prefix.iter().position(|id| *id == sys).map_or(1, |at| at + 1),
            completion: prefix.len(),
            ids: [prefix, encode::completion(tokenizer, example)].concat(),
            bytes: example.prompt.len() + example.completion.canonical().len(),
            checkable: matches!(example.completion, Completion::Tool { .. })
                || example.answer().is_some()
                || is_persona(example),
        }
    }

    /// Its tokens, and which of them are scored.
    pub(super) fn span(&self) -> Span<'_> {
        Span { ids: &self.ids, from: self.scored, completion: self.completion }
    }

    fn prefix(&self) -> &[u16] {
        &self.ids[..self.completion]
    }

    /// The prefix, and what the model would have written of the completion itself.
    fn agreed(&self, score: &Score) -> &[u16] {
        &self.ids[..self.completion + score.agreed]
    }
}

/// What each example gives, in their order.
pub(super) fn outcomes(
    model: &Model<'_>,
    tokenizer: &Tokenizer,
    examples: &[Example],
    options: &Options,
) -> Result<Vec<Outcome>> {
    let asked: Vec<Asked> =
        examples.par_iter().map(|example| Asked::new(tokenizer, example, options.thoughts)).collect();
    let spans: Vec<Span<'_>> = asked.iter().map(Asked::span).collect();
    let scored = |(asked, score): (&Asked, Score)| {
        let (bytes, written, said, steps) = (asked.bytes, 0, None, Steps::default());
        Outcome { score, bytes, written, said, steps }
    };
    let mut outcomes: Vec<Outcome> = asked.iter().zip(score_all(model, &spans, None)?).map(scored).collect();
    if options.generate {
        let checkable = asked.iter().zip(&mut outcomes).filter(|(asked, _)| asked.checkable).collect();
        match options.constrained {
            Some(mode) => hold(model, tokenizer, checkable, mode, options.max_tokens)?,
            None => say(model, tokenizer, checkable, options)?,
        }
    }
    Ok(outcomes)
}

/// Has the model answer, held to the file's tools.
fn hold(
    model: &Model<'_>,
    tokenizer: &Tokenizer,
    checkable: Vec<(&Asked, &mut Outcome)>,
    mode: Mode,
    max_tokens: usize,
) -> Result<()> {
    let prefixes: Vec<&[u16]> = checkable.iter().map(|(asked, _)| asked.prefix()).collect();
    let held = hold_all(model, &prefixes, mode, max_tokens)?;
    for ((asked, outcome), (said, counts)) in checkable.into_iter().zip(held) {
        outcome.steps = Steps { passes: counts.passes, forced: counts.forced };
        outcome.written = asked.completion + said.len();
        outcome.said = Some(read(&tokenizer.runtime(), &said));
    }
    Ok(())
}

/// Has the model answer. Its likeliest tokens have been seen up to the first that is not the right completion's; writing
/// would give the same ones again, and begins behind them.
fn say(
    model: &Model<'_>,
    tokenizer: &Tokenizer,
    checkable: Vec<(&Asked, &mut Outcome)>,
    options: &Options,
) -> Result<()> {
    let (stops, think) = ([tokenizer.control("<eos>")], tokenizer.control("<think>"));
    let mut jobs = Vec::with_capacity(checkable.len());
    for (asked, outcome) in &checkable {
        let prefix = asked.agreed(&outcome.score);
        let all = prefix.len() == asked.ids.len();
        jobs.push(Writing {
            prefix,
            sampler: Sampler::greedy(),
            max_tokens: if all { 0 } else { options.max_tokens.saturating_sub(outcome.score.agreed) },
            stops: &stops,
            banned: (options.thoughts == Thoughts::Skipped).then_some(think),
            written: Vec::new(),
        });
    }
    let rests = write_all(model, jobs)?;
    for ((asked, outcome), rest) in checkable.into_iter().zip(rests) {
        let kept = asked.agreed(&outcome.score);
        outcome.written = if kept.len() == asked.ids.len() { 0 } else { kept.len() + rest.len() };
        outcome.said = Some(read(&tokenizer.runtime(), &[&kept[asked.completion..], &rest].concat()));
    }
    Ok(())
}
