//! A set of special tokens.
#![forbid(unsafe_code)]

use forge_formats::tokenizer::MAX_SPECIALS;

/// A set of the ids of special tokens, all of which are below [`MAX_SPECIALS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids([u64; MAX_SPECIALS / 64]);

impl Ids {
    pub(super) fn insert(&mut self, id: u16) {
        if let Some(word) = self.0.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }

    /// Takes in all of `other`.
    pub(super) fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
    }

    pub(super) fn contains(&self, id: u16) -> bool {
        self.0.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    /// The ids, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        (0..).step_by(64).zip(self.0).flat_map(|(first, mut word)| {
            core::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as u16)?;
                word &= word - 1;
                Some(first + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut ids = Ids::default();
        for id in [1023, 0, 64, 63, 1024, 500, 64] {
            ids.insert(id);
        }
        assert!(ids.iter().eq([0, 63, 64, 500, 1023]), "1024 is no special token");
        assert!(ids.contains(63) && !ids.contains(62) && !ids.contains(1024));
        assert_eq!(Ids::default().iter().count(), 0);
        let mut both = Ids::default();
        both.insert(7);
        both.join(&ids);
        assert!(both.iter().eq([0, 7, 63, 64, 500, 1023]));
    }
}
