//! One target for each codec: a payload is refused, or it decodes to finite weights, the same by every way, and the
//! linear map over it is the one `docs/numerics.md` §2 defines.

use std::cell::RefCell;

use forge_formats::Matrix;
use forge_formats::codec::encode::{Simple, pack};
use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams, payload_len};

use crate::input::Input;
use crate::linear::{COLS, Work};
use crate::payload::make_valid;

const ROWS: usize = 4;
const PAYLOAD: usize = 1 << 15;

thread_local! {
    static BUFFERS: RefCell<(Vec<u8>, Work)> = RefCell::new((vec![0; PAYLOAD], Work::default()));
}

/// `F32` and `F16`.
pub fn float(data: &[u8]) {
    family(data, |i| if i.byte() & 1 == 0 { Codec::F32 } else { Codec::F16 });
}

/// `Int8Row`.
pub fn int8(data: &[u8]) {
    family(data, |_| Codec::Int8Row);
}

/// `Ternary2b`.
pub fn ternary2b(data: &[u8]) {
    family(data, |_| Codec::Ternary2b);
}

/// `Ternary5x8`.
pub fn ternary5x8(data: &[u8]) {
    family(data, |_| Codec::Ternary5x8);
}

/// `SeedLm`, with parameters in and out of range.
pub fn seedlm(data: &[u8]) {
    family(data, |i| {
        let raw = SeedLmParams {
            block: i.byte(),
            coeffs: i.byte(),
            bits: i.byte(),
            exponent: i.byte().cast_signed(),
        };
        if i.byte() & 7 == 0 {
            return Codec::SeedLm(raw);
        }
        let block = 1 + raw.block % 32;
        let coeffs = 1 + raw.coeffs % block.min(4);
        Codec::SeedLm(SeedLmParams { block, coeffs, bits: 8 + raw.bits % 9, exponent: raw.exponent % 101 })
    });
}

/// `Vptq`, with parameters in and out of range.
pub fn vptq(data: &[u8]) {
    family(data, |i| {
        let raw = VptqParams { dim: i.byte(), index_bits: i.byte(), residual_bits: i.byte() };
        if i.byte() & 7 == 0 {
            return Codec::Vptq(raw);
        }
        let (dim, index_bits, residual_bits) =
            (1 + raw.dim % 16, 4 + raw.index_bits % 2, raw.residual_bits % 5);
        Codec::Vptq(VptqParams { dim, index_bits, residual_bits })
    });
}

/// `Hyper`, with parameters in and out of range.
pub fn hyper(data: &[u8]) {
    family(data, |i| {
        let raw = HyperParams { nodes: i.u16(), rings: i.byte() };
        if i.byte() & 7 == 0 {
            return Codec::Hyper(raw);
        }
        Codec::Hyper(HyperParams { nodes: raw.nodes.max(1), rings: raw.rings % 17 })
    });
}

/// `TernaryRans`.
pub fn rans(data: &[u8]) {
    variable(data, Simple::TernaryRans);
}

/// `TernarySparse`.
pub fn sparse(data: &[u8]) {
    variable(data, Simple::TernarySparse);
}

/// A codec whose payload's length depends on the weights: any bytes, or trits of the input's choice encoded, and those
/// with a byte changed. What is accepted is the one encoding of what it decodes to.
fn variable(data: &[u8], simple: Simple) {
    let mut input = Input::new(data);
    let shape = [input.from(1, ROWS), u32::from(input.byte() % 72)];
    let (mode, at, flip) = (input.byte(), input.u16(), input.byte());
    BUFFERS.with_borrow_mut(|(_, work)| {
        activations(&mut input, mode >> 4, &mut work.x[..shape[1] as usize]);
        let raw = mode & 3 == 0;
        let mut payload = if raw { input.rest().to_vec() } else { trits(&mut input, simple, shape, mode) };
        let at = usize::from(at) % payload.len().max(1);
        if let Some(byte) = payload.get_mut(at).filter(|_| mode & 3 == 3) {
            *byte ^= flip;
        }
        let Ok(matrix) = Matrix::new(simple.into(), shape, &payload) else {
            assert!(raw || mode & 3 == 3 || shape[1] == 0, "what is written is refused");
            return decode_all(&Matrix::validated(simple.into(), shape, &payload));
        };
        if mode & 1 == 0 {
            return work.check(&matrix, mode >> 4 ^ mode);
        }
        let cols = matrix.cols();
        let mut q = vec![2; matrix.rows() * cols];
        q.chunks_mut(cols).enumerate().for_each(|(r, row)| matrix.row_trits(r, row));
        let scales: Vec<f32> = (0..matrix.rows()).map(|r| matrix.scale(r)).collect();
        // The encoder chooses the parameters, which come first; all else follows.
        let again = pack(simple, cols, &q, &scales);
        let front = if simple == Simple::TernaryRans { 2 } else { 1 };
        let alike = again.get(..front) == payload.get(..front);
        assert!(again == payload || !alike, "two encodings of one matrix");
    });
}

/// Trits of any density, encoded.
pub(crate) fn trits(input: &mut Input<'_>, simple: Simple, [rows, cols]: [u32; 2], mode: u8) -> Vec<u8> {
    let mut bytes = vec![0; (rows * cols) as usize];
    input.fill(&mut bytes);
    let zeros = [1, 128, 220, 255][usize::from(mode >> 2 & 3)];
    let trit = |b: &u8| if *b < zeros { 0 } else { 1 - 2 * (b & 1).cast_signed() };
    let q: Vec<i8> = bytes.iter().map(trit).collect();
    let scales: Vec<f32> =
        (0..rows).map(|r| [0.0, 1.0, 65504.0, 6e-8][(r as usize + usize::from(mode)) % 4]).collect();
    pack(simple, cols as usize, &q, &scales)
}

fn family(data: &[u8], codec: impl FnOnce(&mut Input<'_>) -> Codec) {
    let mut input = Input::new(data);
    let codec = codec(&mut input);
    let (wide, rows, cols) = (input.byte() == 255, input.below(ROWS), input.byte());
    // The ternary kernels sum in pieces, and it takes this many columns to fill one.
    let wide = wide && matches!(codec, Codec::Ternary2b | Codec::Ternary5x8);
    let shape = if wide { [1, 2000 + u32::from(cols)] } else { [rows as u32 + 1, u32::from(cols % 72)] };
    let mode = input.byte();
    let Some(len) = payload_len(&codec, shape).map(|len| len as usize).filter(|len| *len <= PAYLOAD) else {
        assert!(Matrix::new(codec, shape, input.rest()).is_err());
        return decode_all(&Matrix::validated(codec, shape, input.rest()));
    };
    BUFFERS.with_borrow_mut(|(payload, work)| {
        activations(&mut input, mode >> 4, &mut work.x[..shape[1] as usize]);
        let payload = &mut payload[..len];
        input.fill(payload);
        match mode & 3 {
            0 => {}
            // Zeros and ones, where signs and padding are.
            1 => payload.fill(if mode & 4 == 0 { 0 } else { 0xFF }),
            _ => make_valid(&codec, shape, payload),
        }
        let Ok(matrix) = Matrix::new(codec, shape, payload) else {
            assert!(mode & 3 < 2, "a valid payload of {codec:?} {shape:?} is refused");
            return decode_all(&Matrix::validated(codec, shape, payload));
        };
        assert!(Matrix::new(codec, shape, &payload[..len - 1]).is_err());
        work.check(&matrix, mode >> 4 ^ mode);
    });
}

/// Inputs of the linear map: ordinary, large, tiny or any bits.
fn activations(input: &mut Input<'_>, style: u8, x: &mut [f32]) {
    let factor = [1.0, 1e-38, 1e30, 3.4e38][usize::from(style & 3)];
    let mut bytes = [0; 64];
    input.fill(&mut bytes);
    for (i, x) in x.iter_mut().enumerate() {
        let at = i * 5 % 61;
        *x = if style & 4 == 0 {
            f32::from(bytes[at].cast_signed()) * (1.0 / 128.0) * factor
        } else {
            f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
    }
}

/// Decoders are total: whatever the payload, they return.
fn decode_all(matrix: &Matrix<'_>) {
    let mut row = [0.0; COLS];
    (0..matrix.rows().min(ROWS)).for_each(|r| matrix.decode_row(r, &mut row));
}
