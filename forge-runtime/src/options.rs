//! How a session runs: on which kernels, from which weights, how many tokens at a time.
#![forbid(unsafe_code)]

use crate::kernels::{Kernels, PORTABLE};
use crate::prepared::Prepared;

/// How a [`crate::Session`] or [`crate::Batch`] runs. No choice changes a bit of any result.
#[derive(Clone, Copy, Debug)]
pub struct Options<'m> {
    pub(crate) kernels: &'static Kernels,
    pub(crate) prepared: Option<Prepared<'m>>,
    pub(crate) block: usize,
}

impl Default for Options<'_> {
    /// The best kernels of this machine, weights as they lie in the file, one token at a time.
    fn default() -> Self {
        Self { kernels: Kernels::best(), prepared: None, block: 1 }
    }
}

impl<'m> Options<'m> {
    /// What a microcontroller runs: portable kernels, no prepared weights, one token at a time. On any machine, this
    /// tells the memory of a device ([`crate::Model::workspace_for`]).
    pub fn device() -> Self {
        Self { kernels: &PORTABLE, prepared: None, block: 1 }
    }

    /// With these kernels.
    #[must_use]
    pub fn kernels(self, kernels: &'static Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// With weights that [`crate::Model::prepare`] has laid out.
    #[must_use]
    pub fn prepared(self, prepared: Prepared<'m>) -> Self {
        Self { prepared: Some(prepared), ..self }
    }

    /// With up to `tokens` of a prompt read at a time, at least one.
    #[must_use]
    pub fn block(self, tokens: usize) -> Self {
        Self { block: tokens.max(1), ..self }
    }
}
