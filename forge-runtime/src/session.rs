//! One sequence of tokens.
#![forbid(unsafe_code)]

use crate::engine::Engine;
use crate::error::Result;
use crate::member::Member;
use crate::model::Model;
use crate::options::Options;
use crate::snapshot;

pub use crate::engine::MAX_POSITION;

/// One sequence of tokens being read or written by a model, in memory the caller lends.
#[derive(Debug)]
pub struct Session<'m> {
    engine: Engine<'m>,
}

impl<'m> Session<'m> {
    /// A session at position 0. `memory` must hold [`Model::workspace`] bytes, aligned to 4; what is beyond them
    /// is not touched, what is in them does not matter.
    ///
    /// # Errors
    /// [`crate::Error::Buffer`] when it is shorter or misaligned.
    pub fn new(model: &'m Model<'m>, memory: &'m mut [u8]) -> Result<Self> {
        Self::with(model, &Options::default(), memory)
    }

    /// A session that runs as `options` say, in [`Model::workspace_for`] bytes.
    ///
    /// # Errors
    /// [`crate::Error::Buffer`] when the memory is shorter or misaligned, or the weights were prepared from another
    /// model.
    pub fn with(model: &'m Model<'m>, options: &Options<'m>, memory: &'m mut [u8]) -> Result<Self> {
        Ok(Self { engine: Engine::new(model, options, 1, Member::alone(), memory)? })
    }

    /// A session that is one member of a team.
    #[cfg(feature = "std")]
    pub(crate) fn member(
        model: &'m Model<'m>,
        options: &Options<'m>,
        member: Member<'m>,
        memory: &'m mut [u8],
    ) -> Result<Self> {
        Ok(Self { engine: Engine::new(model, options, 1, member, memory)? })
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        self.engine.reset(0);
    }

    /// Reads a token without computing logits.
    ///
    /// # Errors
    /// [`crate::Error::Token`] outside the vocabulary, [`crate::Error::Length`] at [`MAX_POSITION`].
    pub fn feed(&mut self, token: u16) -> Result<()> {
        self.prefill(&[token])
    }

    /// Reads tokens without computing logits, [`Options::block`] at a time: for all but the last token of a prompt.
    /// The result is that of feeding one after another, to the bit.
    ///
    /// # Errors
    /// [`crate::Error::Token`] when one is outside the vocabulary, [`crate::Error::Length`] when they reach beyond
    /// [`MAX_POSITION`]; nothing has been read then.
    pub fn prefill(&mut self, tokens: &[u16]) -> Result<()> {
        self.engine.check(0, tokens)?;
        let mut rest = tokens;
        while !rest.is_empty() {
            let n = rest.len().min(self.engine.layout.block);
            let (block, later) = rest.split_at_checked(n).unwrap_or((rest, &[]));
            rest = later;
            for (row, token) in block.iter().enumerate() {
                self.engine.enter(row, 0, *token);
            }
            self.engine.forward(n);
        }
        Ok(())
    }

    /// Reads a token and returns the logits of the next, one for every id.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn step(&mut self, token: u16) -> Result<&[f32]> {
        self.step_mut(token).map(|l| &*l)
    }

    /// As [`Session::step`], with logits that a sampler may work on in place.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn step_mut(&mut self, token: u16) -> Result<&mut [f32]> {
        self.feed(token)?;
        self.engine.head(0..1);
        Ok(self.engine.logits_mut(0))
    }

    /// Reads tokens and returns the logits after the last: [`Session::prefill`] of a whole prompt, and the head.
    /// Without tokens, the last logits.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn extend(&mut self, tokens: &[u16]) -> Result<&mut [f32]> {
        let Some((last, before)) = tokens.split_last() else {
            return Ok(self.engine.logits_mut(0));
        };
        self.engine.check(0, tokens)?;
        self.prefill(before)?;
        self.step_mut(*last)
    }

    /// How often the last token went through the block stack; 0 before the first.
    pub fn recursions(&self) -> u32 {
        self.engine.buffers.rows.first().map_or(0, |r| r.recursions)
    }

    /// Number of tokens read.
    pub fn position(&self) -> u32 {
        self.engine.position(0)
    }

    /// Bytes [`Session::snapshot`] writes now.
    pub fn snapshot_len(&self) -> usize {
        snapshot::len(&self.engine)
    }

    /// Writes what the session remembers to the front of `out`: the same bytes on every machine. Returns how many.
    ///
    /// # Errors
    /// [`crate::Error::Buffer`] when `out` is shorter than [`Session::snapshot_len`].
    pub fn snapshot(&self, out: &mut [u8]) -> Result<usize> {
        snapshot::write(&self.engine, out)
    }

    /// Goes on from a snapshot, on any machine, with any options, of a session of the same model.
    ///
    /// # Errors
    /// [`crate::Error::Snapshot`] when it is damaged or of a model of another shape; the session is then reset.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        snapshot::read(&mut self.engine, snapshot).inspect_err(|_| self.engine.reset(0))
    }
}
