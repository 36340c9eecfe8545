//! The value of a slot, a token at a time.
#![forbid(unsafe_code)]

use forge_formats::tools::Value;

use super::choice::Choice;
use super::number::{Integer, Number};
use super::starts::Starts;
use super::utf8::Utf8;
use crate::tokenizer::Tokenizer;

/// How far a value has come. One space may be in front of it, which is not part of it.
#[derive(Clone, Debug)]
pub(super) struct Progress<'a> {
    /// Whether a byte is written, the space included.
    begun: bool,
    kind: Kind<'a>,
}

/// What is written without the space, by the kind of the value.
#[derive(Clone, Debug)]
enum Kind<'a> {
    Text { at: Utf8, empty: bool },
    Choice(Choice<'a>),
    Integer(Integer),
    Number(Number),
}

impl<'a> Progress<'a> {
    /// Before the first token.
    pub(super) fn new(value: Value<'a>) -> Self {
        let kind = match value {
            Value::Text => Kind::Text { at: Utf8::default(), empty: true },
            Value::Choice(choices) => Kind::Choice(Choice::new(choices)),
            Value::Integer { min, max } => Kind::Integer(Integer::new(min, max)),
            Value::Number => Kind::Number(Number::default()),
        };
        Self { begun: false, kind }
    }

    /// After the bytes of a token, of which there are some; `None` when no value goes on like this.
    pub(super) fn after(&self, bytes: &[u8]) -> Option<Self> {
        let own = match bytes.strip_prefix(b" ") {
            Some(rest) if !self.begun => rest,
            _ => bytes,
        };
        let kind = match &self.kind {
            Kind::Text { at, empty } => Kind::Text { at: at.after(own)?, empty: *empty && own.is_empty() },
            Kind::Choice(choice) => Kind::Choice(choice.after(own)?),
            Kind::Integer(integer) => Kind::Integer(integer.after(own)?),
            Kind::Number(number) => Kind::Number(number.after(own)?),
        };
        Some(Self { begun: true, kind })
    }

    /// Whether the value can end here.
    pub(super) fn complete(&self) -> bool {
        match &self.kind {
            Kind::Text { at, empty } => !empty && at.missing() == 0,
            Kind::Choice(choice) => choice.complete(),
            Kind::Integer(integer) => integer.complete(),
            Kind::Number(number) => number.complete(),
        }
    }

    /// What tokens that may follow begin with, and some that may not.
    pub(super) fn starts(&self) -> Starts {
        let space = (!self.begun).then_some(b' ').into_iter();
        match &self.kind {
            Kind::Text { .. } => Starts::ALL,
            Kind::Choice(choice) => Starts::of(choice.next_bytes().chain(space)),
            Kind::Integer(integer) if integer.closed() => Starts::NONE,
            Kind::Integer(_) | Kind::Number(_) => Starts::of(b"-.0123456789".iter().copied().chain(space)),
        }
    }

    /// A number of tokens with which the value can be ended. Some token leaves one fewer.
    pub(super) fn missing(&self, tokenizer: &Tokenizer<'_>) -> u32 {
        match &self.kind {
            Kind::Choice(choice) => choice.tokens_missing(tokenizer, self.begun),
            _ => self.bytes_missing(),
        }
    }

    /// Whether [`Progress::missing`] is at most `room`; asks the tokenizer only where it must.
    pub(super) fn fits(&self, tokenizer: &Tokenizer<'_>, room: u32) -> bool {
        self.bytes_missing() <= room || self.missing(tokenizer) <= room
    }

    /// The one token that every value goes on with, where that is known.
    pub(super) fn common(&self, tokenizer: &Tokenizer<'_>) -> Option<u16> {
        match &self.kind {
            Kind::Choice(choice) => choice.common(tokenizer, self.begun),
            _ => None,
        }
    }

    /// The fewest bytes with which the value can be ended, each of which is a token.
    fn bytes_missing(&self) -> u32 {
        match &self.kind {
            Kind::Text { at, empty } => at.missing().max(u32::from(*empty)),
            Kind::Choice(choice) => choice.bytes_missing(self.begun),
            // `after` keeps to what leads into the range, and the range of a table is not empty.
            Kind::Integer(integer) => integer.missing().unwrap_or(u32::MAX),
            Kind::Number(number) => u32::from(!number.complete()),
        }
    }
}
