//! The bytes a tokenizer has tokens of.

/// A set of bytes in which each has a rank: how many smaller ones there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alphabet([u8; 32]);

impl Alphabet {
    /// All 256 bytes: any text can be written.
    pub const ALL: Self = Self([u8::MAX; 32]);

    /// The bytes that occur.
    pub fn of(bytes: impl IntoIterator<Item = u8>) -> Self {
        let mut set = [0; 32];
        for byte in bytes {
            if let Some(part) = set.get_mut(usize::from(byte / 8)) {
                *part |= 1 << (byte % 8);
            }
        }
        Self(set)
    }

    /// The set of a table's 32 bytes: bit `b mod 8` of byte `b div 8` stands for `b`.
    pub fn from_bits(bits: [u8; 32]) -> Self {
        Self(bits)
    }

    /// The inverse of [`Alphabet::from_bits`].
    pub fn bits(self) -> [u8; 32] {
        self.0
    }

    /// Number of bytes.
    pub fn len(&self) -> u16 {
        self.0.iter().map(|part| part.count_ones() as u16).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 32]
    }

    /// The rank of a byte; `None` for one that is not there.
    pub fn rank(&self, byte: u8) -> Option<u16> {
        let (before, from) = self.0.split_at_checked(usize::from(byte / 8))?;
        let part = *from.first()?;
        let below = part & ((1 << (byte % 8)) - 1);
        let rank = before.iter().chain([&below]).map(|part| part.count_ones() as u16).sum();
        (part >> (byte % 8) & 1 == 1).then_some(rank)
    }

    /// The byte of a rank.
    pub fn at(&self, rank: u16) -> Option<u8> {
        (0..=u8::MAX)
            .filter(|byte| self.0.get(usize::from(byte / 8)).is_some_and(|p| p >> (byte % 8) & 1 == 1))
            .nth(rank.into())
    }
}

impl Default for Alphabet {
    fn default() -> Self {
        Self::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_smaller_bytes() {
        let set = Alphabet::of(*b"banana \xFF");
        assert_eq!((set.len(), set.is_empty()), (5, false));
        assert_eq!([b' ', b'a', b'b', b'n', 0xFF].map(|b| set.rank(b)), [0, 1, 2, 3, 4].map(Some));
        assert_eq!([0, b'c', 0xFE].map(|b| set.rank(b)), [None; 3]);
        assert!((0..6).map_while(|r| set.at(r)).eq(*b" abn\xFF"));
        assert_eq!(Alphabet::from_bits(set.bits()), set);
    }

    #[test]
    fn all_bytes_rank_as_themselves() {
        assert_eq!((Alphabet::ALL.len(), Alphabet::default()), (256, Alphabet::of(0..=255)));
        for byte in 0..=255 {
            assert_eq!(Alphabet::ALL.rank(byte), Some(byte.into()));
            assert_eq!(Alphabet::ALL.at(byte.into()), Some(byte));
        }
        assert_eq!(Alphabet::ALL.at(256), None);
        assert!(Alphabet::of([]).is_empty() && Alphabet::of([]).at(0).is_none());
    }
}
