//! Turns arbitrary bytes into a valid payload of a codec by changing as few of them as it takes.

use forge_formats::codec::bitstream::BitReader;
use forge_formats::codec::ternary::{pack4, pack5, unpack4, unpack5};
use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams, hyper, seedlm};

/// Makes `payload`, which has the right length, valid.
pub(crate) fn make_valid(codec: &Codec, [rows, cols]: [u32; 2], payload: &mut [u8]) {
    let (rows, cols) = (rows as usize, cols as usize);
    match codec {
        Codec::F32 => payload.as_chunks_mut::<4>().0.iter_mut().for_each(finite_f32),
        Codec::F16 => payload.as_chunks_mut::<2>().0.iter_mut().for_each(finite_f16),
        Codec::Int8Row => {
            let body = scales(rows, payload);
            body.iter_mut().filter(|b| **b == 0x80).for_each(|b| *b = 0x7F);
        }
        Codec::Ternary2b => {
            ternary(4, cols, scales(rows, payload), |byte, used| pack4(&unpack4(byte)[..used]))
        }
        Codec::Ternary5x8 => {
            ternary(5, cols, scales(rows, payload), |byte, used| pack5(&unpack5(byte)[..used]))
        }
        Codec::SeedLm(p) => seeds(p, cols, payload),
        Codec::Vptq(p) => vectors(p, cols, payload),
        Codec::Hyper(p) => windings(p, cols, payload),
        // Their length depends on the weights: they are encoded, not mended.
        Codec::TernaryRans | Codec::TernarySparse => {}
    }
}

fn finite_f32(bytes: &mut [u8; 4]) {
    if !f32::from_le_bytes(*bytes).is_finite() {
        bytes[3] &= 0xBF;
    }
}

fn finite_f16(bytes: &mut [u8; 2]) {
    if u16::from_le_bytes(*bytes) & 0x7C00 == 0x7C00 {
        bytes[1] &= 0xBF;
    }
}

/// A finite scale without a sign.
fn scale(bytes: &mut [u8; 2]) {
    bytes[1] &= 0x7F;
    finite_f16(bytes);
}

/// Makes the scales at the end valid; returns what is before them.
fn scales(rows: usize, payload: &mut [u8]) -> &mut [u8] {
    let (body, scales) = payload.split_at_mut(payload.len() - 2 * rows);
    scales.as_chunks_mut::<2>().0.iter_mut().for_each(scale);
    body
}

/// Packs again what each byte unpacks to, and zeros where a row has ended.
fn ternary(trits: usize, cols: usize, body: &mut [u8], again: impl Fn(u8, usize) -> u8) {
    for row in body.chunks_mut(cols.div_ceil(trits)) {
        for (i, byte) in row.iter_mut().enumerate() {
            *byte = again(*byte, trits.min(cols - i * trits));
        }
    }
}

/// Clears the bits of a row from `used` on.
fn pad(row: &mut [u8], used: usize) {
    if let (Some(last), true) = (row.last_mut(), !used.is_multiple_of(8)) {
        *last &= (1 << (used % 8)) - 1;
    }
}

fn seeds(p: &SeedLmParams, cols: usize, payload: &mut [u8]) {
    let (blocks, bits) = (cols.div_ceil(usize::from(p.block)), seedlm::block_bits(p));
    let used = blocks * bits as usize;
    for row in payload.chunks_mut(used.div_ceil(8)) {
        pad(row, used);
        for block in 0..blocks {
            let at = block * bits as usize;
            let mut reader = BitReader::new(&row[at / 8..]);
            reader.take((at % 8) as u32);
            if reader.take(u32::from(p.bits)) == 0 {
                row[at / 8] |= 1 << (at % 8);
            }
        }
    }
}

fn vectors(p: &VptqParams, cols: usize, payload: &mut [u8]) {
    let mut rest = payload;
    for bits in [p.index_bits, p.residual_bits].into_iter().filter(|bits| *bits > 0) {
        let (book, rows) = rest.split_at_mut(2 + (usize::from(p.dim) << bits));
        book.first_chunk_mut().into_iter().for_each(scale);
        rest = rows;
    }
    let used = cols.div_ceil(usize::from(p.dim)) * usize::from(p.index_bits + p.residual_bits);
    for row in rest.chunks_mut(2 + used.div_ceil(8)) {
        row.first_chunk_mut().into_iter().for_each(scale);
        pad(row, used);
    }
}

fn windings(p: &HyperParams, cols: usize, payload: &mut [u8]) {
    let (header, rows) = payload.split_at_mut(hyper::HEADER);
    let (words, _) = header.as_chunks_mut::<4>();
    let mut numbers = [0, 1, 2, 3].map(|i: usize| f32::from_le_bytes(words[i]));
    let within = |x: f32, low: f32, otherwise: f32| {
        if (low..=hyper::MAX_MAGNITUDE).contains(&x) { x } else { otherwise }
    };
    numbers[0] = within(numbers[0], -hyper::MAX_MAGNITUDE, 0.5);
    numbers[1] = within(numbers[1], -hyper::MAX_MAGNITUDE, -0.25);
    numbers[2] = within(numbers[2], hyper::MIN_SIDE, 1.0);
    numbers[3] = within(numbers[3], numbers[2] * 0.5, numbers[2]);
    words.iter_mut().zip(numbers).for_each(|(word, x)| *word = x.to_le_bytes());
    let (width, pairs) = (hyper::theta_bits(p) as usize, cols.div_ceil(2));
    let largest = (u32::from(p.rings) + 1) * (u32::from(p.nodes) + 1) - 1;
    for row in rows.chunks_mut((pairs * width).div_ceil(8).max(1)) {
        pad(row, pairs * width);
        for pair in 0..pairs {
            let at = pair * width;
            let mut reader = BitReader::new(&row[at / 8..]);
            reader.take((at % 8) as u32);
            if reader.take(width as u32) > largest {
                // Below half of the range, and that is below the largest.
                let top = at + width - 1;
                row[top / 8] &= !(1 << (top % 8));
            }
        }
    }
}
