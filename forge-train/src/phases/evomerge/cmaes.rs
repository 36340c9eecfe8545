//! CMA-ES: minimises a function of a few dozen numbers by samples from a normal distribution that learns its shape
//! (Hansen 2016, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; equation numbers refer to it). Positive
//! weights only, default parameters.

use crate::rng::Rng;

/// Variances below this share of the largest count as this share: the matrix stays regular.
const FLAT: f64 = 1e-14;

/// The state of a search in `n` dimensions.
#[derive(Clone, Debug)]
pub struct CmaEs {
    mean: Vec<f64>,
    sigma: f64,
    /// Covariance, `n` rows of `n`.
    covariance: Vec<Vec<f64>>,
    /// Eigenvectors as columns, and square roots of the eigenvalues.
    basis: Vec<Vec<f64>>,
    scales: Vec<f64>,
    path_sigma: Vec<f64>,
    path_c: Vec<f64>,
    generation: i32,
    population: usize,
    /// Recombination weights of the better half, which sum to 1.
    weights: Vec<f64>,
    /// Their effective number.
    mu_eff: f64,
}

impl CmaEs {
    /// A search from `mean` with standard deviation `sigma` in each dimension and `population` samples a generation
    /// (at least 4; the tutorial's default is [`CmaEs::default_population`]).
    pub fn new(mean: Vec<f64>, sigma: f64, population: usize) -> Self {
        let n = mean.len();
        let population = population.max(4);
        let half = population / 2;
        let raw: Vec<f64> =
            (1..=half).map(|i| ((population as f64 + 1.0) / 2.0).ln() - (i as f64).ln()).collect();
        let total: f64 = raw.iter().sum();
        let weights: Vec<f64> = raw.iter().map(|w| w / total).collect();
        let mu_eff = 1.0 / weights.iter().map(|w| w * w).sum::<f64>();
        let identity: Vec<Vec<f64>> =
            (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
        Self {
            mean,
            sigma,
            covariance: identity.clone(),
            basis: identity,
            scales: vec![1.0; n],
            path_sigma: vec![0.0; n],
            path_c: vec![0.0; n],
            generation: 0,
            population,
            weights,
            mu_eff,
        }
    }

    /// `4 + ⌊3 ln n⌋` (eq. 48).
    pub fn default_population(n: usize) -> usize {
        4 + (3.0 * (n.max(1) as f64).ln()) as usize
    }

    /// Centre of the distribution.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Its overall scale.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// A generation of samples `m + σ B D z` (eq. 38 to 40).
    pub fn ask(&self, rng: &mut Rng) -> Vec<Vec<f64>> {
        (0..self.population)
            .map(|_| {
                let z: Vec<f64> = self.scales.iter().map(|d| d * f64::from(rng.normal())).collect();
                let y = self.basis.iter().map(|row| dot(row, &z));
                self.mean.iter().zip(y).map(|(m, y)| m + self.sigma * y).collect()
            })
            .collect()
    }

    /// Learns from a generation and what the function gave; values that are not finite count as the worst. Of equals,
    /// the earlier sample is the better.
    pub fn tell(&mut self, samples: &[Vec<f64>], values: &[f64]) {
        let n = self.mean.len() as f64;
        let mut order: Vec<usize> = (0..samples.len().min(values.len())).collect();
        let rank = |i: &usize| if values[*i].is_finite() { values[*i] } else { f64::INFINITY };
        order.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        if order.len() < self.weights.len() || !rank(&order[self.weights.len() - 1]).is_finite() {
            // Fewer than half can be judged: nothing is learned from the others.
            return;
        }
        self.generation += 1;
        let steps: Vec<Vec<f64>> = order[..self.weights.len()]
            .iter()
            .map(|&i| samples[i].iter().zip(&self.mean).map(|(x, m)| (x - m) / self.sigma).collect())
            .collect();
        let step = combine(&self.weights, &steps);
        self.mean.iter_mut().zip(&step).for_each(|(m, y)| *m += self.sigma * y);

        // Step size (eq. 43, 44).
        let c_sigma = (self.mu_eff + 2.0) / (n + self.mu_eff + 5.0);
        let d_sigma = 1.0 + 2.0 * (((self.mu_eff - 1.0) / (n + 1.0)).sqrt() - 1.0).max(0.0) + c_sigma;
        let keep = (c_sigma * (2.0 - c_sigma) * self.mu_eff).sqrt();
        let white = self.whiten(&step);
        self.path_sigma.iter_mut().zip(&white).for_each(|(p, w)| *p = (1.0 - c_sigma) * *p + keep * w);
        let expected = n.sqrt() * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n));
        let length = dot(&self.path_sigma, &self.path_sigma).sqrt();
        self.sigma *= (c_sigma / d_sigma * (length / expected - 1.0)).exp();

        let settled = (1.0 - (1.0 - c_sigma).powi(2 * self.generation)).sqrt();
        let stalled = length / settled >= (1.4 + 2.0 / (n + 1.0)) * expected;
        self.adapt_covariance(&step, &steps, stalled);
    }

    /// `C^(−1/2) y`.
    fn whiten(&self, y: &[f64]) -> Vec<f64> {
        let n = y.len();
        let column = |j: usize| (0..n).map(|i| self.basis[i][j] * y[i]).sum::<f64>();
        let inside: Vec<f64> = (0..n).map(|j| column(j) / self.scales[j]).collect();
        self.basis.iter().map(|row| dot(row, &inside)).collect()
    }

    /// Rank-one and rank-μ update (eq. 45 to 47), then a new basis.
    fn adapt_covariance(&mut self, step: &[f64], steps: &[Vec<f64>], stalled: bool) {
        let n = self.mean.len() as f64;
        let mu = self.mu_eff;
        let c_c = (4.0 + mu / n) / (n + 4.0 + 2.0 * mu / n);
        let c_1 = 2.0 / ((n + 1.3).powi(2) + mu);
        let c_mu = (1.0 - c_1).min(2.0 * (0.25 + mu + 1.0 / mu - 2.0) / ((n + 2.0).powi(2) + mu));
        let h = f64::from(u8::from(!stalled));
        let keep = h * (c_c * (2.0 - c_c) * mu).sqrt();
        self.path_c.iter_mut().zip(step).for_each(|(p, y)| *p = (1.0 - c_c) * *p + keep * y);
        let old = 1.0 + c_1 * (1.0 - h) * c_c * (2.0 - c_c) - c_1 - c_mu;
        for i in 0..self.mean.len() {
            for j in 0..=i {
                let rank_one = self.path_c[i] * self.path_c[j];
                let rank_mu: f64 = self.weights.iter().zip(steps).map(|(w, y)| w * y[i] * y[j]).sum();
                let value = old * self.covariance[i][j] + c_1 * rank_one + c_mu * rank_mu;
                self.covariance[i][j] = value;
                self.covariance[j][i] = value;
            }
        }
        let (values, basis) = eigen(&self.covariance);
        let floor = FLAT * values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        self.scales = values.iter().map(|v| v.max(floor).sqrt()).collect();
        self.basis = basis;
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `Σ w_k y_k`.
fn combine(weights: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let n = vectors.first().map_or(0, Vec::len);
    (0..n).map(|i| weights.iter().zip(vectors).map(|(w, y)| w * y[i]).sum()).collect()
}

/// Eigenvalues of a symmetric matrix, and its eigenvectors as columns, by cyclic Jacobi rotations (Golub and Van Loan,
/// Matrix Computations, section 8.5).
fn eigen(matrix: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = matrix.len();
    let mut a = matrix.to_vec();
    let mut v: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let size: f64 = a.iter().map(|row| dot(row, row)).sum();
    for _ in 0..50 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        if off <= 1e-26 * size {
            break;
        }
        for q in 1..n {
            for p in 0..q {
                rotate(&mut a, &mut v, p, q);
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), v)
}

/// Makes `a[p][q]` zero; `p` comes before `q`.
fn rotate(a: &mut [Vec<f64>], v: &mut [Vec<f64>], p: usize, q: usize) {
    if a[p][q] == 0.0 {
        return;
    }
    let tau = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    let t = if tau >= 0.0 { 1.0 } else { -1.0 } / (tau.abs() + (1.0 + tau * tau).sqrt());
    let c = 1.0 / (1.0 + t * t).sqrt();
    let s = t * c;
    let turn = |row: &mut Vec<f64>| (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
    a.iter_mut().for_each(turn);
    v.iter_mut().for_each(turn);
    let (upper, lower) = a.split_at_mut(q);
    for (x, y) in upper[p].iter_mut().zip(&mut lower[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best value after so many generations, the last mean and sigma.
    fn minimise(n: usize, generations: u64, f: impl Fn(&[f64]) -> f64) -> (f64, Vec<f64>) {
        let mut search = CmaEs::new(vec![0.5; n], 1.0 / 6.0, CmaEs::default_population(n));
        let mut best = f64::INFINITY;
        for generation in 0..generations {
            let samples = search.ask(&mut Rng::at_step(7, "cma", generation));
            let values: Vec<f64> = samples.iter().map(|x| f(x)).collect();
            best = values.iter().copied().fold(best, f64::min);
            search.tell(&samples, &values);
        }
        (best, search.mean().to_vec())
    }

    #[test]
    fn a_stretched_quadratic_is_minimised() {
        // Condition number 10⁴; random sampling at σ = 1/6 never comes near.
        let scale = |i: usize| 1e4f64.powf(i as f64 / 5.0);
        let f = |x: &[f64]| x.iter().enumerate().map(|(i, v)| scale(i) * (v - 0.2).powi(2)).sum::<f64>();
        let (best, mean) = minimise(6, 250, f);
        assert!(best < 1e-8, "{best}");
        assert!(mean.iter().all(|m| (m - 0.2).abs() < 1e-3), "{mean:?}");
    }

    #[test]
    fn the_bent_valley_of_rosenbrock_is_followed() {
        let f = |x: &[f64]| {
            x.windows(2).map(|w| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2)).sum::<f64>()
        };
        let (best, mean) = minimise(4, 500, f);
        assert!(best < 1e-8 && mean.iter().all(|m| (m - 1.0).abs() < 1e-3), "{best} at {mean:?}");
    }

    #[test]
    fn without_learning_nothing_converges() {
        // The negative control: samples of the first distribution only.
        let search = CmaEs::new(vec![0.5; 6], 1.0 / 6.0, 9);
        let f = |x: &[f64]| x.iter().map(|v| (v - 0.2).powi(2)).sum::<f64>();
        let all = (0..250).flat_map(|g| search.ask(&mut Rng::at_step(7, "cma", g)));
        assert!(all.map(|x| f(&x)).fold(f64::INFINITY, f64::min) > 1e-4);
    }

    #[test]
    fn samples_that_cannot_be_judged_are_the_worst() {
        let f = |x: &[f64]| if x[0] > 0.5 { f64::NAN } else { x.iter().map(|v| v * v).sum() };
        let (best, _) = minimise(3, 200, f);
        assert!(best < 1e-8, "{best}");
        let mut search = CmaEs::new(vec![0.0; 2], 1.0, 6);
        let samples = search.ask(&mut Rng::new(1, &["cma"]));
        search.tell(&samples, &[f64::NAN; 6]);
        assert_eq!((search.mean(), search.sigma()), (&[0.0; 2][..], 1.0));
    }

    #[test]
    fn the_eigenvectors_rebuild_the_matrix() {
        let m = vec![vec![4.0, 1.0, -2.0], vec![1.0, 3.0, 0.5], vec![-2.0, 0.5, 2.0]];
        let (values, v) = eigen(&m);
        for i in 0..3 {
            for j in 0..3 {
                let back: f64 = (0..3).map(|k| v[i][k] * values[k] * v[j][k]).sum();
                assert!((back - m[i][j]).abs() < 1e-12, "{i} {j}: {back}");
            }
        }
    }

    #[test]
    fn default_numbers_are_the_tutorials() {
        assert_eq!(CmaEs::default_population(1), 4);
        assert_eq!(CmaEs::default_population(10), 10);
        let search = CmaEs::new(vec![0.0; 10], 1.0, 10);
        assert_eq!(search.weights.len(), 5);
        assert!((search.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(search.mu_eff > 3.1 && search.mu_eff < 3.2, "{}", search.mu_eff);
    }
}
