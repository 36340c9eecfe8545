//! Fuzz input as a source of decisions.

/// Reads decisions from bytes; past their end, a pseudo-random stream that depends on all of them goes on.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let state = bytes.iter().fold(0x9E37_79B9_7F4A_7C15, |state: u64, byte| {
            (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
        });
        Self { bytes, state: state | 1 }
    }

    /// The next byte; 0 past the end, so that short inputs decide for the simplest.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    /// A number below `n`, which is at most 256.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// A number from `low` on, one of `n`.
    pub(crate) fn from(&mut self, low: u32, n: usize) -> u32 {
        low + self.below(n) as u32
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn f32(&mut self) -> f32 {
        f32::from_bits(u32::from(self.u16()) | u32::from(self.u16()) << 16)
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Fills `out` with bytes of the input, then of the stream (xorshift64, Marsaglia 2003).
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        let (now, later) = self.bytes.split_at(out.len().min(self.bytes.len()));
        let (given, random) = out.split_at_mut(now.len());
        given.copy_from_slice(now);
        self.bytes = later;
        for chunk in random.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
    }
}
