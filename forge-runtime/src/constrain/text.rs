//! A completion that is no call: text, or a thought and then text.
#![forbid(unsafe_code)]

use super::utf8::Utf8;

/// How far a text has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    at: Utf8,
    /// Whether `</think>` is still to come.
    thinks: bool,
}

impl Text {
    /// After `<think>`.
    pub(super) fn thought() -> Self {
        Self { at: Utf8::default(), thinks: true }
    }

    /// After `</think>`; `None` where it cannot stand.
    pub(super) fn answer(self) -> Option<Self> {
        (self.thinks && self.at.missing() == 0).then_some(Self::default())
    }

    /// After a marker of reasoning; `None` where it cannot stand.
    pub(super) fn marked(self) -> Option<Self> {
        (self.thinks && self.at.missing() == 0).then_some(self)
    }

    /// After the bytes of a token; `None` where no text goes on like this.
    pub(super) fn after(self, bytes: &[u8]) -> Option<Self> {
        Some(Self { at: self.at.after(bytes)?, ..self })
    }

    /// Whether it can end here.
    pub(super) fn complete(self) -> bool {
        self.missing() == 0
    }

    /// The number of tokens with which it can be ended.
    pub(super) fn missing(self) -> u32 {
        self.at.missing() + u32::from(self.thinks)
    }

    /// The room to leave behind the next token for a thought to end as soon as it can.
    pub(super) fn hurry(self) -> u32 {
        if self.thinks { self.missing().saturating_sub(1) } else { u32::MAX }
    }
}
