//! `TernaryRans`: trits in as many bits as they carry, by asymmetric numeral systems (Duda 2013, arXiv 1311.2540, the
//! range variant with whole bytes).
//!
//! Frequencies are eight bits and shared by the matrix, the state is sixteen. Both are small because rows are short:
//! what a state holds at the start of coding is lost in each row. Its last five trits go there, as a base-3 number,
//! so that nearly nothing is (`docs/codecs.md`, section 6). Every row is coded on its own.

use super::directory::Directory;
use super::split_scales;
use super::ternary::{digits, unpack4};
use crate::error::{Error, Result};

/// Largest frequency of 256. No trit is then coded in less than a twentieth of a bit, which bounds the time that
/// checking a payload takes by its length.
pub const LARGEST: u32 = 248;
/// Trits that the initial state of a row's encoder holds.
const HELD: usize = 5;
/// States are at least this, and below its square.
const LOW: u32 = 256;
/// Rows decoded together: the steps of one row wait for each other.
const TILE: usize = 4;

/// How often each trit occurs, of 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequencies {
    /// Of −1, 0 and 1, a byte each from the least significant on.
    sizes: u32,
    /// Sums of those before each, likewise.
    starts: u32,
}

impl Frequencies {
    /// The frequencies when −1 and 1 have these; `None` unless all three are 1 to [`LARGEST`].
    pub fn new(minus: u8, plus: u8) -> Option<Self> {
        let (minus, plus) = (u32::from(minus), u32::from(plus));
        let zero = LOW.checked_sub(minus + plus)?;
        let valid = [minus, zero, plus].iter().all(|f| (1..=LARGEST).contains(f));
        valid.then_some(Self {
            sizes: minus | zero << 8 | plus << 16,
            starts: minus << 8 | (minus + zero) << 16,
        })
    }

    /// Frequency and start of a code.
    #[inline]
    fn of(self, code: u32) -> (u32, u32) {
        (self.sizes >> (8 * code) & 0xFF, self.starts >> (8 * code) & 0xFF)
    }

    /// What a decoder does in each slot.
    #[inline]
    fn steps(self) -> Steps {
        let mut steps = [0; 256];
        for (slot, step) in (0..).zip(&mut steps) {
            let code = u32::from(slot >= self.starts >> 8 & 0xFF) + u32::from(slot >= self.starts >> 16);
            let (size, start) = self.of(code);
            *step = size | (slot - start) << 8 | code << 16;
        }
        steps
    }
}

/// For each value of a state's low byte: the frequency, the place within its range, and the code it stands for. Faster
/// than two comparisons, by a quarter.
type Steps = [u32; 256];

/// A payload's parts.
#[derive(Clone, Copy)]
struct Parts<'a> {
    frequencies: Frequencies,
    directory: Directory<'a>,
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(rows: u32, payload: &'a [u8]) -> Option<Self> {
        let (front, _) = split_scales(rows, payload)?;
        let (&[minus, plus], rest) = front.split_first_chunk::<2>()?;
        let (directory, body) = Directory::read(rows, rest)?;
        Some(Self { frequencies: Frequencies::new(minus, plus)?, directory, body })
    }

    /// Where each of as many rows from `first` on as the array has begins and ends; `at` is where the first begins.
    fn ends<const N: usize>(&self, first: u32, at: usize) -> [[usize; 2]; N] {
        let (mut ends, mut at) = ([[0; 2]; N], at);
        for (place, row) in ends.iter_mut().zip(first..) {
            let end = at.saturating_add(self.directory.len(row));
            *place = [at, end];
            at = end;
        }
        ends
    }
}

/// The decoder of one row. It knows no end: whoever needs it looks where it stopped.
#[derive(Clone, Copy)]
struct Decoder {
    state: u32,
    /// Place of the next byte in the body.
    at: usize,
}

impl Decoder {
    #[inline]
    fn new(body: &[u8], at: usize) -> Self {
        let state = body.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b));
        Self { state: state.into(), at: at.saturating_add(2) }
    }

    /// The code (trit + 1) of the next trit.
    #[inline(always)]
    fn next(&mut self, steps: &Steps, body: &[u8]) -> u32 {
        let slot = self.state;
        // A byte, so that it is in range.
        let step = steps[usize::from(slot as u8)];
        let state = (step & 0xFF) * (self.state >> 8) + (step >> 8 & 0xFF);
        // Without a branch, which would be mispredicted at every other byte.
        let byte = u32::from(body.get(self.at).copied().unwrap_or(0));
        let low = u32::from(state < LOW);
        self.state = state << (8 * low) | byte & low.wrapping_neg();
        self.at += low as usize;
        step >> 16
    }

    /// The codes of the last trits; places the row has not hold 1.
    #[inline]
    fn held(&self) -> [u8; HELD] {
        digits(self.state.wrapping_sub(LOW).min(242) as u8)
    }

    /// Whether the row was read to its `end` and its encoder began with `held` trits.
    #[inline]
    fn ended(&self, end: usize, held: usize) -> bool {
        let rest = self.held();
        self.at == end && self.state.wrapping_sub(LOW) <= 242 && rest.iter().skip(held).all(|code| *code == 1)
    }
}

/// Decodes rows of `cols` trits next to each other, given where in `body` they begin and end. `put` takes a row's number, a place in it and the four trits
/// there, packed as in `Ternary2b`. Returns whether every row is valid.
#[inline(always)]
fn decode<const N: usize>(
    steps: &Steps,
    cols: usize,
    body: &[u8],
    rows: [[usize; 2]; N],
    mut put: impl FnMut(usize, usize, u8),
) -> bool {
    let held = cols.min(HELD);
    let coded = cols - held;
    let mut decoders = rows.map(|[begin, _]| Decoder::new(body, begin));
    for place in 0..coded / 4 {
        let mut bytes = [0u32; N];
        for shift in [0, 2, 4, 6] {
            for (decoder, byte) in decoders.iter_mut().zip(&mut bytes) {
                *byte |= decoder.next(steps, body) << shift;
            }
        }
        bytes.iter().enumerate().for_each(|(row, byte)| put(row, place, *byte as u8));
    }
    let mut valid = true;
    for (row, (decoder, [begin, end])) in decoders.iter_mut().zip(rows).enumerate() {
        let begun = body.get(begin).is_some_and(|high| *high != 0);
        let mut codes = [1u8; 8];
        for code in codes.iter_mut().take(coded % 4) {
            *code = decoder.next(steps, body) as u8;
        }
        codes.iter_mut().skip(coded % 4).zip(decoder.held()).for_each(|(code, last)| *code = last);
        let places = cols.div_ceil(4) - coded / 4;
        for (n, four) in codes.as_chunks::<4>().0.iter().enumerate().take(places) {
            let [a, b, c, d] = *four;
            put(row, coded / 4 + n, a | b << 2 | c << 4 | d << 6);
        }
        valid &= begun && decoder.ended(end, held);
    }
    valid
}

/// Frequencies in range, the directory canonical, every row what its trits are coded as, every scale finite and not
/// negative.
///
/// # Errors
/// [`Error::Codec`].
pub fn validate(rows: u32, cols: u32, payload: &[u8]) -> Result<()> {
    let invalid = Error::Codec("ternary_rans");
    let parts = Parts::of(rows, payload).ok_or(invalid)?;
    let (_, scales) = split_scales(rows, payload).ok_or(invalid)?;
    if !parts.directory.valid(rows, parts.body.len()) || !super::scales_valid(scales) {
        return Err(invalid);
    }
    let (steps, body, cols) = (&parts.frequencies.steps(), parts.body, cols as usize);
    let (mut row, mut at) = (0, 0);
    while row < rows {
        let ends: [[usize; 2]; TILE] = parts.ends(row, at);
        let present = (rows - row).min(TILE as u32);
        let valid = if present == TILE as u32 {
            decode(steps, cols, body, ends, |_, _, _| {})
        } else {
            ends.iter().take(present as usize).all(|ends| decode(steps, cols, body, [*ends], |_, _, _| {}))
        };
        if !valid {
            return Err(invalid);
        }
        at = ends.last().map_or(at, |[_, end]| *end);
        row += present;
    }
    Ok(())
}

/// Writes the rows from `first` on to `out`, packed as in `Ternary2b`, as many as it has whole rows' room for.
pub fn rows_packed_2b(rows: u32, cols: u32, payload: &[u8], first: u32, out: &mut [u8]) {
    let Some(parts) = Parts::of(rows, payload) else { return };
    let stride = cols.div_ceil(4).max(1) as usize;
    let steps = &parts.frequencies.steps();
    let (mut row, mut at) = (first, parts.directory.begin(first));
    for tile in out.chunks_mut(stride.saturating_mul(TILE).max(1)) {
        let wanted = (tile.len() / stride).min(rows.saturating_sub(row) as usize);
        let ends: [[usize; 2]; TILE] = parts.ends(row, at);
        if wanted == TILE {
            decode_tile(steps, cols as usize, parts.body, ends, tile);
        } else {
            for (ends, out) in ends.iter().zip(tile.chunks_exact_mut(stride)).take(wanted) {
                decode_tile(steps, cols as usize, parts.body, [*ends], out);
            }
        }
        at = ends.last().map_or(at, |[_, end]| *end);
        row = row.saturating_add(TILE as u32);
    }
}

/// One tile of rows into `out`.
#[inline(never)]
fn decode_tile<const N: usize>(
    steps: &Steps,
    cols: usize,
    body: &[u8],
    rows: [[usize; 2]; N],
    out: &mut [u8],
) {
    let stride = cols.div_ceil(4);
    decode(steps, cols, body, rows, |row, place, byte| {
        if let Some(out) = out.get_mut(row * stride + place) {
            *out = byte;
        }
    });
}

/// Calls `put` with each place of a row and the four trits there, packed.
fn each_byte(rows: u32, cols: u32, payload: &[u8], row: u32, mut put: impl FnMut(usize, u8)) {
    if let Some(parts) = Parts::of(rows, payload) {
        let ends: [_; 1] = parts.ends(row, parts.directory.begin(row));
        decode(&parts.frequencies.steps(), cols as usize, parts.body, ends, |_, place, byte| {
            put(place, byte)
        });
    }
}

/// Writes one row to `out`, four trits a byte as in `Ternary2b`.
pub fn row_packed_2b(rows: u32, cols: u32, payload: &[u8], row: u32, out: &mut [u8]) {
    each_byte(rows, cols, payload, row, |place, byte| {
        if let Some(out) = out.get_mut(place) {
            *out = byte;
        }
    });
}

/// Writes one row of trits.
pub fn row_trits(rows: u32, cols: u32, payload: &[u8], row: u32, out: &mut [i8]) {
    each_byte(rows, cols, payload, row, |place, byte| {
        let out = out.iter_mut().skip(place * 4).take(4);
        out.zip(unpack4(byte)).for_each(|(o, t)| *o = t);
    });
}

/// Dequantises one row.
pub fn decode_row(rows: u32, cols: u32, payload: &[u8], row: u32, scale: f32, out: &mut [f32]) {
    each_byte(rows, cols, payload, row, |place, byte| {
        let out = out.iter_mut().skip(place * 4).take(4);
        out.zip(unpack4(byte)).for_each(|(o, t)| *o = f32::from(t) * scale);
    });
}

#[cfg(feature = "alloc")]
mod encoder {
    use alloc::vec::Vec;

    use super::{Frequencies, HELD, LARGEST, LOW};
    use crate::codec::directory::put_rows;
    use crate::codec::ternary::code_of;

    impl Frequencies {
        /// Those nearest to how often each trit occurs in `q`.
        fn nearest(q: &[i8]) -> Self {
            let count = |wanted: u8| q.iter().filter(|t| code_of(**t) == wanted).count() as u64;
            let [minus, zero, plus] = [count(0), count(1), count(2)];
            let share =
                |of: u64, part: u64, all: u64| (of * part * 2 + all).checked_div(2 * all).unwrap_or(of / 2);
            let zero = share(LOW.into(), zero, minus + zero + plus).clamp(1, LARGEST.into());
            let rest = u64::from(LOW) - zero;
            let most = (rest - 1).min(LARGEST.into());
            let minus = share(rest, minus, minus + plus).clamp(rest - most, most);
            let plus = rest - minus;
            // The bounds above keep every frequency in 1..=LARGEST.
            Self::new(minus as u8, plus as u8).expect("frequencies are in range")
        }

        /// The two that are stored.
        fn bytes(self) -> [u8; 2] {
            [self.of(0).0 as u8, self.of(2).0 as u8]
        }
    }

    /// Appends everything but the scales.
    pub(crate) fn put(cols: usize, q: &[i8], out: &mut Vec<u8>) {
        let frequencies = Frequencies::nearest(q);
        out.extend(frequencies.bytes());
        let rows: Vec<Vec<u8>> =
            q.chunks_exact(cols.max(1)).map(|row| encode_row(frequencies, row)).collect();
        put_rows(&rows, out);
    }

    fn encode_row(frequencies: Frequencies, q: &[i8]) -> Vec<u8> {
        let (coded, held) = q.split_at(q.len().saturating_sub(HELD));
        let number = (0..HELD).fold(0, |v, n| v * 3 + u32::from(held.get(n).map_or(1, |t| code_of(*t))));
        let (mut state, mut out) = (LOW + number, Vec::new());
        for trit in coded.iter().rev() {
            let (size, start) = frequencies.of(u32::from(code_of(*trit)));
            if state >= LOW * size {
                out.push(state as u8);
                state >>= 8;
            }
            state = (state / size) << 8 | (state % size + start);
        }
        out.extend([state as u8, (state >> 8) as u8]);
        out.reverse();
        out
    }
}

#[cfg(feature = "alloc")]
pub(crate) use encoder::put;
