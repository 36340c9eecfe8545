//! Token sequences that batches are made of, in the order they are drawn in.

use std::borrow::Cow;
use std::sync::Arc;

use super::Sequence;
use super::permutation::Permutation;
use super::records::TOKEN;
use super::store::Store;
use crate::rng::Rng;

/// Sequences from which on an order is computed where it is needed, instead of kept: four bytes a sequence would grow
/// with the data.
pub const LARGE: usize = 1 << 18;

/// A list of sequences.
pub trait Sequences: Send + Sync {
    /// Number of sequences.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Tokens of a sequence.
    fn tokens(&self, index: usize) -> usize;
    /// A sequence.
    fn get(&self, index: usize) -> Cow<'_, Sequence>;
}

impl Sequences for Vec<Sequence> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn tokens(&self, index: usize) -> usize {
        self[index].ids.len()
    }

    fn get(&self, index: usize) -> Cow<'_, Sequence> {
        Cow::Borrowed(&self[index])
    }
}

impl Sequences for Store<Sequence> {
    fn len(&self) -> usize {
        Store::len(self)
    }

    fn tokens(&self, index: usize) -> usize {
        self.file_bytes(index).map_or_else(|| self.get(index).ids.len(), |bytes| bytes / TOKEN)
    }

    fn get(&self, index: usize) -> Cow<'_, Sequence> {
        Store::get(self, index)
    }
}

/// Sequences of several lists, a stated number of each, in shuffled order. A list that is shorter than its number
/// repeats, each time in another order.
pub struct Drawn {
    lists: Vec<Store<Sequence>>,
    order: Order,
}

enum Order {
    /// List and index of each place.
    Kept(Vec<(u8, u32)>),
    /// Places side by side, list by list; [`super::batch::Batcher`] takes them in an order of its own.
    Computed { counts: Vec<usize>, seed: u64, label: String },
}

impl Drawn {
    /// Draws `counts[i]` sequences of list `i` with the numbers of `rng`, or where they are many, of `seed` and `label`.
    ///
    /// # Panics
    /// If something is wanted of a list without sequences.
    pub fn new(lists: Vec<Store<Sequence>>, counts: &[usize], rng: &mut Rng, seed: u64, label: &str) -> Self {
        if counts.iter().sum::<usize>() > LARGE {
            let order = Order::Computed { counts: counts.to_vec(), seed, label: label.into() };
            return Self { lists, order };
        }
        let mut kept = Vec::new();
        for (list, wanted) in counts.iter().enumerate() {
            let mut order: Vec<(u8, u32)> = Vec::new();
            while order.len() < *wanted {
                let mut epoch: Vec<(u8, u32)> =
                    (0..lists[list].len()).map(|index| (list as u8, index as u32)).collect();
                rng.shuffle(&mut epoch);
                order.extend(epoch);
            }
            kept.extend_from_slice(&order[..*wanted]);
        }
        rng.shuffle(&mut kept);
        Self { lists, order: Order::Kept(kept) }
    }

    /// All sequences of a list, shuffled once by `rng`, or where they are many, in the order of the list.
    pub fn shuffled(list: Store<Sequence>, rng: &mut Rng) -> Self {
        let len = list.len();
        let order = if len > LARGE {
            Order::Computed { counts: vec![len], seed: 0, label: String::new() }
        } else {
            let mut kept: Vec<(u8, u32)> = (0..len).map(|index| (0, index as u32)).collect();
            rng.shuffle(&mut kept);
            Order::Kept(kept)
        };
        Self { lists: vec![list], order }
    }

    /// List and index of a place.
    fn place(&self, index: usize) -> (usize, usize) {
        match &self.order {
            Order::Kept(kept) => (usize::from(kept[index].0), kept[index].1 as usize),
            Order::Computed { counts, seed, label } => {
                let mut rest = index;
                let list = counts
                    .iter()
                    .position(|count| {
                        let within = rest < *count;
                        rest -= if within { 0 } else { *count };
                        within
                    })
                    .expect("an index of the list");
                let len = self.lists[list].len();
                // A whole pass takes every sequence, so only the last one, which takes some, needs an order.
                if counts[list] - rest / len * len >= len {
                    return (list, rest % len);
                }
                let order = Permutation::new(len as u64, *seed, label, (rest / len) as u64);
                (list, order.at((rest % len) as u64) as usize)
            }
        }
    }
}

impl Sequences for Drawn {
    fn len(&self) -> usize {
        match &self.order {
            Order::Kept(kept) => kept.len(),
            Order::Computed { counts, .. } => counts.iter().sum(),
        }
    }

    fn tokens(&self, index: usize) -> usize {
        let (list, index) = self.place(index);
        self.lists[list].tokens(index)
    }

    fn get(&self, index: usize) -> Cow<'_, Sequence> {
        let (list, index) = self.place(index);
        self.lists[list].get(index)
    }
}

/// The sequences of several sources, each with its weight.
#[derive(Clone, Default)]
pub struct Mix(pub Vec<(u64, Arc<dyn Sequences>)>);

/// The sequences of one source.
impl From<Arc<Vec<Sequence>>> for Mix {
    fn from(sequences: Arc<Vec<Sequence>>) -> Self {
        Self(vec![(1, sequences)])
    }
}

impl Mix {
    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, sequences)| sequences.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: std::ops::Range<u16>) -> Store<Sequence> {
        let sequence = |id: u16| Sequence { ids: vec![id; 3], weights: vec![1.0; 3] };
        names.map(sequence).collect::<Vec<_>>().into()
    }

    fn counted(drawn: &Drawn, names: usize) -> Vec<usize> {
        let mut counts = vec![0; names];
        (0..drawn.len()).for_each(|i| counts[usize::from(drawn.get(i).ids[0])] += 1);
        counts
    }

    /// Kept and computed orders draw as many of each list, each of its sequences equally often to within one.
    #[test]
    fn lists_have_their_numbers_and_repeat_evenly() {
        for counts in [[150, 50], [LARGE, 50]] {
            let drawn =
                Drawn::new(vec![list(0..100), list(100..110)], &counts, &mut Rng::new(1, &[]), 1, "x");
            assert_eq!(matches!(drawn.order, Order::Computed { .. }), counts[0] == LARGE);
            let found = counted(&drawn, 110);
            assert_eq!(found[..100].iter().sum::<usize>(), counts[0]);
            let passes = counts[0] / 100;
            assert!(found[..100].iter().all(|n| (passes..=passes + 1).contains(n)), "{found:?}");
            assert!(found[100..].iter().all(|n| *n == 5), "{found:?}");
            assert!((0..drawn.len()).all(|i| drawn.tokens(i) == 3));
        }
    }
}
