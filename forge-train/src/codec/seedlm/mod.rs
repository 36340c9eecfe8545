//! SeedLM encoder: tries every seed for every block (Shafipour et al. 2024, section 3).
//!
//! Exact pruning makes that fast. With `U(s) = Q R`, coefficients `t` leave an error of
//! `‖w‖² − ‖Qᵀw‖² + ‖Qᵀw − R t‖²`; the first two terms bound it from below without quantising anything, so
//! only seeds whose bound beats the best error so far are quantised.

mod basis;
mod search;

use forge_formats::codec::bitstream::BitWriter;
use forge_formats::codec::seedlm::{MAX_EXPONENT, payload_len};
use forge_formats::codec::{Codec, SeedLmParams};
use forge_formats::error::Error as FormatError;
use rayon::prelude::*;

use crate::codec::{Encoded, Metric};
use crate::error::Result;
use crate::weights::Matrix;
use basis::Basis;
use search::{BATCH, Code, Searcher};

/// Encodes a matrix; the tensor exponent in `p` is replaced by the one that suits it.
///
/// # Errors
/// When the parameters are out of range.
pub fn encode(p: &SeedLmParams, matrix: &Matrix, metric: Metric<'_>) -> Result<Encoded> {
    let p = SeedLmParams { exponent: tensor_exponent(&matrix.data), ..*p };
    let [rows, cols] = super::shape(matrix.rows, matrix.cols)?;
    payload_len(&p, rows, cols).ok_or(FormatError::Codec("seedlm"))?;
    let codes = search_all(&p, matrix, metric.columns(matrix.cols).as_deref());
    let per_row = matrix.cols.div_ceil(usize::from(p.block)).max(1);
    let mut bits = BitWriter::default();
    for row in codes.chunks(per_row) {
        row.iter().for_each(|code| write(&p, code, &mut bits));
        bits.align();
    }
    Ok(Encoded { codec: Codec::SeedLm(p), payload: bits.finish() })
}

fn write(p: &SeedLmParams, code: &Code, bits: &mut BitWriter) {
    bits.put(code.seed, u32::from(p.bits));
    bits.put(code.exponent.cast_unsigned(), 4);
    code.coeffs[..usize::from(p.coeffs)].iter().for_each(|q| bits.put(q.cast_unsigned(), 4));
}

/// The power of two that brings the root mean square into [1/4, 1/2), in the middle of the block exponents'
/// range.
fn tensor_exponent(weights: &[f32]) -> i8 {
    let energy: f64 = weights.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    let rms = (energy / weights.len().max(1) as f64).sqrt();
    let floor_log2 = (rms.to_bits() >> 52) as i32 - 1023;
    let limit = i32::from(MAX_EXPONENT);
    if rms == 0.0 { 0 } else { (floor_log2 + 2).clamp(-limit, limit) as i8 }
}

/// The best code of every block, row by row. Blocks that share a basis (all of them without an importance,
/// else those under the same columns) are searched together.
fn search_all(p: &SeedLmParams, matrix: &Matrix, importance: Option<&[f32]>) -> Vec<Code> {
    let width = usize::from(p.block);
    let per_row = matrix.cols.div_ceil(width);
    let mut codes = vec![Code::default(); matrix.rows * per_row];
    let full = matrix.cols / width;
    let shared = if importance.is_none() && full > 0 { full } else { 1 };
    let mut first = 0;
    while first < per_row {
        let last = if first + shared <= full { first + shared } else { first + 1 };
        let basis = Basis::new(p, &roots(first, width, matrix.cols, importance));
        let positions: Vec<(usize, usize)> =
            (0..matrix.rows).flat_map(|r| (first..last).map(move |b| (r, b))).collect();
        let found: Vec<Code> = positions
            .par_chunks(BATCH)
            .map_init(|| Searcher::new(&basis), |searcher, batch| search_batch(p, matrix, searcher, batch))
            .flatten()
            .collect();
        for ((r, b), code) in positions.into_iter().zip(found) {
            codes[r * per_row + b] = code;
        }
        first = last;
    }
    codes
}

fn search_batch(
    p: &SeedLmParams,
    matrix: &Matrix,
    searcher: &mut Searcher<'_>,
    batch: &[(usize, usize)],
) -> Vec<Code> {
    let width = usize::from(p.block);
    let scale = 2f64.powi(-i32::from(p.exponent));
    let blocks = batch.iter().map(|&(r, b)| {
        let mut block = vec![0.0; width];
        for (w, x) in block.iter_mut().zip(&matrix.row(r)[b * width..]) {
            *w = (f64::from(*x) * scale) as f32;
        }
        block
    });
    searcher.search(blocks.collect())
}

/// Square roots of the importances of block `b`'s elements; 0 for those that pad the last block of a row.
fn roots(b: usize, width: usize, cols: usize, importance: Option<&[f32]>) -> Vec<f32> {
    let element = |i: usize| match importance {
        _ if i >= cols => 0.0,
        None => 1.0,
        Some(h) => h[i].sqrt(),
    };
    (b * width..(b + 1) * width).map(element).collect()
}

#[cfg(test)]
mod tests;
