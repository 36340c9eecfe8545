//! Folding of norm gains into the weights behind them.

use forge_formats::config::ModelConfig;
use forge_formats::role::Role;

use super::rebuild;
use crate::error::Result;
use crate::weights::{Matrix, Weights};

/// Multiplies the gain of the norm before attention into the columns of `Qkv` and `MemIn`, that of the norm
/// before the feed-forward network into the columns of `GateUp`, and drops both. `W (x ⊙ g) = (W ⊙ g) x`, so
/// the function of float weights stays, up to rounding. It does not for ternary ones, whose trits have no
/// scale for each column: fold before quantising, and train on. A model without gains is returned as it is.
///
/// # Errors
/// When the model is inconsistent.
pub fn fold_gains(w: &Weights) -> Result<Weights> {
    if !w.config.norm_gain {
        return Ok(w.clone());
    }
    rebuild(ModelConfig { norm_gain: false, ..w.config.clone() }, |role, layer| {
        let m = w.get(role, layer);
        match role {
            Role::Qkv | Role::MemIn => scaled(m, &w.get(Role::AttnNorm, layer).data),
            Role::GateUp => scaled(m, &w.get(Role::FfnNorm, layer).data),
            _ => m.clone(),
        }
    })
}

/// `m` with column `c` times `gain[c]`.
fn scaled(m: &Matrix, gain: &[f32]) -> Matrix {
    let data =
        m.data.chunks(m.cols.max(1)).flat_map(|row| row.iter().zip(gain).map(|(w, g)| w * g)).collect();
    Matrix { rows: m.rows, cols: m.cols, data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::edge::prune::reference::{Mask, logits, model, worst_difference};
    use crate::rng::Rng;

    const TOKENS: [usize; 5] = [3, 1, 4, 1, 5];

    /// A model with gains drawn by `gain`.
    fn with_gains(mut gain: impl FnMut(&mut Rng) -> f32) -> Weights {
        let mut w = model(1);
        let mut rng = Rng::new(1, &["gains"]);
        for ((role, _), m) in &mut w.tensors {
            if matches!(role, Role::AttnNorm | Role::FfnNorm) {
                m.data.iter_mut().for_each(|g| *g = gain(&mut rng));
            }
        }
        w
    }

    #[test]
    fn folded_gains_give_the_same_logits() {
        let w = with_gains(|rng| 0.5 + rng.uniform());
        let folded = fold_gains(&w).unwrap();
        let whole = logits(&w, &TOKENS, &Mask::default());
        let got = logits(&folded, &TOKENS, &Mask::default());
        assert!(worst_difference(&got, &whole) < 1e-6, "{}", worst_difference(&got, &whole));
        assert!(!folded.config.norm_gain);
        assert_eq!(w.parameters() - folded.parameters(), 3 * 2 * w.config.dim as usize);
        assert_eq!(fold_gains(&folded).unwrap(), folded);
        // Dropping the gains without folding them is another function.
        let mut dropped = folded.clone();
        dropped.tensors.insert((Role::GateUp, 0), w.get(Role::GateUp, 0).clone());
        assert!(worst_difference(&logits(&dropped, &TOKENS, &Mask::default()), &whole) > 1e-3);
    }

    #[test]
    fn powers_of_two_fold_without_any_rounding() {
        let w = with_gains(|rng| [0.25, 0.5, 1.0, 2.0, 4.0][rng.below(5)]);
        let folded = fold_gains(&w).unwrap();
        let whole = logits(&w, &TOKENS, &Mask::default());
        assert_eq!(logits(&folded, &TOKENS, &Mask::default()), whole);
    }
}
