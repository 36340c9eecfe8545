//! Batches: a pure function of data, seed, label and step.
//!
//! Sequences of like length share a batch. In each epoch every sequence occurs exactly once: each length bucket is
//! shuffled and cut into full batches; what is left over moves up to the next longer bucket, and the last bucket is
//! cut evenly. The number of batches an epoch has is therefore the same for every epoch, and `batch(step)` needs no
//! earlier step.
//!
//! Above [`LARGE`] sequences this is done shard by shard, each an even share of them, so that memory does not grow with
//! their number: the shards are the same in every epoch, their order and the batches in them are not.

use std::sync::{Arc, Mutex};

use super::encode::Sequence;
use super::permutation::Permutation;
use super::sequences::{LARGE, Sequences};
use crate::rng::Rng;

/// Widths are multiples of this.
const WIDTH: usize = 8;
/// Id of `<pad>`, the first control token.
const PAD: u16 = 0;

/// A rectangle of tokens; shorter sequences are padded with `<pad>` at weight 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Input ids, `rows × cols`, row by row.
    pub ids: Vec<u32>,
    /// The id that follows each input.
    pub targets: Vec<u32>,
    /// Loss weight of each target.
    pub weights: Vec<f32>,
    /// Sequences.
    pub rows: usize,
    /// Positions.
    pub cols: usize,
}

/// One epoch: the sequences of each batch with the batch's width.
type Plan = Vec<(usize, Vec<u32>)>;

/// Makes batches of one set of sequences.
pub struct Batcher {
    sequences: Arc<dyn Sequences>,
    /// Which sequences a shard has; `None` for a single shard, which has them in their order.
    deal: Option<Permutation>,
    batch_tokens: usize,
    max_len: usize,
    /// Batches an epoch has of each shard.
    batches: Vec<u64>,
    seed: u64,
    label: String,
    /// The last plan that was made, by epoch and shard: only a cache.
    planned: Mutex<Option<(u64, usize, Arc<Plan>)>>,
}

impl Batcher {
    /// Batches of about `batch_tokens` positions, padding included. Sequences are cut at `max_len` tokens; those of
    /// fewer than two tokens predict nothing and are left out.
    pub fn new(
        sequences: Arc<dyn Sequences>,
        batch_tokens: usize,
        max_len: usize,
        seed: u64,
        label: &str,
    ) -> Self {
        Self::with_shards(sequences, LARGE, [batch_tokens, max_len], seed, label)
    }

    /// As [`Batcher::new`], with shards of `most` sequences.
    fn with_shards(
        sequences: Arc<dyn Sequences>,
        most: usize,
        [batch_tokens, max_len]: [usize; 2],
        seed: u64,
        label: &str,
    ) -> Self {
        let shards = sequences.len().div_ceil(most).max(1);
        let deal = (shards > 1)
            .then(|| Permutation::new(sequences.len() as u64, seed, &format!("{label} shards"), 0));
        let planned = Mutex::new(None);
        let (batches, label) = (vec![0; shards], label.to_owned());
        let mut batcher = Self { sequences, deal, batch_tokens, max_len, batches, seed, label, planned };
        batcher.batches = (0..shards).map(|shard| batcher.plan(0, shard).len() as u64).collect();
        batcher
    }

    /// Batches in an epoch; 0 when there are no sequences.
    pub fn steps_per_epoch(&self) -> u64 {
        self.batches.iter().sum()
    }

    /// The batch of a step.
    ///
    /// # Panics
    /// If there are no sequences.
    pub fn batch(&self, step: u64) -> Batch {
        let steps = self.steps_per_epoch();
        assert!(steps > 0, "no sequences to make batches of");
        let epoch = step / steps;
        let mut order: Vec<usize> = (0..self.batches.len()).collect();
        if self.deal.is_some() {
            Rng::at_step(self.seed, &format!("{} shards", self.label), epoch).shuffle(&mut order);
        }
        let mut left = step % steps;
        let in_turn = order.into_iter().find(|shard| {
            let here = left < self.batches[*shard];
            left -= if here { 0 } else { self.batches[*shard] };
            here
        });
        let plan = self.cached(epoch, in_turn.expect("a step of the epoch"));
        let (cols, rows) = &plan[left as usize];
        self.fill(*cols, rows)
    }

    fn cached(&self, epoch: u64, shard: usize) -> Arc<Plan> {
        let mut planned = self.planned.lock().unwrap_or_else(|e| e.into_inner());
        match &*planned {
            Some((known, of, plan)) if (*known, *of) == (epoch, shard) => plan.clone(),
            _ => {
                let plan = Arc::new(self.plan(epoch, shard));
                *planned = Some((epoch, shard, plan.clone()));
                plan
            }
        }
    }

    /// Indices of a shard's sequences by width, rising; widths without sequences are absent.
    fn buckets(&self, shard: usize) -> Vec<(usize, Vec<u32>)> {
        let (len, shards) = (self.sequences.len(), self.batches.len());
        let mut by_width: Vec<(usize, u32)> = Vec::new();
        for place in shard * len / shards..(shard + 1) * len / shards {
            let index = self.deal.as_ref().map_or(place, |deal| deal.at(place as u64) as usize);
            let predictions = self.sequences.tokens(index).min(self.max_len).saturating_sub(1);
            if predictions > 0 {
                by_width.push((predictions.next_multiple_of(WIDTH), index as u32));
            }
        }
        by_width.sort_unstable();
        let mut buckets: Vec<(usize, Vec<u32>)> = Vec::new();
        for (width, index) in by_width {
            match buckets.last_mut().filter(|(w, _)| *w == width) {
                Some((_, indices)) => indices.push(index),
                None => buckets.push((width, vec![index])),
            }
        }
        buckets
    }

    /// The batches of a shard in an epoch in shuffled order.
    fn plan(&self, epoch: u64, shard: usize) -> Plan {
        let mut rng = match self.deal {
            None => Rng::at_step(self.seed, &self.label, epoch),
            Some(_) => Rng::at_step(self.seed, &format!("{} shard {shard}", self.label), epoch),
        };
        let buckets = self.buckets(shard);
        let mut plan = Plan::new();
        let mut carried: Vec<u32> = Vec::new();
        for (at, (width, indices)) in buckets.iter().enumerate() {
            let rows = (self.batch_tokens / width).max(1);
            let mut pool = std::mem::take(&mut carried);
            pool.extend_from_slice(indices);
            rng.shuffle(&mut pool);
            if at + 1 < buckets.len() {
                carried = pool.split_off(pool.len() / rows * rows);
                plan.extend(pool.chunks(rows).map(|chunk| (*width, chunk.to_vec())));
            } else {
                plan.extend(evenly(&pool, rows).map(|chunk| (*width, chunk.to_vec())));
            }
        }
        rng.shuffle(&mut plan);
        plan
    }

    fn fill(&self, cols: usize, indices: &[u32]) -> Batch {
        let rows: Vec<_> = indices.iter().map(|index| self.sequences.get(*index as usize)).collect();
        rectangle(rows.iter().map(|row| &**row), cols, self.max_len, PAD)
    }
}

/// One batch of the given sequences, in their order, as wide as the longest needs.
pub fn collate(sequences: &[&Sequence], pad: u16) -> Batch {
    let longest = sequences.iter().map(|s| s.ids.len()).max().unwrap_or(0);
    rectangle(sequences.iter().copied(), longest.saturating_sub(1), longest, pad)
}

fn rectangle<'a>(
    sequences: impl ExactSizeIterator<Item = &'a Sequence>,
    cols: usize,
    max_len: usize,
    pad: u16,
) -> Batch {
    let rows = sequences.len();
    let padding = vec![u32::from(pad); rows * cols];
    let weights = vec![0.0; rows * cols];
    let mut batch = Batch { ids: padding.clone(), targets: padding, weights, rows, cols };
    for (row, sequence) in sequences.enumerate() {
        let len = sequence.ids.len().min(max_len);
        for i in 0..len.saturating_sub(1) {
            batch.ids[row * cols + i] = u32::from(sequence.ids[i]);
            batch.targets[row * cols + i] = u32::from(sequence.ids[i + 1]);
            batch.weights[row * cols + i] = sequence.weights[i + 1];
        }
    }
    batch
}

/// Cuts `items` into the fewest parts of at most `most`, as equal as possible.
fn evenly(items: &[u32], most: usize) -> impl Iterator<Item = &[u32]> {
    let parts = items.len().div_ceil(most);
    (0..parts).map(move |i| &items[i * items.len() / parts..(i + 1) * items.len() / parts])
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
