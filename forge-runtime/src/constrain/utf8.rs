//! UTF-8, a byte at a time (RFC 3629, section 4).
#![forbid(unsafe_code)]

/// Where a text stands: between characters, or so many bytes before the end of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Utf8 {
    /// Bytes the character begun still lacks, at most 3.
    missing: u8,
    /// The least next byte, where one is missing.
    low: u8,
    /// The greatest.
    high: u8,
}

impl Utf8 {
    /// Bytes the character begun still lacks.
    pub(super) fn missing(self) -> u32 {
        self.missing.into()
    }

    /// After one more byte; `None` where no text goes on like this.
    fn step(self, byte: u8) -> Option<Self> {
        if self.missing > 0 {
            let fits = (self.low..=self.high).contains(&byte);
            return fits.then_some(Self { missing: self.missing - 1, low: 0x80, high: 0xBF });
        }
        let (missing, low, high) = match byte {
            0x00..=0x7F => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return None,
        };
        Some(Self { missing, low, high })
    }

    /// After more bytes.
    pub(super) fn after(self, bytes: &[u8]) -> Option<Self> {
        bytes.iter().try_fold(self, |at, byte| at.step(*byte))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn every_string_of_up_to_four_bytes_is_judged_as_the_standard_library_does() {
        // Edges of every range, and all pairs of bytes.
        let edges =
            [0, 0x20, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC];
        let more = [0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF];
        let bytes: Vec<u8> = edges.into_iter().chain(more).collect();
        let check = |text: &[u8]| {
            let said = Utf8::default().after(text).map(Utf8::missing);
            match core::str::from_utf8(text) {
                Ok(_) => assert_eq!(said, Some(0), "{text:x?}"),
                Err(e) if e.error_len().is_none() => assert!(said > Some(0), "{text:x?}"),
                Err(_) => assert_eq!(said, None, "{text:x?}"),
            }
        };
        (0..=255).for_each(|a| (0..=255).for_each(|b| check(&[a, b])));
        for a in &bytes {
            for b in &bytes {
                bytes.iter().for_each(|c| bytes.iter().for_each(|d| check(&[*a, *b, *c, *d])));
            }
        }
    }

    #[test]
    fn as_many_bytes_as_are_missing_end_a_character() {
        for c in ['é', '€', '🦀', '\u{10FFFF}', '\u{D7FF}', '\u{E000}'] {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            for end in 1..=bytes.len() {
                let at = Utf8::default().after(&bytes[..end]).unwrap();
                assert_eq!(at.missing() as usize, bytes.len() - end);
            }
        }
    }
}
