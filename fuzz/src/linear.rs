//! Linear maps by their definition, one operation after another (`docs/numerics.md` §1 and §2), and the runtime's
//! beside them.

use forge_formats::Matrix;
use forge_formats::codec::Codec;
use forge_formats::codec::ternary::{Packing, unpack_row};
use forge_runtime::kernels::{Kernels, PORTABLE};
use forge_runtime::testing::product;

/// The widest matrix.
pub(crate) const COLS: usize = 2300;
/// The most rows.
const ROWS: usize = 4;

/// Room to check a matrix in.
pub(crate) struct Work {
    /// Input of the linear map.
    pub(crate) x: Vec<f32>,
    q: Vec<i32>,
    trits: Vec<i8>,
    row: Vec<f32>,
    again: Vec<f32>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            x: vec![0.0; COLS],
            q: vec![0; COLS],
            trits: vec![0; COLS],
            row: vec![0.0; COLS],
            again: vec![0.0; COLS],
        }
    }
}

impl Work {
    /// Asserts that all ways of using a valid matrix of at most [`ROWS`] × [`COLS`] agree; `turn` chooses the kernels
    /// that are compared.
    pub(crate) fn check(&mut self, matrix: &Matrix<'_>, turn: u8) {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let x = &self.x[..cols];
        let inverse = if matrix.codec().is_integer() { quantise(x, &mut self.q) } else { None };
        let mut want = [0.0; ROWS];
        for (r, want) in want.iter_mut().enumerate().take(rows) {
            let row = &mut self.row[..=cols];
            row[cols] = f32::MAX;
            matrix.decode_row(r, row);
            assert!(row.iter().all(|w| w.is_finite()), "row {r} of {matrix:?} is not finite");
            assert_eq!(row[cols], f32::MAX, "row {r} of {matrix:?} runs over");
            let part = matrix.slice_rows(r..r + 1).expect("a row of the matrix");
            part.decode_row(0, &mut self.again[..cols]);
            assert!(
                row.iter().zip(&self.again[..cols]).all(|(a, b)| same(*a, *b)),
                "{matrix:?} sliced at {r}"
            );
            *want = if matrix.codec().is_integer() {
                inverse.map_or(0.0, |inverse| {
                    integers(matrix, r, &mut self.trits[..cols]);
                    let weights = self.trits[..cols].iter().map(|w| f32::from(*w) * matrix.scale(r));
                    assert!(
                        weights.zip(&*row).all(|(a, b)| same(a, *b)),
                        "{matrix:?}: row {r} decodes otherwise"
                    );
                    let products =
                        self.trits[..cols].iter().zip(&self.q).map(|(w, q)| i64::from(*w) * i64::from(*q));
                    products.sum::<i64>() as f32 * (inverse * matrix.scale(r))
                })
            } else {
                dot(&row[..cols], x)
            };
        }
        // The definition, and one of the other tables, with and without panels.
        let best = Kernels::all().nth(turn as usize >> 1 & 3).unwrap_or(&PORTABLE);
        for (kernels, prepared) in [(&PORTABLE, false), (best, turn & 1 == 1)] {
            let got = product(kernels, matrix, x, 1, prepared);
            let agree = got.iter().zip(want).all(|(a, b)| same(*a, b));
            assert!(
                agree && got.len() == rows,
                "{kernels:?}, {matrix:?}: {got:?} instead of {:?}",
                &want[..rows]
            );
        }
        matrix.decode_row(rows, &mut self.again[..cols]);
        assert!(self.again[..cols].iter().all(|w| *w == 0.0), "a row past the end of {matrix:?}");
        assert!(matrix.slice_rows(0..rows + 1).is_none());
    }
}

/// The same bits, or both not a number.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Quantises to int8; gives the real value of one unit, `None` when all products are zero.
fn quantise(x: &[f32], q: &mut [i32]) -> Option<f32> {
    let amax = x.iter().fold(0.0f32, |m, x| if x.abs() > m { x.abs() } else { m });
    if amax <= 1e-30 {
        return None;
    }
    let scale = 127.0 / amax;
    for (q, x) in q.iter_mut().zip(x) {
        let scaled = x * scale;
        // Not a number becomes the lower bound.
        let clamped = if scaled > -127.0 { scaled.min(127.0) } else { -127.0 };
        *q = clamped.round_ties_even() as i32;
    }
    Some(amax / 127.0)
}

/// The integers of a row.
fn integers(matrix: &Matrix<'_>, r: usize, out: &mut [i8]) {
    let bytes = matrix.row_bytes(r);
    match matrix.codec() {
        Codec::Ternary2b => unpack_row(Packing::TwoBit, bytes, out),
        Codec::Ternary5x8 => unpack_row(Packing::FiveInEight, bytes, out),
        Codec::TernaryRans | Codec::TernarySparse => matrix.row_trits(r, out),
        _ => out.iter_mut().zip(bytes).for_each(|(o, b)| *o = b.cast_signed()),
    }
}

/// Sixteen sums in turn, then added by halves.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        sums[i % 16] += x * y;
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}
