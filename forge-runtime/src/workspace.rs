//! Memory for a session, for callers that have a heap.

use alloc::vec::Vec;

use crate::model::Model;

/// As much memory as a model's session needs, aligned as it must be. One workspace serves one session after
/// another of the same model.
#[derive(Clone, Debug)]
pub struct Workspace {
    words: Vec<u32>,
}

impl Workspace {
    /// Memory for sessions of `model`.
    ///
    /// # Panics
    /// When the machine has not that much memory, as with every `Vec`; compare [`Model::workspace`] before.
    pub fn new(model: &Model<'_>) -> Self {
        Self { words: alloc::vec![0; model.workspace().div_ceil(4)] }
    }

    /// The memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }
}
