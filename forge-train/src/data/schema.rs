//! The tools of a data set: their arguments, and what may stand in these.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use forge_formats::tokenizer::SpecialKind;
use forge_formats::tools::{self, MAX_CHOICE, SlotSpec, ToolSpec, ValueSpec};

use super::{Completion, Example};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Most different values of a slot that is an enumeration.
const MAX_VALUES: usize = 32;
/// How often each of them occurs at least, on average.
const MIN_OCCURRENCES: usize = 10;

/// A tool and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSchema {
    /// Name of the tool.
    pub name: String,
    /// Its arguments.
    pub slots: Vec<SlotSchema>,
}

/// An argument of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSchema {
    /// Name of the argument.
    pub name: String,
    /// Whether every call has it.
    pub required: bool,
    /// Whether a call may have it more than once.
    pub repeatable: bool,
    /// What its value may be.
    pub value: ValueSpec,
}

impl ToolSchema {
    /// The argument of this name.
    pub fn slot(&self, name: &str) -> Option<&SlotSchema> {
        self.slots.iter().find(|slot| slot.name == name)
    }
}

/// The tools as they stand in a file; `None` when there are none.
///
/// # Errors
/// [`Error::Usage`] when the tokenizer has no token for one of them, [`Error::Format`] when the table cannot hold them.
pub fn to_bytes(schemas: &[ToolSchema], tokenizer: &Tokenizer) -> Result<Option<Vec<u8>>> {
    if schemas.is_empty() {
        return Ok(None);
    }
    let runtime = tokenizer.runtime();
    let token = |kind, name: &str| {
        runtime.special(kind, name).ok_or_else(|| Error::Usage {
            what: format!("the model's tokenizer has no token for `{name}`"),
            hint: "train on this data from the beginning, with `pipeline --data`".into(),
        })
    };
    let slot = |slot: &SlotSchema| {
        let token = token(SpecialKind::Slot, &slot.name)?;
        let (required, repeatable, value) = (slot.required, slot.repeatable, slot.value.clone());
        Ok(SlotSpec { token, required, repeatable, value })
    };
    let tool = |tool: &ToolSchema| {
        let token = token(SpecialKind::Tool, &tool.name)?;
        Ok(ToolSpec { token, slots: tool.slots.iter().map(slot).collect::<Result<_>>()? })
    };
    let specs = schemas.iter().map(tool).collect::<Result<Vec<ToolSpec>>>()?;
    Ok(Some(tools::to_bytes(&specs, &runtime.table())?))
}

/// The tools of a user's calls, sorted by name, each with its slots sorted by name.
///
/// A slot is required when every call of its tool has it and repeatable when one has it twice. Its values are
/// - an enumeration when there are at most 32 different ones, each occurs at least twice and on average ten times in
///   `train`, and `valid` has no other. A value that occurs once is a sign of more to come: their share is the
///   Good-Turing estimate of what has not been seen (Good 1953);
/// - whole numbers when all are, decimal numbers when all are, without bounds: what was seen is no bound;
/// - else any text.
pub(super) fn of_calls<'a>(
    train: impl Iterator<Item = Cow<'a, Example>>,
    valid: impl Iterator<Item = Cow<'a, Example>>,
) -> Vec<ToolSchema> {
    let mut seen: BTreeMap<String, SeenTool> = BTreeMap::new();
    for (example, trained) in train.map(|e| (e, true)).chain(valid.map(|e| (e, false))) {
        if let Completion::Tool { tool, args } = &example.completion {
            match seen.get_mut(tool) {
                Some(tool) => tool.see(args, trained),
                None => seen.entry(tool.clone()).or_default().see(args, trained),
            }
        }
    }
    seen.into_iter().map(|(name, tool)| tool.schema(name)).collect()
}

/// What the calls of a tool have shown.
#[derive(Default)]
struct SeenTool {
    calls: usize,
    slots: BTreeMap<String, SeenSlot>,
}

/// What the calls have shown of a slot.
struct SeenSlot {
    /// Calls that have it.
    calls: usize,
    repeats: bool,
    /// How often each value occurs in training; no more than an enumeration may have, and one.
    trained: BTreeMap<String, usize>,
    /// Values of the validation calls; as many at most.
    held_out: BTreeSet<String>,
    /// Whether all values are whole numbers, and numbers.
    integers: bool,
    numbers: bool,
}

impl Default for SeenSlot {
    fn default() -> Self {
        let (trained, held_out) = (BTreeMap::new(), BTreeSet::new());
        Self { calls: 0, repeats: false, trained, held_out, integers: true, numbers: true }
    }
}

impl SeenTool {
    fn see(&mut self, args: &[(String, String)], trained: bool) {
        self.calls += 1;
        for (at, (name, value)) in args.iter().enumerate() {
            if !self.slots.contains_key(name) {
                self.slots.insert(name.clone(), SeenSlot::default());
            }
            let Some(slot) = self.slots.get_mut(name) else { continue };
            match args[..at].iter().any(|(earlier, _)| earlier == name) {
                true => slot.repeats = true,
                false => slot.calls += 1,
            }
            slot.see(value, trained);
        }
    }

    fn schema(self, name: String) -> ToolSchema {
        let slot = |(name, slot): (String, SeenSlot)| SlotSchema {
            required: slot.calls == self.calls,
            repeatable: slot.repeats,
            value: slot.value(),
            name,
        };
        ToolSchema { name, slots: self.slots.into_iter().map(slot).collect() }
    }
}

impl SeenSlot {
    fn see(&mut self, value: &str, trained: bool) {
        self.integers &= is_integer(value);
        self.numbers &= is_number(value);
        // Beyond one more than an enumeration may have, others change nothing.
        if trained {
            if let Some(times) = self.trained.get_mut(value) {
                *times += 1;
            } else if self.trained.len() <= MAX_VALUES {
                self.trained.insert(value.to_owned(), 1);
            }
        } else if self.held_out.len() <= MAX_VALUES {
            self.held_out.insert(value.to_owned());
        }
    }

    fn value(&self) -> ValueSpec {
        if self.is_closed() {
            ValueSpec::Choice(self.trained.keys().cloned().collect())
        } else if self.integers {
            ValueSpec::Integer { min: i64::MIN, max: i64::MAX }
        } else if self.numbers {
            ValueSpec::Number
        } else {
            ValueSpec::Text
        }
    }

    /// Whether the values of training seem to be all there are.
    fn is_closed(&self) -> bool {
        let occurrences: usize = self.trained.values().sum();
        (1..=MAX_VALUES).contains(&self.trained.len())
            && occurrences >= MIN_OCCURRENCES * self.trained.len()
            && self.trained.values().all(|times| *times > 1)
            && self.trained.keys().all(|value| (1..=MAX_CHOICE).contains(&value.len()))
            && self.held_out.iter().all(|value| self.trained.contains_key(value))
    }
}

/// Whether a value is a whole number as a table's are written.
fn is_integer(value: &str) -> bool {
    value.parse::<i64>().is_ok_and(|number| number.to_string() == value)
}

/// Whether a value is a decimal number as a table's are written: JSON's without an exponent.
fn is_number(value: &str) -> bool {
    let plain = value.bytes().all(|byte| b"-.0123456789".contains(&byte));
    plain && serde_json::from_str::<serde_json::Number>(value).is_ok()
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
