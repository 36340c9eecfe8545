//! Batches of running text: blocks of a fixed number of tokens, wherever the text lies.

use std::fmt;
use std::sync::Arc;

use super::batch::Batch;
use super::permutation::Permutation;
use super::source::BatchSource;
use crate::error::{Error, Result};
use crate::rng::Rng;

/// The tokens of a running text: a list in memory, or a file mapped into it.
pub trait Tokens: Send + Sync {
    /// All of them, in the order of the text.
    fn tokens(&self) -> &[u16];
}

impl Tokens for Vec<u16> {
    fn tokens(&self) -> &[u16] {
        self
    }
}

/// Which blocks a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Blocks side by side, each once an epoch, in shuffled order. Every epoch cuts the text at a phase of its own, so
    /// that no token always stands first in its block.
    Packed,
    /// Every block at a uniformly random place, as nanoGPT draws them.
    Random,
}

/// Batches of blocks of one text. Every target weighs 1.
pub struct Blocks {
    text: Arc<dyn Tokens>,
    block: usize,
    rows: usize,
    order: Order,
    seed: u64,
    label: String,
}

impl Blocks {
    /// Batches of `rows` blocks of `block` tokens each; the target of a token is the one behind it.
    ///
    /// # Errors
    /// [`Error::Usage`] when the text is not longer than one block, or either number is 0.
    pub fn new(
        text: Arc<dyn Tokens>,
        block: usize,
        rows: usize,
        order: Order,
        seed: u64,
        label: &str,
    ) -> Result<Self> {
        let len = text.tokens().len();
        if block == 0 || rows == 0 || len <= block {
            return Err(Error::Usage {
                what: format!("{rows} blocks of {block} tokens cannot be cut from a text of {len}"),
                hint: "use shorter blocks, or more text".into(),
            });
        }
        Ok(Self { text, block, rows, order, seed, label: label.into() })
    }

    /// Blocks of an epoch in [`Order::Packed`]. A phase may cost the text one block at its ends.
    pub fn blocks_per_epoch(&self) -> u64 {
        let whole = (self.text.tokens().len() - 1) / self.block;
        (whole - 1).max(1) as u64
    }

    /// Where the first block of an epoch begins.
    fn phase(&self, epoch: u64) -> usize {
        let used = self.blocks_per_epoch() as usize * self.block;
        let spare = self.text.tokens().len() - 1 - used;
        Rng::at_step(self.seed, &format!("{} phase", self.label), epoch).below(spare.min(self.block - 1) + 1)
    }

    /// Where the blocks of a step begin.
    fn starts(&self, step: u64) -> Vec<usize> {
        let rows = self.rows as u64;
        match self.order {
            Order::Random => {
                let mut rng = Rng::at_step(self.seed, &self.label, step);
                let places = self.text.tokens().len() - self.block;
                (0..rows).map(|_| rng.below(places)).collect()
            }
            Order::Packed => {
                let blocks = self.blocks_per_epoch();
                let mut starts = Vec::with_capacity(self.rows);
                let (mut sample, end) = (step * rows, (step + 1) * rows);
                while sample < end {
                    let epoch = sample / blocks;
                    let order = Permutation::new(blocks, self.seed, &self.label, epoch);
                    let phase = self.phase(epoch);
                    let last = end.min((epoch + 1) * blocks);
                    let start = |sample| phase + order.at(sample % blocks) as usize * self.block;
                    starts.extend((sample..last).map(start));
                    sample = last;
                }
                starts
            }
        }
    }
}

impl BatchSource for Blocks {
    fn batch(&self, step: u64) -> Batch {
        let places = self.rows * self.block;
        let (mut ids, mut targets) = (Vec::with_capacity(places), Vec::with_capacity(places));
        let text = self.text.tokens();
        for start in self.starts(step) {
            let read = &text[start..start + self.block + 1];
            ids.extend(read[..self.block].iter().map(|id| u32::from(*id)));
            targets.extend(read[1..].iter().map(|id| u32::from(*id)));
        }
        Batch { ids, targets, weights: vec![1.0; places], rows: self.rows, cols: self.block }
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (block, rows, order) = (self.block, self.rows, self.order);
        write!(f, "Blocks({rows} × {block} {order:?} of {} tokens)", self.text.tokens().len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A text that counts, so that a token tells its place.
    fn text(len: usize) -> Arc<Vec<u16>> {
        Arc::new((0..len as u16).collect())
    }

    fn blocks(len: usize, block: usize, rows: usize, order: Order) -> Blocks {
        Blocks::new(text(len), block, rows, order, 7, "test").unwrap()
    }

    #[test]
    fn a_row_is_a_block_and_what_follows_each_token() {
        for order in [Order::Packed, Order::Random] {
            let batch = blocks(1000, 16, 5, order).batch(3);
            assert_eq!((batch.rows, batch.cols, batch.ids.len()), (5, 16, 80));
            assert!(batch.weights.iter().all(|w| *w == 1.0));
            for (row, targets) in batch.ids.chunks(16).zip(batch.targets.chunks(16)) {
                assert!((0..16).all(|i| row[i] == row[0] + i as u32 && targets[i] == row[i] + 1));
            }
        }
    }

    #[test]
    fn batches_are_a_pure_function_of_the_step() {
        for order in [Order::Packed, Order::Random] {
            let (one, other) = (blocks(5000, 8, 4, order), blocks(5000, 8, 4, order));
            let late: Vec<Batch> = (50..60).map(|step| one.batch(step)).collect();
            (0..50).for_each(|step| drop(other.batch(step)));
            assert_eq!(late, (50..60).map(|step| other.batch(step)).collect::<Vec<_>>());
            assert_ne!(late[0], late[1]);
        }
    }

    /// Over an epoch the blocks touch but never overlap; the next epoch cuts elsewhere and in another order.
    #[test]
    fn an_epoch_has_every_block_once() {
        let source = blocks(1003, 10, 3, Order::Packed);
        let n = source.blocks_per_epoch();
        assert_eq!(n, 99);
        let epoch = |e: u64| -> Vec<u32> {
            (e * n / 3..(e + 1) * n / 3).flat_map(|step| source.batch(step).ids).collect()
        };
        let sorted = |mut ids: Vec<u32>| {
            ids.sort_unstable();
            ids
        };
        let mut phases = BTreeMap::new();
        for e in 0..40 {
            let ids = sorted(epoch(e));
            assert!(ids.windows(2).all(|w| w[1] == w[0] + 1), "neither gap nor overlap");
            *phases.entry(ids[0]).or_insert(0) += 1;
        }
        assert!(phases.len() > 5 && phases.keys().all(|p| *p < 10), "{phases:?}");
        assert_ne!(epoch(0), sorted(epoch(0)), "shuffled");
    }

    #[test]
    fn random_places_reach_the_whole_text() {
        let source = blocks(300, 20, 10, Order::Random);
        let starts: Vec<u32> = (0..300).flat_map(|s| source.batch(s).ids).step_by(20).collect();
        assert_eq!((starts.iter().min(), starts.iter().max()), (Some(&0), Some(&279)));
    }

    #[test]
    fn texts_of_one_block_and_shorter() {
        assert_eq!(blocks(11, 10, 2, Order::Packed).batch(9).ids[..10], *(0..10).collect::<Vec<u32>>());
        assert_eq!(blocks(11, 10, 1, Order::Random).batch(9).targets, (1..11).collect::<Vec<u32>>());
        for (len, block, rows) in [(10, 10, 1), (0, 1, 1), (10, 0, 1), (10, 2, 0)] {
            let refused = Blocks::new(text(len), block, rows, Order::Packed, 0, "").unwrap_err();
            assert!(refused.hint().is_some(), "{refused}");
        }
    }
}
