//! Several independent sequences that share each pass over the weights.
#![forbid(unsafe_code)]

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::member::Member;
use crate::model::Model;
use crate::options::Options;

/// Sequences of one model, in memory the caller lends. Each is as a [`crate::Session`] of its own would be, to the
/// bit; the next tokens of all of them are read together.
#[derive(Debug)]
pub struct Batch<'m> {
    engine: Engine<'m>,
}

impl<'m> Batch<'m> {
    /// `sequences` sequences at position 0, in [`Model::batch_workspace`] bytes aligned to 4.
    ///
    /// # Errors
    /// [`Error::Buffer`] when the memory is shorter or misaligned.
    pub fn new(
        model: &'m Model<'m>,
        options: &Options<'m>,
        sequences: usize,
        memory: &'m mut [u8],
    ) -> Result<Self> {
        Ok(Self { engine: Engine::new(model, options, sequences, Member::alone(), memory)? })
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.engine.buffers.positions.len()
    }

    /// Tokens a sequence has read.
    pub fn position(&self, sequence: usize) -> u32 {
        self.engine.position(sequence)
    }

    /// Forgets a sequence's tokens.
    pub fn reset(&mut self, sequence: usize) {
        self.engine.reset(sequence);
    }

    /// Reads tokens of one sequence without computing logits, [`Options::block`] at a time or one for each sequence,
    /// whichever is more.
    ///
    /// # Errors
    /// [`Error::Sequence`], [`Error::Token`] or [`Error::Length`]; nothing has been read then.
    pub fn prefill(&mut self, sequence: usize, tokens: &[u16]) -> Result<()> {
        self.engine.check(sequence, tokens)?;
        let most = self.engine.layout.block.min(self.engine.config.window as usize).max(1);
        let mut rest = tokens;
        while !rest.is_empty() {
            let (block, later) = rest.split_at_checked(most.min(rest.len())).unwrap_or((rest, &[]));
            rest = later;
            for (row, token) in block.iter().enumerate() {
                self.engine.enter(row, sequence, *token);
            }
            self.engine.forward(block.len());
        }
        Ok(())
    }

    /// Reads the next token of each of some sequences, `(sequence, token)`, each sequence at most once, in rising
    /// order; their logits are then in [`Batch::logits_mut`].
    ///
    /// # Errors
    /// [`Error::Sequence`] for one that is not there, or not above the one before; [`Error::Token`] or
    /// [`Error::Length`]. Nothing has been read then.
    pub fn step(&mut self, tokens: &[(usize, u16)]) -> Result<()> {
        let mut last = None;
        for (sequence, token) in tokens {
            if last >= Some(*sequence) {
                return Err(Error::Sequence(*sequence));
            }
            last = Some(*sequence);
            self.engine.check(*sequence, core::slice::from_ref(token))?;
        }
        for (row, (sequence, token)) in tokens.iter().enumerate() {
            self.engine.enter(row, *sequence, *token);
        }
        self.engine.forward(tokens.len());
        self.engine.head(0..tokens.len());
        Ok(())
    }

    /// How often a token of the last step went through the block stack, by its place in the list; behind a prefill, one
    /// of the tokens that were read last, by its place among them. 0 for none.
    pub fn recursions(&self, place: usize) -> u32 {
        self.engine.buffers.rows.get(place).map_or(0, |row| row.recursions)
    }

    /// The logits after a sequence's last step; a sampler may work on them in place.
    pub fn logits_mut(&mut self, sequence: usize) -> &mut [f32] {
        self.engine.logits_mut(sequence)
    }
}
