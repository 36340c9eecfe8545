use candle_core::Device;

use super::*;
use crate::data::Sequence;

fn rollout(prefix: usize, thought: usize, ahead: usize) -> Rollout {
    let len = prefix + thought + ahead;
    Rollout {
        sequence: Sequence { ids: (0..len as u16).collect(), weights: vec![1.0; len] },
        thought: prefix..prefix + thought,
        ahead: prefix + thought..len,
        closed: true,
    }
}

fn place(thoughts: &[usize]) -> Place {
    Place { plain: rollout(2, 0, 2), thoughts: thoughts.iter().map(|n| rollout(2, *n, 2)).collect() }
}

#[test]
fn rewards_are_compared_within_a_place_and_dropped_below_its_mean() {
    let places = [place(&[3, 1]), place(&[2, 2])];
    let losses = [1.0, 1.0, 2.0, 2.0, 0.5, 0.5, 0.5, 0.5];
    let weights = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
    let verdicts = judged(&places, &weights, &losses);
    assert_eq!(verdicts[0].advantages, [1.0, 0.0]);
    assert_eq!(verdicts[1].advantages, [0.0, 0.0], "equal thoughts teach nothing");
    assert_eq!(verdicts[1].weights, [0.5, 0.6, 0.7, 0.8]);
}

#[test]
fn a_token_is_predicted_by_the_state_before_it() {
    assert_eq!(predicting(2, 10, 3..5).collect::<Vec<_>>(), [22, 23]);
}

#[test]
fn divergence_and_entropy_are_those_of_the_definition() {
    let logits = |v: &[f32]| Tensor::from_slice(v, (1, 3), &Device::Cpu).unwrap();
    let (p, q) = ([0.5f32, 0.25, 0.25], [0.25f32, 0.5, 0.25]);
    let ln = |v: [f32; 3]| logits(&v.map(f32::ln));
    let (kl, entropy) = divergence(&ln(p), &ln(q)).unwrap();
    let expected: f32 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
    assert!((kl.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
    let expected: f32 = -p.iter().map(|p| p * p.ln()).sum::<f32>();
    assert!((entropy.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
    let (same, _) = divergence(&ln(p), &ln(p)).unwrap();
    assert!(same.to_scalar::<f32>().unwrap().abs() < 1e-6);
}
