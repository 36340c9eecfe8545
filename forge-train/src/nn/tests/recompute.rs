//! Recomputed blocks give the gradients of kept ones, to the last bit.

use super::*;
use crate::nn::loss::binary_cross_entropy;
use crate::nn::{Dropout, ForwardOptions};
use crate::optim::Gradients;

/// Deep supervision, the halting head and, where asked, a second forward pass in the same loss.
fn gradients(
    config: &ModelConfig,
    precision: Precision,
    options: ForwardOptions,
    recompute: bool,
) -> (u32, Gradients) {
    let mut net = network(config, precision);
    net.set_recompute(recompute);
    let net = net.for_backward();
    let mut total: Option<Tensor> = None;
    for seed in 0..2 {
        let (batch, plain) = ids(config, 3, 10, seed);
        let forward = net.forward(&batch, options).unwrap();
        let ones = vec![1.0; plain.len()];
        for answer in &forward.answers {
            let loss = net.cross_entropy(answer, &plain, &ones).unwrap();
            total = Some(total.map_or(loss.clone(), |t| (t + loss).unwrap()));
        }
        for logit in &forward.halt {
            let targets: Vec<f32> = plain.iter().map(|id| (id % 2) as f32).collect();
            let loss = binary_cross_entropy(logit, &targets, &ones).unwrap();
            total = total.map(|t| (t + loss).unwrap());
        }
    }
    let loss = total.unwrap();
    (loss.to_scalar::<f32>().unwrap().to_bits(), net.gradients(&loss).unwrap())
}

fn assert_same(config: &ModelConfig, precision: Precision, options: ForwardOptions) {
    let (loss, kept) = gradients(config, precision, options, false);
    let (again, recomputed) = gradients(config, precision, options, true);
    assert_eq!(loss, again);
    assert_eq!(kept.iter().count(), config.tensors().count(), "every parameter has a gradient");
    for (key, grad) in kept.iter() {
        let other = recomputed.get(key).unwrap_or_else(|| panic!("{} is missing", key.0.name()));
        let bits = |g: &[f32]| g.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(grad.host().unwrap()) == bits(other), "{} of block {} differs", key.0.name(), key.1);
    }
}

#[test]
fn recomputed_gradients_are_the_kept_ones() {
    // An even threshold lets some tokens halt and others go on.
    for (mem_layers, recursion) in [(0b10, 3), (0b01, 3), (0b11, 2), (0, 2), (0b11, 1)] {
        let halts = recursion > 1;
        let config = ModelConfig { mem_layers, recursion, halting: halts, ..small() };
        let config = match mem_layers {
            0 => ModelConfig { mem_dim: 0, mem_gate: 0, ..config },
            _ => config,
        };
        for precision in [Precision::FLOAT, Precision::TERNARY] {
            for halting in [false, true] {
                assert_same(&config, precision, ForwardOptions { halting, dropout: None });
            }
        }
    }
}

#[test]
fn blocks_that_run_as_one_operation_recompute_too() {
    for mem_layers in [0, 0b10] {
        let config = ModelConfig { mem_layers, halting: false, ..small() };
        let config = if mem_layers == 0 { ModelConfig { mem_dim: 0, mem_gate: 0, ..config } } else { config };
        for precision in [Precision::FLOAT, Precision::TERNARY] {
            assert_same(&config, precision, ForwardOptions::default());
        }
    }
}

#[test]
fn recomputation_repeats_what_was_dropped() {
    let dropout = |step| Some(Dropout { rate: 0.3, seed: 5, step, part: 1 });
    for halting in [false, true] {
        assert_same(&small(), Precision::FLOAT, ForwardOptions { halting, dropout: dropout(4) });
    }
    // The control: other masks give other gradients.
    let of = |step| {
        gradients(&small(), Precision::FLOAT, ForwardOptions { halting: false, dropout: dropout(step) }, true)
    };
    assert_ne!(of(4).1, of(5).1);
}

#[test]
fn views_without_a_graph_recompute_nothing() {
    let mut net = network(&small(), Precision::FLOAT);
    net.set_recompute(true);
    let (batch, _) = ids(&small(), 2, 6, 1);
    let forward = net.detached().forward(&batch, ForwardOptions::default()).unwrap();
    assert!(!forward.answer().track_op());
}
