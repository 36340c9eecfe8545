//! What a tool table is written from.

use alloc::{string::String, vec::Vec};

use super::{REPEATABLE, REQUIRED, Slot, ToolTable, Value};
use crate::error::{Error, Result};
use crate::tokenizer::TokenizerTable;

/// A tool, as a table is written from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSpec {
    /// Its token.
    pub token: u16,
    /// Its slots, in any order.
    pub slots: Vec<SlotSpec>,
}

/// A slot, as a table is written from it; see [`Slot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// Its token.
    pub token: u16,
    /// Whether every call has it.
    pub required: bool,
    /// Whether a call may have it more than once.
    pub repeatable: bool,
    /// What its value may be.
    pub value: ValueSpec,
}

/// What a slot's value may be; see [`Value`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSpec {
    /// Any text.
    Text,
    /// One of these strings, in any order.
    Choice(Vec<String>),
    /// A whole number within both bounds; all of `i64` is no bound.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A decimal number.
    Number,
}

/// The table of these tools, in whatever order they and their parts are given.
///
/// # Errors
/// [`Error::Tools`] for whatever [`ToolTable::parse`] finds wrong with it, a tool, slot or string given twice among it.
pub fn to_bytes(tools: &[ToolSpec], tokenizer: &TokenizerTable<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    put_count(&mut out, tools.len())?;
    let mut tools: Vec<&ToolSpec> = tools.iter().collect();
    tools.sort_unstable_by_key(|tool| tool.token);
    for tool in tools {
        out.extend(tool.token.to_le_bytes());
        put_count(&mut out, tool.slots.len())?;
        let mut slots: Vec<&SlotSpec> = tool.slots.iter().collect();
        slots.sort_unstable_by_key(|slot| slot.token);
        slots.into_iter().try_for_each(|slot| slot.put(&mut out))?;
    }
    ToolTable::parse(&out, tokenizer)?;
    Ok(out)
}

fn put_count(out: &mut Vec<u8>, count: usize) -> Result<()> {
    out.extend(u16::try_from(count).map_err(|_| Error::Tools("too many"))?.to_le_bytes());
    Ok(())
}

impl SlotSpec {
    /// Appends the slot's record.
    fn put(&self, out: &mut Vec<u8>) -> Result<()> {
        let kind = match &self.value {
            ValueSpec::Text => 0,
            ValueSpec::Choice(_) => 1,
            ValueSpec::Integer { min: i64::MIN, max: i64::MAX } => 2,
            ValueSpec::Integer { .. } => 3,
            ValueSpec::Number => 4,
        };
        out.extend(self.token.to_le_bytes());
        let flags = u8::from(self.required) * REQUIRED + u8::from(self.repeatable) * REPEATABLE;
        out.push(kind | flags);
        match &self.value {
            ValueSpec::Choice(choices) => {
                put_count(out, choices.len())?;
                let mut choices: Vec<&String> = choices.iter().collect();
                choices.sort_unstable();
                for choice in choices {
                    out.push(u8::try_from(choice.len()).map_err(|_| Error::Tools("string"))?);
                    out.extend(choice.as_bytes());
                }
            }
            ValueSpec::Integer { min, max } if kind == 3 => {
                out.extend([min.to_le_bytes(), max.to_le_bytes()].as_flattened());
            }
            ValueSpec::Text | ValueSpec::Integer { .. } | ValueSpec::Number => {}
        }
        Ok(())
    }
}

impl ToolTable<'_> {
    /// The table as lists, for tools that change it.
    pub fn to_spec(self) -> Vec<ToolSpec> {
        let slot = |s: Slot<'_>| {
            let value = match s.value {
                Value::Text => ValueSpec::Text,
                Value::Choice(choices) => ValueSpec::Choice(choices.iter().map(String::from).collect()),
                Value::Integer { min, max } => ValueSpec::Integer { min, max },
                Value::Number => ValueSpec::Number,
            };
            SlotSpec { token: s.token, required: s.required, repeatable: s.repeatable, value }
        };
        self.tools().map(|t| ToolSpec { token: t.token, slots: t.slots().map(slot).collect() }).collect()
    }
}
