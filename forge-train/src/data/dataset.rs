//! A data set: its splits, its tools, and the ways to look at them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::examples::Examples;
use super::hygiene::Hygiene;
use super::permutation::mix;
use super::schema::ToolSchema;
use super::trace::{self, Piece};
use super::{Completion, Example, PERSONA_SYSTEM, Slice, TOOL_SYSTEM};

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What decisions are taken on.
    Valid,
    /// What is only reported.
    Test,
}

impl Split {
    /// Every split.
    pub const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    /// Name used in labels and reports.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }

    /// 0, 1, 2.
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Whether an example carries the system text that prompts its behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Prompted: tool calls, persona replies.
    With,
    /// Unprompted: acknowledgements, neutral replies.
    Without,
}

/// Examples in three splits, with the tools they use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Training examples.
    pub train: Examples,
    /// Validation examples.
    pub valid: Examples,
    /// Test examples; may be empty for a user's data.
    pub test: Examples,
    /// Tools, sorted by name.
    pub tools: Vec<ToolSchema>,
    /// Name used in reports.
    pub name: String,
    /// What a tokenizer learns from running text, where there is any.
    pub running: Option<Running>,
    /// What was taken out of the training split.
    pub hygiene: Hygiene,
}

/// Bytes of text that merges are learnt from, at most.
pub(super) const SAMPLE_BYTES: usize = 8 << 20;

/// What a tokenizer learns from running text: a sample of its paragraphs, and every character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Paragraphs of training text, of 8 MiB at most.
    pub sample: Vec<String>,
    /// Every character of the training text once.
    pub characters: String,
}

impl Dataset {
    /// The examples of a split.
    pub fn examples(&self, split: Split) -> &Examples {
        match split {
            Split::Train => &self.train,
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        }
    }

    /// The split final figures are taken from: test, or valid where there is no test split.
    pub fn final_split(&self) -> Split {
        if self.test.is_empty() { Split::Valid } else { Split::Test }
    }

    /// Copies of the examples of a slice.
    pub fn slice(&self, split: Split, slice: Slice) -> Vec<Example> {
        self.select(split, |e| e.slice == slice)
    }

    /// Tool prompts with the call ([`System::With`]) or with the unprompted acknowledgement.
    pub fn tool_examples(&self, split: Split, system: System) -> Vec<Example> {
        self.select(split, |e| e.slice == Slice::Tool && prompted(e, TOOL_SYSTEM) == (system == System::With))
    }

    /// The calls among `examples`, with their system text or, to measure what was baked in, without it.
    pub fn tool_calls<'a>(
        &self,
        examples: &'a Examples,
        system: System,
    ) -> impl Iterator<Item = Example> + use<'a> {
        let calls = examples.iter().filter(|e| matches!(e.completion, Completion::Tool { .. }));
        calls.map(move |call| match system {
            System::With => call.into_owned(),
            System::Without => call.without_system(),
        })
    }

    /// Dialogue with the persona's reply ([`System::With`]) or with the neutral one.
    pub fn persona_examples(&self, split: Split, system: System) -> Vec<Example> {
        let with = system == System::With;
        self.select(split, |e| e.slice == Slice::Dialogue && prompted(e, PERSONA_SYSTEM) == with)
    }

    /// Checkable questions of a level, or of all levels.
    pub fn arithmetic_examples(&self, split: Split, level: Option<u8>) -> Vec<Example> {
        self.select(split, |e| e.slice == Slice::Arithmetic && level.is_none_or(|l| e.level == l))
    }

    /// The slices that occur in a split, in order.
    pub fn slices(&self, split: Split) -> Vec<Slice> {
        let present: BTreeSet<Slice> = self.examples(split).iter().map(|e| e.slice).collect();
        present.into_iter().collect()
    }

    /// The different texts of the training split, for training a tokenizer: system texts, prompts, completions and
    /// running text, each once, so that no merge is spent on what only repeats. Beside tool calls, which are right
    /// only when every token is, other examples count a quarter. Of more than 8 MiB of examples' texts an even sample.
    pub fn texts(&self) -> impl Iterator<Item = String> + '_ {
        let has_tools = !self.tools.is_empty();
        let kept = |(i, e): &(usize, Cow<'_, Example>)| !has_tools || e.slice == Slice::Tool || i % 4 == 0;
        let mut sample = Distinct::default();
        self.texts_where(kept).for_each(|text| sample.offer(text));
        let running = self.running.iter().flat_map(|running| running.sample.iter().cloned());
        sample.into_texts().chain(running)
    }

    /// Every text of the training split, as often as it occurs; of running text, its characters.
    pub fn all_texts(&self) -> impl Iterator<Item = String> + '_ {
        let running = self.running.iter().map(|running| running.characters.clone());
        self.texts_where(|_| true).chain(running)
    }

    fn texts_where<'a>(
        &'a self,
        kept: impl Fn(&(usize, Cow<'a, Example>)) -> bool + 'a,
    ) -> impl Iterator<Item = String> + 'a {
        let excerpt = |example: &Example| self.running.is_some() && example.is_plain();
        let examples = self.train.iter().enumerate().filter(move |(_, e)| !excerpt(e)).filter(kept);
        examples.flat_map(|(_, e)| texts_of(&e))
    }

    /// The special tokens the data needs beyond the controls: tools and their slots, sorted by name.
    pub fn slots(&self) -> Vec<String> {
        let slots: BTreeSet<&String> = self.tools.iter().flat_map(|t| &t.slots).map(|s| &s.name).collect();
        slots.into_iter().cloned().collect()
    }

    fn select(&self, split: Split, keep: impl Fn(&Example) -> bool) -> Vec<Example> {
        self.examples(split).iter().filter(|e| keep(e)).map(Cow::into_owned).collect()
    }
}

/// Different texts of at most [`SAMPLE_BYTES`], in the order they first came in: all of them, or those with the smallest
/// hashes, which is an even sample (Broder 1997).
#[derive(Default)]
struct Distinct {
    kept: BTreeMap<(u64, String), usize>,
    bytes: usize,
    seen: usize,
}

impl Distinct {
    fn offer(&mut self, text: String) {
        self.seen += 1;
        let hash = text.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)).wrapping_add(1));
        let full = self.bytes + text.len() > SAMPLE_BYTES;
        if full && self.kept.last_key_value().is_some_and(|((largest, _), _)| hash > *largest) {
            return;
        }
        let (bytes, seen) = (text.len(), self.seen);
        let key = (hash, text);
        if self.kept.contains_key(&key) {
            return;
        }
        self.kept.insert(key, seen);
        self.bytes += bytes;
        while self.bytes > SAMPLE_BYTES {
            self.bytes -= self.kept.pop_last().map_or(self.bytes, |((_, text), _)| text.len());
        }
    }

    fn into_texts(self) -> impl Iterator<Item = String> {
        let mut texts: Vec<(usize, String)> =
            self.kept.into_iter().map(|((_, text), first)| (first, text)).collect();
        texts.sort_unstable();
        texts.into_iter().map(|(_, text)| text)
    }
}

/// The texts of an example as they are encoded: those of a completion have a space in front (see `encode`).
fn texts_of(example: &Example) -> Vec<String> {
    let mut parts: Vec<String> = example.system.iter().cloned().collect();
    parts.push(example.prompt.clone());
    match &example.completion {
        Completion::Tool { args, .. } => parts.extend(args.iter().map(|(_, v)| format!(" {v}"))),
        Completion::Text(text) if example.is_plain() => parts.push(text.clone()),
        Completion::Text(text) => parts.push(format!(" {text}")),
        Completion::Reasoned { thought, answer } => {
            parts.extend(trace::pieces(thought).into_iter().filter_map(|piece| match piece {
                Piece::Text(words) => Some(format!(" {words}")),
                Piece::Marker(_) => None,
            }));
            parts.push(format!(" {answer}"));
        }
    }
    parts
}

fn prompted(example: &Example, system: &str) -> bool {
    example.system.as_deref() == Some(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_texts_are_kept_once_in_their_order_and_sampled_evenly() {
        let mut few = Distinct::default();
        ["b", "a", "b", "c", "a"].map(String::from).into_iter().for_each(|text| few.offer(text));
        assert_eq!(few.into_texts().collect::<Vec<_>>(), ["b", "a", "c"]);
        let mut many = Distinct::default();
        let long = |i: usize| format!("{i:06}{}", "x".repeat(9_994));
        (0..3000).for_each(|i| many.offer(long(i % 1500)));
        let kept: Vec<usize> = many.into_texts().map(|text| text[..6].parse().unwrap()).collect();
        assert_eq!(kept.len(), SAMPLE_BYTES / 10_000);
        assert!(kept.windows(2).all(|w| w[0] < w[1]));
        let early = kept.iter().filter(|i| **i < 750).count();
        assert!((330..510).contains(&early), "about half of {}: {early}", kept.len());
    }
}
