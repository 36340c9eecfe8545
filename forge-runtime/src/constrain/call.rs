//! A tool call, a token at a time.
#![forbid(unsafe_code)]

use forge_formats::tools::{Slot, Tool};

use super::ids::Ids;
use super::value::Progress;
use crate::tokenizer::Tokenizer;

/// How far a call has come.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    tool: Tool<'a>,
    /// Slots begun.
    used: Ids,
    /// Tokens that the required slots not begun ask for.
    owed: u32,
    /// The value being written, after the first slot.
    value: Option<Progress<'a>>,
}

impl<'a> Call<'a> {
    /// After the tool's token.
    pub(super) fn new(tool: Tool<'a>, tokenizer: &Tokenizer<'_>) -> Self {
        Self { tool, used: Ids::default(), owed: arguments(tool, tokenizer), value: None }
    }

    /// The value being written.
    pub(super) fn value(&self) -> Option<&Progress<'a>> {
        self.value.as_ref()
    }

    /// Tokens that the required slots not begun ask for.
    pub(super) fn owed(&self) -> u32 {
        self.owed
    }

    /// Whether the call can end here.
    pub(super) fn complete(&self) -> bool {
        self.owed == 0 && self.between()
    }

    /// Whether a slot can begin here, or would if there were one left.
    fn between(&self) -> bool {
        self.value.as_ref().is_none_or(Progress::complete)
    }

    /// The slots that can begin here such that the call can end within `room` tokens.
    pub(super) fn slots(&self, tokenizer: Tokenizer<'a>, room: u32) -> impl Iterator<Item = u16> {
        let between = self.between();
        let open = move |slot: &Slot<'a>| {
            let owed = self.owed_without(slot, &tokenizer);
            let left = room.checked_sub(1).and_then(|room| room.checked_sub(owed));
            between
                && (slot.repeatable || !self.used.contains(slot.token))
                && left.is_some_and(|left| Progress::new(slot.value).fits(&tokenizer, left))
        };
        self.tool.slots().filter(open).map(|slot| slot.token)
    }

    /// What the other required slots ask for once this one has begun.
    fn owed_without(&self, slot: &Slot<'a>, tokenizer: &Tokenizer<'_>) -> u32 {
        let pays = slot.required && !self.used.contains(slot.token);
        if pays { self.owed.saturating_sub(argument(slot, tokenizer)) } else { self.owed }
    }

    /// After a slot's token; `None` when the tool has no such slot.
    pub(super) fn begin(&self, token: u16, tokenizer: &Tokenizer<'_>) -> Option<Self> {
        let slot = self.tool.slot(token)?;
        let mut used = self.used;
        used.insert(token);
        let owed = self.owed_without(&slot, tokenizer);
        Some(Self { tool: self.tool, used, owed, value: Some(Progress::new(slot.value)) })
    }

    /// With the value having come further.
    pub(super) fn with(mut self, value: Progress<'a>) -> Self {
        self.value = Some(value);
        self
    }
}

/// A number of tokens with which a slot and a value for it can be written.
fn argument(slot: &Slot<'_>, tokenizer: &Tokenizer<'_>) -> u32 {
    Progress::new(slot.value).missing(tokenizer).saturating_add(1)
}

/// A number of tokens with which the slots a call must have can be written.
pub(super) fn arguments(tool: Tool<'_>, tokenizer: &Tokenizer<'_>) -> u32 {
    let required = tool.slots().filter(|slot| slot.required);
    required.fold(0, |sum, slot| sum.saturating_add(argument(&slot, tokenizer)))
}
