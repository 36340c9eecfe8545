//! Where rows of unequal lengths begin.
//!
//! A row's length is that of the shortest row, which is stored once, plus an excess in as many bits as the largest
//! needs. Lengths of entropy-coded rows differ by a few bytes, so that finding them costs half a byte a row, where
//! offsets would cost four. A row's offset is a sum over the rows before it, which takes a fraction of the time of
//! decoding one of them.

use super::bitstream::BitReader;

/// Bytes before the excesses: the shortest row (u16), bits of an excess (u8).
const FRONT: usize = 3;

/// The lengths of a matrix' rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory<'a> {
    shortest: u16,
    width: u8,
    excess: &'a [u8],
}

impl<'a> Directory<'a> {
    /// The directory of `rows` rows at the front of `bytes`, and what follows it.
    pub(crate) fn read(rows: u32, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[low, high, width], rest) = bytes.split_first_chunk::<FRONT>()?;
        let len = (u64::from(rows) * u64::from(width)).div_ceil(8);
        let (excess, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        let shortest = u16::from_le_bytes([low, high]);
        (width <= 16).then_some((Self { shortest, width, excess }, rest))
    }

    /// Whether this is the one encoding of these lengths, and they add up to `total`.
    pub(crate) fn valid(&self, rows: u32, total: usize) -> bool {
        let mut all = (0u64, u16::MAX, 0);
        let mut reader = BitReader::new(self.excess);
        // With no excess there is nothing to look at, however many rows there are.
        for _ in 0..if self.width > 0 { rows } else { 0 } {
            let excess = reader.take(self.width.into()) as u16;
            let (sum, least, most) = all;
            all = (sum + u64::from(excess), excess.min(least), excess.max(most));
        }
        let (sum, least, most) = all;
        let fewest_bits = u16::BITS - most.leading_zeros() == u32::from(self.width);
        let total_agrees = u64::from(rows) * u64::from(self.shortest) + sum == total as u64;
        total_agrees && fewest_bits && (self.width == 0 || least == 0) && reader.rest_is_zero()
    }

    /// Bytes of all rows before `row`.
    pub(crate) fn begin(&self, row: u32) -> usize {
        let shortest = (row as usize).wrapping_mul(self.shortest.into());
        if self.width == 0 {
            return shortest;
        }
        let mut reader = BitReader::new(self.excess);
        (0..row).fold(shortest, |sum, _| sum.wrapping_add(reader.take(self.width.into()) as usize))
    }

    /// Bytes of `row`.
    #[inline]
    pub(crate) fn len(&self, row: u32) -> usize {
        let bit = (row as usize).wrapping_mul(self.width.into());
        let byte = |at: usize| u32::from(self.excess.get(at).copied().unwrap_or(0));
        let window = byte(bit / 8) | byte(bit / 8 + 1) << 8 | byte(bit / 8 + 2) << 16;
        usize::from(self.shortest) + (window >> (bit % 8) & ((1 << self.width) - 1)) as usize
    }
}

/// Appends the directory of these rows and the rows. One that is longer than 65,535 bytes is cut off, and no reader
/// accepts the result.
#[cfg(feature = "alloc")]
pub(crate) fn put_rows(rows: &[alloc::vec::Vec<u8>], out: &mut alloc::vec::Vec<u8>) {
    let len = |row: &alloc::vec::Vec<u8>| u16::try_from(row.len()).unwrap_or(u16::MAX);
    let shortest = rows.iter().map(len).min().unwrap_or(0);
    let excess = || rows.iter().map(|row| len(row) - shortest);
    let width = u16::BITS - excess().max().unwrap_or(0).leading_zeros();
    out.extend(shortest.to_le_bytes());
    out.push(width as u8);
    let mut bits = super::bitstream::BitWriter::default();
    excess().for_each(|e| bits.put(e.into(), width));
    out.extend(bits.finish());
    rows.iter().for_each(|row| out.extend(row));
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    fn directory(lengths: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        put_rows(&lengths.iter().map(|len| vec![0; *len]).collect::<Vec<_>>(), &mut out);
        out
    }

    #[test]
    fn lengths_are_found_again_in_the_fewest_bits() {
        let cases: [(&[usize], usize); 6] = [
            (&[7, 7, 7], 0),
            (&[3, 5, 18], 2),
            (&[3, 4, 3, 4, 4, 3, 3, 3, 4], 2),
            (&[2, 18], 2),
            (&[2, 258, 3], 4),
            (&[40], 0),
        ];
        for (lengths, bytes) in cases {
            let rows = lengths.len() as u32;
            let total: usize = lengths.iter().sum();
            let coded = directory(lengths);
            assert_eq!(coded.len(), FRONT + bytes + total, "{lengths:?}");
            let (directory, rest) = Directory::read(rows, &coded).unwrap();
            assert!(directory.valid(rows, total) && rest.len() == total, "{lengths:?}");
            assert!(!directory.valid(rows, total + 1), "{lengths:?}");
            for (row, len) in (0..).zip(lengths) {
                assert_eq!(directory.len(row), *len);
                assert_eq!(directory.begin(row), lengths[..row as usize].iter().sum::<usize>());
            }
            assert_eq!(directory.begin(rows), total);
        }
    }

    #[test]
    fn other_encodings_of_the_same_lengths_are_refused() {
        let valid = |rows: u32, total: usize, bytes: &[u8]| {
            Directory::read(rows, bytes).is_some_and(|(d, rest)| rest.is_empty() && d.valid(rows, total))
        };
        // Lengths 4, 5, 6 in two bits each: 0, 1, 2.
        assert!(valid(3, 15, &[4, 0, 2, 0b10_01_00]));
        // Padding; a width too large; a shortest row that is not the shortest; an unknown width; too short.
        assert!(!valid(3, 15, &[4, 0, 2, 0b0110_0100]));
        assert!(!valid(3, 15, &[4, 0, 4, 0x10, 0x02]));
        assert!(!valid(3, 15, &[3, 0, 2, 0b11_10_01]));
        assert!(!valid(3, 15, &[4, 0, 17, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!valid(3, 15, &[4, 0, 2]));
        assert!(!valid(3, 15, &[5, 0, 1, 0]));
        assert!(valid(3, 15, &[5, 0, 0]));
        assert!(valid(u32::MAX, 0, &[0, 0, 0]), "the rows themselves are checked by their codec");
    }
}
