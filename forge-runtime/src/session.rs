//! A running model: caches, position, and the loop over recursions (`docs/numerics.md` §3).

use forge_formats::{ModelConfig, Role};

use crate::block::{self, Place};
use crate::error::{Error, Result};
use crate::kernels::linear;
use crate::layout::{Buffers, Layout};
use crate::math::{dot, sigmoid};
use crate::model::{Model, Tensors};
use crate::norm;

/// Tokens a session takes before [`Session::reset`]: up to here a position is exact in `f32`.
pub const MAX_POSITION: u32 = 1 << 24;

/// One sequence of tokens being read or written by a model, in memory the caller lends.
#[derive(Debug)]
pub struct Session<'m> {
    config: &'m ModelConfig,
    tensors: Tensors<'m>,
    buffers: Buffers<'m>,
    position: u32,
    recursions: u32,
}

impl<'m> Session<'m> {
    /// A session at position 0. `memory` must hold [`Model::workspace`] bytes, aligned to 4; what is beyond them
    /// is not touched, what is in them does not matter.
    ///
    /// # Errors
    /// [`Error::Buffer`] when it is shorter or misaligned.
    pub fn new(model: &'m Model<'m>, memory: &'m mut [u8]) -> Result<Self> {
        let layout = Layout::new(model.config()).ok_or(Error::Buffer)?;
        let (places, buffers) = layout.divide(memory)?;
        let tensors = Tensors::new(model, places)?;
        let mut session = Self { config: model.config(), tensors, buffers, position: 0, recursions: 0 };
        session.reset();
        Ok(session)
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        self.position = 0;
        self.recursions = 0;
        self.buffers.memories.fill(0.0);
        self.buffers.logits.fill(0.0);
        // The caches need no clearing: only positions of this sequence are read.
    }

    /// Reads a token without computing logits, for all but the last token of a prompt.
    ///
    /// # Errors
    /// [`Error::Token`] outside the vocabulary, [`Error::Length`] at [`MAX_POSITION`].
    pub fn feed(&mut self, token: u16) -> Result<()> {
        if u32::from(token) >= self.config.vocab {
            return Err(Error::Token(token));
        }
        if self.position >= MAX_POSITION {
            return Err(Error::Length);
        }
        block::set_turns(self.config, self.position, self.buffers.turns);
        self.embed(token);
        let last = self.config.recursion.saturating_sub(1);
        for recursion in 0..=last {
            self.recurse(recursion);
            self.recursions = recursion + 1;
            if recursion < last && self.halts() {
                self.carry(recursion);
                break;
            }
        }
        self.position += 1;
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
        let b = &mut self.buffers;
        let input = b.input.get_mut(..b.answer.len()).ok_or(Error::Buffer)?;
        let gain = self.tensors.get(Role::FinalNorm, 0);
        norm::gained(b.answer, gain.as_ref(), self.config.norm_eps, b.row, input);
        let role = if self.config.tied { Role::Embedding } else { Role::Head };
        let head = self.tensors.get(role, 0).ok_or(Error::Buffer)?;
        linear(&head, input, b.logits, &mut crate::kernels::Scratch { row: b.row, quantised: b.quantised });
        Ok(b.logits)
    }

    /// How often the last token went through the block stack; 0 before the first.
    pub fn recursions(&self) -> u32 {
        self.recursions
    }

    /// Number of tokens read.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// `x = norm(E[c])`, `y = 0`, `z = 0`.
    fn embed(&mut self, token: u16) {
        let b = &mut self.buffers;
        if let Some(table) = self.tensors.get(Role::Embedding, 0) {
            table.decode_row(usize::from(token), b.embedded);
        }
        norm::in_place(b.embedded, self.config.norm_eps);
        b.answer.fill(0.0);
        b.latent.fill(0.0);
    }

    /// One application of the block stack, and the answer it leads to.
    fn recurse(&mut self, recursion: u32) {
        let (c, b) = (self.config, &mut self.buffers);
        if recursion == 0 {
            block::copy(b.latent, b.embedded);
        } else {
            feed_back(c, &self.tensors, b);
        }
        for layer in 0..c.layers {
            let place = Place { recursion, layer, position: self.position };
            block::apply(c, &self.tensors, b, place);
        }
        if c.recursion == 1 {
            block::copy(b.answer, b.latent);
        } else if let Some(gain) = self.tensors.get(Role::LoopOut, 0) {
            gain.decode_row(0, b.row);
            let r = norm::factor(b.latent, c.norm_eps);
            for ((y, z), g) in b.answer.iter_mut().zip(b.latent.iter()).zip(b.row.iter()) {
                *y += g * (z * r);
            }
        }
    }

    /// Whether the halting head stops the recursion here.
    fn halts(&mut self) -> bool {
        let (c, b) = (self.config, &mut self.buffers);
        let Some(halt) = self.tensors.get(Role::Halt, 0) else {
            return false;
        };
        halt.decode_row(0, b.row);
        let (Some(input), Some((weights, rest))) =
            (b.input.get_mut(..b.answer.len()), b.row.split_at_checked(b.answer.len()))
        else {
            return false;
        };
        norm::plain(b.answer, c.norm_eps, input);
        let bias = rest.first().copied().unwrap_or(0.0);
        sigmoid(dot(weights, input) + bias) > c.halt_threshold
    }

    /// Gives the recursions the token skips the keys and values of the last one it did.
    fn carry(&mut self, recursion: u32) {
        let (c, b) = (self.config, &mut self.buffers);
        for layer in 0..c.layers {
            let from = Place { recursion, layer, position: self.position };
            let source = from.entry(c);
            for later in recursion + 1..c.recursion {
                let target = Place { recursion: later, ..from }.entry(c).start;
                for cache in [&mut *b.keys, &mut *b.values] {
                    let (before, after) = cache.split_at_mut_checked(target).unwrap_or_default();
                    if let (Some(from), Some(to)) =
                        (before.get(source.clone()), after.get_mut(..source.len()))
                    {
                        block::copy(to, from);
                    }
                }
            }
        }
    }
}

/// `u = x + loop_answer ⊙ norm(y) + loop_latent ⊙ norm(z)`, left to right, in the place of `z`.
fn feed_back(c: &ModelConfig, tensors: &Tensors<'_>, b: &mut Buffers<'_>) {
    let (Some(answer), Some(latent)) = (tensors.get(Role::LoopAnswer, 0), tensors.get(Role::LoopLatent, 0))
    else {
        return;
    };
    let (r_answer, r_latent) = (norm::factor(b.answer, c.norm_eps), norm::factor(b.latent, c.norm_eps));
    answer.decode_row(0, b.row);
    for (((sum, x), y), g) in b.input.iter_mut().zip(b.embedded.iter()).zip(b.answer.iter()).zip(b.row.iter())
    {
        *sum = x + g * (y * r_answer);
    }
    latent.decode_row(0, b.row);
    for ((z, sum), g) in b.latent.iter_mut().zip(b.input.iter()).zip(b.row.iter()) {
        *z = sum + g * (*z * r_latent);
    }
}
