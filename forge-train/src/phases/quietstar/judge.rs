//! Whether thoughts help: answers behind thoughts against answers behind as many tokens that mean nothing.
//!
//! Three controls, each against theatre of its own kind: pause tokens (is it the computation alone?), answers at
//! once from a model trained as long without traces (would the steps have been better spent?), and the thoughts of
//! other questions (does what is thought matter, or only that there is a thought?).

use std::collections::BTreeMap;

use super::train::Control;
use crate::data::{Example, encode};
use crate::engine::emit::{emit, float32};
use crate::error::Result;
use crate::eval::{self, Estimate, Paired, Rate, SampleOptions};
use crate::phases::common;
use crate::pipeline::{Gate, PhaseContext, PhaseId};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// The models that are compared.
pub(super) struct Models<'w> {
    /// Traces baked and reinforced.
    pub(super) thinking: &'w Weights,
    /// Traces baked.
    pub(super) baked: &'w Weights,
    /// Pause tokens in place of traces.
    pub(super) paused: &'w Weights,
    /// No traces.
    pub(super) direct: &'w Weights,
}

/// Which held-out questions were answered right, and how the thoughts looked.
pub(super) struct Verdict {
    levels: Vec<u8>,
    with: Vec<bool>,
    baked: Vec<bool>,
    paused: Vec<bool>,
    direct: Vec<bool>,
    shuffled: Vec<bool>,
    /// Gain in the true answer's log-likelihood over the direct model's, in nats a token.
    coherence: Estimate,
    /// Thoughts that are well formed.
    valid: Rate,
}

/// A model as a file, asked through the runtime.
struct Asked<'a> {
    bytes: Vec<u8>,
    tokenizer: &'a Tokenizer,
    limit: usize,
}

impl<'a> Asked<'a> {
    fn new(ctx: &'a PhaseContext<'_>, weights: &Weights) -> Result<Self> {
        let card = common::card(ctx, PhaseId::QuietStar, serde_json::json!({}));
        let bytes = emit(weights, &ctx.data.tokenizer, &card, &float32)?;
        Ok(Self { bytes, tokenizer: &ctx.data.tokenizer, limit: ctx.config.data.max_len })
    }

    fn write(&self, prefixes: &[Vec<u16>]) -> Result<Vec<Vec<u16>>> {
        eval::generate(&self.bytes, prefixes, &SampleOptions::greedy(self.limit))
    }

    fn right(&self, examples: &[Example], written: &[Vec<u16>]) -> Vec<bool> {
        let matches = |(e, out): (&Example, &Vec<u16>)| eval::answer_matches(self.tokenizer, e, out);
        examples.iter().zip(written).map(matches).collect()
    }

    /// Log-likelihood of the true answers behind prefixes, in nats, and their tokens.
    fn likelihood(&self, examples: &[Example], prefixes: &[Vec<u16>]) -> Result<Vec<(f64, usize)>> {
        let ends = examples.iter().zip(prefixes).map(|(example, prefix)| {
            let answer = encode::completion(self.tokenizer, &example.without_thought());
            ([prefix.as_slice(), &answer].concat(), prefix.len())
        });
        let spans: Vec<(Vec<u16>, usize)> = ends.collect();
        let nats = eval::surprise(&self.bytes, &spans)?;
        Ok(nats.iter().zip(&spans).map(|(nats, (ids, from))| (-nats, ids.len() - from)).collect())
    }
}

/// The thought a completion begins with: up to `</think>`, `None` without one.
fn thought(tokenizer: &Tokenizer, written: &[u16]) -> Option<Vec<u16>> {
    let close = written.iter().position(|id| *id == tokenizer.control("</think>"))?;
    (written.first() == Some(&tokenizer.control("<think>"))).then(|| written[..=close].to_vec())
}

/// Whether a completion is a thought with text in it, closed, and an answer; no control token inside but markers.
fn well_formed(tokenizer: &Tokenizer, written: &[u16]) -> bool {
    let Some(thought) = thought(tokenizer, written) else { return false };
    let inside = &thought[1..thought.len() - 1];
    let stray = crate::tokenizer::CONTROLS.iter().any(|name| inside.contains(&tokenizer.control(name)));
    let text = tokenizer.decode(inside);
    !stray && !text.trim().is_empty() && !text.contains('\u{fffd}') && written.len() > thought.len() + 1
}

/// The place whose thought takes the place of each: the next of the same level, around.
fn rotation(levels: &[u8]) -> Vec<usize> {
    let mut next: Vec<usize> = (0..levels.len()).collect();
    for level in levels.iter().copied().collect::<std::collections::BTreeSet<u8>>() {
        let own: Vec<usize> = (0..levels.len()).filter(|i| levels[*i] == level).collect();
        own.iter().enumerate().for_each(|(k, i)| next[*i] = own[(k + 1) % own.len()]);
    }
    next
}

/// Asks every model the held-out questions.
pub(super) fn judge(
    ctx: &PhaseContext<'_>,
    models: &Models<'_>,
    pauses: usize,
    examples: &[Example],
) -> Result<Verdict> {
    let tokenizer = &ctx.data.tokenizer;
    let prompts: Vec<Vec<u16>> = examples.iter().map(|e| encode::prefix(tokenizer, e)).collect();
    let ask = |weights: &Weights, control: Control| -> Result<Vec<bool>> {
        let model = Asked::new(ctx, weights)?;
        let pause = vec![tokenizer.control("<think>"); control.pauses()];
        let prefixes: Vec<Vec<u16>> = prompts.iter().map(|p| [p.as_slice(), &pause].concat()).collect();
        Ok(model.right(examples, &model.write(&prefixes)?))
    };
    let thinking = Asked::new(ctx, models.thinking)?;
    let written = thinking.write(&prompts)?;
    let levels: Vec<u8> = examples.iter().map(|e| e.level).collect();
    let thoughts: Vec<Vec<u16>> = written.iter().map(|w| thought(tokenizer, w).unwrap_or_default()).collect();
    let behind = |i: usize, k: usize| [prompts[i].as_slice(), &thoughts[k]].concat();
    let others: Vec<Vec<u16>> =
        rotation(&levels).into_iter().enumerate().map(|(i, k)| behind(i, k)).collect();
    let own: Vec<Vec<u16>> = (0..examples.len()).map(|i| behind(i, i)).collect();
    let with_thought = thinking.likelihood(examples, &own)?;
    let without = Asked::new(ctx, models.direct)?.likelihood(examples, &prompts)?;
    let gains: Vec<(f64, f64)> =
        with_thought.iter().zip(&without).map(|((a, n), (b, _))| (a - b, *n as f64)).collect();
    Ok(Verdict {
        with: thinking.right(examples, &written),
        shuffled: thinking.right(examples, &thinking.write(&others)?),
        baked: ask(models.baked, Control::Direct)?,
        paused: ask(models.paused, Control::Pauses(pauses))?,
        direct: ask(models.direct, Control::Direct)?,
        coherence: Estimate::of_ratio(&gains),
        valid: Rate { hits: written.iter().filter(|w| well_formed(tokenizer, w)).count(), n: written.len() },
        levels,
    })
}

fn accuracy(hits: &[bool]) -> f64 {
    Rate { hits: hits.iter().filter(|h| **h).count(), n: hits.len() }.value()
}

impl Verdict {
    /// The three controls by name.
    fn controls(&self) -> [(&'static str, &[bool]); 3] {
        [("pauses", &self.paused), ("no thoughts", &self.direct), ("shuffled thoughts", &self.shuffled)]
    }

    /// Passes when thoughts beat every control, with 95 % bootstrap intervals above 0.
    pub(super) fn gate(&self) -> Gate {
        let mut measured = format!("{:.1} % with thoughts", 100.0 * accuracy(&self.with));
        let mut passed = true;
        for (name, control) in self.controls() {
            let gain = Paired::of(&self.with, control).difference.times(100.0);
            passed &= gain.low > 0.0;
            measured += &format!(
                "; {name} {:.1} %, gain {:+.1} [{:+.1}, {:+.1}]",
                100.0 * accuracy(control),
                gain.value,
                gain.low,
                gain.high
            );
        }
        let rule = "thoughts beat pauses, no thoughts and shuffled thoughts, 95 % intervals above 0";
        if passed {
            Gate { passed: true, rule: rule.into(), measured, fallback: None }
        } else {
            Gate::fell_back(rule, &format!("{measured}; thoughts off, tokens kept"))
        }
    }

    /// The figures, by metric name.
    pub(super) fn metrics(&self) -> BTreeMap<String, f64> {
        let mut m = BTreeMap::new();
        let mut put = |name: &str, value: f64| m.insert(name.to_owned(), value);
        put("accuracy_with_thoughts", accuracy(&self.with));
        put("accuracy_baked", accuracy(&self.baked));
        put("accuracy_control", accuracy(&self.paused));
        put("accuracy_without_thoughts", accuracy(&self.direct));
        put("accuracy_shuffled", accuracy(&self.shuffled));
        put("coherence_score", self.coherence.value);
        put("coherence_low", self.coherence.low);
        put("validity_rate", self.valid.value());
        for level in self.levels.iter().copied().collect::<std::collections::BTreeSet<u8>>() {
            let of = |hits: &[bool]| -> Vec<bool> {
                hits.iter().zip(&self.levels).filter(|(_, l)| **l == level).map(|(h, _)| *h).collect()
            };
            put(&format!("level_{level}.with_thoughts"), accuracy(&of(&self.with)));
            put(&format!("level_{level}.without_thoughts"), accuracy(&of(&self.direct)));
        }
        m
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(with: usize, paused: usize, direct: usize, shuffled: usize) -> Verdict {
        let hits = |rate: usize| (0..200).map(|i| i % 10 < rate).collect::<Vec<bool>>();
        Verdict {
            levels: (0..200).map(|i| (i % 10) as u8 + 1).collect(),
            with: hits(with),
            baked: hits(with),
            paused: hits(paused),
            direct: hits(direct),
            shuffled: hits(shuffled),
            coherence: Estimate::of_ratio(&[(1.0, 1.0)]),
            valid: Rate { hits: 1, n: 1 },
        }
    }

    #[test]
    fn every_control_must_be_beaten() {
        assert!(verdict(8, 5, 5, 2).gate().passed);
        for (paused, direct, shuffled) in [(8, 5, 2), (5, 8, 2), (5, 5, 8)] {
            let gate = verdict(8, paused, direct, shuffled).gate();
            assert!(!gate.passed && gate.open(), "{gate:?}");
        }
    }

    #[test]
    fn figures_are_told_by_level() {
        let metrics = verdict(8, 5, 5, 2).metrics();
        assert_eq!(metrics["level_8.with_thoughts"], 1.0);
        assert_eq!(metrics["level_9.with_thoughts"], 0.0);
        assert_eq!(metrics["level_6.without_thoughts"], 0.0);
        assert!((metrics["accuracy_with_thoughts"] - 0.8).abs() < 1e-12);
    }

    #[test]
    fn shuffled_thoughts_are_those_of_another_question_of_the_level() {
        let levels = [1, 2, 1, 2, 1];
        let other = rotation(&levels);
        assert_eq!(other, [2, 3, 4, 1, 0]);
        assert_eq!(rotation(&[4]), [0], "a level of one question has no other");
    }
}
