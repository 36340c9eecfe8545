//! A value that is one of several strings.
#![forbid(unsafe_code)]

use forge_formats::tools::{ChoiceIter, Choices, MAX_CHOICE};

use crate::tokenizer::Tokenizer;

/// Of more strings than these it is not asked whether they all go on with the same token.
const COMPARED: u16 = 16;

/// The strings that begin with the bytes written. They are neighbours, because the table has them in order.
#[derive(Clone, Debug)]
pub(super) struct Choice<'a> {
    /// From the first of them on.
    from: ChoiceIter<'a>,
    count: u16,
    /// Number of bytes written.
    written: u8,
}

impl<'a> Choice<'a> {
    pub(super) fn new(choices: Choices<'a>) -> Self {
        // A table's count is a u16.
        Self { from: choices.iter(), count: choices.len() as u16, written: 0 }
    }

    /// What each of the strings goes on with.
    fn rests(&self) -> impl Iterator<Item = &'a [u8]> {
        let written = usize::from(self.written);
        let rest = move |string: &'a str| string.as_bytes().get(written..).unwrap_or(&[]);
        self.from.clone().take(self.count.into()).map(rest)
    }

    /// After more bytes; `None` when no string goes on like this.
    pub(super) fn after(&self, bytes: &[u8]) -> Option<Self> {
        let written = u8::try_from(usize::from(self.written) + bytes.len()).ok()?;
        let mut from = self.from.clone();
        let mut others = 0;
        let mut rests = self.rests();
        while !rests.next()?.starts_with(bytes) {
            from.next();
            others += 1;
        }
        let more = rests.take_while(|rest| rest.starts_with(bytes)).count();
        let count = u16::try_from(more + 1).ok()?.min(self.count.saturating_sub(others));
        Some(Self { from, count, written })
    }

    /// Whether what is written is one of the strings. Of those that begin with it, it is the first.
    pub(super) fn complete(&self) -> bool {
        self.rests().next().is_some_and(<[u8]>::is_empty)
    }

    /// The bytes that can follow.
    pub(super) fn next_bytes(&self) -> impl Iterator<Item = u8> {
        self.rests().filter_map(|rest| rest.first().copied())
    }

    /// The fewest bytes that make it the nearest of the strings.
    pub(super) fn bytes_missing(&self, begun: bool) -> u32 {
        let rest = self.nearest();
        rest.len() as u32 + u32::from(!begun && rest.starts_with(b" "))
    }

    /// What the nearest of the strings goes on with: the shortest one, the first of several; one that begins with a
    /// space counts a byte more, because that space must have another in front. It stays the nearest while it is written.
    fn nearest(&self) -> &'a [u8] {
        let key = |string: &&str| string.len() + usize::from(string.starts_with(' '));
        let nearest = self.from.clone().take(self.count.into()).min_by_key(key);
        nearest.and_then(|string| string.as_bytes().get(self.written.into()..)).unwrap_or(&[])
    }

    /// Tokens with which the nearest of the strings can be written to its end, as the tokenizer encodes it. The next
    /// of these tokens leaves one fewer: the end of an encoded text from any of its tokens on is encoded the same way.
    pub(super) fn tokens_missing(&self, tokenizer: &Tokenizer<'_>, begun: bool) -> u32 {
        let rest = self.nearest();
        let count = |spaced| encode(tokenizer, spaced, rest).1;
        match (begun, rest.starts_with(b" ")) {
            (true, _) => count(false),
            (false, true) => count(true),
            (false, false) => count(true).min(count(false)),
        }
    }

    /// The one token that all of the strings go on with, as the tokenizer encodes them; `None` when they differ, when
    /// the value can end here, or when there are many. Before a value has `begun` it goes on with a space.
    pub(super) fn common(&self, tokenizer: &Tokenizer<'_>, begun: bool) -> Option<u16> {
        if self.count > COMPARED {
            return None;
        }
        let mut tokens = self.rests().map(|rest| encode(tokenizer, !begun, rest).0);
        let first = tokens.next()?;
        if self.complete() || !tokens.all(|token| token == first) { None } else { first }
    }
}

/// The first token of a text, and the number of all of them. With a space in front if it is `spaced`.
fn encode(tokenizer: &Tokenizer<'_>, spaced: bool, text: &[u8]) -> (Option<u16>, u32) {
    let mut bytes = [b' '; MAX_CHOICE + 1];
    for (place, byte) in bytes.iter_mut().skip(spaced.into()).zip(text) {
        *place = *byte;
    }
    let bytes = bytes.get(..text.len() + usize::from(spaced)).unwrap_or(&[]);
    let mut ids = [0; MAX_CHOICE + 1];
    let len = tokenizer.encode(bytes, &mut ids).unwrap_or(bytes.len());
    (ids.first().filter(|_| len > 0).copied(), len as u32)
}
