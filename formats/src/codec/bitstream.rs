//! Integers packed least significant bit first: the order every bit-packed codec of this crate uses.
//!
//! Bit `i` of the stream is bit `i % 8` of byte `i / 8`; an integer's lowest bit comes first.

/// Reads integers from a byte slice; beyond its end the stream continues with zeros.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    window: u64,
    held: u32,
}

impl<'a> BitReader<'a> {
    /// A reader at the first bit of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, window: 0, held: 0 }
    }

    /// The next `count` bits (at most 32) as an unsigned integer.
    #[inline]
    pub fn take(&mut self, count: u32) -> u32 {
        let count = count.min(32);
        while self.held < count {
            let byte = match self.bytes.split_first() {
                Some((&first, rest)) => {
                    self.bytes = rest;
                    first
                }
                None => 0,
            };
            self.window |= u64::from(byte) << self.held;
            self.held += 8;
        }
        let value = self.window & ((1 << count) - 1);
        self.window >>= count;
        self.held -= count;
        value as u32
    }

    /// Whether every bit not yet read is zero, as the padding of a row must be.
    pub fn rest_is_zero(&self) -> bool {
        self.window == 0 && self.bytes.iter().all(|&byte| byte == 0)
    }
}

/// `code`, a two's complement number of four bits, as a signed integer in −8..=7.
#[inline]
pub fn nibble(code: u32) -> i32 {
    ((code & 15) as i32 ^ 8) - 8
}

/// Writes what [`BitReader`] reads.
#[cfg(feature = "alloc")]
#[derive(Clone, Debug, Default)]
pub struct BitWriter {
    bytes: alloc::vec::Vec<u8>,
    window: u64,
    held: u32,
}

#[cfg(feature = "alloc")]
impl BitWriter {
    /// Appends the lowest `count` bits (at most 32) of `value`.
    pub fn put(&mut self, value: u32, count: u32) {
        let count = count.min(32);
        self.window |= (u64::from(value) & ((1 << count) - 1)) << self.held;
        self.held += count;
        while self.held >= 8 {
            self.bytes.push(self.window as u8);
            self.window >>= 8;
            self.held -= 8;
        }
    }

    /// Pads with zero bits to a whole byte.
    pub fn align(&mut self) {
        if self.held > 0 {
            self.put(0, 8 - self.held);
        }
    }

    /// Appends whole bytes after aligning.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.align();
        self.bytes.extend_from_slice(bytes);
    }

    /// Everything written, padded to a whole byte.
    pub fn finish(mut self) -> alloc::vec::Vec<u8> {
        self.align();
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_least_significant_bits_first_and_zeros_past_the_end() {
        let mut reader = BitReader::new(&[0b1010_0110, 0xFF]);
        assert_eq!(reader.take(3), 0b110);
        assert_eq!(reader.take(6), 0b1_10100);
        assert!(!reader.rest_is_zero());
        assert_eq!(reader.take(32), 0x7F);
        assert!(reader.rest_is_zero());
        assert_eq!(reader.take(0), 0);
    }

    #[test]
    fn nibbles_are_twos_complement() {
        let all: [i32; 16] = core::array::from_fn(|code| nibble(code as u32));
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1]);
    }

    #[cfg(feature = "alloc")]
    #[test]
    fn what_is_written_is_read_back() {
        let fields = [(5, 3), (0xFFFF_FFFF, 32), (0, 1), (0x1234, 16), (1, 1), (0x3FF, 10)];
        let mut writer = BitWriter::default();
        fields.iter().for_each(|&(value, count)| writer.put(value, count));
        writer.bytes(&[0xAB]);
        let bytes = writer.finish();
        assert_eq!(bytes.len(), 8 + 1);
        let mut reader = BitReader::new(&bytes);
        for (value, count) in fields {
            assert_eq!(reader.take(count), value);
        }
        assert_eq!(reader.take(1), 0);
        assert_eq!(reader.take(8), 0xAB);
    }
}
