//! The tool table: which slots each tool takes and what may stand in them. Generation can be held to it.
//!
//! It is the extra section [`TAG`] of a file of version 1.1 on. Layout in `docs/format.md`, section 7.

#[cfg(feature = "alloc")]
mod spec;

#[cfg(feature = "alloc")]
pub use spec::{SlotSpec, ToolSpec, ValueSpec, to_bytes};

use core::fmt;

use crate::error::{Error, Result};
use crate::tokenizer::{MAX_SPECIALS, SpecialKind, TokenizerTable};

/// Tag of the extra section that holds the table.
pub const TAG: u32 = 1;
/// Longest string of an enumeration in bytes.
pub const MAX_CHOICE: usize = 255;

/// Bit of a slot's byte: a call without this slot is not complete.
const REQUIRED: u8 = 0x40;
/// Bit of a slot's byte: the slot may occur more than once in a call.
const REPEATABLE: u8 = 0x80;

/// A checked table that stays in its bytes.
#[derive(Clone, Copy, PartialEq)]
pub struct ToolTable<'a> {
    tools: u16,
    records: &'a [u8],
}

/// A tool and its slots.
#[derive(Clone, Copy, PartialEq)]
pub struct Tool<'a> {
    token: u16,
    slots: u16,
    /// The slots' records, then those of the tools behind.
    records: &'a [u8],
}

/// An argument of a tool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot<'a> {
    /// Its token, of kind [`SpecialKind::Slot`].
    pub token: u16,
    /// Whether every call has it.
    pub required: bool,
    /// Whether a call may have it more than once.
    pub repeatable: bool,
    /// What its value may be.
    pub value: Value<'a>,
}

/// What the text of a slot's value may be, without the space that completions have in front of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any text.
    Text,
    /// One of these strings.
    Choice(Choices<'a>),
    /// A whole number within both bounds: `-?(0|[1-9][0-9]*)`, but not `-0`.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A decimal number: `-?(0|[1-9][0-9]*)(\.[0-9]+)?`.
    Number,
}

/// The strings of an enumeration, at least one, strictly rising by their bytes.
#[derive(Clone, Copy, PartialEq)]
pub struct Choices<'a> {
    count: u16,
    /// Length and bytes of each, then what follows them.
    records: &'a [u8],
}

impl<'a> ToolTable<'a> {
    /// Checks a table: exact length; tools in rising order of tokens that are tools of this tokenizer, slots of a
    /// tool in rising order of tokens that are slots of it; known kinds of values, ranges that are not empty, strings
    /// that are UTF-8, 1 to 255 bytes and rise. Takes time linear in the table's length.
    ///
    /// # Errors
    /// [`Error::Tools`] saying which part.
    pub fn parse(bytes: &'a [u8], tokenizer: &TokenizerTable<'_>) -> Result<Self> {
        let (tools, records) = take_u16(bytes).ok_or(Error::Tools("length"))?;
        if tools == 0 {
            return Err(Error::Tools("no tool"));
        }
        let known = [SpecialKind::Tool, SpecialKind::Slot].map(|kind| Ids::of(tokenizer, kind));
        let [tool_ids, slot_ids] = known;
        let (mut rest, mut last) = (records, None);
        for _ in 0..tools {
            let tool = Tool::read(rest).ok_or(Error::Tools("length"))?;
            if last >= Some(tool.token) || !tool_ids.has(tool.token) {
                return Err(Error::Tools("tool's token"));
            }
            last = Some(tool.token);
            rest = tool.check(&slot_ids)?;
        }
        if rest.is_empty() { Ok(Self { tools, records }) } else { Err(Error::Tools("length")) }
    }

    /// Number of tools, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.tools.into()
    }

    /// The tools, in rising order of their tokens.
    pub fn tools(&self) -> Tools<'a> {
        Tools { left: self.tools, records: self.records }
    }

    /// The tool of this token. Walks the table: look a tool up once a call, not once a token.
    pub fn tool(&self, token: u16) -> Option<Tool<'a>> {
        self.tools().find(|tool| tool.token == token)
    }
}

impl<'a> Tool<'a> {
    /// Its token, of kind [`SpecialKind::Tool`].
    pub fn token(&self) -> u16 {
        self.token
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.into()
    }

    /// Whether the tool takes no arguments.
    pub fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// The slots, in rising order of their tokens.
    pub fn slots(&self) -> Slots<'a> {
        Slots { left: self.slots, records: self.records }
    }

    /// The slot of this token.
    pub fn slot(&self, token: u16) -> Option<Slot<'a>> {
        self.slots().find(|slot| slot.token == token)
    }

    /// The tool at the front of `records`.
    fn read(records: &'a [u8]) -> Option<Self> {
        let (token, records) = take_u16(records)?;
        let (slots, records) = take_u16(records)?;
        Some(Self { token, slots, records })
    }

    /// Checks the slots and returns what follows them.
    fn check(&self, slot_ids: &Ids) -> Result<&'a [u8]> {
        let (mut rest, mut last) = (self.records, None);
        for _ in 0..self.slots {
            let (slot, after) = Slot::read(rest).ok_or(Error::Tools("slot"))?;
            if last >= Some(slot.token) || !slot_ids.has(slot.token) {
                return Err(Error::Tools("slot's token"));
            }
            if let Value::Choice(choices) = slot.value {
                choices.check()?;
            }
            (rest, last) = (after, Some(slot.token));
        }
        Ok(rest)
    }
}

impl<'a> Slot<'a> {
    /// The slot at the front of `records`, and what follows it.
    fn read(records: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (token, rest) = take_u16(records)?;
        let (&byte, rest) = rest.split_first()?;
        let (value, rest) = match byte & !(REQUIRED | REPEATABLE) {
            0 => (Value::Text, rest),
            1 => {
                let (choices, rest) = Choices::read(rest)?;
                (Value::Choice(choices), rest)
            }
            2 => (Value::Integer { min: i64::MIN, max: i64::MAX }, rest),
            3 => {
                let (min, rest) = rest.split_first_chunk::<8>()?;
                let (max, rest) = rest.split_first_chunk::<8>()?;
                let (min, max) = (i64::from_le_bytes(*min), i64::from_le_bytes(*max));
                // The widest range is kind 2.
                let valid = min <= max && (min, max) != (i64::MIN, i64::MAX);
                valid.then_some((Value::Integer { min, max }, rest))?
            }
            4 => (Value::Number, rest),
            _ => return None,
        };
        let (required, repeatable) = (byte & REQUIRED != 0, byte & REPEATABLE != 0);
        Some((Self { token, required, repeatable, value }, rest))
    }
}

impl<'a> Choices<'a> {
    /// Number of strings, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// The strings, strictly rising by their bytes: those with a common prefix are neighbours.
    pub fn iter(&self) -> ChoiceIter<'a> {
        ChoiceIter { left: self.count, records: self.records }
    }

    /// The strings at the front of `records`, and what follows them.
    fn read(records: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (count, records) = take_u16(records)?;
        let mut rest = records;
        for _ in 0..count {
            rest = split_choice(rest)?.1;
        }
        (count > 0).then_some((Self { count, records }, rest))
    }

    fn check(&self) -> Result<()> {
        let (mut rest, mut last): (_, &[u8]) = (self.records, &[]);
        for _ in 0..self.count {
            let (choice, after) = split_choice(rest).ok_or(Error::Tools("string"))?;
            // The first is above the empty string, so none is empty.
            if choice <= last || core::str::from_utf8(choice).is_err() {
                return Err(Error::Tools("string"));
            }
            (rest, last) = (after, choice);
        }
        Ok(())
    }
}

/// The bytes of the string at the front of `records`, and what follows them.
fn split_choice(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = records.split_first()?;
    rest.split_at_checked(len.into())
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_le_bytes(*number), rest))
}

/// The ids of the special tokens of one kind.
struct Ids([u64; MAX_SPECIALS / 64]);

impl Ids {
    fn of(tokenizer: &TokenizerTable<'_>, kind: SpecialKind) -> Self {
        let mut ids = Self([0; MAX_SPECIALS / 64]);
        for (id, _) in tokenizer.specials().enumerate().filter(|(_, (k, _))| *k == kind) {
            if let Some(word) = ids.0.get_mut(id / 64) {
                *word |= 1 << (id % 64);
            }
        }
        ids
    }

    fn has(&self, id: u16) -> bool {
        self.0.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}

/// Iterator of [`ToolTable::tools`].
#[derive(Clone, Debug)]
pub struct Tools<'a> {
    left: u16,
    records: &'a [u8],
}

impl<'a> Iterator for Tools<'a> {
    type Item = Tool<'a>;

    fn next(&mut self) -> Option<Tool<'a>> {
        self.left = self.left.checked_sub(1)?;
        let tool = Tool::read(self.records)?;
        let mut slots = tool.slots();
        slots.by_ref().for_each(drop);
        self.records = slots.records;
        Some(tool)
    }
}

/// Iterator of [`Tool::slots`].
#[derive(Clone, Debug)]
pub struct Slots<'a> {
    left: u16,
    records: &'a [u8],
}

impl<'a> Iterator for Slots<'a> {
    type Item = Slot<'a>;

    fn next(&mut self) -> Option<Slot<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (slot, rest) = Slot::read(self.records)?;
        self.records = rest;
        Some(slot)
    }
}

/// Iterator of [`Choices::iter`].
#[derive(Clone, Debug)]
pub struct ChoiceIter<'a> {
    left: u16,
    records: &'a [u8],
}

impl<'a> Iterator for ChoiceIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let (choice, rest) = split_choice(self.records)?;
        self.records = rest;
        core::str::from_utf8(choice).ok()
    }
}

impl fmt::Debug for ToolTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tools()).finish()
    }
}

impl fmt::Debug for Tool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tool({}, ", self.token)?;
        f.debug_list().entries(self.slots()).finish()?;
        f.write_str(")")
    }
}

impl fmt::Debug for Choices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
