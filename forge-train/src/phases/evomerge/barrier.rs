//! Whether two models lie in one basin, so that merging them can work at all.

use super::operators::linear;
use crate::error::Result;
use crate::weights::Weights;

/// Linear-interpolation barrier (Frankle et al. 2020): loss of the midpoint minus the mean loss of the ends.
/// Near or below 0 for models of one basin; of the order of an untrained model's loss for unrelated ones.
///
/// # Errors
/// When the models differ in shape, or the loss fails.
pub fn barrier(a: &Weights, b: &Weights, mut loss: impl FnMut(&Weights) -> Result<f64>) -> Result<f64> {
    let middle = loss(&linear(&[a, b], &[1.0, 1.0])?)?;
    Ok(middle - (loss(a)? + loss(b)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{model_of, values};

    #[test]
    fn a_bowl_has_no_barrier_and_two_wells_have_one() {
        let (a, b) = (model_of(-1.0), model_of(1.0));
        let first = |w: &Weights| f64::from(values(w).next().unwrap());
        assert_eq!(barrier(&a, &b, |w| Ok(first(w).powi(2))).unwrap(), -1.0);
        assert_eq!(barrier(&a, &b, |w| Ok((first(w).powi(2) - 1.0).powi(2))).unwrap(), 1.0);
    }
}
