//! A data set: its splits, its tools, and the ways to look at them.

use std::collections::{BTreeSet, HashSet};

use super::hygiene::Hygiene;
use super::schema::ToolSchema;
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
    pub train: Vec<Example>,
    /// Validation examples.
    pub valid: Vec<Example>,
    /// Test examples; may be empty for a user's data.
    pub test: Vec<Example>,
    /// Tools, sorted by name.
    pub tools: Vec<ToolSchema>,
    /// Name used in reports.
    pub name: String,
    /// Running text to train on in windows of fixed length, where the data is a corpus.
    pub corpus: Option<String>,
    /// What was taken out of the training split.
    pub hygiene: Hygiene,
}

impl Dataset {
    /// The examples of a split.
    pub fn examples(&self, split: Split) -> &[Example] {
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
    pub fn tool_calls(&self, examples: &[Example], system: System) -> Vec<Example> {
        let calls = examples.iter().filter(|e| matches!(e.completion, Completion::Tool { .. }));
        match system {
            System::With => calls.cloned().collect(),
            System::Without => calls.map(Example::without_system).collect(),
        }
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
    /// only when every token is, other examples count a quarter.
    pub fn texts(&self) -> impl Iterator<Item = String> + '_ {
        let mut seen = HashSet::new();
        let has_tools = !self.tools.is_empty();
        let kept = move |(i, e): &(usize, &Example)| !has_tools || e.slice == Slice::Tool || i % 4 == 0;
        self.texts_where(kept).filter(move |text| seen.insert(text.clone()))
    }

    /// Every text of the training split, as often as it occurs.
    pub fn all_texts(&self) -> impl Iterator<Item = String> + '_ {
        self.texts_where(|_| true)
    }

    fn texts_where<'a>(
        &'a self,
        kept: impl Fn(&(usize, &Example)) -> bool + 'a,
    ) -> impl Iterator<Item = String> + 'a {
        let excerpt = |example: &Example| self.corpus.is_some() && example.is_plain();
        let examples = self.train.iter().enumerate().filter(move |(_, e)| !excerpt(e)).filter(kept);
        examples.flat_map(|(_, e)| texts_of(e)).chain(self.corpus.iter().cloned())
    }

    /// The special tokens the data needs beyond the controls: tools and their slots, sorted by name.
    pub fn slots(&self) -> Vec<String> {
        let slots: BTreeSet<&String> = self.tools.iter().flat_map(|t| &t.slots).map(|s| &s.name).collect();
        slots.into_iter().cloned().collect()
    }

    fn select(&self, split: Split, keep: impl Fn(&Example) -> bool) -> Vec<Example> {
        self.examples(split).iter().filter(|e| keep(e)).cloned().collect()
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
            parts.extend([format!(" {thought}"), format!(" {answer}")]);
        }
    }
    parts
}

fn prompted(example: &Example, system: &str) -> bool {
    example.system.as_deref() == Some(system)
}
