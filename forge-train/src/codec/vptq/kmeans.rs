//! Weighted k-means (Lloyd 1982) started by k-means++ (Arthur and Vassilvitskii 2007).
//!
//! Deterministic: the start is drawn from a fixed stream, sums are f64 over chunks of fixed size added in
//! order.

use rayon::prelude::*;

use crate::codec::vptq::book::Book;
use crate::rng::Rng;
use crate::weights::Matrix;

/// Most iterations.
const ITERATIONS: usize = 40;
/// Stop when an iteration lowers the error by less than this share.
const TOLERANCE: f64 = 1e-4;
/// Vectors whose sums are added up before they join the total.
const CHUNK: usize = 2048;

/// The vectors of a matrix whose rows are divided by their scales, and what errors in them cost.
pub(super) struct Vectors {
    dim: usize,
    per_row: usize,
    /// Coordinates, vector by vector; zeros pad the last of a row.
    data: Vec<f32>,
    /// Importance of each column, 0 for padding; the same in every row.
    columns: Vec<f32>,
    /// Square of each row's scale: what a unit of error in it costs.
    rows: Vec<f32>,
}

impl Vectors {
    /// Cuts rows into vectors of `dim` neighbours. A row of scale 0 gives zeros that cost nothing.
    pub(super) fn cut(matrix: &Matrix, columns: &[f32], scales: &[f32], dim: usize) -> Self {
        let per_row = matrix.cols.div_ceil(dim);
        let mut data = vec![0.0; matrix.rows * per_row * dim];
        for (r, row) in data.chunks_mut((per_row * dim).max(1)).enumerate() {
            if scales[r] > 0.0 {
                row.iter_mut().zip(matrix.row(r)).for_each(|(x, w)| *x = w / scales[r]);
            }
        }
        let mut columns = columns.to_vec();
        columns.resize(per_row * dim, 0.0);
        Self { dim, per_row, data, columns, rows: scales.iter().map(|s| s * s).collect() }
    }

    fn len(&self) -> usize {
        self.rows.len() * self.per_row
    }

    /// Vector `i`.
    fn vector(&self, i: usize) -> &[f32] {
        &self.data[i * self.dim..][..self.dim]
    }

    /// Column importances of vector `i`.
    fn weights(&self, i: usize) -> &[f32] {
        &self.columns[i % self.per_row * self.dim..][..self.dim]
    }

    /// Cost of a unit of error in vector `i`'s row.
    fn row_weight(&self, i: usize) -> f64 {
        f64::from(self.rows[i / self.per_row])
    }

    /// The vectors of row `r` with their column importances.
    pub(super) fn row(&self, r: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
        (r * self.per_row..(r + 1) * self.per_row).map(|i| (self.vector(i), self.weights(i)))
    }

    /// Changes every vector, given its column importances.
    pub(super) fn map(&mut self, change: impl Fn(&mut [f32], &[f32]) + Sync) {
        let (dim, per_row, columns) = (self.dim, self.per_row, &self.columns);
        self.data.par_chunks_mut(dim).enumerate().for_each(|(i, vector)| {
            change(vector, &columns[i % per_row * dim..][..dim]);
        });
    }

    /// What replacing vector `i` by `entry` costs.
    fn cost(&self, i: usize, entry: impl Iterator<Item = f32>) -> f64 {
        let terms = self.vector(i).iter().zip(self.weights(i)).zip(entry);
        terms.map(|((x, h), c)| f64::from(h * ((x - c) * (x - c)))).sum::<f64>() * self.row_weight(i)
    }
}

/// A codebook of `entries` vectors with a low total cost. `stream` selects the random start.
pub(super) fn kmeans(vectors: &Vectors, entries: usize, stream: u64) -> Book {
    let mut book = start(vectors, entries, stream);
    let mut last = f64::INFINITY;
    for _ in 0..ITERATIONS {
        let nearest = nearest(vectors, &book);
        let total: f64 = nearest.iter().map(|(_, cost)| cost).sum();
        let revived = update(vectors, &mut book, &nearest);
        if last - total <= TOLERANCE * total && !revived {
            break;
        }
        last = total;
    }
    book
}

/// The nearest entry of every vector, and its cost.
fn nearest(vectors: &Vectors, book: &Book) -> Vec<(u16, f64)> {
    let one = |i| {
        let entry = book.nearest(vectors.vector(i), vectors.weights(i));
        (entry, vectors.cost(i, book.entry(usize::from(entry))))
    };
    (0..vectors.len()).into_par_iter().map(one).collect()
}

/// k-means++: each next entry is a vector drawn with probability proportional to its cost so far.
fn start(vectors: &Vectors, entries: usize, stream: u64) -> Book {
    let mut rng = Rng::at_step(0, "vptq", stream);
    let mut costs: Vec<f64> = vec![f64::INFINITY; vectors.len()];
    let mut chosen = vec![rng.below(vectors.len())];
    while chosen.len() < entries {
        let entry = chosen[chosen.len() - 1];
        costs.par_iter_mut().enumerate().for_each(|(i, cost)| {
            *cost = cost.min(vectors.cost(i, vectors.vector(entry).iter().copied()));
        });
        let total: f64 = costs.iter().sum();
        let mut left = total * f64::from(rng.uniform());
        let hit = costs.iter().position(|cost| {
            left -= cost;
            left < 0.0
        });
        chosen.push(hit.unwrap_or_else(|| rng.below(vectors.len())));
    }
    Book::new(vectors.dim, chosen.into_iter().map(|i| vectors.vector(i).iter().copied()))
}

/// Moves every entry to the weighted mean of its vectors, coordinate by coordinate, and entries without any
/// to the vectors that cost most; says whether there were such entries.
fn update(vectors: &Vectors, book: &mut Book, nearest: &[(u16, f64)]) -> bool {
    let sums = sums(vectors, nearest, book.len());
    let revivals = revivals(nearest, book.len());
    let moved: Vec<Vec<f32>> = sums
        .chunks(vectors.dim)
        .zip(&revivals)
        .enumerate()
        .map(|(entry, (sums, revival))| {
            let mean = |([sum, weight], old): (&[f64; 2], f32)| {
                if *weight > 0.0 { (sum / weight) as f32 } else { old }
            };
            match revival {
                Some(i) => vectors.vector(*i).to_vec(),
                None => sums.iter().zip(book.entry(entry)).map(mean).collect(),
            }
        })
        .collect();
    *book = Book::new(vectors.dim, moved.into_iter());
    revivals.iter().any(Option::is_some)
}

/// Weighted sum and total weight of every coordinate of every entry's vectors.
fn sums(vectors: &Vectors, nearest: &[(u16, f64)], entries: usize) -> Vec<[f64; 2]> {
    let dim = vectors.dim;
    let chunk = |(first, nearest): (usize, &[(u16, f64)])| {
        let mut sums = vec![[0.0f64; 2]; entries * dim];
        for (i, (entry, _)) in nearest.iter().enumerate() {
            let i = first * CHUNK + i;
            let coordinates = vectors.vector(i).iter().zip(vectors.weights(i));
            for ([sum, weight], (x, h)) in sums[usize::from(*entry) * dim..].iter_mut().zip(coordinates) {
                let cost = vectors.row_weight(i) * f64::from(*h);
                *sum += cost * f64::from(*x);
                *weight += cost;
            }
        }
        sums
    };
    let chunks: Vec<_> = nearest.par_chunks(CHUNK).enumerate().map(chunk).collect();
    let mut total = vec![[0.0f64; 2]; entries * dim];
    for chunk in chunks {
        total.iter_mut().zip(chunk).for_each(|(t, c)| *t = [t[0] + c[0], t[1] + c[1]]);
    }
    total
}

/// For every entry that no vector is nearest to, a vector to move it to: the costliest first.
fn revivals(nearest: &[(u16, f64)], entries: usize) -> Vec<Option<usize>> {
    let mut used = vec![false; entries];
    nearest.iter().for_each(|(entry, _)| used[usize::from(*entry)] = true);
    let unused = used.iter().filter(|used| !**used).count();
    let mut costly: Vec<usize> = (0..nearest.len()).filter(|&i| unused > 0 && nearest[i].1 > 0.0).collect();
    costly.sort_by(|&a, &b| nearest[b].1.total_cmp(&nearest[a].1).then(a.cmp(&b)));
    let mut costly = costly.into_iter();
    used.iter().map(|used| if *used { None } else { costly.next() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(data: &[f32], columns: &[f32], scales: &[f32]) -> Vectors {
        let matrix = Matrix { rows: scales.len(), cols: data.len() / scales.len(), data: data.to_vec() };
        Vectors::cut(&matrix, columns, scales, 2)
    }

    #[test]
    fn rows_are_cut_normalised_and_padded() {
        let v = vectors(&[2.0, 4.0, 6.0, 8.0, 1.0, 1.0], &[1.0, 2.0, 3.0], &[2.0, 0.0]);
        assert_eq!(v.data, [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(v.row(0).last(), Some((&[3.0, 0.0][..], &[3.0, 0.0][..])));
        assert_eq!((v.row_weight(1), v.row_weight(2)), (4.0, 0.0));
        assert_eq!(v.cost(0, [0.0, 0.0].into_iter()), 4.0 * (1.0 + 2.0 * 4.0));
    }

    #[test]
    fn clusters_are_found_and_weights_pull_the_means() {
        let data = [0.0, 0.0, 10.0, 10.0, 0.1, 0.1, 10.1, 10.1];
        let v = vectors(&data, &[1.0; 4], &[1.0, 1.0]);
        let book = kmeans(&v, 2, 0);
        let mut entries: Vec<Vec<f32>> = (0..2).map(|i| book.entry(i).collect()).collect();
        entries.sort_by(|a, b| a[0].total_cmp(&b[0]));
        assert_eq!(entries, [[0.05, 0.05], [10.05, 10.05]]);
        // The second row's scale makes it nine times as costly: (0, 0), (10, 10) and three times as much.
        let v = vectors(&[0.0, 0.0, 4.0, 4.0], &[1.0; 2], &[1.0, 2.0]);
        assert_eq!(kmeans(&v, 1, 0).entry(0).collect::<Vec<_>>(), [1.6, 1.6]);
    }

    #[test]
    fn unused_entries_move_to_the_costliest_vectors() {
        let nearest = [(1, 0.5), (1, 2.0), (3, 0.0), (1, 2.0)];
        assert_eq!(revivals(&nearest, 5), [Some(1), None, Some(3), None, Some(0)]);
        assert_eq!(revivals(&nearest[..1], 2), [Some(0), None]);
    }

    #[test]
    fn more_entries_than_vectors_reproduce_them_all() {
        let v = vectors(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1.0; 6], &[1.0]);
        let book = kmeans(&v, 16, 0);
        assert!((0..3).all(|i| v.cost(i, book.entry(book.nearest(v.vector(i), v.weights(i)).into())) < 1e-9));
    }
}
