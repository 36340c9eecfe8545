//! One target for each codec: a payload is refused, or it decodes to finite weights, the same by every way, and the
//! linear map over it is the one `docs/numerics.md` §2 defines.

use std::cell::RefCell;

use forge_formats::Matrix;
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
