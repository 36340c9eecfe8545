//! Codebooks: floating-point ones for searching, int8 ones as stored.

use half::f16;

/// A codebook laid out for searching: coordinate by coordinate, entry by entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Book {
    coordinates: Vec<Vec<f32>>,
}

impl Book {
    /// A codebook of `entries`, each of `dim` coordinates.
    pub(super) fn new(dim: usize, entries: impl Iterator<Item = impl IntoIterator<Item = f32>>) -> Self {
        let mut coordinates = vec![Vec::new(); dim];
        for entry in entries {
            coordinates.iter_mut().zip(entry).for_each(|(column, x)| column.push(x));
        }
        Self { coordinates }
    }

    /// Coordinates of an entry.
    pub(super) fn dim(&self) -> usize {
        self.coordinates.len()
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.coordinates.first().map_or(0, Vec::len)
    }

    /// The coordinates of entry `i`.
    pub(super) fn entry(&self, i: usize) -> impl Iterator<Item = f32> + '_ {
        self.coordinates.iter().map(move |column| column[i])
    }

    /// The entry with the least `Σ weight·(x − entry)²`; the first of equals.
    pub(super) fn nearest(&self, vector: &[f32], weights: &[f32]) -> u16 {
        let mut distances = [0.0f32; 1 << 10];
        let distances = &mut distances[..self.len()];
        for ((x, h), column) in vector.iter().zip(weights).zip(&self.coordinates) {
            for (distance, c) in distances.iter_mut().zip(column) {
                *distance += h * ((x - c) * (x - c));
            }
        }
        let mut best = (0, f32::INFINITY);
        for (i, &distance) in distances.iter().enumerate() {
            if distance < best.1 {
                best = (i, distance);
            }
        }
        best.0 as u16
    }
}

/// A codebook as the payload stores it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantised {
    pub(super) scale: f16,
    pub(super) entries: Vec<i8>,
    dim: usize,
}

impl Quantised {
    /// Rounds a codebook to 127 steps of its largest coordinate.
    pub(super) fn new(book: &Book) -> Self {
        let entries = || (0..book.len()).flat_map(|i| book.entry(i));
        let largest = entries().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = f16::from_f32((largest / 127.0).min(f16::MAX.to_f32()));
        let step = if scale > f16::ZERO { scale.to_f32() } else { 1.0 };
        let round = |x: f32| (x / step).round().clamp(-127.0, 127.0) as i8;
        Self { scale, entries: entries().map(round).collect(), dim: book.dim() }
    }

    /// Coordinate `c` of entry `i`.
    pub(super) fn value(&self, i: u16, c: usize) -> f32 {
        f32::from(self.entries[usize::from(i) * self.dim + c]) * self.scale.to_f32()
    }

    /// The coordinates of entry `i`.
    pub(super) fn entry(&self, i: u16) -> impl Iterator<Item = f32> + '_ {
        (0..self.dim).map(move |c| self.value(i, c))
    }

    /// The codebook for searching.
    pub(super) fn book(&self) -> Book {
        Book::new(self.dim, (0..self.entries.len() / self.dim).map(|i| self.entry(i as u16)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_weighs_coordinates_and_prefers_the_first_of_equals() {
        let book = Book::new(2, [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]].into_iter());
        assert_eq!(book.nearest(&[0.9, 0.0], &[1.0, 1.0]), 1);
        assert_eq!(book.nearest(&[0.9, 0.8], &[0.1, 1.0]), 2);
        assert_eq!(book.nearest(&[0.9, 0.8], &[0.0, 0.0]), 0);
    }

    #[test]
    fn stored_books_use_all_of_int8() {
        let quantised = Quantised::new(&Book::new(2, [[0.5, -1.27], [0.25, 0.0]].into_iter()));
        assert_eq!(quantised.entries, [50, -127, 25, 0]);
        assert!((quantised.value(0, 1) + 1.27).abs() < 1e-3);
        let zero = Quantised::new(&Book::new(2, [[0.0, 0.0]].into_iter()));
        assert_eq!((zero.scale, zero.entries), (f16::ZERO, vec![0, 0]));
    }
}
