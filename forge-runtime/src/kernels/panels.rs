//! Integer weights laid out for vector registers: sixteen rows side by side.
//!
//! A panel is a run of 64-byte vectors. The first holds the rows' scales as f32; each of the others holds four bytes
//! of each of the sixteen rows. For int8 these are four neighbouring weights. For trits they are sixteen: bits
//! `2p, 2p+1` of byte `j` are trit `4p + j` of the sixteen, so that one mask leaves four neighbours of each row, in
//! the order of the activations. Sums need no step across lanes.
#![forbid(unsafe_code)]

use forge_formats::Matrix;
use forge_formats::codec::Codec;
use forge_formats::config::limits;

use crate::math::widen_f16;

/// Bytes of a vector.
pub(crate) const VECTOR: usize = 64;
/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;
/// Bytes of four rows of the widest matrix (the memory gate's first, of two attention widths), four trits a byte.
const TILE: usize = 2 * limits::WIDTH as usize;

/// Panels of one matrix, or of some of its rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    /// One panel after another.
    pub(crate) vectors: &'a [[u8; VECTOR]],
    /// Vectors of a panel, that of the scales included.
    pub(crate) per_panel: usize,
}

impl<'a> Panels<'a> {
    /// The scales and weights of every panel.
    #[inline(always)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a [u8; VECTOR], &'a [[u8; VECTOR]])> {
        let (mut rest, len) = (self.vectors, self.per_panel);
        core::iter::from_fn(move || {
            let (panel, after) = rest.split_at_checked(len)?;
            rest = after;
            panel.split_first()
        })
    }

    /// The panels from `first` on, `count` of them.
    pub(crate) fn slice(&self, first: usize, count: usize) -> Panels<'a> {
        let vectors = || {
            let from = self.vectors.get(first.checked_mul(self.per_panel)?..)?;
            from.get(..count.checked_mul(self.per_panel)?)
        };
        Panels { vectors: vectors().unwrap_or(&[]), per_panel: self.per_panel }
    }
}

/// Vectors of a panel of a codec's rows of `cols` weights; 0 for codecs that have none.
pub(crate) fn panel_vectors(codec: Codec, cols: usize) -> usize {
    match codec {
        Codec::Int8Row => 1 + cols.div_ceil(4),
        c if c.is_integer() => 1 + cols.div_ceil(16),
        _ => 0,
    }
}

/// Lays the sixteen rows of `w` from `first` on out as a panel; rows the matrix lacks become zeros with scale 0.
pub(crate) fn pack_panel(w: &Matrix<'_>, first: usize, panel: &mut [[u8; VECTOR]]) {
    let Some((scales, vectors)) = panel.split_first_mut() else {
        return;
    };
    for (lane, place) in scales.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let scale = w.scales().get(first + lane).map_or(0.0, |s| widen_f16(*s));
        *place = scale.to_le_bytes();
        if first + lane >= w.rows() {
            clear_lane(vectors, lane);
        } else if w.codec() == Codec::Int8Row {
            pack_int8(w.row_bytes(first + lane), vectors, lane);
        } else if w.codec() == Codec::Ternary2b {
            pack_trits(w.row_bytes(first + lane), vectors, lane);
        }
    }
    if w.codec().is_ternary() && w.codec() != Codec::Ternary2b {
        pack_streamed(w, first, vectors);
    }
}

/// The four bytes of a row in each vector.
#[inline(always)]
fn lane_of(vectors: &mut [[u8; VECTOR]], lane: usize) -> impl Iterator<Item = &mut [u8; 4]> {
    vectors.iter_mut().filter_map(move |v| v.as_chunks_mut::<4>().0.get_mut(lane))
}

fn clear_lane(vectors: &mut [[u8; VECTOR]], lane: usize) {
    lane_of(vectors, lane).for_each(|place| *place = [0; 4]);
}

fn pack_int8(row: &[u8], vectors: &mut [[u8; VECTOR]], lane: usize) {
    let (whole, tail) = row.as_chunks::<4>();
    let mut last = [0; 4];
    last.iter_mut().zip(tail).for_each(|(l, t)| *l = *t);
    let pieces = whole.iter().chain(core::iter::once(&last));
    lane_of(vectors, lane).zip(pieces).for_each(|(place, piece)| *place = *piece);
}

/// A row packed as `Ternary2b` packs it.
fn pack_trits(row: &[u8], vectors: &mut [[u8; VECTOR]], lane: usize) {
    let (whole, tail) = row.as_chunks::<4>();
    let mut last = [0; 4];
    last.iter_mut().zip(tail).for_each(|(l, t)| *l = *t);
    let pieces = whole.iter().chain(core::iter::once(&last));
    lane_of(vectors, lane).zip(pieces).for_each(|(place, piece)| *place = interleave(*piece));
}

/// Rows of any ternary codec, by way of `Ternary2b`, four at a time: entropy-coded ones are decoded side by side.
#[inline(never)]
fn pack_streamed(w: &Matrix<'_>, first: usize, vectors: &mut [[u8; VECTOR]]) {
    let mut rows = [0; TILE];
    let stride = w.packed_2b_bytes().max(1);
    let tile = rows.get_mut(..4 * stride).unwrap_or(&mut []);
    for lane in (0..PANEL_ROWS).step_by(4) {
        w.pack_rows_2b(first + lane, tile);
        let present = w.rows().saturating_sub(first + lane);
        for (n, row) in tile.chunks_exact(stride).take(present).enumerate() {
            pack_trits(row, vectors, lane + n);
        }
    }
}

/// Sixteen trits from the order of the file (trit `4j + p` in bits `2p` of byte `j`) to that of a panel: the 4 × 4
/// matrix of bit pairs, transposed.
#[inline(always)]
fn interleave(bytes: [u8; 4]) -> [u8; 4] {
    let mut x = u32::from_le_bytes(bytes);
    let swap = (x ^ (x >> 6)) & 0x00CC_00CC;
    x ^= swap ^ (swap << 6);
    let swap = (x ^ (x >> 12)) & 0x0000_F0F0;
    x ^= swap ^ (swap << 12);
    x.to_le_bytes()
}
