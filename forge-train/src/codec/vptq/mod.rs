//! VPTQ encoder (Liu et al. 2024, arXiv 2409.17066): weighted k-means, optional residual codebook, optional
//! second-order error feedback.
//!
//! Differences from the paper, whose vectors run down v output rows of one input column: here they run along
//! v neighbours of a row, so that a row decodes on its own. Rows are divided by an f16 scale instead of
//! columns by a scale and bias, codebooks are int8 instead of f16, and the feedback quantises v columns
//! jointly: with `H = R Rᵀ` the vector is chosen in the metric `‖e R_bb‖²` and `e R_bb R⁻¹_{b,rest}` is taken
//! off the columns to come, which for v = 1 is the paper's (and GPTQ's) column by column update.

mod book;
mod feedback;
mod kmeans;

use forge_formats::codec::bitstream::BitWriter;
use forge_formats::codec::vptq::payload_len;
use forge_formats::codec::{Codec, VptqParams};
use forge_formats::error::Error as FormatError;
use half::f16;
use rayon::prelude::*;

use crate::codec::{Encoded, Metric};
use crate::error::Result;
use crate::weights::Matrix;
use book::Quantised;
use feedback::Feedback;
use kmeans::{Vectors, kmeans};

/// Times the row scales and the indices are fitted to each other.
const ROUNDS: usize = 2;

/// Main and residual index of a vector.
type Index = (u16, u16);

/// Encodes a matrix.
///
/// # Errors
/// When the parameters are out of range.
pub fn encode(p: &VptqParams, matrix: &Matrix, metric: Metric<'_>) -> Result<Encoded> {
    let [rows, cols] = super::shape(matrix.rows, matrix.cols)?;
    payload_len(p, rows, cols).ok_or(FormatError::Codec("vptq"))?;
    let columns = metric.columns(matrix.cols).unwrap_or_else(|| vec![1.0; matrix.cols]);
    let mut scales: Vec<f32> = (0..matrix.rows).map(|r| to_f16(rms(matrix.row(r), &columns))).collect();
    let books = train(p, matrix, &columns, &scales);
    let indices = match metric {
        Metric::Hessian(h) => {
            let feedback = Feedback::new(h, matrix.cols, usize::from(p.dim), &books);
            let indices = feedback.assign(matrix, &scales);
            refit(matrix, &books, &indices, &mut scales, |row| feedback.times_hessian(row));
            indices
        }
        Metric::Plain | Metric::Columns(_) => {
            let weigh = |row: &[f32]| row.iter().zip(&columns).map(|(q, h)| f64::from(q * h)).collect();
            let mut indices = assign(matrix, &columns, &scales, &books);
            for _ in 0..ROUNDS {
                refit(matrix, &books, &indices, &mut scales, weigh);
                indices = assign(matrix, &columns, &scales, &books);
            }
            indices
        }
    };
    Ok(Encoded { codec: Codec::Vptq(*p), payload: write(p, &books, &scales, &indices) })
}

/// The codebooks as a reader sees them.
struct Books {
    main: Quantised,
    residual: Option<Quantised>,
}

impl Books {
    /// The vector of an index, before the row's scale.
    fn vector(&self, (i, j): Index) -> impl Iterator<Item = f32> + '_ {
        let rest = self.residual.as_ref();
        self.main.entry(i).enumerate().map(move |(c, value)| match rest {
            None => value,
            Some(residual) => value + residual.value(j, c),
        })
    }

    /// A row of vectors, cut to `cols`.
    fn row(&self, indices: &[Index], cols: usize) -> Vec<f32> {
        indices.iter().flat_map(|index| self.vector(*index)).take(cols).collect()
    }
}

/// Trains both codebooks on the rows divided by their scales.
fn train(p: &VptqParams, matrix: &Matrix, columns: &[f32], scales: &[f32]) -> Books {
    let dim = usize::from(p.dim);
    let mut vectors = Vectors::cut(matrix, columns, scales, dim);
    let main = Quantised::new(&kmeans(&vectors, 1 << p.index_bits, 0));
    if p.residual_bits == 0 {
        return Books { main, residual: None };
    }
    let book = main.book();
    vectors.map(|vector, weights| {
        let entry = book.nearest(vector, weights);
        vector.iter_mut().zip(main.entry(entry)).for_each(|(x, c)| *x -= c);
    });
    let residual = Quantised::new(&kmeans(&vectors, 1 << p.residual_bits, 1));
    Books { main, residual: Some(residual) }
}

/// The nearest entries of every vector, row by row.
fn assign(matrix: &Matrix, columns: &[f32], scales: &[f32], books: &Books) -> Vec<Vec<Index>> {
    let main = books.main.book();
    let residual = books.residual.as_ref().map(Quantised::book);
    let vectors = Vectors::cut(matrix, columns, scales, main.dim());
    let one = |r: usize| {
        let row = vectors.row(r).map(|(vector, weights)| {
            let i = main.nearest(vector, weights);
            let rest: Vec<f32> = vector.iter().zip(books.main.entry(i)).map(|(x, c)| x - c).collect();
            (i, residual.as_ref().map_or(0, |book| book.nearest(&rest, weights)))
        });
        row.collect()
    };
    (0..matrix.rows).into_par_iter().map(one).collect()
}

/// Least squares scales of rows whose indices are known: `w H qᵀ / q H qᵀ`. `weigh` multiplies a row by H.
fn refit(
    matrix: &Matrix,
    books: &Books,
    indices: &[Vec<Index>],
    scales: &mut [f32],
    weigh: impl Fn(&[f32]) -> Vec<f64> + Sync,
) {
    scales.par_iter_mut().enumerate().for_each(|(r, scale)| {
        let q = books.row(&indices[r], matrix.cols);
        let weighed = weigh(&q);
        let dot = |row: &[f32]| row.iter().zip(&weighed).map(|(w, h)| f64::from(*w) * h).sum::<f64>();
        let (overlap, energy) = (dot(matrix.row(r)), dot(&q));
        if energy > 0.0 {
            *scale = to_f16((overlap / energy).max(0.0) as f32);
        }
    });
}

fn write(p: &VptqParams, books: &Books, scales: &[f32], indices: &[Vec<Index>]) -> Vec<u8> {
    let mut bits = BitWriter::default();
    for book in std::iter::once(&books.main).chain(&books.residual) {
        bits.bytes(&book.scale.to_le_bytes());
        bits.bytes(&book.entries.iter().map(|c| c.cast_unsigned()).collect::<Vec<u8>>());
    }
    for (row, scale) in indices.iter().zip(scales) {
        bits.bytes(&f16::from_f32(*scale).to_le_bytes());
        for (i, j) in row {
            bits.put(u32::from(*i), u32::from(p.index_bits));
            bits.put(u32::from(*j), u32::from(p.residual_bits));
        }
        bits.align();
    }
    bits.finish()
}

/// Weighted root mean square of a row; the plain one when nothing has weight.
fn rms(row: &[f32], columns: &[f32]) -> f32 {
    let total: f64 = columns.iter().map(|h| f64::from(*h)).sum();
    let weight = |h: f32| if total > 0.0 { f64::from(h) / total } else { 1.0 / row.len() as f64 };
    let mean: f64 = row.iter().zip(columns).map(|(w, h)| f64::from(*w).powi(2) * weight(*h)).sum();
    mean.sqrt() as f32
}

/// The nearest f16, the largest finite one beyond it.
fn to_f16(x: f32) -> f32 {
    f16::from_f32(x.min(f16::MAX.to_f32())).to_f32()
}

#[cfg(test)]
mod tests;
