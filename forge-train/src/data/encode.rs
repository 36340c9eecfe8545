//! Examples to token sequences.
//!
//! ```text
//! <bos> [system text <sys>] prompt text <sep> completion <eos>
//!     completion:  tool token, then for each argument slot token and text of the value
//!                  text
//!                  <think> trace </think> answer, the trace's markers as their own tokens
//! <bos> text <eos>            prose; an excerpt of running text has no <eos>
//! ```
//!
//! Every text is encoded on its own, so no merge crosses a special token. The texts of a completion are encoded
//! with one space in front (and decoded without): inside a prompt a word nearly always follows a space, so a value
//! has the same tokens where it is said and where it is written, and copying it is copying tokens.

use rayon::prelude::*;

use super::store::Store;
use super::trace::{self, Piece};
use super::{Completion, Example};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Tokens with the loss weight of predicting each; `weights[0]` is 0 because nothing predicts the first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u16>,
    /// As many weights as ids.
    pub weights: Vec<f32>,
}

impl Sequence {
    fn extend(&mut self, ids: &[u16], weight: f32) {
        self.ids.extend_from_slice(ids);
        self.weights.resize(self.ids.len(), weight);
    }
}

/// Sequences of a list of examples, in its order.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// The sequences, at most as long as asked for.
    pub sequences: Store<Sequence>,
    /// How many were cut.
    pub truncated: usize,
    /// Tokens of all sequences.
    pub tokens: usize,
}

/// The tokens up to where the completion begins: `<bos> [system <sys>] prompt <sep>`, or `<bos>` for plain text.
pub fn prefix(tokenizer: &Tokenizer, example: &Example) -> Vec<u16> {
    let mut ids = vec![tokenizer.control("<bos>")];
    if example.is_plain() {
        return ids;
    }
    if let Some(system) = &example.system {
        ids.extend(tokenizer.encode(system));
        ids.push(tokenizer.control("<sys>"));
    }
    ids.extend(tokenizer.encode(&example.prompt));
    ids.push(tokenizer.control("<sep>"));
    ids
}

/// The tokens of a text inside a completion: a value, a reply, a trace, an answer.
pub fn segment(tokenizer: &Tokenizer, text: &str) -> Vec<u16> {
    tokenizer.encode(&format!(" {text}"))
}

/// The tokens of a trace: a marker that the tokenizer knows is one token, the texts between them are segments.
pub fn trace(tokenizer: &Tokenizer, text: &str) -> Vec<u16> {
    let mut ids = Vec::new();
    for piece in trace::pieces(text) {
        match &piece {
            Piece::Marker(name) => match tokenizer.marker(name) {
                Some(marker) => ids.push(marker),
                None => ids.extend(segment(tokenizer, name)),
            },
            Piece::Text(words) => ids.extend(segment(tokenizer, words)),
        }
    }
    ids
}

/// The tokens of the completion, with `<eos>` where it has an end.
///
/// # Panics
/// For a tool or slot the tokenizer has no token for; [`check`] tells beforehand.
pub fn completion(tokenizer: &Tokenizer, example: &Example) -> Vec<u16> {
    let mut ids = Vec::new();
    match &example.completion {
        Completion::Tool { tool, args } => {
            ids.push(tokenizer.tool(tool).expect("a tool of the tokenizer"));
            for (slot, value) in args {
                ids.push(tokenizer.slot(slot).expect("a slot of the tokenizer"));
                ids.extend(segment(tokenizer, value));
            }
        }
        Completion::Text(text) if example.is_plain() => ids.extend(tokenizer.encode(text)),
        Completion::Text(text) => ids.extend(segment(tokenizer, text)),
        Completion::Reasoned { thought, answer } => {
            ids.push(tokenizer.control("<think>"));
            ids.extend(trace(tokenizer, thought));
            ids.push(tokenizer.control("</think>"));
            ids.extend(segment(tokenizer, answer));
        }
    }
    if !example.goes_on() {
        ids.push(tokenizer.control("<eos>"));
    }
    ids
}

/// Whether the tokenizer has tokens for every tool and slot of the examples.
///
/// # Errors
/// [`Error::Usage`] naming the first one it lacks.
pub fn check(tokenizer: &Tokenizer, examples: &[Example]) -> Result<()> {
    examples.iter().try_for_each(|example| check_one(tokenizer, example))
}

fn check_one(tokenizer: &Tokenizer, example: &Example) -> Result<()> {
    let unknown = |what: &str, name: &str| Error::Usage {
        what: format!("the model's tokenizer knows no {what} `{name}`"),
        hint: "use data like that the model was trained on, or train on this data with `pipeline --data`"
            .into(),
    };
    if let Completion::Tool { tool, args } = &example.completion {
        tokenizer.tool(tool).ok_or_else(|| unknown("tool", tool))?;
        for (slot, _) in args {
            tokenizer.slot(slot).ok_or_else(|| unknown("argument", slot))?;
        }
    }
    Ok(())
}

/// The whole sequence: tokens up to and including `<sep>` weigh `prompt_weight`, the completion 1.
///
/// # Panics
/// As [`completion`].
pub fn encode(tokenizer: &Tokenizer, example: &Example, prompt_weight: f32) -> Sequence {
    let mut sequence = Sequence::default();
    sequence.extend(&prefix(tokenizer, example), prompt_weight);
    sequence.extend(&completion(tokenizer, example), 1.0);
    sequence.weights[0] = 0.0;
    sequence
}

/// Examples that are encoded side by side.
const AHEAD: usize = 4096;

/// Encodes many examples in parallel; sequences longer than `max_len` tokens are cut at their end and counted.
///
/// # Errors
/// As [`check`]; [`Error::Io`] when what is too large for memory cannot be written.
pub fn encode_all(
    tokenizer: &Tokenizer,
    examples: &Store<Example>,
    prompt_weight: f32,
    max_len: usize,
) -> Result<Encoded> {
    let mut out = examples.writer();
    let (mut truncated, mut tokens) = (0, 0);
    for from in (0..examples.len()).step_by(AHEAD) {
        let one = |i: usize| {
            let example = examples.get(i);
            check_one(tokenizer, &example)?;
            Ok(encode(tokenizer, &example, prompt_weight))
        };
        let ahead = from..examples.len().min(from + AHEAD);
        for mut sequence in ahead.into_par_iter().map(one).collect::<Result<Vec<Sequence>>>()? {
            truncated += usize::from(sequence.ids.len() > max_len);
            sequence.ids.truncate(max_len);
            sequence.weights.truncate(max_len);
            tokens += sequence.ids.len();
            out.push(sequence)?;
        }
    }
    Ok(Encoded { sequences: out.finish()?, truncated, tokens })
}

/// How many of the examples [`encode_all`] would cut.
pub fn truncated(tokenizer: &Tokenizer, examples: &Store<Example>, max_len: usize) -> usize {
    let len = |example: &Example| prefix(tokenizer, example).len() + completion(tokenizer, example).len();
    (0..examples.len()).into_par_iter().filter(|i| len(&examples.get(*i)) > max_len).count()
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
