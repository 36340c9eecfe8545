//! Averages of whole models: linear and spherical.

use super::{build, check_models, shares, slices};
use crate::error::Result;
use crate::weights::Weights;

/// Cosine beyond which two tensors count as collinear and are interpolated linearly, as in mergekit.
const COLLINEAR: f64 = 0.9995;
/// Norm up to which a tensor has no direction.
const NO_DIRECTION: f64 = 1e-8;

/// Weighted mean `Σ w_i W_i / Σ w_i` (model soups, Wortsman et al. 2022).
///
/// # Errors
/// When the models differ in shape, or the weights in number, are negative or all zero.
pub fn linear(models: &[&Weights], weights: &[f32]) -> Result<Weights> {
    check_models(models)?;
    let shares = shares(models.len(), weights)?;
    Ok(build(models[0], |key, _| linear_slices(&slices(models, key), &shares)))
}

/// [`linear`] of one tensor: `Σ s_i v_i` for shares that sum to 1. All slices have the length of the first.
pub fn linear_slices(values: &[&[f32]], shares: &[f64]) -> Vec<f32> {
    let mean = |i: usize| shares.iter().zip(values).map(|(s, v)| s * f64::from(v[i])).sum::<f64>();
    (0..values.first().map_or(0, |v| v.len())).map(|i| mean(i) as f32).collect()
}

/// Spherical interpolation (Shoemake 1985) of any number of models, tensor by tensor.
///
/// Two tensors `a`, `b` at `t` give `sin((1−t)θ)/sin θ · a + sin(tθ)/sin θ · b`, where `cos θ` is the dot
/// product of their unit vectors; beyond |cos θ| = 0.9995, or when one of them is zero and so has no
/// direction, `(1−t)a + tb`. More than two are folded from the left with `t_i = w_i / Σ_{j≤i} w_j`, so that
/// collinear tensors get exactly the shares asked for (three equal weights: t = 1/2, then 1/3). The result
/// depends on the order of the models.
///
/// # Errors
/// As [`linear`].
pub fn slerp(models: &[&Weights], weights: &[f32]) -> Result<Weights> {
    check_models(models)?;
    let shares = shares(models.len(), weights)?;
    Ok(build(models[0], |key, _| slerp_slices(&slices(models, key), &shares)))
}

/// [`slerp`] of one tensor, with shares that sum to 1. All slices have the length of the first.
pub fn slerp_slices(values: &[&[f32]], shares: &[f64]) -> Vec<f32> {
    let mut merged: Vec<f64> = vec![0.0; values.first().map_or(0, |v| v.len())];
    let mut total = 0.0;
    for (share, values) in shares.iter().zip(values) {
        total += share;
        if *share > 0.0 {
            slerp_into(&mut merged, values, share / total);
        }
    }
    merged.iter().map(|&v| v as f32).collect()
}

/// `a ← slerp(a, b, t)`.
fn slerp_into(a: &mut [f64], b: &[f32], t: f64) {
    let (from, to) = factors(a, b, t);
    for (x, &y) in a.iter_mut().zip(b) {
        *x = from * *x + to * f64::from(y);
    }
}

/// The factors of `a` and `b` at `t`.
fn factors(a: &[f64], b: &[f32], t: f64) -> (f64, f64) {
    let (mut aa, mut ab, mut bb) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let y = f64::from(y);
        aa += x * x;
        ab += x * y;
        bb += y * y;
    }
    let (na, nb) = (aa.sqrt(), bb.sqrt());
    let cosine = if na > NO_DIRECTION && nb > NO_DIRECTION { ab / (na * nb) } else { 1.0 };
    if cosine.abs() > COLLINEAR {
        return (1.0 - t, t);
    }
    let angle = cosine.acos();
    (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{model, model_of, values};

    #[test]
    fn linear_is_the_normalised_weighted_mean() {
        let (a, b, c) = (model_of(1.0), model_of(2.0), model_of(6.0));
        let merged = linear(&[&a, &b, &c], &[2.0, 1.0, 1.0]).unwrap();
        assert!(values(&merged).all(|v| v == 2.5));
    }

    #[test]
    fn one_model_or_one_weight_gives_that_model_back() {
        let (a, b) = (model(1), model(2));
        assert_eq!(linear(&[&a], &[0.3]).unwrap(), a);
        assert_eq!(slerp(&[&a], &[0.3]).unwrap(), a);
        assert_eq!(slerp(&[&a, &b], &[0.0, 1.0]).unwrap(), b);
        assert_eq!(slerp(&[&a, &b], &[1.0, 0.0]).unwrap(), a);
    }

    #[test]
    fn slerp_of_orthogonal_tensors_follows_the_circle() {
        // e1 and e2 at t = 1/3 lie 30 degrees from e1, on the unit circle: not (2/3, 1/3).
        let mut a = vec![1.0, 0.0];
        slerp_into(&mut a, &[0.0, 1.0], 1.0 / 3.0);
        let angle = std::f64::consts::FRAC_PI_6;
        assert!((a[0] - angle.cos()).abs() < 1e-12 && (a[1] - angle.sin()).abs() < 1e-12, "{a:?}");
    }

    #[test]
    fn slerp_normalises_before_the_angle_and_combines_the_originals() {
        // Vectors of lengths 3 and 5 at 60 degrees, t = 1/2: both factors are sin 30 / sin 60 = 1/sqrt 3.
        let b = [2.5f32, 5.0 * 0.75f32.sqrt()];
        let mut a = vec![3.0, 0.0];
        slerp_into(&mut a, &b, 0.5);
        let k = 1.0 / 3f64.sqrt();
        assert!((a[0] - k * 5.5).abs() < 1e-6 && (a[1] - k * f64::from(b[1])).abs() < 1e-6, "{a:?}");
    }

    #[test]
    fn three_equal_weights_share_evenly_when_nearly_collinear() {
        // Multiples of one model are collinear, so the shares can be read off: 1·s0 + 10·s1 + 100·s2.
        let a = model(7);
        let times = |k: f32| build(&a, |_, m| m.data.iter().map(|v| v * k).collect());
        let merged = slerp(&[&a, &times(10.0), &times(100.0)], &[1.0; 3]).unwrap();
        let wrong = slerp(&[&a, &times(10.0), &times(100.0)], &[0.25, 0.25, 0.5]).unwrap();
        for ((v, w), x) in values(&merged).zip(values(&wrong)).zip(values(&a)) {
            assert!((v - 37.0 * x).abs() <= 1e-5 * (37.0 * x).abs() + 1e-9, "{v} for {x}");
            assert!(x == 0.0 || (w - 37.0 * x).abs() > 0.1 * (37.0 * x).abs(), "t = 1/2, 1/2 must differ");
        }
    }

    #[test]
    fn zero_tensors_are_interpolated_linearly() {
        let mut a = vec![0.0, 0.0];
        slerp_into(&mut a, &[2.0, 4.0], 0.25);
        assert_eq!(a, [0.5, 1.0]);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let (a, b) = (model(1), model(2));
        assert!(linear(&[], &[]).is_err());
        assert!(linear(&[&a, &b], &[1.0]).is_err());
        assert!(linear(&[&a, &b], &[0.0, 0.0]).is_err());
        assert!(slerp(&[&a, &b], &[2.0, -1.0]).is_err());
        assert!(slerp(&[&a, &b], &[f32::NAN, 1.0]).is_err());
        let mut other = model(1);
        other.config.window += 1;
        assert!(linear(&[&a, &other], &[1.0, 1.0]).is_err());
        let mut threshold = b.clone();
        threshold.config.halt_threshold = 0.9;
        assert!(linear(&[&a, &threshold], &[1.0, 1.0]).is_ok());
    }
}
