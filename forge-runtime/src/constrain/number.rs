//! Numbers as they may be written in a value, a byte at a time.
#![forbid(unsafe_code)]

/// Digits of the longest whole number a range can ask for: `9223372036854775808` has 19.
const MOST_DIGITS: u32 = 19;

/// A whole number of a range: `-?(0|[1-9][0-9]*)`, but not `-0`. Only what some number of the range begins with is
/// taken, which is decided exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Integer {
    min: i64,
    max: i64,
    negative: bool,
    /// The digits written, `None` before the first.
    magnitude: Option<u64>,
}

impl Integer {
    pub(super) fn new(min: i64, max: i64) -> Self {
        Self { min, max, negative: false, magnitude: None }
    }

    /// After more bytes; `None` where no number of the range goes on like this.
    pub(super) fn after(self, bytes: &[u8]) -> Option<Self> {
        let after = bytes.iter().try_fold(self, |at, byte| at.step(*byte))?;
        after.missing().is_some().then_some(after)
    }

    /// After one more byte of the grammar, in or out of the range.
    fn step(self, byte: u8) -> Option<Self> {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        let magnitude = match (self.magnitude, byte) {
            (None, b'-') if !self.negative => return Some(Self { negative: true, ..self }),
            (None, b'0') if self.negative => return None,
            (None, b'0'..=b'9') => digit,
            (Some(0), _) => return None,
            (Some(m), b'0'..=b'9') => m.checked_mul(10)?.checked_add(digit)?,
            _ => return None,
        };
        Some(Self { magnitude: Some(magnitude), ..self })
    }

    /// Whether what is written is a number of the range.
    pub(super) fn complete(self) -> bool {
        self.missing() == Some(0)
    }

    /// Whether it is a number of the range and no digit can follow.
    pub(super) fn closed(self) -> bool {
        self.complete() && (b'0'..=b'9').all(|digit| self.after(&[digit]).is_none())
    }

    /// The fewest bytes that make it a number of the range; `None` when none do.
    pub(super) fn missing(self) -> Option<u32> {
        match self.magnitude {
            Some(magnitude) => self.digits_missing(magnitude),
            None => {
                let with = |byte| self.step(byte).and_then(|at| at.magnitude.map(|m| (at, m)));
                let digits = (b'0'..=b'9').filter_map(with);
                let first = digits.filter_map(|(at, m)| at.digits_missing(m)).min().map(|n| n + 1);
                let sign = self.step(b'-').and_then(Self::missing).map(|n| n + 1);
                [first, sign].into_iter().flatten().min()
            }
        }
    }

    /// The fewest digits behind `magnitude` that lead into the range.
    fn digits_missing(self, magnitude: u64) -> Option<u32> {
        let (min, max) = (i128::from(self.min), i128::from(self.max));
        let most = if magnitude == 0 { 0 } else { MOST_DIGITS };
        // With the digits so far it is one of these magnitudes.
        let (mut least, mut greatest) = (i128::from(magnitude), i128::from(magnitude));
        for digits in 0..=most {
            let (low, high) = if self.negative { (-greatest, -least) } else { (least, greatest) };
            if low <= max && min <= high {
                return Some(digits);
            }
            // More digits only lead away from zero.
            if if self.negative { high < min } else { low > max } {
                return None;
            }
            least = least.saturating_mul(10);
            greatest = greatest.saturating_mul(10).saturating_add(9);
        }
        None
    }
}

/// A decimal number: `-?(0|[1-9][0-9]*)(\.[0-9]+)?`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Number {
    /// Nothing is written.
    #[default]
    Start,
    /// `-`
    Sign,
    /// A first digit 0.
    Zero,
    /// Digits of which the first is not 0.
    Whole,
    /// A point behind digits.
    Point,
    /// Digits behind the point.
    Fraction,
}

impl Number {
    /// After more bytes; `None` where no number goes on like this.
    pub(super) fn after(self, bytes: &[u8]) -> Option<Self> {
        bytes.iter().try_fold(self, |at, byte| at.step(*byte))
    }

    fn step(self, byte: u8) -> Option<Self> {
        use Number::{Fraction, Point, Sign, Start, Whole, Zero};
        match (self, byte) {
            (Start, b'-') => Some(Sign),
            (Start | Sign, b'0') => Some(Zero),
            (Start | Sign | Whole, b'0'..=b'9') => Some(Whole),
            (Zero | Whole, b'.') => Some(Point),
            (Point | Fraction, b'0'..=b'9') => Some(Fraction),
            _ => None,
        }
    }

    /// Whether what is written is a number.
    pub(super) fn complete(self) -> bool {
        matches!(self, Number::Zero | Number::Whole | Number::Fraction)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// Every text of up to `len` bytes of the numbers' alphabet.
    fn texts(len: usize) -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new()];
        let mut last = all.clone();
        for _ in 0..len {
            let more = |text: &Vec<u8>| b"-.0123456789 ".map(|byte| [text.as_slice(), &[byte]].concat());
            last = last.iter().flat_map(more).collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    /// Whether a text is the shortest form of a whole number of the range.
    fn is_integer(text: &[u8], min: i64, max: i64) -> bool {
        let text = core::str::from_utf8(text).unwrap();
        text.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n) && n.to_string() == text)
    }

    #[test]
    fn integers_are_judged_as_by_listing_the_range() {
        let ranges =
            [(0, 0), (-3, 5), (1, 100), (95, 105), (-120, -99), (-7, -7), (250, 999), (-1000, 1000), (-9, 0)];
        for (min, max) in ranges {
            let all: Vec<String> = (min..=max).map(|n: i64| n.to_string()).collect();
            for text in texts(3) {
                let at = Integer::new(min, max).after(&text);
                let begins: Vec<usize> = all
                    .iter()
                    .filter(|n| n.as_bytes().starts_with(&text))
                    .map(|n| n.len() - text.len())
                    .collect();
                let missing = at.map(|at| at.missing().unwrap() as usize);
                assert_eq!(missing, begins.iter().min().copied(), "{text:?} in {min}..={max}");
                assert_eq!(at.is_some_and(Integer::complete), is_integer(&text, min, max));
                assert_eq!(at.map(Integer::closed), begins.iter().max().map(|longest| *longest == 0));
            }
        }
    }

    #[test]
    fn the_widest_range_takes_its_ends_and_nothing_beyond() {
        let wide = Integer::new(i64::MIN, i64::MAX);
        for (text, fits) in [
            ("9223372036854775807", true),
            ("9223372036854775808", false),
            ("-9223372036854775808", true),
            ("-9223372036854775809", false),
            ("99999999999999999999999", false),
            ("922337203685477580", true),
            ("-0", false),
            ("00", false),
            ("--1", false),
            ("", false),
        ] {
            assert_eq!(wide.after(text.as_bytes()).is_some_and(Integer::complete), fits, "{text}");
        }
        assert_eq!(Integer::new(i64::MAX, i64::MAX).missing(), Some(19));
        assert_eq!(Integer::new(i64::MIN, i64::MIN).missing(), Some(20));
    }

    #[test]
    fn decimal_numbers_follow_the_grammar() {
        for text in texts(4) {
            let at = Number::default().after(&text);
            let text = core::str::from_utf8(&text).unwrap();
            let unsigned = text.strip_prefix('-').unwrap_or(text);
            let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
            let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
            let begins = digits(whole) && digits(fraction) && (whole.len() < 2 || !whole.starts_with('0'));
            let begins = begins && (!whole.is_empty() || !unsigned.contains('.'));
            assert_eq!(at.is_some(), begins, "{text}");
            let complete = begins && !whole.is_empty() && !fraction.is_empty();
            assert_eq!(at.is_some_and(Number::complete), complete, "{text}");
        }
    }
}
