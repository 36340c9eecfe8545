//! From a prompt to the tokens that follow it.

use core::borrow::BorrowMut;
use core::marker::PhantomData;

use crate::error::{Error, Result};
use crate::sampler::Sampler;
use crate::session::Session;
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
    model: PhantomData<Session<'m>>,
}

impl<'m, S: BorrowMut<Session<'m>>> Generator<'m, S> {
    /// A generator that goes on from wherever the session is. `end` is the id that ends a completion, `<eos>`.
    pub fn new(session: S, sampler: Sampler, end: u16) -> Self {
        Self { session, sampler, end, recent: [0; RECENT], recent_len: 0, next: None, model: PhantomData }
    }

    /// Reads the prompt's tokens and chooses the completion's first. An empty prompt changes nothing.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn start(&mut self, prompt: &[u16]) -> Result<()> {
        let Some((last, before)) = prompt.split_last() else {
            return Ok(());
        };
        before.iter().try_for_each(|token| self.session.borrow_mut().feed(*token))?;
        self.recent_len = 0;
        self.advance(*last)
    }

    /// The completion's next token; `None` after the end token, or when nothing was started.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn next_token(&mut self) -> Result<Option<u16>> {
        let Some(token) = self.next.take().filter(|t| *t != self.end) else {
            return Ok(None);
        };
        self.remember(token);
        self.advance(token)?;
        Ok(Some(token))
    }

    /// Writes the completion, without the end token, to the front of `out` and returns the number of ids. Stops
    /// when `out` is full.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn complete(&mut self, prompt: &[u16], out: &mut [u16]) -> Result<usize> {
        self.start(prompt)?;
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

    /// The session.
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

    fn advance(&mut self, token: u16) -> Result<()> {
        let logits = self.session.borrow_mut().step_mut(token)?;
        let recent = self.recent.get(..self.recent_len.min(RECENT)).unwrap_or(&[]);
        self.next = Some(self.sampler.sample(logits, recent));
        Ok(())
    }

    fn remember(&mut self, token: u16) {
        if let Some(place) = self.recent.get_mut(self.recent_len % RECENT) {
            *place = token;
        }
        self.recent_len += 1;
    }
}
