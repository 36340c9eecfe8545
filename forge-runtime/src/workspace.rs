//! Memory for sessions, for callers that have a heap.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::options::Options;
use crate::prepared::Prepared;

/// Bytes of a cache line and of the widest vector registers, which like memory aligned to it.
const LINE: usize = 64;

/// Memory for a session, aligned to 64 bytes. One workspace serves one session after another of the same model and
/// options.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// One line more than lent, so that there is an aligned place in it. Not of an aligned type: the system gives
    /// zeroed memory page by page as it is used, but only at the usual alignment; else all of it is written at once,
    /// a cache for the whole window with it.
    words: Vec<u64>,
    lines: usize,
}

/// Words that hold so many lines wherever they begin.
fn words(lines: usize) -> usize {
    lines.saturating_add(1).saturating_mul(LINE / size_of::<u64>())
}

impl Workspace {
    /// Memory for sessions of `model` with default options.
    ///
    /// # Panics
    /// When the machine has not that much memory, as with every `Vec`; compare [`Model::workspace`] before.
    pub fn new(model: &Model<'_>) -> Self {
        Self::of(model.workspace())
    }

    /// Memory for sessions of `model` with `options`.
    ///
    /// # Panics
    /// When the machine has not that much memory; compare [`Model::workspace_for`] before.
    pub fn with(model: &Model<'_>, options: &Options<'_>) -> Self {
        Self::of(model.workspace_for(options))
    }

    /// As [`Workspace::with`], for a model that may ask for more memory than there is: a small file can.
    ///
    /// # Errors
    /// [`Error::Buffer`] when the machine has not that much.
    pub fn try_with(model: &Model<'_>, options: &Options<'_>) -> Result<Self> {
        Self::try_of(model.workspace_for(options)).ok_or(Error::Buffer)
    }

    /// Memory of at least `bytes`, for a [`crate::Batch`] or [`Model::prepare`].
    ///
    /// # Panics
    /// When the machine has not that much memory.
    pub fn of(bytes: usize) -> Self {
        let lines = bytes.div_ceil(LINE);
        Self { words: alloc::vec![0; words(lines)], lines }
    }

    /// As [`Workspace::of`]; `None` when the machine has not that much memory.
    pub fn try_of(bytes: usize) -> Option<Self> {
        let lines = bytes.div_ceil(LINE);
        let words = bytemuck::try_zeroed_slice_box(words(lines)).ok()?.into_vec();
        Some(Self { words, lines })
    }

    /// The memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        let start = bytes.as_ptr().align_offset(LINE);
        let lent = start..start.saturating_add(self.lines * LINE);
        bytes.get_mut(lent).unwrap_or_default()
    }

    /// Prepares a model's weights in this memory, which [`Workspace::of`] made with [`Model::prepared_bytes`].
    ///
    /// # Errors
    /// [`crate::Error::Buffer`] when it is too short.
    pub fn prepare(&mut self, model: &Model<'_>) -> Result<Prepared<'_>> {
        model.prepare(self.bytes())
    }
}
