//! Where rows of unequal lengths begin.
//!
//! A row's length is that of the shortest row, which is stored once, plus an excess of 0, 4, 8 or 16 bits. Lengths of
//! entropy-coded rows differ by a few bytes, so that finding them costs half a byte a row, where offsets would cost
//! four. A row's offset is a sum over the rows before it, which is a fraction of decoding one of them.

/// Bytes before the excesses: the shortest row (u16), bits of an excess (u8).
const FRONT: usize = 3;

/// The lengths of a matrix' rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory<'a> {
    shortest: u16,
    width: Width,
    excess: &'a [u8],
}

/// Bits of an excess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    None,
    Nibble,
    Byte,
    Word,
}

impl Width {
    const ALL: [Width; 4] = [Width::None, Width::Nibble, Width::Byte, Width::Word];

    fn bits(self) -> u8 {
        match self {
            Width::None => 0,
            Width::Nibble => 4,
            Width::Byte => 8,
            Width::Word => 16,
        }
    }

    /// The fewest bits that hold excesses up to `largest`.
    fn of(largest: u16) -> Self {
        match largest {
            0 => Width::None,
            1..=15 => Width::Nibble,
            16..=255 => Width::Byte,
            256.. => Width::Word,
        }
    }

    /// Bytes of the excesses of `rows` rows.
    fn bytes(self, rows: u32) -> Option<usize> {
        usize::try_from((u64::from(rows) * u64::from(self.bits())).div_ceil(8)).ok()
    }
}

impl<'a> Directory<'a> {
    /// The directory of `rows` rows at the front of `bytes`, and what follows it.
    pub(crate) fn read(rows: u32, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[low, high, bits], rest) = bytes.split_first_chunk::<FRONT>()?;
        let width = Width::ALL.into_iter().find(|w| w.bits() == bits)?;
        let (excess, rest) = rest.split_at_checked(width.bytes(rows)?)?;
        Some((Self { shortest: u16::from_le_bytes([low, high]), width, excess }, rest))
    }

    /// Whether this is the one encoding of these lengths, and they add up to `total`.
    pub(crate) fn valid(&self, rows: u32, total: usize) -> bool {
        let excesses = || (0..rows).map(|r| self.excess(r));
        let sum = u64::from(rows) * u64::from(self.shortest) + self.excess_before(rows) as u64;
        let padded = match (self.width, rows % 2, self.excess.last()) {
            (Width::Nibble, 1, Some(last)) => last >> 4 == 0,
            _ => true,
        };
        // With no excess there is nothing to look at, however many rows there are.
        let smallest_width = self.width == Width::None
            || excesses().min() == Some(0) && excesses().max().map(Width::of) == Some(self.width);
        sum == total as u64 && padded && smallest_width
    }

    /// Bytes of all rows before `row`.
    #[inline]
    pub(crate) fn begin(&self, row: u32) -> usize {
        (row as usize).wrapping_mul(self.shortest.into()).wrapping_add(self.excess_before(row))
    }

    /// Bytes of `row`.
    #[inline]
    pub(crate) fn len(&self, row: u32) -> usize {
        usize::from(self.shortest) + usize::from(self.excess(row))
    }

    #[inline]
    fn excess(&self, row: u32) -> u16 {
        let row = row as usize;
        let byte = |at: usize| self.excess.get(at).copied().unwrap_or(0);
        match self.width {
            Width::None => 0,
            Width::Nibble => u16::from(byte(row / 2) >> (row % 2 * 4) & 15),
            Width::Byte => byte(row).into(),
            Width::Word => self.excess.as_chunks().0.get(row).map_or(0, |b| u16::from_le_bytes(*b)),
        }
    }

    /// Sum of the excesses before `row`.
    fn excess_before(&self, row: u32) -> usize {
        let row = row as usize;
        let front = |bytes: usize| self.excess.get(..bytes).unwrap_or(self.excess);
        match self.width {
            Width::None => 0,
            Width::Nibble => {
                let pairs: usize =
                    front(row / 2).iter().map(|b| usize::from(b & 15) + usize::from(b >> 4)).sum();
                let odd = if row % 2 == 1 { self.excess.get(row / 2).map_or(0, |b| b & 15) } else { 0 };
                pairs + usize::from(odd)
            }
            Width::Byte => front(row).iter().map(|b| usize::from(*b)).sum(),
            Width::Word => {
                front(row * 2).as_chunks().0.iter().map(|b| usize::from(u16::from_le_bytes(*b))).sum()
            }
        }
    }
}

/// Appends the directory of these rows and the rows. One that is longer than 65,535 bytes is cut off, and no reader
/// accepts the result.
#[cfg(feature = "alloc")]
pub(crate) fn put_rows(rows: &[alloc::vec::Vec<u8>], out: &mut alloc::vec::Vec<u8>) {
    let len = |row: &alloc::vec::Vec<u8>| u16::try_from(row.len()).unwrap_or(u16::MAX);
    let shortest = rows.iter().map(len).min().unwrap_or(0);
    let excess = || rows.iter().map(|row| len(row) - shortest);
    let width = Width::of(excess().max().unwrap_or(0));
    out.extend(shortest.to_le_bytes());
    out.push(width.bits());
    let mut bits = super::bitstream::BitWriter::default();
    excess().for_each(|e| bits.put(e.into(), width.bits().into()));
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
            (&[3, 5, 18, 3], 2),
            (&[2, 18], 2),
            (&[2, 258, 3], 6),
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
        assert!(valid(3, 15, &[4, 0, 4, 0x12, 0x00]));
        // Padding; a width too large; a shortest row that is not the shortest; an unknown width; too short.
        assert!(!valid(3, 15, &[4, 0, 4, 0x12, 0x10]));
        assert!(!valid(3, 15, &[4, 0, 8, 2, 1, 0]));
        assert!(!valid(3, 15, &[3, 0, 4, 0x23, 0x01]));
        assert!(!valid(3, 15, &[5, 0, 4, 0, 0]));
        assert!(!valid(3, 15, &[4, 0, 5, 0x12, 0x00]));
        assert!(!valid(3, 15, &[4, 0, 4, 0x12]));
        assert!(valid(3, 15, &[5, 0, 0]));
        assert!(valid(u32::MAX, 0, &[0, 0, 0]), "the rows themselves are checked by their codec");
    }
}
