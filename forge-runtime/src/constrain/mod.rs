//! Generation held to the tools of a model's file.
//!
//! A [`Constraint`] follows a completion token by token and knows at each place which tokens may come next. A
//! completion that keeps to it
//!
//! - ends within its budget of tokens, and until then can always be ended;
//! - is a call that [`crate::call::Call::parse`] reads, of a tool in the file's table, with only that tool's slots, all
//!   required ones, no slot twice that is not repeatable, and values of their slots' kinds; or, in [`Mode::Any`], a text;
//! - is whole UTF-8, in every value and in a text.
//!
//! A thought in front of a text may hold the markers of reasoning, which are the control tokens beside those that
//! structure a sequence; a marker stands between whole characters.
//!
//! What is allowed is decided by bytes, so that a value may be cut into tokens in any way, with the one space in front
//! that completions are trained with or without it. Only where all strings that still fit go on with the same token
//! does that one alone remain. A token that alone is allowed is *forced*: it needs no logits.
//!
//! Nothing is allocated: a constraint is [`Constraint::BYTES`] bytes at most.
#![forbid(unsafe_code)]

mod call;
mod choice;
mod ids;
mod number;
mod pick;
mod starts;
mod step;
mod text;
mod utf8;
mod value;

use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind};
use forge_formats::tools::ToolTable;

use self::call::Call;
use self::ids::Ids;
use self::text::Text;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// The control tokens that structure a sequence. The others are markers of reasoning.
const STRUCTURE: [&str; 7] = ["<pad>", "<bos>", "<eos>", "<sys>", "<sep>", "<think>", "</think>"];

/// What a completion may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A call.
    Call,
    /// A call or a text: which of the two is the model's choice.
    Any,
}

/// A completion's place in what it may be. See the [module](self).
#[derive(Clone, Debug)]
pub struct Constraint<'a> {
    tokenizer: Tokenizer<'a>,
    tools: Option<ToolTable<'a>>,
    mode: Mode,
    budget: u32,
    minimum: u32,
    end: u16,
    think: Option<u16>,
    answer: Option<u16>,
    /// The markers of reasoning.
    markers: Ids,
    state: State<'a>,
    /// Tokens that may still be written.
    left: u32,
    /// Special tokens that are allowed.
    open: Ids,
    /// The ordinary token that all values go on with.
    common: Option<u16>,
    /// Whether a thought goes on only as far as its last character needs.
    hurried: bool,
}

/// Where a completion is.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no heap to box a call in")]
enum State<'a> {
    Start,
    Text(Text),
    Call(Call<'a>),
    End,
}

impl<'a> Constraint<'a> {
    /// Most bytes a constraint takes, whatever the tools.
    pub const BYTES: usize = 640;

    /// The constraint of a model's own tools and tokenizer, for completions of at most `budget` tokens, `<eos>` not
    /// counted.
    ///
    /// # Errors
    /// As [`Constraint::with_tools`].
    pub fn new(model: &Model<'a>, mode: Mode, budget: u32) -> Result<Self> {
        Self::with_tools(model.tokenizer(), model.file().tools(), mode, budget)
    }

    /// The constraint of any tools; without, a text is all that can be written.
    ///
    /// # Errors
    /// [`Error::Control`] when the tokenizer has no `<eos>`, [`Error::Budget`] when not every completion could be
    /// ended within the budget, with the least that would do.
    pub fn with_tools(
        tokenizer: Tokenizer<'a>,
        tools: Option<ToolTable<'a>>,
        mode: Mode,
        budget: u32,
    ) -> Result<Self> {
        let control = |name| tokenizer.special(SpecialKind::Control, name);
        let mut constraint = Self {
            tokenizer,
            tools,
            mode,
            budget,
            minimum: minimum(&tokenizer, tools, mode),
            end: tokenizer.control("<eos>")?,
            think: control("<think>"),
            answer: control("</think>"),
            markers: markers(&tokenizer),
            state: State::Start,
            left: budget,
            open: Ids::default(),
            common: None,
            hurried: false,
        };
        constraint.restart(u32::MAX)?;
        Ok(constraint)
    }

    /// The least budget a completion can be ended within: that of the call of the fewest tokens, 0 in [`Mode::Any`];
    /// `u32::MAX` for a call where there are no tools.
    pub fn minimum(&self) -> u32 {
        self.minimum
    }

    /// Goes back to before the first token, with the whole budget or `limit`, whichever is less.
    ///
    /// # Errors
    /// [`Error::Budget`] as [`Constraint::with_tools`]; nothing has changed then.
    pub fn restart(&mut self, limit: u32) -> Result<()> {
        let left = self.budget.min(limit);
        if left < self.minimum {
            return Err(Error::Budget(self.minimum));
        }
        self.enter(State::Start, left);
        Ok(())
    }

    /// Most tokens of a completion.
    pub fn budget(&self) -> u32 {
        self.budget
    }

    /// The token that ends a completion, `<eos>`.
    pub fn end(&self) -> u16 {
        self.end
    }

    /// Whether `<eos>` has been read. Nothing is allowed from then on.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Has `<think>` refused from the next [`Constraint::restart`] on.
    pub(crate) fn refuse_thoughts(&mut self) {
        self.think = None;
    }

    /// Has the next token bring a thought nearer to its `</think>`: that itself, or what completes a character, which
    /// takes at most 3 tokens. Changes nothing outside a thought.
    pub(crate) fn hurry(&mut self) {
        self.hurried = true;
        self.open = self.special();
    }

    /// Whether a token may come next.
    pub fn allows(&self, token: u16) -> bool {
        if token < self.tokenizer.table().special_count() {
            return self.open.contains(token);
        }
        let mut buffer = [0; MAX_TOKEN];
        match (self.common, self.left.checked_sub(1)) {
            (Some(common), _) => token == common,
            (None, Some(room)) => self.takes(self.tokenizer.decode(token, &mut buffer), room),
            (None, None) => false,
        }
    }

    /// The token that comes next when only one may.
    pub fn forced(&self) -> Option<u16> {
        if self.common.is_some() {
            return self.common;
        }
        let mut allowed = self.allowed();
        let first = allowed.next()?;
        allowed.next().is_none().then_some(first)
    }

    /// Sets the logits of tokens that may not come next to −∞, and those that may but are no numbers or −∞ to the
    /// least finite one. Returns how many may.
    pub fn mask(&self, logits: &mut [f32]) -> usize {
        let starts = self.starts();
        let mut count = 0;
        for (id, logit) in (0..=u16::MAX).zip(logits) {
            let possible = self.open.contains(id) || starts.admits(&self.tokenizer, id);
            if possible && self.allows(id) {
                *logit = logit.max(f32::MIN);
                count += 1;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        count
    }

    /// Reads the token that comes next.
    ///
    /// # Errors
    /// [`Error::Refused`] when it may not; nothing has changed then.
    pub fn advance(&mut self, token: u16) -> Result<()> {
        let next = if self.allows(token) { self.follow(token) } else { None };
        let state = next.ok_or(Error::Refused(token))?;
        let left = if matches!(state, State::End) { self.left } else { self.left.saturating_sub(1) };
        self.enter(state, left);
        Ok(())
    }

    /// The tokens that may come next: special ones, bytes, merges.
    fn allowed(&self) -> impl Iterator<Item = u16> {
        let starts = self.starts();
        let ordinary = self.tokenizer.table().special_count()..=u16::MAX;
        let ordinary = ordinary.take_while(move |id| !starts.is_empty() && self.tokenizer.has(*id));
        let possible = ordinary.filter(move |id| starts.admits(&self.tokenizer, *id));
        self.open.iter().chain(possible.filter(|id| self.allows(*id)))
    }
}

/// The control tokens of a tokenizer that a thought may hold.
fn markers(tokenizer: &Tokenizer<'_>) -> Ids {
    let mut markers = Ids::default();
    let specials = (0..).zip(tokenizer.table().specials());
    let of_thoughts =
        specials.filter(|(_, (kind, name))| *kind == SpecialKind::Control && !STRUCTURE.contains(name));
    of_thoughts.for_each(|(id, _)| markers.insert(id));
    markers
}

/// See [`Constraint::minimum`].
fn minimum(tokenizer: &Tokenizer<'_>, tools: Option<ToolTable<'_>>, mode: Mode) -> u32 {
    let call = |tool| call::arguments(tool, tokenizer).saturating_add(1);
    match mode {
        Mode::Any => 0,
        Mode::Call => tools.and_then(|table| table.tools().map(call).min()).unwrap_or(u32::MAX),
    }
}
