//! Weight encoders: a matrix of floats becomes the payload of a codec, and the loss that costs is measured by
//! decoding that payload with the reader the runtime uses. See `docs/codecs.md`.

pub mod choose;
pub mod distortion;
pub mod hyper;
pub mod presets;
pub mod seedlm;
pub mod vptq;

#[cfg(test)]
mod reference;

pub use choose::{Candidate, choose};
pub use distortion::{Distortion, Metric};

use forge_formats::codec::encode::{Simple, encode as encode_simple};
use forge_formats::codec::{Codec, Matrix as View};

use crate::error::{Error, Result};
use crate::weights::Matrix;

/// A matrix as the bytes of a codec.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The codec with all its parameters, those that the encoder chose included.
    pub codec: Codec,
    /// The payload of the tensor's section.
    pub payload: Vec<u8>,
}

impl Encoded {
    /// The matrix that a reader of the file sees.
    ///
    /// # Errors
    /// When the payload is not a valid `rows × cols` matrix of its codec.
    pub fn decode(&self, rows: usize, cols: usize) -> Result<Matrix> {
        let view = View::new(self.codec, shape(rows, cols)?, &self.payload)?;
        let mut out = Matrix::zeros(rows, cols);
        for r in 0..rows {
            view.decode_row(r, out.row_mut(r));
        }
        Ok(out)
    }

    /// Bits a weight, with everything the payload holds besides the weights' own codes.
    pub fn bits_per_weight(&self, rows: usize, cols: usize) -> f64 {
        self.payload.len() as f64 * 8.0 / (rows * cols) as f64
    }
}

/// Encodes a matrix. `metric` says what an error costs; codecs that cannot use all of it use what they can
/// (the simple ones nothing, SeedLM and Hyper a Hessian's diagonal, VPTQ the whole). SeedLM's tensor exponent
/// is chosen here, whatever `codec` says.
///
/// # Errors
/// When a weight or the metric is not finite, sizes do not match, or the codec's parameters are out of range.
pub fn encode(codec: &Codec, matrix: &Matrix, metric: Metric<'_>) -> Result<Encoded> {
    metric.check(matrix)?;
    shape(matrix.rows, matrix.cols)?;
    if matrix.data.iter().any(|w| !w.is_finite()) {
        return Err(Error::Config(format!("cannot encode as {}: a weight is not finite", codec.name())));
    }
    let simple = match codec {
        Codec::F32 => Simple::F32,
        Codec::F16 => Simple::F16,
        Codec::Int8Row => Simple::Int8Row,
        Codec::Ternary2b => Simple::Ternary2b,
        Codec::Ternary5x8 => Simple::Ternary5x8,
        Codec::TernaryRans => Simple::TernaryRans,
        Codec::TernarySparse => Simple::TernarySparse,
        Codec::SeedLm(p) => return seedlm::encode(p, matrix, metric),
        Codec::Vptq(p) => return vptq::encode(p, matrix, metric),
        Codec::Hyper(p) => return hyper::encode(p, matrix, metric),
    };
    let payload = encode_simple(simple, matrix.rows, matrix.cols, &matrix.data);
    Ok(Encoded { codec: *codec, payload })
}

/// The shape as the format stores it.
fn shape(rows: usize, cols: usize) -> Result<[u32; 2]> {
    match (u32::try_from(rows), u32::try_from(cols)) {
        (Ok(rows @ 1..), Ok(cols @ 1..)) => Ok([rows, cols]),
        _ => Err(Error::Config(format!("a model file cannot hold a {rows} × {cols} matrix"))),
    }
}
