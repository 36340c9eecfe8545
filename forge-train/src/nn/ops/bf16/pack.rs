//! Rounds operands to bf16 and lays them out as the kernels read them.
//!
//! Both layouts are made of 16 × 16 pairs, and of both operands it depends on which way they lie in memory whether
//! such a square has to be transposed.

use std::ops::Range;

use super::super::gemm::Mat;
use super::super::simd::vectorised;
use super::{COLUMNS, Pair, SPAN};

/// As many pairs as rows.
pub(super) type Square = [[Pair; SPAN]; SPAN];

/// Which operand a panel belongs to. What is missing at the edges is 0.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// The left one, so many rows high: `[spans][rows][SPAN]`.
    Left(usize),
    /// The right one: `[pairs][COLUMNS]`.
    Right,
}

/// The part of a matrix that becomes a panel.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    data: &'a [f32],
    rows: usize,
    depth: usize,
    row_stride: usize,
    col_stride: usize,
}

/// What a processor may have better instructions for.
pub(super) trait Packer: Copy {
    /// Rounds neighbours along the inner dimension.
    fn along(self, numbers: &[f32; 2 * SPAN]) -> [Pair; SPAN];
    /// Rounds two rows of numbers, the first ones of pairs and the second ones.
    fn across(self, first: &[f32; SPAN], second: &[f32; SPAN]) -> [Pair; SPAN];
    /// Transposes.
    fn transpose(self, square: &mut Square);
}

/// Packs `rows` of the columns `top..top + depth` of `m`; for the right operand `m` is transposed.
///
/// # Panics
/// If `panel` is of another length or `m` smaller.
pub(super) fn pack(side: Side, m: Mat<'_>, rows: Range<usize>, top: usize, depth: usize, panel: &mut [Pair]) {
    let (Mat { row_stride, col_stride, .. }, height) = (m, side.rows());
    assert_eq!(panel.len(), depth.div_ceil(2 * SPAN) * SPAN * height, "panel of another size");
    let data = &m.data[rows.start * row_stride + top * col_stride..];
    let part = Strided { data, rows: rows.len(), depth, row_stride, col_stride };
    #[cfg(target_arch = "x86_64")]
    if let Some(packer) = super::avx512::Instructions::detected() {
        return packer.pack(side, part, panel);
    }
    pack_portable(side, part, panel);
}

impl Side {
    fn rows(self) -> usize {
        match self {
            Self::Left(rows) => rows,
            Self::Right => COLUMNS,
        }
    }
}

vectorised! {
fn pack_portable(side: Side, part: Strided<'_>, panel: &mut [Pair]) {
    pack_with(Portable, side, part, panel);
}
}

/// Packs with `packer`; inlined, so that it is compiled for the instructions of the caller.
#[inline(always)]
pub(super) fn pack_with(packer: impl Packer, side: Side, part: Strided<'_>, panel: &mut [Pair]) {
    let across = part.row_stride == 1 && part.col_stride != 1;
    match side {
        Side::Left(n) if across => left_across(packer, part, n, panel),
        Side::Left(n) => left_along(packer, part, n, panel),
        Side::Right if across => right_across(packer, part, panel),
        Side::Right => right_along(packer, part, panel),
    }
}

/// Rows whose numbers are neighbours in memory, or lie anyhow.
#[inline(always)]
fn left_along(packer: impl Packer, m: Strided<'_>, n: usize, panel: &mut [Pair]) {
    for (span, places) in panel.chunks_exact_mut(n * SPAN).enumerate() {
        for (r, pairs) in places.as_chunks_mut::<SPAN>().0.iter_mut().enumerate() {
            *pairs = along(packer, m, r, span);
        }
    }
}

/// Rows that are neighbours in memory.
#[inline(always)]
fn left_across(packer: impl Packer, m: Strided<'_>, n: usize, panel: &mut [Pair]) {
    let mut square = [[0; SPAN]; SPAN];
    for (span, places) in panel.chunks_exact_mut(n * SPAN).enumerate() {
        for (group, places) in places.chunks_mut(SPAN * SPAN).enumerate() {
            for (p, pairs) in square.iter_mut().enumerate() {
                *pairs = across(packer, m, SPAN * group, span * SPAN + p);
            }
            packer.transpose(&mut square);
            places.copy_from_slice(&square.as_flattened()[..places.len()]);
        }
    }
}

/// Columns that are neighbours in memory.
#[inline(always)]
fn right_across(packer: impl Packer, m: Strided<'_>, panel: &mut [Pair]) {
    for (pair, places) in panel.chunks_exact_mut(COLUMNS).enumerate() {
        for (group, places) in places.as_chunks_mut::<SPAN>().0.iter_mut().enumerate() {
            *places = across(packer, m, SPAN * group, pair);
        }
    }
}

/// Columns whose numbers are neighbours in memory, or lie anyhow.
#[inline(always)]
fn right_along(packer: impl Packer, m: Strided<'_>, panel: &mut [Pair]) {
    let mut square = [[0; SPAN]; SPAN];
    for (span, places) in panel.chunks_exact_mut(SPAN * COLUMNS).enumerate() {
        for group in 0..COLUMNS / SPAN {
            for (r, pairs) in square.iter_mut().enumerate() {
                *pairs = along(packer, m, SPAN * group + r, span);
            }
            packer.transpose(&mut square);
            for (places, pairs) in places.chunks_exact_mut(COLUMNS).zip(&square) {
                places[SPAN * group..][..SPAN].copy_from_slice(pairs);
            }
        }
    }
}

/// Pairs of row `r` in a span of the inner dimension.
#[inline(always)]
fn along(packer: impl Packer, m: Strided<'_>, r: usize, span: usize) -> [Pair; SPAN] {
    if r >= m.rows {
        return [0; SPAN];
    }
    let first = 2 * SPAN * span;
    let row = &m.data[r * m.row_stride + first * m.col_stride..];
    let here = (m.depth - first).min(2 * SPAN);
    if m.col_stride == 1
        && here == 2 * SPAN
        && let Some(whole) = row.first_chunk()
    {
        return packer.along(whole);
    }
    let mut numbers = [0.0; 2 * SPAN];
    numbers[..here].iter_mut().zip(row.iter().step_by(m.col_stride)).for_each(|(to, from)| *to = *from);
    packer.along(&numbers)
}

/// Pair number `pair` of the rows from `first` on, which are neighbours in memory.
#[inline(always)]
fn across(packer: impl Packer, m: Strided<'_>, first: usize, pair: usize) -> [Pair; SPAN] {
    let here = m.rows.saturating_sub(first).min(SPAN);
    let column = 2 * pair;
    if here == SPAN && column + 1 < m.depth {
        let rows = [column, column + 1].map(|column| m.data[column * m.col_stride + first..].first_chunk());
        if let [Some(low), Some(high)] = rows {
            return packer.across(low, high);
        }
    }
    let mut parts = [[0.0; SPAN]; 2];
    for (numbers, column) in parts.iter_mut().zip(column..m.depth) {
        let from = &m.data[(column * m.col_stride + first).min(m.data.len())..];
        numbers[..here].copy_from_slice(&from[..here]);
    }
    packer.across(&parts[0], &parts[1])
}

/// Plain arithmetic.
#[derive(Clone, Copy)]
struct Portable;

impl Packer for Portable {
    #[inline(always)]
    fn along(self, numbers: &[f32; 2 * SPAN]) -> [Pair; SPAN] {
        std::array::from_fn(|i| round(numbers[2 * i]) | round(numbers[2 * i + 1]) << 16)
    }

    #[inline(always)]
    fn across(self, first: &[f32; SPAN], second: &[f32; SPAN]) -> [Pair; SPAN] {
        std::array::from_fn(|i| round(first[i]) | round(second[i]) << 16)
    }

    #[inline(always)]
    fn transpose(self, square: &mut Square) {
        swap_blocks::<8>(square);
        swap_blocks::<4>(square);
        swap_blocks::<2>(square);
        swap_blocks::<1>(square);
    }
}

/// Transposes the 2 × 2 blocks of `B` × `B` pairs in each block of twice that size.
#[inline(always)]
fn swap_blocks<const B: usize>(square: &mut Square) {
    for r in 0..SPAN {
        if r & B == 0 {
            let (upper, lower) = (square[r], square[r + B]);
            for c in 0..SPAN {
                square[r][c] = if c & B == 0 { upper[c] } else { lower[c - B] };
                square[r + B][c] = if c & B == 0 { upper[c + B] } else { lower[c] };
            }
        }
    }
}

/// To bf16, in the lower half: to nearest, ties to even; what is subnormal becomes 0, as the instructions have it.
/// NaN stays NaN.
#[inline(always)]
pub(super) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    let number = if bits & 0x7F80_0000 == 0 { bits >> 16 & 0x8000 } else { nearest };
    if x.is_nan() { bits >> 16 | 0x40 } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_transposed() {
        let square: Square = std::array::from_fn(|r| std::array::from_fn(|c| (100 * r + c) as u32));
        let mut transposed = square;
        Portable.transpose(&mut transposed);
        for (r, row) in transposed.iter().enumerate() {
            for (c, pair) in row.iter().enumerate() {
                assert_eq!(*pair, square[c][r]);
            }
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(packer) = super::super::avx512::Instructions::detected() {
            let mut again = transposed;
            packer.transpose(&mut again);
            assert_eq!(again, square);
        }
    }

    /// NaN, infinities, ties, subnormal numbers and everything around them.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn instructions_round_as_plain_arithmetic_does() {
        let Some(packer) = super::super::avx512::Instructions::detected() else { return };
        let edges =
            [0u32, 0x8000, 0x7FFF, 0x8001, 0x1_8000, 0x3F80_8000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001];
        for bits in edges.into_iter().chain((0..1 << 16).map(|i| i * 0x1_0001)) {
            let numbers: [f32; 2 * SPAN] = std::array::from_fn(|i| f32::from_bits(bits ^ (i as u32) << 27));
            assert_eq!(packer.along(&numbers), Portable.along(&numbers), "{bits:x}");
            let (first, second) = (numbers.first_chunk().unwrap(), numbers.last_chunk().unwrap());
            assert_eq!(packer.across(first, second), Portable.across(first, second), "{bits:x}");
        }
    }
}
