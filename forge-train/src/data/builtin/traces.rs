//! Reasoning traces: seven strategies that lead to one answer.
//!
//! The strategies are those of the specification's thinking tokens: chain of thought; a division into parts that
//! neither overlap nor leave anything out; an attempt to refute the result; an expert's rule; another road to the
//! result; doubt of a first guess; weighing two possibilities. Every equation in a trace holds, so a trace can be
//! checked without a model.

use crate::rng::Rng;

/// A step towards an answer.
pub(super) struct Step {
    /// The part of the problem it settles.
    part: &'static str,
    /// What holds in it.
    equation: String,
}

/// A step that settles `part`.
pub(super) fn step(part: &'static str, equation: String) -> Step {
    Step { part, equation }
}

/// A question with what its traces are made of.
pub(super) struct Problem {
    /// What is asked for.
    pub expression: String,
    /// The steps to the answer, in order.
    pub steps: Vec<Step>,
    /// An equation that would fail if the answer were wrong.
    pub check: String,
    /// The answer by another road.
    pub other: String,
    /// The rule an expert goes by.
    pub rule: &'static str,
    /// A likely wrong answer.
    pub slip: String,
    /// The answer.
    pub answer: String,
}

/// How a trace goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Step by step.
    Chain,
    /// Parts that exclude each other and together are the whole.
    Parts,
    /// The result, then what would refute it.
    Refute,
    /// A rule, then its application.
    Expert,
    /// The result, then another road to it.
    Other,
    /// A guess, doubted, then the steps.
    Doubt,
    /// Two possibilities, the steps, and the one that remains.
    Weigh,
}

impl Strategy {
    /// All seven.
    pub(super) const ALL: [Self; 7] =
        [Self::Chain, Self::Parts, Self::Refute, Self::Expert, Self::Other, Self::Doubt, Self::Weigh];

    /// Four in ten the chain, which a model then prefers when it chooses the likeliest tokens; one in ten each other.
    pub(super) fn pick(rng: &mut Rng) -> Self {
        match rng.below(10) {
            other @ 4.. => Self::ALL[other - 3],
            _ => Self::Chain,
        }
    }
}

impl Problem {
    /// The trace of a strategy; see [`crate::tokenizer::MARKERS`].
    pub(super) fn trace(&self, strategy: Strategy) -> String {
        let chain =
            || self.steps.iter().map(|s| format!("<step> {}", s.equation)).collect::<Vec<_>>().join(" ");
        match strategy {
            Strategy::Chain => chain(),
            Strategy::Parts => {
                let parts = self.steps.iter().map(|s| format!("<mece> {} <step> {}", s.part, s.equation));
                parts.collect::<Vec<_>>().join(" ")
            }
            Strategy::Refute => format!("{} <falsify> {}", chain(), self.check),
            Strategy::Expert => format!("<expert> {} {}", self.rule, chain()),
            Strategy::Other => format!("{} <reason> {}", chain(), self.other),
            Strategy::Doubt => format!("<doubt> {} {}", self.slip, chain()),
            Strategy::Weigh => {
                // The right one stands in either place, so that the place does not tell.
                let swap = self.steps.iter().map(|s| s.equation.len()).sum::<usize>() % 2 == 0;
                let (first, second) =
                    if swap { (&self.slip, &self.answer) } else { (&self.answer, &self.slip) };
                format!("<reason> {first} or {second} {} <reason> {}", chain(), self.answer)
            }
        }
    }
}
