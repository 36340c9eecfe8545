//! A model's parameters as plain host memory: what phases hand to each other, merge, prune and encode.

use std::collections::BTreeMap;

use forge_formats::config::{MEMORY_GATES, MemoryKind, ModelConfig};
use forge_formats::role::Role;

use crate::rng::Rng;

/// Names a parameter: its role and block.
pub type Key = (Role, u32);

/// A matrix in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Row `r`.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.cols..(r + 1) * self.cols]
    }

    /// Row `r`, mutable.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.data[r * self.cols..(r + 1) * self.cols]
    }
}

/// Biases that the gates of a new memory begin with: half of what surprises is written, with little momentum, and a
/// thousandth is forgotten at every token.
const TITANS_GATES: [f32; MEMORY_GATES as usize] = [0.0, -2.0, -7.0];

/// All parameters of a model, ordered by key so that iteration is deterministic.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Shape of the model.
    pub config: ModelConfig,
    /// One matrix for every tensor in [`ModelConfig::tensors`].
    pub tensors: BTreeMap<Key, Matrix>,
}

impl Weights {
    /// Fresh parameters: projections N(0, 1/cols), the embedding N(0, 0.02²), gains 1, the loop feedback gains
    /// 0.1, memory rate bias −3 (a slow memory) or [`TITANS_GATES`], halting bias −2 (rarely halts at first).
    pub fn init(config: &ModelConfig, seed: u64) -> Self {
        let mut tensors = BTreeMap::new();
        for (role, layer, [rows, cols]) in config.tensors() {
            let (rows, cols) = (rows as usize, cols as usize);
            let mut m = Matrix::zeros(rows, cols);
            match role {
                Role::AttnNorm | Role::FfnNorm | Role::FinalNorm | Role::LoopOut => m.data.fill(1.0),
                Role::LoopAnswer | Role::LoopLatent => m.data.fill(0.1),
                Role::MemBias if config.memory == MemoryKind::Titans => m.data.copy_from_slice(&TITANS_GATES),
                Role::MemBias => m.data.fill(-3.0),
                Role::Halt => m.data[cols - 1] = -2.0,
                _ => {
                    let std = if matches!(role, Role::Embedding | Role::Head) {
                        0.02
                    } else {
                        (1.0 / cols as f32).sqrt()
                    };
                    let mut rng = Rng::new(seed, &["init", role.name(), &layer.to_string()]);
                    m.data.iter_mut().for_each(|w| *w = std * rng.normal());
                }
            }
            tensors.insert((role, layer), m);
        }
        Self { config: config.clone(), tensors }
    }

    /// The matrix of a role and block.
    ///
    /// # Panics
    /// If the model has no such tensor; callers take keys from [`ModelConfig::tensors`].
    pub fn get(&self, role: Role, layer: u32) -> &Matrix {
        &self.tensors[&(role, layer)]
    }

    /// Number of stored parameters.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|m| m.data.len()).sum()
    }

    /// Whether every value is finite.
    pub fn is_finite(&self) -> bool {
        self.tensors.values().all(|m| m.data.iter().all(|v| v.is_finite()))
    }
}
