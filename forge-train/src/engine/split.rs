//! How a step's batch is cut: into micro-batches that are computed one after the other, each into shards that are
//! computed side by side.

use candle_core::Device;

use crate::config::TrainConfig;
use crate::data::batch::Batch;
use crate::engine::shards::SHARDS;

/// Shards side by side, and positions computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Shards of a micro-batch.
    pub parallel: usize,
    /// Positions of a micro-batch at most, as long as one row a shard fits; 0 takes the whole batch.
    pub micro_tokens: usize,
}

impl Split {
    /// What a stage is configured to do on a device: the CPU computes shards side by side, a GPU one at a time.
    pub fn of(config: &TrainConfig, device: &Device) -> Self {
        let parallel = if device.is_cpu() { SHARDS } else { 1 };
        Self { parallel, micro_tokens: config.micro_tokens }
    }

    /// Parts that `rows` rows of `cols` positions are dealt out to, never more than rows: `parallel` for each
    /// micro-batch.
    pub fn parts(self, rows: usize, cols: usize) -> usize {
        let parts = match self.micro_tokens {
            most if most == 0 || rows * cols <= most => self.parallel,
            // Each shard of a micro-batch takes whole rows, one at least.
            most => rows.div_ceil((most / cols / self.parallel).max(1)),
        };
        parts.clamp(1, rows.max(1))
    }

    /// A batch's rows dealt out to [`Split::parts`] batches in turn.
    pub fn deal(self, batch: &Batch) -> Vec<Batch> {
        let parts = self.parts(batch.rows, batch.cols);
        let deal = |part: usize| {
            let rows = (part..batch.rows).step_by(parts);
            let mut out = Batch { ids: vec![], targets: vec![], weights: vec![], rows: 0, cols: batch.cols };
            for row in rows {
                let at = row * batch.cols..(row + 1) * batch.cols;
                out.ids.extend(&batch.ids[at.clone()]);
                out.targets.extend(&batch.targets[at.clone()]);
                out.weights.extend(&batch.weights[at]);
                out.rows += 1;
            }
            out
        };
        (0..parts).map(deal).filter(|part| part.rows > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: usize, cols: usize) -> Batch {
        let ids: Vec<u32> = (0..(rows * cols) as u32).collect();
        let weights = ids.iter().map(|i| *i as f32).collect();
        Batch { targets: ids.clone(), ids, weights, rows, cols }
    }

    #[test]
    fn parts_hold_every_row_once_and_no_more_tokens_than_asked() {
        for (rows, cols, micro_tokens) in [(16, 8, 0), (16, 8, 64), (15, 8, 64), (7, 40, 64), (1, 8, 64)] {
            let split = Split { parallel: 2, micro_tokens };
            let parts = split.deal(&batch(rows, cols));
            let mut ids: Vec<u32> = parts.iter().flat_map(|p| p.ids.clone()).collect();
            ids.sort_unstable();
            assert_eq!(ids, batch(rows, cols).ids);
            let most = if micro_tokens == 0 { rows * cols } else { micro_tokens.max(2 * cols) };
            for pair in parts.chunks(2) {
                assert!(pair.iter().map(|p| p.ids.len()).sum::<usize>() <= most, "{rows} {cols}");
            }
        }
    }

    #[test]
    fn a_batch_that_fits_is_cut_for_the_threads_only() {
        for micro_tokens in [0, 15 * 8, 1000] {
            assert_eq!(Split { parallel: 2, micro_tokens }.parts(15, 8), 2);
        }
        assert_eq!(Split { parallel: 2, micro_tokens: 64 }.parts(16, 8), 4);
        assert_eq!(Split { parallel: 2, micro_tokens: 1 }.parts(5, 8), 5);
    }
}
