//! Seeded randomness: every consumer derives its own stream from the run's seed and a path of labels, so
//! that no stream depends on how much another one has drawn, and nothing needs to be saved to resume.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use sha2::{Digest, Sha256};

/// A deterministic stream of random numbers (ChaCha8).
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream named by `labels` under `seed`, for example `Rng::new(42, &["phase1", "batch", "17"])`.
    pub fn new(seed: u64, labels: &[&str]) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        for label in labels {
            hash.update((label.len() as u64).to_le_bytes());
            hash.update(label.as_bytes());
        }
        Self(ChaCha8Rng::from_seed(hash.finalize().into()))
    }

    /// The stream of step `step` under `label`.
    pub fn at_step(seed: u64, label: &str, step: u64) -> Self {
        Self::new(seed, &[label, &step.to_string()])
    }

    /// A uniform 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// A standard normal number (Box–Muller).
    pub fn normal(&mut self) -> f32 {
        let u = 1.0 - self.uniform();
        let angle = std::f32::consts::TAU * self.uniform();
        (-2.0 * u.ln()).sqrt() * angle.cos()
    }

    /// A random element.
    ///
    /// # Panics
    /// If `items` is empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod source_tests {
    use std::fs;
    use std::path::Path;

    /// Sources of randomness that no seed of ours reaches.
    const FOREIGN: [&str; 8] = [
        "Tensor::rand",
        "rand_like(",
        "randn_like(",
        "rand::rng",
        "thread_rng",
        "Init::Rand",
        "ops::dropout(",
        "RandomState",
    ];

    fn foreign(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                foreign(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("rng.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = FOREIGN.iter().filter(|name| text.contains(**name));
                found.extend(names.map(|name| format!("{}: {name}", path.display())));
            }
        }
    }

    #[test]
    fn every_random_number_comes_from_here() {
        let mut found = Vec::new();
        foreign(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert_eq!(found, [""; 0]);
        // The control: the search sees what it looks for.
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.rs"), "let x = Tensor::randn(0f32, 1.0, 3, &device);").unwrap();
        foreign(dir.path(), &mut found);
        assert_eq!(found.len(), 1);
    }
}
