//! What an encoding loses, always measured on the decoded payload.

use crate::codec::{Candidate, Encoded};
use crate::error::{Error, Result};
use crate::weights::Matrix;

/// What an error in a weight costs.
#[derive(Clone, Copy, Debug, Default)]
pub enum Metric<'a> {
    /// Its square.
    #[default]
    Plain,
    /// Its square times its column's importance, for example the mean square of that input on calibration
    /// data.
    Columns(&'a [f32]),
    /// `e H eᵀ` for a row's errors `e`, with the symmetric `H = E[x xᵀ]` of the inputs, `cols × cols`.
    Hessian(&'a [f32]),
}

impl<'a> From<Option<&'a [f32]>> for Metric<'a> {
    fn from(importance: Option<&'a [f32]>) -> Self {
        importance.map_or(Metric::Plain, Metric::Columns)
    }
}

impl Metric<'_> {
    /// One non-negative weight a column: the importance, or the Hessian's diagonal; `None` when all weigh the
    /// same.
    pub fn columns(&self, cols: usize) -> Option<Vec<f32>> {
        match self {
            Metric::Plain => None,
            Metric::Columns(importance) => Some(importance.to_vec()),
            Metric::Hessian(h) => Some(h.iter().step_by(cols + 1).copied().collect()),
        }
    }

    /// Whether the metric fits the matrix.
    ///
    /// # Errors
    /// On a wrong length, a value that is not finite, or a negative importance or diagonal.
    pub fn check(&self, matrix: &Matrix) -> Result<()> {
        let (values, expected) = match self {
            Metric::Plain => return Ok(()),
            Metric::Columns(importance) => (*importance, matrix.cols),
            Metric::Hessian(h) => (*h, matrix.cols * matrix.cols),
        };
        if values.len() != expected {
            let what = format!("{} importance values for {} columns", values.len(), matrix.cols);
            return Err(Error::Config(what));
        }
        let negative = self.columns(matrix.cols).is_some_and(|h| h.iter().any(|h| *h < 0.0));
        if negative || values.iter().any(|h| !h.is_finite()) {
            return Err(Error::Config("an importance is negative or not finite".into()));
        }
        Ok(())
    }

    /// The cost of one row of errors.
    fn cost(&self, errors: &[f64]) -> f64 {
        match self {
            Metric::Plain => errors.iter().map(|e| e * e).sum(),
            Metric::Columns(importance) => {
                errors.iter().zip(*importance).map(|(e, h)| e * e * f64::from(*h)).sum()
            }
            Metric::Hessian(h) => {
                let rows = errors.iter().zip(h.chunks_exact(errors.len().max(1)));
                rows.map(|(e, row)| e * row.iter().zip(errors).map(|(h, e)| f64::from(*h) * e).sum::<f64>())
                    .sum()
            }
        }
    }
}

/// Cost of an encoding's errors, and what storing zeros would have cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distortion {
    /// Cost of the errors.
    pub error: f64,
    /// Cost of the weights themselves.
    pub energy: f64,
}

impl Distortion {
    /// Compares two matrices of one shape.
    ///
    /// # Errors
    /// When the shapes differ or the metric does not fit.
    pub fn between(original: &Matrix, decoded: &Matrix, metric: Metric<'_>) -> Result<Self> {
        if (original.rows, original.cols) != (decoded.rows, decoded.cols) {
            return Err(Error::Config("cannot compare matrices of different shapes".into()));
        }
        metric.check(original)?;
        let (mut error, mut energy) = (0.0, 0.0);
        for r in 0..original.rows {
            let weights: Vec<f64> = original.row(r).iter().map(|w| f64::from(*w)).collect();
            let errors: Vec<f64> =
                weights.iter().zip(decoded.row(r)).map(|(w, d)| w - f64::from(*d)).collect();
            error += metric.cost(&errors);
            energy += metric.cost(&weights);
        }
        Ok(Self { error, energy })
    }

    /// Decodes `encoded` and compares it with the original.
    ///
    /// # Errors
    /// When the payload is invalid or the metric does not fit.
    pub fn of(original: &Matrix, encoded: &Encoded, metric: Metric<'_>) -> Result<Self> {
        Self::between(original, &encoded.decode(original.rows, original.cols)?, metric)
    }

    /// Error over energy (D): 0 for a perfect copy, 1 for zeros.
    pub fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.energy }
    }

    /// Guards against an encoder that is worse than storing nothing.
    ///
    /// # Errors
    /// [`Error::Gate`] when the errors cost more than the weights, or are not a number.
    pub fn check(&self) -> Result<()> {
        if self.error <= self.energy {
            return Ok(());
        }
        Err(Error::Gate(format!(
            "an encoding loses {:.3} of a tensor's energy, zeros would lose 1",
            self.relative()
        )))
    }
}

/// Encodings of one matrix to choose from: each codec's bytes and its loss times `sensitivity` (what a unit
/// of the metric costs the model; see [`crate::codec::choose`]).
///
/// # Errors
/// When a codec cannot encode the matrix, or loses more than zeros would.
pub fn candidates(
    matrix: &Matrix,
    metric: Metric<'_>,
    sensitivity: f64,
    codecs: &[forge_formats::codec::Codec],
) -> Result<Vec<(Candidate, Encoded)>> {
    let one = |codec| {
        let encoded = super::encode(codec, matrix, metric)?;
        let loss = Distortion::of(matrix, &encoded, metric)?;
        loss.check()?;
        let bytes = encoded.payload.len() as u64;
        Ok((Candidate { codec: encoded.codec, bytes, distortion: loss.error * sensitivity }, encoded))
    };
    codecs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_formats::codec::Codec;

    fn matrix() -> Matrix {
        Matrix { rows: 2, cols: 2, data: vec![1.0, 2.0, 3.0, 4.0] }
    }

    #[test]
    fn cost_follows_each_metric() {
        let (original, mut decoded) = (matrix(), matrix());
        decoded.data = vec![0.0, 2.0, 3.0, 6.0];
        let loss = |metric| Distortion::between(&original, &decoded, metric).unwrap();
        assert_eq!(loss(Metric::Plain), Distortion { error: 5.0, energy: 30.0 });
        assert_eq!(loss(Metric::Columns(&[2.0, 0.5])), Distortion { error: 4.0, energy: 30.0 });
        // Rows (1, 0) and (0, -2) of errors, (1, 2) and (3, 4) of weights.
        let h = [2.0, 1.0, 1.0, 3.0];
        assert_eq!(loss(Metric::Hessian(&h)), Distortion { error: 2.0 + 12.0, energy: 18.0 + 90.0 });
        assert_eq!(Metric::Hessian(&h).columns(2), Some(vec![2.0, 3.0]));
    }

    #[test]
    fn wrong_metrics_and_weights_are_refused() {
        let m = matrix();
        for metric in [
            Metric::Columns(&[1.0]),
            Metric::Columns(&[1.0, -1.0]),
            Metric::Columns(&[1.0, f32::NAN]),
            Metric::Hessian(&[1.0, 0.0, 0.0]),
            Metric::Hessian(&[1.0, 0.0, 0.0, -1.0]),
        ] {
            assert!(crate::codec::encode(&Codec::F16, &m, metric).is_err(), "{metric:?}");
        }
        let infinite = Matrix { data: vec![1.0, f32::INFINITY, 0.0, 0.0], ..m };
        assert!(crate::codec::encode(&Codec::F16, &infinite, Metric::Plain).is_err());
    }

    #[test]
    fn a_codec_worse_than_zeros_is_flagged() {
        let zeros = Distortion::between(&matrix(), &Matrix::zeros(2, 2), Metric::Plain).unwrap();
        assert!(zeros.check().is_ok());
        let mut worse = Matrix::zeros(2, 2);
        worse.data[0] = -0.5;
        assert!(Distortion::between(&matrix(), &worse, Metric::Plain).unwrap().check().is_err());
        assert!(Distortion { error: f64::NAN, energy: 1.0 }.check().is_err());
    }

    #[test]
    fn candidates_carry_exact_bytes_and_weighted_loss() {
        let m = matrix();
        let list = candidates(&m, Metric::Plain, 10.0, &[Codec::F32, Codec::Int8Row]).unwrap();
        assert_eq!((list[0].0.bytes, list[0].0.distortion), (16, 0.0));
        assert_eq!(list[1].0.bytes, 2 * (2 + 2));
        let loss = Distortion::of(&m, &list[1].1, Metric::Plain).unwrap().error;
        assert!(loss > 0.0 && list[1].0.distortion == loss * 10.0);
    }
}
