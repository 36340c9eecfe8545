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
    }
    let rows = |lane: usize| core::array::from_fn(|n| w.row_bytes(first + lane + n));
    match w.codec() {
        Codec::Int8Row => {
            QUARTERS.iter().for_each(|lane| pack_four(rows(*lane), vectors, *lane, |word| word))
        }
        Codec::Ternary2b => {
            QUARTERS.iter().for_each(|lane| pack_four(rows(*lane), vectors, *lane, interleave))
        }
        _ => pack_streamed(w, first, vectors),
    }
}

/// The first lanes of the four quarters of a vector.
const QUARTERS: [usize; PANEL_ROWS / 4] = [0, 4, 8, 12];

/// Puts four neighbouring rows into lanes `lane` to `lane + 3`, sixteen bytes of each at a time: many times as fast as
/// one row after another. Beyond a row's end, and for an empty row, there are zeros.
#[inline(never)]
fn pack_four(rows: [&[u8]; 4], vectors: &mut [[u8; VECTOR]], lane: usize, arrange: impl Fn(u32) -> u32) {
    let [a, b, c, d] = rows.map(|row| row.as_chunks::<16>().0);
    let whole = [a, b, c, d].iter().fold(vectors.len() / 4, |least, row| least.min(row.len()));
    let (fours, rest) = vectors.split_at_mut_checked(4 * whole).unwrap_or_default();
    for ((((four, a), b), c), d) in fours.as_chunks_mut::<4>().0.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        transpose(four, [a, b, c, d], lane, &arrange);
    }
    for (at, last) in rest.chunks_mut(4).enumerate() {
        let pieces = rows.map(|row| padded(row.get(16 * (whole + at)..).unwrap_or(&[])));
        let mut four = [[0; VECTOR]; 4];
        four.iter_mut().zip(&*last).for_each(|(f, l)| *f = *l);
        transpose(&mut four, pieces.each_ref(), lane, &arrange);
        last.iter_mut().zip(four).for_each(|(l, f)| *l = f);
    }
}

/// Word `i` of each piece goes to vector `i`.
#[inline(always)]
fn transpose(
    four: &mut [[u8; VECTOR]; 4],
    pieces: [&[u8; 16]; 4],
    lane: usize,
    arrange: &impl Fn(u32) -> u32,
) {
    let words = pieces.map(|piece| piece.as_chunks::<4>().0);
    for (i, vector) in four.iter_mut().enumerate() {
        let word = |row: &[[u8; 4]]| arrange(row.get(i).map_or(0, |w| u32::from_le_bytes(*w))).to_le_bytes();
        if let Some(place) = vector.as_chunks_mut::<16>().0.get_mut(lane / 4) {
            *place = bytemuck::must_cast(words.map(word));
        }
    }
}

/// The first bytes of what is left of a row, filled up with zeros.
fn padded(rest: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(rest).for_each(|(b, r)| *b = *r);
    bytes
}

/// Rows of any ternary codec, by way of `Ternary2b`, four at a time: entropy-coded ones are decoded side by side.
#[inline(never)]
fn pack_streamed(w: &Matrix<'_>, first: usize, vectors: &mut [[u8; VECTOR]]) {
    let mut rows = [0; TILE];
    let stride = w.packed_2b_bytes().max(1);
    let tile = rows.get_mut(..4 * stride).unwrap_or(&mut []);
    for lane in QUARTERS {
        w.pack_rows_2b(first + lane, tile);
        let present = w.rows().saturating_sub(first + lane);
        let row = |n: usize| if n < present { tile.get(n * stride..(n + 1) * stride) } else { None };
        pack_four(core::array::from_fn(|n| row(n).unwrap_or(&[])), vectors, lane, interleave);
    }
}

/// Sixteen trits from the order of the file (trit `4j + p` in bits `2p` of byte `j`) to that of a panel: the 4 × 4
/// matrix of bit pairs, transposed.
#[inline(always)]
fn interleave(mut x: u32) -> u32 {
    let swap = (x ^ (x >> 6)) & 0x00CC_00CC;
    x ^= swap ^ (swap << 6);
    let swap = (x ^ (x >> 12)) & 0x0000_F0F0;
    x ^ swap ^ (swap << 12)
}
