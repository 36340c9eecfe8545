//! What the instructions compute, in plain arithmetic. They treat subnormal numbers as zeros, which is left out here:
//! [`super::pack::round`] leaves none, and sums that small do not occur.

use super::{COLUMNS, Pair, ROWS, SPAN, Tile};

/// Rows of a tile of [`pairs`].
pub(super) const PAIRS_ROWS: usize = 12;

/// `vdpbf16ps`: of each pair the second product is added first, every sum rounded to f32.
pub(super) fn pairs(a: &[Pair], b: &[Pair], tile: &mut Tile) {
    tile.0 = [[0.0; COLUMNS]; ROWS];
    for (a, b) in a.chunks_exact(PAIRS_ROWS * SPAN).zip(b.chunks_exact(SPAN * COLUMNS)) {
        for (sums, a) in tile.0.iter_mut().zip(a.chunks_exact(SPAN)) {
            for (a, b) in a.iter().zip(b.chunks_exact(COLUMNS)) {
                let a = numbers(*a);
                for (sum, b) in sums.iter_mut().zip(b) {
                    let b = numbers(*b);
                    // A product of two bf16 numbers is exact in f32.
                    *sum = (*sum + a[1] * b[1]) + a[0] * b[0];
                }
            }
        }
    }
}

/// `tdpbf16ps`: first and second products of a span's pairs are summed on their own, each in order, and the sum of
/// both is added.
pub(super) fn tiles(a: &[Pair], b: &[Pair], tile: &mut Tile) {
    tile.0 = [[0.0; COLUMNS]; ROWS];
    for (a, b) in a.chunks_exact(ROWS * SPAN).zip(b.chunks_exact(SPAN * COLUMNS)) {
        for (sums, a) in tile.0.iter_mut().zip(a.chunks_exact(SPAN)) {
            for (c, sum) in sums.iter_mut().enumerate() {
                let mut parts = [0.0f32; 2];
                for (a, b) in a.iter().zip(b.chunks_exact(COLUMNS)) {
                    let (a, b) = (numbers(*a), numbers(b[c]));
                    parts[0] += a[0] * b[0];
                    parts[1] += a[1] * b[1];
                }
                *sum += parts[0] + parts[1];
            }
        }
    }
}

/// The first and the second number of a pair.
fn numbers(pair: Pair) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000)]
}
