//! Quantisation with error feedback under a full Hessian: what a vector gets wrong, the columns to its right make up
//! for (optimal brain surgeon; Hassibi and Stork 1993, Frantar et al. 2022 GPTQ, VPTQ section 3.2).

use rayon::prelude::*;

use crate::codec::vptq::book::Book;
use crate::codec::vptq::{Books, Index};
use crate::weights::Matrix;

/// Share of the diagonal's mean that is added to the diagonal.
const DAMPING: f64 = 0.01;

/// A Hessian's factors and the codebooks seen through them.
pub(super) struct Feedback<'a> {
    hessian: &'a [f32],
    cols: usize,
    dim: usize,
    /// Upper triangular R with `H = R Rᵀ`, row-major.
    factor: Vec<f64>,
    /// R⁻¹.
    inverse: Vec<f64>,
    books: &'a Books,
    /// Codebooks times each block of R's diagonal: distances there are costs.
    main: Vec<Book>,
    residual: Vec<Book>,
}

impl<'a> Feedback<'a> {
    /// Factorises a `cols × cols` Hessian after damping.
    pub(super) fn new(hessian: &'a [f32], cols: usize, dim: usize, books: &'a Books) -> Self {
        let factor = factorise(hessian, cols);
        let inverse = invert(&factor, cols);
        let mut this =
            Self { hessian, cols, dim, factor, inverse, books, main: Vec::new(), residual: Vec::new() };
        let seen = |book: &Book, first| {
            let entry = |i| this.through(first, &book.entry(i).map(f64::from).collect::<Vec<_>>());
            Book::new(dim.min(cols - first), (0..book.len()).map(entry))
        };
        let firsts = || (0..cols).step_by(dim);
        let stored = books.main.book();
        let main: Vec<Book> = firsts().map(|first| seen(&stored, first)).collect();
        let stored = books.residual.as_ref().map(super::Quantised::book);
        let residual = stored.map(|book| firsts().map(|first| seen(&book, first)).collect());
        this.main = main;
        this.residual = residual.unwrap_or_default();
        this
    }

    /// A vector at columns `first..` times R's diagonal block there; elements past the last column are dropped.
    fn through(&self, first: usize, vector: &[f64]) -> Vec<f32> {
        let last = (first + self.dim).min(self.cols);
        let mut out = vec![0.0; last - first];
        for (x, i) in vector.iter().zip(first..last) {
            let row = &self.factor[i * self.cols + first..i * self.cols + last];
            out.iter_mut().zip(row).for_each(|(out, r)| *out += x * r);
        }
        out.into_iter().map(|x| x as f32).collect()
    }

    /// Quantises every row, vector by vector from the left.
    pub(super) fn assign(&self, matrix: &Matrix, scales: &[f32]) -> Vec<Vec<Index>> {
        let row = |r: usize| self.assign_row(matrix.row(r), f64::from(scales[r]));
        (0..matrix.rows).into_par_iter().map(row).collect()
    }

    fn assign_row(&self, row: &[f32], scale: f64) -> Vec<Index> {
        let mut left: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
        let mut indices = Vec::with_capacity(self.main.len());
        if scale == 0.0 {
            indices.resize(self.main.len(), (0, 0));
            return indices;
        }
        for (block, first) in (0..self.cols).step_by(self.dim).enumerate() {
            let last = (first + self.dim).min(self.cols);
            let target: Vec<f64> = left[first..last].iter().map(|w| w / scale).collect();
            let index = self.nearest(block, first, &target);
            let errors = target.iter().zip(self.books.vector(index)).map(|(t, q)| (t - f64::from(q)) * scale);
            let costs = self.through(first, &errors.collect::<Vec<_>>());
            for (cost, i) in costs.iter().zip(first..last) {
                let row = &self.inverse[i * self.cols + last..(i + 1) * self.cols];
                left[last..].iter_mut().zip(row).for_each(|(w, u)| *w -= f64::from(*cost) * u);
            }
            indices.push(index);
        }
        indices
    }

    /// The cheapest main entry, then the cheapest residual entry for what it leaves.
    fn nearest(&self, block: usize, first: usize, target: &[f64]) -> Index {
        const WEIGHTS: [f32; 16] = [1.0; 16];
        let i = self.main[block].nearest(&self.through(first, target), &WEIGHTS);
        let Some(book) = self.residual.get(block) else { return (i, 0) };
        let rest: Vec<f64> =
            target.iter().zip(self.books.main.entry(i)).map(|(t, c)| t - f64::from(c)).collect();
        (i, book.nearest(&self.through(first, &rest), &WEIGHTS))
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

/// Upper triangular R with `H + damping = R Rᵀ`, by Cholesky's method from the last column. Total: a diagonal that would not
/// be positive, as in a matrix that is no Hessian, is held at a share of the damping.
fn factorise(hessian: &[f32], n: usize) -> Vec<f64> {
    let mean = hessian.iter().step_by(n + 1).map(|h| f64::from(*h)).sum::<f64>() / n as f64;
    let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
    let mut r = vec![0.0; n * n];
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let (row_i, row_j) = (&r[i * n + j + 1..(i + 1) * n], &r[j * n + j + 1..(j + 1) * n]);
            let done: f64 = row_i.iter().zip(row_j).map(|(a, b)| a * b).sum();
            let left = f64::from(hessian[i * n + j]) - done;
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
        let r = factorise(&H, 3);
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
        for h in [[0.0; 9], [1.0, 5.0, 0.0, 5.0, 1.0, 0.0, 0.0, 0.0, 1.0]] {
            let r = factorise(&h, 3);
            assert!(invert(&r, 3).iter().all(|x| x.is_finite()));
        }
    }
}
