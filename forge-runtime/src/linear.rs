//! Linear maps of a block of inputs (`docs/numerics.md` §2).
#![forbid(unsafe_code)]

use core::ops::Range;

use bytemuck::must_cast_slice_mut;
use forge_formats::Matrix;
use forge_formats::codec::{Codec, linked};

use crate::kernels::portable;
use crate::kernels::{Inputs, Kernels, Meta, Outputs, PANEL_ROWS, Panels, VECTOR, pack_panel, panel_vectors};

/// A matrix as it lies in the file, and laid out in panels when it has been prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'w> {
    pub(crate) matrix: Matrix<'w>,
    pub(crate) panels: Option<Panels<'w>>,
}

impl<'w> Weights<'w> {
    /// Some of the rows; the range begins at a multiple of [`PANEL_ROWS`].
    pub(crate) fn rows(&self, rows: Range<usize>) -> Option<Weights<'w>> {
        let panels = |p: Panels<'w>| p.slice(rows.start / PANEL_ROWS, rows.len().div_ceil(PANEL_ROWS));
        Some(Weights { matrix: self.matrix.slice_rows(rows.clone())?, panels: self.panels.map(panels) })
    }
}

/// Inputs of a linear map: `n` vectors, one every `stride` elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors<'x> {
    pub(crate) x: &'x [f32],
    pub(crate) stride: usize,
    pub(crate) n: usize,
}

impl<'x> Vectors<'x> {
    /// The first `len` elements of vector `t`.
    #[inline(always)]
    pub(crate) fn get(&self, t: usize, len: usize) -> &'x [f32] {
        self.x.get(t * self.stride..).and_then(|x| x.get(..len)).unwrap_or(&[])
    }
}

/// Room a linear map works in.
#[derive(Debug)]
pub(crate) struct Scratch<'s> {
    /// One decoded row.
    pub(crate) row: &'s mut [f32],
    /// Quantised inputs; see [`quantised_words`].
    pub(crate) quantised: &'s mut [u32],
    /// One a vector.
    pub(crate) meta: &'s mut [Meta],
    /// One panel, for weights that have not been prepared; see [`tile_vectors`].
    pub(crate) tile: &'s mut [[u8; VECTOR]],
}

/// Words of [`Scratch::quantised`] that inputs of at most `widest` elements need, `n` of them at a time.
pub(crate) fn quantised_words(kernels: &Kernels, widest: usize, n: usize) -> usize {
    let by_rows = (widest + portable::QUANTISED_PADDING).div_ceil(2);
    let panels = widest.next_multiple_of(VECTOR) / 4 * n;
    match (kernels.products(), kernels.rows) {
        (Some(_), Some(_)) => panels.max(by_rows),
        (Some(_), None) => panels,
        (None, _) => by_rows,
    }
}

/// Vectors of [`Scratch::tile`] that a matrix needs.
pub(crate) fn tile_vectors(kernels: &Kernels, codec: Codec, cols: usize) -> usize {
    kernels.products().map_or(0, |_| panel_vectors(codec, cols))
}

/// `y = W x` of every vector. `out` has room for the rows rounded up to [`PANEL_ROWS`].
pub(crate) fn linear(
    kernels: &Kernels,
    w: &Weights<'_>,
    xs: Vectors<'_>,
    out: &mut Outputs<'_>,
    scratch: &mut Scratch<'_>,
) {
    let cols = w.matrix.cols();
    if !w.matrix.codec().is_integer() {
        (kernels.floats.float_rows)(&w.matrix, xs.x, xs.stride, scratch.row, out);
        return;
    }
    let Some(products) = kernels.products() else {
        by_rows(kernels, &w.matrix, xs, out, scratch);
        return;
    };
    let as_they_lie = matches!(w.matrix.codec(), Codec::Int8Row | Codec::Ternary2b);
    if w.panels.is_none() && xs.n == 1 && as_they_lie && kernels.rows.is_some() {
        // Laying out panels takes longer than one product.
        by_rows(kernels, &w.matrix, xs, out, scratch);
        return;
    }
    let product = if w.matrix.codec() == Codec::Int8Row { products.int8 } else { products.ternary };
    let stride = cols.next_multiple_of(VECTOR);
    let quantised: &mut [i8] = must_cast_slice_mut(scratch.quantised);
    for (t, meta) in scratch.meta.iter_mut().enumerate().take(xs.n) {
        let q = quantised.get_mut(t * stride..).and_then(|q| q.get_mut(..stride)).unwrap_or(&mut []);
        *meta = (kernels.floats.quantise)(xs.get(t, cols), q);
    }
    let inputs = Inputs { q: quantised, stride, meta: scratch.meta.get(..xs.n).unwrap_or(&[]) };
    match &w.panels {
        Some(panels) => product(panels, &inputs, out),
        None => by_tiles(product, &w.matrix, &inputs, out, scratch.tile),
    }
}

/// Sixteen rows at a time are laid out as a panel and multiplied with every input.
fn by_tiles(
    product: crate::kernels::Product,
    w: &Matrix<'_>,
    inputs: &Inputs<'_>,
    out: &mut Outputs<'_>,
    tile: &mut [[u8; VECTOR]],
) {
    let per_panel = panel_vectors(w.codec(), w.cols());
    let tile = tile.get_mut(..per_panel).unwrap_or(&mut []);
    for first in (0..w.rows()).step_by(PANEL_ROWS) {
        pack_panel(w, first, tile);
        let y = out.y.get_mut(first..).unwrap_or(&mut []);
        product(&Panels { vectors: tile, per_panel }, inputs, &mut Outputs { y, stride: out.stride });
    }
}

/// Row by row from the file, an input at a time. Rows that have to be unpacked first are, some at a time, where a
/// decoded row would be.
fn by_rows(
    kernels: &Kernels,
    w: &Matrix<'_>,
    xs: Vectors<'_>,
    out: &mut Outputs<'_>,
    scratch: &mut Scratch<'_>,
) {
    let product = kernels.rows.unwrap_or(portable::rows);
    let in_place = matches!(w.codec(), Codec::Int8Row | Codec::Ternary2b | Codec::Ternary5x8);
    for t in 0..xs.n {
        let x = xs.get(t, w.cols());
        let y = out.y.get_mut(t * out.stride..).and_then(|y| y.get_mut(..w.rows())).unwrap_or(&mut []);
        if in_place || !linked::STREAMED {
            product(w, x, scratch.quantised, y);
        } else {
            portable::packed_rows(w, x, scratch.quantised, must_cast_slice_mut(scratch.row), y);
        }
    }
}
