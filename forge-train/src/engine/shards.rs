//! Data parallelism: the shards of a step run side by side, one thread each, and their gradients are added in order.
//! On a GPU they run one after the other: one shard fills it, and several are there to bound its memory.
//!
//! The matrices of a small model are too small to be worth splitting, so whole parts of the batch are. The number
//! of shards belongs to the objective, not to the machine: results do not depend on the number of processors.

use candle_core::Tensor;

use crate::engine::trainer::{Shard, Work};
use crate::error::{Error, Result};
use crate::nn::Network;
use crate::optim::Gradients;

/// Parts of a micro-batch.
pub const SHARDS: usize = 2;
/// Stack of a worker: backward passes recurse once a node of the graph.
const STACK: usize = 64 << 20;

/// Loss, still where it was computed, and gradient of a shard.
type Part = Result<(Tensor, Gradients)>;

/// Single-threaded worker pools, one a shard, so that operations inside a shard stay on its thread.
#[derive(Default)]
pub struct Pools(Vec<rayon::ThreadPool>);

impl Pools {
    /// Mean loss and gradient of `shards`, weighted: [`SHARDS`] at a time, added in their order. The losses are read when
    /// everything is under way, so that a GPU does not wait between two shards.
    ///
    /// # Errors
    /// What a shard returns, or that a thread cannot be started.
    pub fn gradients(&mut self, network: &Network, shards: Vec<Shard<'_>>) -> Result<(f32, Gradients)> {
        let total: f32 = shards.iter().map(|s| s.weight).sum();
        // Quantised once for all shards of the step.
        let network = &network.prepared()?;
        let side_by_side = if network.device().is_cpu() { SHARDS } else { 1 };
        let mut losses = Vec::with_capacity(shards.len());
        let mut mean: Option<Gradients> = None;
        let mut shards = shards.into_iter().peekable();
        while shards.peek().is_some() {
            let together: Vec<Shard<'_>> = shards.by_ref().take(side_by_side).collect();
            let weights: Vec<f32> = together.iter().map(|s| s.weight).collect();
            for (part, weight) in self.together(network, together)?.into_iter().zip(weights) {
                let (loss, mut grads) = part?;
                let share = if total > 0.0 { weight / total } else { 0.0 };
                if share != 1.0 {
                    grads.scale(share)?;
                }
                losses.push((share, loss));
                mean = Some(match mean {
                    None => grads,
                    Some(mut sum) => {
                        sum.add(grads)?;
                        sum
                    }
                });
            }
        }
        let grads = mean.ok_or_else(|| Error::Config("a training step without data".into()))?;
        let mut loss = 0.0;
        for (share, value) in losses {
            loss += share * value.to_scalar::<f32>()?;
        }
        Ok((loss, grads))
    }

    /// Loss and gradient of each of at most [`SHARDS`] shards, side by side.
    fn together(&mut self, network: &Network, shards: Vec<Shard<'_>>) -> Result<Vec<Part>> {
        while self.0.len() < shards.len() {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).stack_size(STACK).build();
            self.0.push(pool.map_err(|e| Error::Config(format!("cannot start a worker thread: {e}")))?);
        }
        let mut parts: Vec<Option<Part>> = shards.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            for ((pool, shard), part) in self.0.iter().zip(shards).zip(&mut parts) {
                scope.spawn(move || *part = Some(pool.install(|| gradient(network, shard.work))));
            }
        });
        let died = || Err(Error::Config("a worker died".into()));
        Ok(parts.into_iter().map(|part| part.unwrap_or_else(died)).collect())
    }
}

fn gradient(network: &Network, work: Work<'_>) -> Part {
    let network = network.for_backward();
    let loss = work(&network)?;
    let grads = network.gradients(&loss)?;
    Ok((loss.detach(), grads))
}
