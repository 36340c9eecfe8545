//! Evaluation of an emitted file, through `forge-runtime` only: what is measured is what ships.
//!
//! Sequences go through the model side by side and on all cores; every figure but the speed is combined in the examples'
//! order and depends on neither.

mod answer;
mod choice;
mod estimate;
mod examples;
mod halting;
mod paired;
mod rate;
mod runner;
mod sample;
mod score;
pub mod text;
mod together;
mod write;

use std::time::Instant;

use forge_runtime::Model;
use forge_runtime::constrain::Mode;
use serde::Serialize;

pub use answer::{answer_matches, read};
pub use choice::{ChoiceReport, Question, choose, evaluate_choices, questions};
pub use estimate::Estimate;
pub use halting::{HaltingReport, Quarter, halting, with_threshold};
pub use paired::Paired;
pub use rate::Rate;
pub use runner::workspace;
pub use sample::{SampleOptions, generate};
pub use score::surprise_of as surprise;
pub use text::{BlockScore, TextOptions, TextReport, TextTokens, evaluate_text, score_text};
pub(crate) use together::TOGETHER;

use crate::data::builtin::is_persona_reply;
use crate::data::{Completion, Example, Examples, Slice, encode};
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use examples::{Outcome, outcomes};
use runner::failed;

/// Whether questions are thought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thoughts {
    /// The model decides.
    #[default]
    Free,
    /// `<think>` is never written, and traces are left out of what is scored.
    Skipped,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens a completion may have at most.
    pub max_tokens: usize,
    /// Whether questions are thought about.
    pub thoughts: Thoughts,
    /// Whether completions are generated; without, only the likelihood of the examples is measured.
    pub generate: bool,
    /// Whether completions are held to the file's tools.
    pub constrained: Option<Mode>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_tokens: 128, thoughts: Thoughts::Free, generate: true, constrained: None }
    }
}

/// What was measured. Every field but `tokens_per_second` is a pure function of file, examples and options.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Length of the file.
    pub bytes: u64,
    /// Examples.
    pub n: usize,
    /// Calls with the right tool.
    pub tool_accuracy: Rate,
    /// Calls with the right tool and exactly the right arguments.
    pub frame_accuracy: Rate,
    /// Questions answered right.
    pub answer_accuracy: Rate,
    /// Dialogues meant in the persona's manner that were answered in it, by its grammar.
    pub persona_consistency: Rate,
    /// Negative log-likelihood of every token behind `<bos>` and the system text, in bits, over the bytes of prompt
    /// and completion.
    pub bits_per_byte: f64,
    /// Mean recursions of a token.
    pub mean_recursions: f64,
    /// Tokens read and written a second, on all threads together.
    pub tokens_per_second: f64,
    /// What constrained completions took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
}

/// The steps of constrained completions, their ends included. Without the constraint each would be a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Steps {
    /// Forward passes with logits.
    pub passes: u64,
    /// Tokens that took none, because no other was allowed.
    pub forced: u64,
}

impl Steps {
    fn plus(self, other: Self) -> Self {
        Self { passes: self.passes + other.passes, forced: self.forced + other.forced }
    }
}

/// Measures a file on examples as they stand: with their system text where they have one.
///
/// Completions are generated greedily for calls, questions and persona dialogue.
///
/// # Errors
/// [`crate::error::Error::Format`] for a file that is not a model, [`crate::error::Error::Usage`] for tools the model
/// does not know.
pub fn evaluate(bytes: &[u8], examples: &[Example], options: &Options) -> Result<EvalReport> {
    Ok(evaluate_each(bytes, examples, options)?.0)
}

/// What a completion was judged to be; `None` where the question does not arise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// A call with the right tool.
    pub tool: Option<bool>,
    /// A call with the right tool and exactly the right arguments.
    pub frame: Option<bool>,
    /// A question answered right.
    pub answer: Option<bool>,
}

/// As [`evaluate`], with the verdict on each example.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_each(
    bytes: &[u8],
    examples: &[Example],
    options: &Options,
) -> Result<(EvalReport, Vec<Verdict>)> {
    let model = Model::parse(bytes).map_err(failed)?;
    let tokenizer = Tokenizer::from_spec(model.file().tokenizer().to_spec())?;
    encode::check(&tokenizer, examples)?;
    let begin = Instant::now();
    let outcomes = outcomes(&model, &tokenizer, examples, options)?;
    let seconds = begin.elapsed().as_secs_f64();
    let judged = examples.iter().zip(&outcomes).map(|(e, o)| verdict(e, o.said.as_ref()));
    let verdicts: Vec<Verdict> = judged.collect();
    let held = options.constrained.is_some();
    Ok((report(bytes.len() as u64, examples, &outcomes, &verdicts, seconds, held), verdicts))
}

/// Judges what was said.
fn verdict(example: &Example, said: Option<&Completion>) -> Verdict {
    let Some(said) = said else { return Verdict::default() };
    let call = matches!(example.completion, Completion::Tool { .. });
    Verdict {
        tool: call.then(|| same_tool(&example.completion, said)),
        frame: call.then(|| example.completion.same_frame(said)),
        answer: example.answer().map(|_| answer::is_answer(example, said)),
    }
}

/// Bits per byte alone, as in [`EvalReport::bits_per_byte`].
///
/// # Errors
/// As [`evaluate`].
pub fn bits_per_byte(bytes: &[u8], examples: &[Example]) -> Result<f64> {
    let options = Options { generate: false, ..Options::default() };
    Ok(evaluate(bytes, examples, &options)?.bits_per_byte)
}

/// How often persona dialogue is answered in the persona's manner *without* the system text that asks for it; no
/// trials where the examples hold no persona dialogue.
///
/// # Errors
/// As [`evaluate`].
pub fn persona_consistency(bytes: &[u8], examples: &Examples) -> Result<Rate> {
    let bare: Vec<Example> = examples.iter().filter(|e| is_persona(e)).map(|e| e.without_system()).collect();
    Ok(evaluate(bytes, &bare, &Options::default())?.persona_consistency)
}

/// Whether the right reply is in the persona's manner.
fn is_persona(example: &Example) -> bool {
    example.slice == Slice::Dialogue
        && matches!(&example.completion, Completion::Text(text) if is_persona_reply(text))
}

fn report(
    bytes: u64,
    examples: &[Example],
    outcomes: &[Outcome],
    verdicts: &[Verdict],
    seconds: f64,
    constrained: bool,
) -> EvalReport {
    let said = || examples.iter().zip(outcomes).filter_map(|(e, o)| Some((e, o.said.as_ref()?)));
    let nats: f64 = outcomes.iter().map(|o| o.score.nats).sum();
    let text: usize = outcomes.iter().map(|o| o.bytes).sum();
    let tokens: u64 = outcomes.iter().map(|o| o.score.tokens).sum();
    let recursions: u64 = outcomes.iter().map(|o| o.score.recursions).sum();
    let written: usize = outcomes.iter().map(|o| o.written).sum();
    EvalReport {
        bytes,
        n: examples.len(),
        tool_accuracy: Rate::of(verdicts.iter().filter_map(|v| v.tool)),
        frame_accuracy: Rate::of(verdicts.iter().filter_map(|v| v.frame)),
        answer_accuracy: Rate::of(verdicts.iter().filter_map(|v| v.answer)),
        persona_consistency: Rate::of(
            said()
                .filter(|(e, _)| is_persona(e))
                .map(|(_, said)| matches!(said, Completion::Text(text) if is_persona_reply(text))),
        ),
        bits_per_byte: nats / std::f64::consts::LN_2 / text.max(1) as f64,
        mean_recursions: recursions as f64 / tokens.max(1) as f64,
        tokens_per_second: (tokens + written as u64) as f64 / seconds.max(1e-9),
        steps: constrained.then(|| outcomes.iter().fold(Steps::default(), |sum, o| sum.plus(o.steps))),
    }
}

fn same_tool(right: &Completion, said: &Completion) -> bool {
    matches!((right, said), (Completion::Tool { tool: a, .. }, Completion::Tool { tool: b, .. }) if a == b)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
