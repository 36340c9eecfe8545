//! Quantisation with error feedback under a full Hessian: what a vector gets wrong, the columns still to
//! come make up for (optimal brain surgeon; Hassibi and Stork 1993, Frantar et al. 2022 GPTQ, VPTQ section 3.2).

use std::ops::Range;

use rayon::prelude::*;

use crate::codec::vptq::book::{Book, Quantised};
use crate::codec::vptq::{Books, Index};
use crate::weights::Matrix;

/// Share of the diagonal's mean that is added to the diagonal.
const DAMPING: f64 = 0.01;

/// A Hessian's factors and the codebooks seen through them.
pub(super) struct Feedback<'a> {
    hessian: &'a [f32],
    cols: usize,
    books: &'a Books,
    /// Upper triangular R with `H = R Rᵀ`, row-major, columns in the order of `blocks`.
    factor: Vec<f64>,
    /// R⁻¹.
    inverse: Vec<f64>,
    blocks: Vec<Block>,
}

/// The columns that one vector of a row covers.
struct Block {
    /// Which vector of the row.
    vector: usize,
    /// Its columns in the matrix.
    columns: Range<usize>,
    /// Its columns in the factors.
    seen: Range<usize>,
    /// Codebooks times R's diagonal block: distances there are costs.
    main: Book,
    residual: Option<Book>,
}

impl<'a> Feedback<'a> {
    /// Factorises a `cols × cols` Hessian after damping. Vectors are quantised by falling importance, so that
    /// the columns left to make up for errors are those where that is cheap; the order is not stored, as
    /// every vector's indices lie at its place in the row.
    pub(super) fn new(hessian: &'a [f32], cols: usize, dim: usize, books: &'a Books) -> Self {
        let diagonal = |columns: &Range<usize>| columns.clone().map(|c| hessian[c * (cols + 1)]).sum::<f32>();
        let mut order: Vec<(usize, Range<usize>)> =
            (0..cols).step_by(dim).map(|first| first..(first + dim).min(cols)).enumerate().collect();
        order.sort_by(|(_, a), (_, b)| diagonal(b).total_cmp(&diagonal(a)));
        let permuted: Vec<usize> = order.iter().flat_map(|(_, columns)| columns.clone()).collect();
        let factor = factorise(cols, |i, j| f64::from(hessian[permuted[i] * cols + permuted[j]]));
        let inverse = invert(&factor, cols);
        let (main, residual) = (books.main.book(), books.residual.as_ref().map(Quantised::book));
        let mut next = 0;
        let block = |(vector, columns): (usize, Range<usize>)| {
            let seen = next..next + columns.len();
            next = seen.end;
            let through = |book: &Book| {
                let entry =
                    |i| through(&factor, cols, &seen, &book.entry(i).map(f64::from).collect::<Vec<_>>());
                Book::new(seen.len(), (0..book.len()).map(entry))
            };
            Block { vector, columns, main: through(&main), residual: residual.as_ref().map(through), seen }
        };
        let blocks = order.into_iter().map(block).collect();
        Self { hessian, cols, books, factor, inverse, blocks }
    }

    /// Quantises every row.
    pub(super) fn assign(&self, matrix: &Matrix, scales: &[f32]) -> Vec<Vec<Index>> {
        let row = |r: usize| self.assign_row(matrix.row(r), f64::from(scales[r]));
        (0..matrix.rows).into_par_iter().map(row).collect()
    }

    fn assign_row(&self, row: &[f32], scale: f64) -> Vec<Index> {
        let mut indices = vec![(0, 0); self.blocks.len()];
        if scale == 0.0 {
            return indices;
        }
        let columns = self.blocks.iter().flat_map(|block| &row[block.columns.clone()]);
        let mut left: Vec<f64> = columns.map(|w| f64::from(*w)).collect();
        for block in &self.blocks {
            let target: Vec<f64> = left[block.seen.clone()].iter().map(|w| w / scale).collect();
            let index = self.nearest(block, &target);
            let errors = target.iter().zip(self.books.vector(index)).map(|(t, q)| (t - f64::from(q)) * scale);
            let costs = self.through(block, &errors.collect::<Vec<_>>());
            for (cost, i) in costs.iter().zip(block.seen.clone()) {
                let row = &self.inverse[i * self.cols..(i + 1) * self.cols];
                let rest = left.iter_mut().zip(row).skip(block.seen.end);
                rest.for_each(|(w, u)| *w -= f64::from(*cost) * u);
            }
            indices[block.vector] = index;
        }
        indices
    }

    fn through(&self, block: &Block, vector: &[f64]) -> Vec<f32> {
        through(&self.factor, self.cols, &block.seen, vector)
    }

    /// The cheapest main entry, then the cheapest residual entry for what it leaves.
    fn nearest(&self, block: &Block, target: &[f64]) -> Index {
        const WEIGHTS: [f32; 16] = [1.0; 16];
        let i = block.main.nearest(&self.through(block, target), &WEIGHTS);
        let Some(book) = &block.residual else { return (i, 0) };
        let rest = target.iter().zip(self.books.main.entry(i)).map(|(t, c)| t - f64::from(c));
        (i, book.nearest(&self.through(block, &rest.collect::<Vec<_>>()), &WEIGHTS))
    }

    /// A row times the Hessian.
    pub(super) fn times_hessian(&self, row: &[f32]) -> Vec<f64> {
        let mut out = vec![0.0; self.cols];
        for (x, h) in row.iter().zip(self.hessian.chunks_exact(self.cols)) {
            out.iter_mut().zip(h).for_each(|(out, h)| *out += f64::from(*x) * f64::from(*h));
        }
        out
    }
}

/// A vector times the diagonal block `seen` of R; elements past the last column are dropped.
fn through(factor: &[f64], n: usize, seen: &Range<usize>, vector: &[f64]) -> Vec<f32> {
    let mut out = vec![0.0; seen.len()];
    for (x, i) in vector.iter().zip(seen.clone()) {
        let row = &factor[i * n..(i + 1) * n][seen.clone()];
        out.iter_mut().zip(row).for_each(|(out, r)| *out += x * r);
    }
    out.into_iter().map(|x| x as f32).collect()
}

/// Upper triangular R with `H + damping = R Rᵀ`, by Cholesky's method from the last column. Total: a diagonal
/// that would not be positive, as in a matrix that is no Hessian, is held at a share of the damping.
fn factorise(n: usize, hessian: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mean = (0..n).map(|i| hessian(i, i)).sum::<f64>() / n as f64;
    let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
    let mut r = vec![0.0; n * n];
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let (row_i, row_j) = (&r[i * n + j + 1..(i + 1) * n], &r[j * n + j + 1..(j + 1) * n]);
            let done: f64 = row_i.iter().zip(row_j).map(|(a, b)| a * b).sum();
            let left = hessian(i, j) - done;
            r[i * n + j] =
                if i == j { (left + damping).max(1e-3 * damping).sqrt() } else { left / r[j * n + j] };
        }
    }
    r
}

/// Inverse of an upper triangular matrix.
fn invert(r: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    inverse.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        row[i] = 1.0;
        for j in i..n {
            row[j] /= r[j * n + j];
            let (done, rest) = row.split_at_mut(j + 1);
            rest.iter_mut().zip(&r[j * n + j + 1..]).for_each(|(x, r)| *x -= done[j] * r);
        }
    });
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: [f32; 9] = [4.0, 2.0, 0.5, 2.0, 3.0, 1.0, 0.5, 1.0, 2.0];

    #[test]
    fn factors_multiply_back_to_the_damped_hessian() {
        let r = factorise(3, |i, j| f64::from(H[i * 3 + j]));
        let inverse = invert(&r, 3);
        for i in 0..3 {
            for j in 0..3 {
                let product =
                    |a: &[f64], b: &dyn Fn(usize) -> f64| (0..3).map(|k| a[i * 3 + k] * b(k)).sum::<f64>();
                let damped = f64::from(H[i * 3 + j]) + if i == j { 0.03 } else { 0.0 };
                assert!((product(&r, &|k| r[j * 3 + k]) - damped).abs() < 1e-12);
                assert!((product(&r, &|k| inverse[k * 3 + j]) - f64::from(u8::from(i == j))).abs() < 1e-12);
                assert!(i <= j || r[i * 3 + j] == 0.0);
            }
        }
    }

    #[test]
    fn matrices_that_are_no_hessians_still_factorise() {
        for h in [[0.0f32; 9], [1.0, 5.0, 0.0, 5.0, 1.0, 0.0, 0.0, 0.0, 1.0]] {
            let r = factorise(3, |i, j| f64::from(h[i * 3 + j]));
            assert!(invert(&r, 3).iter().all(|x| x.is_finite()));
        }
    }
}
