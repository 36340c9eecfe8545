//! From one state to the next.
#![forbid(unsafe_code)]

use forge_formats::tokenizer::MAX_TOKEN;

use super::call::{self, Call};
use super::ids::Ids;
use super::starts::Starts;
use super::text::Text;
use super::{Constraint, Mode, State};

impl<'a> Constraint<'a> {
    /// Whether text may be written here, and how far it has come then.
    fn text(&self) -> Option<Text> {
        match &self.state {
            State::Start => (self.mode == Mode::Any).then(Text::default),
            State::Text(text) => Some(*text),
            State::Call(_) | State::End => None,
        }
    }

    /// Whether an ordinary token's bytes may follow with `room` tokens left behind it.
    pub(super) fn takes(&self, bytes: &[u8], room: u32) -> bool {
        if bytes.is_empty() {
            return false;
        }
        match (&self.state, self.text()) {
            (_, Some(text)) => {
                let room = if self.hurried { text.hurry().min(room) } else { room };
                text.after(bytes).is_some_and(|text| text.missing() <= room)
            }
            (State::Call(call), _) => {
                let value = call.value().and_then(|value| value.after(bytes));
                let room = room.checked_sub(call.owed());
                value.zip(room).is_some_and(|(value, room)| value.fits(&self.tokenizer, room))
            }
            _ => false,
        }
    }

    /// What ordinary tokens that may follow begin with, and some that may not.
    pub(super) fn starts(&self) -> Starts {
        match (&self.state, self.common, self.text()) {
            _ if self.left == 0 => Starts::NONE,
            (_, Some(_), _) | (_, _, Some(_)) => Starts::ALL,
            (State::Call(call), ..) => call.value().map_or(Starts::NONE, |value| value.starts()),
            _ => Starts::NONE,
        }
    }

    /// The state after a token that is allowed.
    pub(super) fn follow(&self, token: u16) -> Option<State<'a>> {
        if token == self.end {
            return Some(State::End);
        }
        if token < self.tokenizer.table().special_count() {
            return match &self.state {
                State::Call(call) => call.begin(token, &self.tokenizer).map(State::Call),
                State::Text(text) if self.markers.contains(token) => text.marked().map(State::Text),
                State::Text(text) => text.answer().map(State::Text),
                State::Start if Some(token) == self.think => Some(State::Text(Text::thought())),
                State::Start => {
                    let tool = self.tools.and_then(|table| table.tool(token))?;
                    Some(State::Call(Call::new(tool, &self.tokenizer)))
                }
                State::End => None,
            };
        }
        let mut buffer = [0; MAX_TOKEN];
        let bytes = self.tokenizer.decode(token, &mut buffer);
        match (&self.state, self.text()) {
            (_, Some(text)) => text.after(bytes).map(State::Text),
            (State::Call(call), _) => {
                let value = call.value().and_then(|value| value.after(bytes))?;
                Some(State::Call(call.clone().with(value)))
            }
            _ => None,
        }
    }

    /// Moves to a state and works out which special tokens may follow it.
    pub(super) fn enter(&mut self, state: State<'a>, left: u32) {
        self.state = state;
        self.left = left;
        self.common = None;
        self.hurried = false;
        self.open = self.special();
        let common = match &self.state {
            State::Call(call) => call.value().and_then(|value| value.common(&self.tokenizer)),
            _ => None,
        };
        self.common = common.filter(|token| self.allows(*token));
    }

    /// The special tokens that may come next.
    pub(super) fn special(&self) -> Ids {
        let mut open = Ids::default();
        if self.text().is_some_and(Text::complete) {
            open.insert(self.end);
        }
        match &self.state {
            State::Start => {
                let thinks = self.think.filter(|_| self.mode == Mode::Any && self.answer.is_some());
                thinks.filter(|_| self.left > 1).into_iter().for_each(|id| open.insert(id));
                let fits = |tool| call::arguments(tool, &self.tokenizer) < self.left;
                let tools = self.tools.into_iter().flat_map(|table| table.tools());
                tools.filter(|tool| fits(*tool)).for_each(|tool| open.insert(tool.token()));
            }
            State::Text(text) => {
                let answer = self.answer.filter(|_| text.answer().is_some() && self.left > 0);
                answer.into_iter().for_each(|id| open.insert(id));
                // Behind a marker there must be room for `</think>`.
                if text.marked().is_some() && self.left > 1 && !self.hurried {
                    open.join(&self.markers);
                }
            }
            State::Call(call) => {
                if call.complete() {
                    open.insert(self.end);
                }
                call.slots(self.tokenizer, self.left).for_each(|slot| open.insert(slot));
            }
            State::End => {}
        }
        open
    }
}
