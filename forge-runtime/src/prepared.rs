//! Weights laid out for this machine's vector registers, in memory the caller lends.
#![forbid(unsafe_code)]

use forge_formats::manifest::{Content, Section};
use forge_formats::{Matrix, Role};

use crate::error::{Error, Result};
use crate::kernels::{PANEL_ROWS, Panels, VECTOR, pack_panel, panel_vectors};
use crate::model::Model;

/// A model's integer matrices as panels: what [`Model::prepare`] has made. Sessions that use it need no other copy of
/// the weights; they still read the file for embeddings and for float codecs.
#[derive(Clone, Copy)]
pub struct Prepared<'p> {
    vectors: &'p [[u8; VECTOR]],
}

impl<'p> Prepared<'p> {
    /// Lays `model`'s matrices out in `memory`, which holds at least [`bytes`] of them.
    pub(crate) fn new(model: &Model<'_>, memory: &'p mut [u8]) -> Result<Self> {
        let memory = memory.get_mut(..bytes(model)).ok_or(Error::Buffer)?;
        let (vectors, _) = memory.as_chunks_mut::<VECTOR>();
        let mut rest = &mut *vectors;
        for (matrix, vectors) in matrices(model) {
            let (mut panels, after) = rest.split_at_mut_checked(vectors).ok_or(Error::Buffer)?;
            rest = after;
            let per_panel = panel_vectors(matrix.codec(), matrix.cols());
            for first in (0..matrix.rows()).step_by(PANEL_ROWS) {
                let (panel, after) = panels.split_at_mut_checked(per_panel).ok_or(Error::Buffer)?;
                panels = after;
                pack_panel(&matrix, first, panel);
            }
        }
        Ok(Self { vectors })
    }

    /// The panels of a matrix, which begin at vector `at`.
    pub(crate) fn panels(&self, matrix: &Matrix<'_>, at: usize) -> Option<Panels<'p>> {
        let vectors = self.vectors.get(at..)?.get(..matrix_vectors(matrix))?;
        Some(Panels { vectors, per_panel: panel_vectors(matrix.codec(), matrix.cols()) })
    }

    /// Number of vectors in all.
    pub(crate) fn len(&self) -> usize {
        self.vectors.len()
    }
}

impl core::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Prepared({} vectors)", self.vectors.len())
    }
}

/// Vectors that the panels of a matrix take; none for float codecs.
fn matrix_vectors(matrix: &Matrix<'_>) -> usize {
    // The sizes are checked (`forge_formats::config::limits`), so the product fits in 32 bits.
    matrix.rows().div_ceil(PANEL_ROWS) * panel_vectors(matrix.codec(), matrix.cols())
}

/// The vectors a section's tensor takes: 0 for what is not multiplied or not an integer codec.
pub(crate) fn section_vectors(model: &Model<'_>, section: &Section) -> usize {
    multiplied(model, section).map_or(0, |m| matrix_vectors(&m))
}

/// The matrix of a section that is multiplied with inputs: all but vectors, and but an embedding that is only looked up.
fn multiplied<'a>(model: &Model<'a>, section: &Section) -> Option<Matrix<'a>> {
    match section.content {
        Content::Tensor { role: Role::Embedding, .. } if !model.config().tied => None,
        Content::Tensor { codec, shape, .. } if codec.is_integer() => {
            Some(Matrix::validated(codec, shape, model.file().section_bytes(section)))
        }
        _ => None,
    }
}

/// The matrices to lay out, in file order, with the vectors they take.
fn matrices<'a>(model: &'a Model<'_>) -> impl Iterator<Item = (Matrix<'a>, usize)> {
    model.file().sections().filter_map(|s| multiplied(model, &s)).map(|m| (m, matrix_vectors(&m)))
}

/// Bytes that preparing a model takes.
pub(crate) fn bytes(model: &Model<'_>) -> usize {
    matrices(model).map(|(_, vectors)| vectors * VECTOR).sum()
}
