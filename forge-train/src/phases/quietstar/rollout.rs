//! Sampled thoughts with the true continuation behind them.

use std::ops::Range;

use crate::data::{Completion, Example, Sequence, encode};
use crate::engine::emit::{Card, emit, float32};
use crate::error::Result;
use crate::eval::{self, SampleOptions};
use crate::nn::Network;
use crate::phases::quietstar::QuietStarConfig;
use crate::rng::Rng;
use crate::tokenizer::Tokenizer;

/// A place at which thoughts are sampled: a prompt, the true tokens behind it, and the thoughts.
pub(super) struct Place {
    /// Prompt and continuation without a thought.
    pub(super) plain: Rollout,
    /// The same with each sampled thought between them.
    pub(super) thoughts: Vec<Rollout>,
}

/// A sequence with the tokens of it that matter.
pub(super) struct Rollout {
    /// All tokens.
    pub(super) sequence: Sequence,
    /// The thought's tokens behind `<think>`, `</think>` included; empty without a thought.
    pub(super) thought: Range<usize>,
    /// The true tokens that the thought is to make likelier.
    pub(super) ahead: Range<usize>,
    /// Whether the thought was closed by the model itself.
    pub(super) closed: bool,
}

impl Rollout {
    fn new(prefix: &[u16], thought: &[u16], closed: bool, ahead: &[u16]) -> Self {
        let ids = [prefix, thought, ahead].concat();
        let middle = prefix.len() + thought.len();
        Self {
            thought: prefix.len()..middle,
            ahead: middle..ids.len(),
            sequence: Sequence { weights: vec![1.0; ids.len()], ids },
            closed,
        }
    }
}

/// The true tokens behind a worked example's thought: `ahead` of them, all for 0.
fn continuation(tokenizer: &Tokenizer, example: &Example, ahead: usize) -> Vec<u16> {
    let mut ids = match &example.completion {
        Completion::Reasoned { answer, .. } => encode::segment(tokenizer, answer),
        _ => Vec::new(),
    };
    ids.push(tokenizer.control("<eos>"));
    ids.truncate(if ahead == 0 { ids.len() } else { ahead });
    ids
}

/// Samples `phase3.thoughts` thoughts behind each example's prompt from the network as it is, through the runtime.
///
/// # Errors
/// If the network cannot be emitted or run.
pub(super) fn sample(
    network: &Network,
    tokenizer: &Tokenizer,
    card: &Card,
    examples: &[Example],
    config: &QuietStarConfig,
    rng: &mut Rng,
) -> Result<Vec<Place>> {
    let (open, close) = (tokenizer.control("<think>"), tokenizer.control("</think>"));
    let bytes = emit(&network.weights()?, tokenizer, card, &float32)?;
    let prompts: Vec<Vec<u16>> = examples.iter().map(|e| encode::prefix(tokenizer, e)).collect();
    let opened = prompts.iter().flat_map(|p| {
        let prefix = [p.as_slice(), &[open]].concat();
        std::iter::repeat_n(prefix, config.thoughts)
    });
    let options = SampleOptions {
        max_tokens: config.thought_tokens,
        temperature: config.temperature,
        seed: rng.next_u64(),
        stop: Some(close),
    };
    let opened: Vec<Vec<u16>> = opened.collect();
    let sampled = eval::generate(&bytes, &opened, &options)?;
    let places = examples.iter().enumerate().map(|(i, example)| {
        let ahead = continuation(tokenizer, example, config.ahead);
        let own = i * config.thoughts..(i + 1) * config.thoughts;
        let thoughts = own.map(|k| {
            let mut thought = sampled[k].clone();
            let closed = thought.last() == Some(&close);
            if !closed {
                // A thought that the model did not close is closed for it, as at run time.
                thought.retain(|id| *id != tokenizer.control("<eos>"));
                thought.push(close);
            }
            Rollout::new(&opened[k], &thought, closed, &ahead)
        });
        Place { thoughts: thoughts.collect(), plain: Rollout::new(&prompts[i], &[], true, &ahead) }
    });
    Ok(places.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thought_and_continuation_are_where_they_are_said_to_be() {
        let rollout = Rollout::new(&[1, 2, 3], &[4, 5], true, &[6, 7]);
        assert_eq!(rollout.sequence.ids, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(rollout.sequence.ids[rollout.thought.clone()], [4, 5]);
        assert_eq!(rollout.sequence.ids[rollout.ahead.clone()], [6, 7]);
        let plain = Rollout::new(&[1, 2], &[], true, &[6]);
        assert!(plain.thought.is_empty() && plain.ahead == (2..3));
    }
}
