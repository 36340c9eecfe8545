//! From a prompt to the tokens that follow it.
#![forbid(unsafe_code)]

use core::borrow::BorrowMut;

use crate::constrain::Constraint;
use crate::error::{Error, Result};
use crate::sampler::Sampler;
use crate::session::Session;
use crate::think::{Thinking, Thoughts};
use crate::tokenizer::Tokenizer;

/// Tokens the repetition penalty looks back on.
pub const RECENT: usize = 64;

/// Writes `<bos> [system <sys>] prompt <sep>` to the front of `out` and returns the number of ids.
///
/// # Errors
/// [`Error::Control`] when the tokenizer lacks one of the control tokens, [`Error::Buffer`] when `out` is too
/// small (`system.len() + prompt.len() + 3` places always suffice).
pub fn prompt(
    tokenizer: &Tokenizer<'_>,
    system: Option<&[u8]>,
    prompt: &[u8],
    out: &mut [u16],
) -> Result<usize> {
    let mut len = 0;
    let control = |name, out: &mut [u16], len: &mut usize| -> Result<()> {
        *out.get_mut(*len).ok_or(Error::Buffer)? = tokenizer.control(name)?;
        *len += 1;
        Ok(())
    };
    control("<bos>", out, &mut len)?;
    if let Some(system) = system {
        len += tokenizer.encode(system, out.get_mut(len..).unwrap_or(&mut []))?;
        control("<sys>", out, &mut len)?;
    }
    len += tokenizer.encode(prompt, out.get_mut(len..).unwrap_or(&mut []))?;
    control("<sep>", out, &mut len)?;
    Ok(len)
}

/// Forced tokens that are collected before the session reads them.
const UNREAD: usize = 32;

/// What a generator has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Forward passes that ended in logits.
    pub passes: u64,
    /// Tokens chosen without logits: those that alone a constraint allowed, `<eos>` among them, and the markers of a
    /// thought that were due.
    pub forced: u64,
}

/// Generates one completion at a time in a session, which it borrows (`S` is `&mut Session`) or owns.
#[derive(Debug)]
pub struct Generator<'m, S = Session<'m>> {
    session: S,
    sampler: Sampler,
    end: u16,
    recent: [u16; RECENT],
    recent_len: usize,
    /// The next token when one has been chosen and not been returned.
    next: Option<u16>,
    constraint: Option<Constraint<'m>>,
    thoughts: Option<Thoughts>,
    /// Whether the token returned last belongs to a thought.
    thought: bool,
    /// Tokens in front of the next that the session has not read.
    unread: [u16; UNREAD],
    unread_len: usize,
    counts: Counts,
}

impl<'m, S: BorrowMut<Session<'m>>> Generator<'m, S> {
    /// A generator that goes on from wherever the session is. `end` is the id that ends a completion, `<eos>`.
    pub fn new(session: S, sampler: Sampler, end: u16) -> Self {
        Self {
            session,
            sampler,
            end,
            recent: [0; RECENT],
            recent_len: 0,
            next: None,
            constraint: None,
            thoughts: None,
            thought: false,
            unread: [0; UNREAD],
            unread_len: 0,
            counts: Counts::default(),
        }
    }

    /// Holds every completion to a constraint, which begins anew with each, and ends it with the constraint's
    /// `<eos>`. Forced tokens take no logits: the session reads them together with the next token that does.
    #[must_use]
    pub fn constrained(mut self, constraint: Constraint<'m>) -> Self {
        self.end = constraint.end();
        self.constraint = Some(constraint);
        self.agree();
        self
    }

    /// Bounds what every completion thinks. A thought closes after its budget, and where the model would end the
    /// completion within it; a completion has no second one, and no marker outside it. A prompt that ends with
    /// `<think>` opens the completion's thought, if there is no constraint.
    ///
    /// With a constraint, a thought that is due to close goes on to the end of a character it is in
    /// the middle of: at most 3 tokens beyond its budget. A thought stands where the constraint allows it.
    #[must_use]
    pub fn thinking(mut self, thinking: Thinking) -> Self {
        self.thoughts = Some(Thoughts::new(thinking));
        self.agree();
        self
    }

    /// Has the constraint refuse thoughts where none is wanted.
    fn agree(&mut self) {
        let never = self.thoughts.is_some_and(|thoughts| thoughts.plan().budget() == 0);
        if let Some(constraint) = self.constraint.as_mut().filter(|_| never) {
            constraint.refuse_thoughts();
        }
    }

    /// Whether the token returned last belongs to a thought, markers included. False without
    /// [`Generator::thinking`], as the markers are not known then.
    pub fn is_thought(&self) -> bool {
        self.thought
    }

    /// Reads the prompt's tokens and chooses the completion's first. An empty prompt changes nothing.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn start(&mut self, prompt: &[u16]) -> Result<()> {
        self.begin(prompt, u32::MAX)
    }

    /// The completion's next token; `None` after the end token, or when nothing was started.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn next_token(&mut self) -> Result<Option<u16>> {
        let Some(token) = self.next.take().filter(|t| *t != self.end) else {
            return Ok(None);
        };
        self.thought = self.thoughts.is_some_and(|thoughts| thoughts.is_thought());
        self.remember(token);
        self.advance(token)?;
        Ok(Some(token))
    }

    /// Writes the completion, without the end token, to the front of `out` and returns the number of ids. Stops
    /// when `out` is full, which may be within a thought; a constrained completion comes to its end before.
    ///
    /// # Errors
    /// As [`Session::feed`]; [`Error::Budget`] when `out` has no room for what a constraint asks for.
    pub fn complete(&mut self, prompt: &[u16], out: &mut [u16]) -> Result<usize> {
        self.begin(prompt, u32::try_from(out.len()).unwrap_or(u32::MAX))?;
        let mut len = 0;
        for place in out.iter_mut() {
            let Some(token) = self.next_token()? else {
                break;
            };
            *place = token;
            len += 1;
        }
        Ok(len)
    }

    /// The session. It may not have read the last, forced tokens of a completion: see [`Generator::settle`].
    pub fn session(&self) -> &Session<'m> {
        self.session.borrow()
    }

    /// How tokens are chosen, with what has been drawn so far.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// The session, to read part of a prompt before [`Generator::start`] reads the rest.
    pub fn session_mut(&mut self) -> &mut Session<'m> {
        self.session.borrow_mut()
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Has the session read the forced tokens it has not read. [`Generator::start`] does so too.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn settle(&mut self) -> Result<()> {
        let tokens = self.unread.get(..self.unread_len).unwrap_or(&[]);
        self.unread_len = 0;
        self.session.borrow_mut().prefill(tokens)
    }

    /// Starts a completion of at most `limit` tokens, as far as a constraint is to know.
    fn begin(&mut self, prompt: &[u16], limit: u32) -> Result<()> {
        let Some((last, before)) = prompt.split_last() else {
            return Ok(());
        };
        if let Some(constraint) = &mut self.constraint {
            constraint.restart(limit)?;
        }
        self.settle()?;
        self.session.borrow_mut().prefill(before)?;
        self.recent_len = 0;
        self.thought = false;
        if let Some(thoughts) = &mut self.thoughts {
            thoughts.restart(self.constraint.is_none() && thoughts.opens(*last));
        }
        self.advance(*last)
    }

    /// Chooses the token behind `token`, which the session reads now or, when no logits are asked for, later.
    fn advance(&mut self, token: u16) -> Result<()> {
        if self.unread_len >= UNREAD {
            self.settle()?;
        }
        if let Some(place) = self.unread.get_mut(self.unread_len) {
            *place = token;
            self.unread_len += 1;
        }
        let next = match self.forced() {
            Some(forced) => {
                self.counts.forced += 1;
                forced
            }
            None => self.choose()?,
        };
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(next)?;
        }
        if let Some(thoughts) = &mut self.thoughts {
            thoughts.advance(next);
        }
        self.next = Some(next);
        Ok(())
    }

    /// The next token when there is nothing to choose.
    fn forced(&mut self) -> Option<u16> {
        let due = self.thoughts.as_ref().and_then(Thoughts::due);
        let Some(constraint) = &mut self.constraint else {
            return due;
        };
        if due.is_some() {
            constraint.hurry();
        }
        due.filter(|token| constraint.allows(*token)).or_else(|| constraint.forced())
    }

    /// Reads what is unread and chooses the next token by its logits.
    fn choose(&mut self) -> Result<u16> {
        let tokens = self.unread.get(..self.unread_len).unwrap_or(&[]);
        self.unread_len = 0;
        let logits = self.session.borrow_mut().extend(tokens)?;
        self.counts.passes += 1;
        let recent = self.recent.get(..self.recent_len.min(RECENT)).unwrap_or(&[]);
        Ok(match (&self.constraint, &self.thoughts) {
            (Some(constraint), _) => constraint.pick(&mut self.sampler, logits, recent),
            (None, None) => self.sampler.sample(logits, recent),
            (None, Some(thoughts)) => {
                thoughts.mask(logits);
                thoughts.amend(self.sampler.sample(logits, recent), self.end)
            }
        })
    }

    fn remember(&mut self, token: u16) {
        if let Some(place) = self.recent.get_mut(self.recent_len % RECENT) {
            *place = token;
        }
        self.recent_len += 1;
    }
}
