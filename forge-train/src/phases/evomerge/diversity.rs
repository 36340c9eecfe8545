//! How different the individuals of a population are.

use crate::rng::Rng;
use crate::weights::{Key, Weights};

/// A seeded choice of weights by which models are compared.
#[derive(Clone, Debug)]
pub struct Sample {
    places: Vec<(Key, usize)>,
    origin: Vec<f64>,
}

impl Sample {
    /// `size` places drawn evenly from all weights of `base`, from which differences are measured.
    pub fn new(base: &Weights, size: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed, &["diversity"]);
        let total = base.parameters();
        let mut drawn: Vec<usize> = (0..size).map(|_| rng.below(total)).collect();
        drawn.sort_unstable();
        let mut places = Vec::with_capacity(size);
        let mut tensors = base.tensors.iter();
        let mut start = 0;
        let mut current = tensors.next();
        for index in drawn {
            while let Some((key, m)) = current {
                if index < start + m.data.len() {
                    places.push((*key, index - start));
                    break;
                }
                start += m.data.len();
                current = tensors.next();
            }
        }
        let mut sample = Self { places, origin: Vec::new() };
        sample.origin = sample.values(base);
        sample
    }

    fn values(&self, model: &Weights) -> Vec<f64> {
        self.places.iter().map(|&((role, layer), i)| f64::from(model.get(role, layer).data[i])).collect()
    }

    /// What `model` learned beyond the base, at the sampled places.
    pub fn delta(&self, model: &Weights) -> Vec<f64> {
        self.values(model).iter().zip(&self.origin).map(|(v, o)| v - o).collect()
    }
}

/// Distance of two deltas, `‖a − b‖ / (‖a‖ + ‖b‖)`: 0 for equal ones, 1/√2 for orthogonal ones of equal
/// length, 1 for opposite ones. Deltas and not weights, since the common base would drown every difference.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let lengths = norm(&mut a.iter().copied()) + norm(&mut b.iter().copied());
    if lengths > 0.0 { norm(&mut a.iter().zip(b).map(|(x, y)| x - y)) / lengths } else { 0.0 }
}

/// Mean distance of all pairs; 0 for fewer than two.
pub fn diversity(deltas: &[Vec<f64>]) -> f64 {
    let pairs = deltas.iter().enumerate().flat_map(|(i, a)| deltas[..i].iter().map(move |b| (a, b)));
    let (sum, count) = pairs.fold((0.0, 0u32), |(sum, n), (a, b)| (sum + distance(a, b), n + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{model, model_of};

    #[test]
    fn distances_are_normalised() {
        assert_eq!(distance(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(distance(&[1.0, 0.0], &[-2.0, 0.0]), 1.0);
        assert!((distance(&[2.0, 0.0], &[0.0, 2.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(distance(&[0.0], &[0.0]), 0.0);
        assert_eq!(diversity(&[vec![1.0], vec![1.0], vec![-1.0]]), 2.0 / 3.0);
        assert_eq!(diversity(&[vec![1.0]]), 0.0);
    }

    #[test]
    fn the_sample_sees_differences_from_the_base() {
        let base = model(1);
        let sample = Sample::new(&base, 500, 7);
        assert_eq!(sample.places.len(), 500);
        assert!(sample.delta(&base).iter().all(|&d| d == 0.0));
        let (a, b) = (sample.delta(&model(2)), sample.delta(&model(3)));
        assert!(distance(&a, &b) > 0.3);
        let zero = Sample::new(&model_of(0.0), 100, 7);
        assert_eq!(zero.delta(&model_of(2.0)), vec![2.0; 100]);
    }
}
