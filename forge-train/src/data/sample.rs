//! A sample of bounded size from a text of any.

use std::collections::BinaryHeap;

use super::permutation::mix;

/// A uniform sample of paragraphs of at most so many bytes: those with the smallest keys, where a paragraph's key is a hash
/// of the seed and its number (reservoir sampling with random sort, Sunter 1977). It depends on seed and text alone.
#[derive(Debug)]
pub(super) struct Sample {
    kept: BinaryHeap<(u64, String)>,
    bytes: usize,
    most: usize,
    seen: u64,
    seed: u64,
}

impl Sample {
    /// A sample of at most `most` bytes.
    pub(super) fn new(most: usize, seed: u64) -> Self {
        Self { kept: BinaryHeap::new(), bytes: 0, most, seen: 0, seed }
    }

    /// Shows the next paragraph.
    pub(super) fn offer(&mut self, paragraph: &str) {
        let key = mix(mix(self.seed) ^ self.seen);
        self.seen += 1;
        let full = self.bytes + paragraph.len() > self.most;
        if full && self.kept.peek().is_none_or(|(largest, _)| key > *largest) {
            return;
        }
        self.bytes += paragraph.len();
        self.kept.push((key, paragraph.to_owned()));
        while self.bytes > self.most {
            self.bytes -= self.kept.pop().map_or(self.bytes, |(_, text)| text.len());
        }
    }

    /// The paragraphs, in the order of their keys.
    pub(super) fn into_texts(self) -> impl Iterator<Item = String> {
        self.kept.into_sorted_vec().into_iter().map(|(_, text)| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: usize, most: usize, seed: u64) -> Vec<String> {
        let mut sample = Sample::new(most, seed);
        (0..n).for_each(|i| sample.offer(&format!("{i:05}")));
        sample.into_texts().collect()
    }

    #[test]
    fn a_sample_is_bounded_and_small_texts_are_whole() {
        assert_eq!(sample(10_000, 500, 1).len(), 100);
        assert_eq!(sample(20, 500, 1).len(), 20);
        assert_eq!(sample(10_000, 500, 1), sample(10_000, 500, 1));
        assert_ne!(sample(10_000, 500, 1), sample(10_000, 500, 2));
        assert!(sample(3, 4, 1).is_empty(), "no paragraph fits");
    }

    #[test]
    fn every_part_of_the_text_has_its_share() {
        let picked: Vec<usize> =
            (0..40).flat_map(|s| sample(1000, 500, s)).map(|t| t.parse().unwrap()).collect();
        let early = picked.iter().filter(|i| **i < 250).count();
        assert!((900..1100).contains(&early), "about 1000 of {}: {early}", picked.len());
    }
}
