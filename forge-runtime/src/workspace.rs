//! Memory for sessions, for callers that have a heap.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::options::Options;
use crate::prepared::Prepared;

/// 64 bytes aligned as the widest vector registers like them.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory for a session, aligned to 64 bytes. One workspace serves one session after another of the same model and
/// options.
#[derive(Clone, Debug)]
pub struct Workspace {
    lines: Vec<Line>,
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
        let lines = model.workspace_for(options).div_ceil(64);
        let lines = bytemuck::try_zeroed_slice_box(lines).map_err(|()| Error::Buffer)?.into_vec();
        Ok(Self { lines })
    }

    /// Memory of at least `bytes`, for a [`crate::Batch`] or [`Model::prepare`].
    ///
    /// # Panics
    /// When the machine has not that much memory.
    pub fn of(bytes: usize) -> Self {
        Self { lines: bytemuck::zeroed_slice_box(bytes.div_ceil(64)).into_vec() }
    }

    /// As [`Workspace::of`]; `None` when the machine has not that much memory.
    pub fn try_of(bytes: usize) -> Option<Self> {
        let lines = bytemuck::try_zeroed_slice_box(bytes.div_ceil(64)).ok()?;
        Some(Self { lines: lines.into_vec() })
    }

    /// The memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    /// Prepares a model's weights in this memory, which [`Workspace::of`] made with [`Model::prepared_bytes`].
    ///
    /// # Errors
    /// [`crate::Error::Buffer`] when it is too short.
    pub fn prepare(&mut self, model: &Model<'_>) -> Result<Prepared<'_>> {
        model.prepare(self.bytes())
    }
}
