//! Whole blocks and the head with its loss as one operation, against the operations they are made of.

use super::*;
use crate::nn::loss::weighted_cross_entropy;
use crate::nn::{Dropout, ForwardOptions, Projections, Tables};
use crate::optim::Gradients;

/// Loss of the last answer, by way of `cross_entropy` of the network or of its logits, with its gradients.
fn step(net: &Network, config: &ModelConfig, dropout: Option<Dropout>) -> (f32, Gradients) {
    let (batch, plain) = ids(config, 3, 70, 4);
    let targets: Vec<u32> = plain.iter().map(|id| (id * 7 + 3) % config.vocab).collect();
    // Rows of weight 0 and one that stands out.
    let weights: Vec<f32> = (0..targets.len()).map(|i| [1.0, 0.0, 0.3, 2.0][i % 4]).collect();
    let forward = net.forward(&batch, ForwardOptions { halting: false, dropout }).unwrap();
    let mut loss: Option<Tensor> = None;
    for (t, answer) in forward.answers.iter().enumerate() {
        let one = if net.sink().is_some() {
            net.cross_entropy(answer, &targets, &weights).unwrap()
        } else {
            weighted_cross_entropy(&net.logits(answer).unwrap(), &targets, &weights).unwrap()
        };
        let one = (one * (1.0 + t as f64)).unwrap();
        loss = Some(match loss {
            Some(sum) => (sum + one).unwrap(),
            None => one,
        });
    }
    let loss = loss.unwrap();
    (loss.to_scalar().unwrap(), net.gradients(&loss).unwrap())
}

/// Largest difference of a gradient, relative to the largest value of that parameter's gradient.
fn worst(a: &Gradients, b: &Gradients) -> f32 {
    let keys = |g: &Gradients| g.iter().map(|(key, _)| *key).collect::<Vec<_>>();
    assert_eq!(keys(a), keys(b));
    let of = |key: crate::weights::Key| {
        let (got, want) = (a.get(&key).unwrap(), b.get(&key).unwrap());
        let size = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(size > 0.0, "{key:?} has no gradient");
        want.iter().zip(got).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / size
    };
    keys(b).into_iter().map(of).fold(0.0, f32::max)
}

fn shapes() -> Vec<ModelConfig> {
    let base = ModelConfig { halting: false, recursion: 1, mem_dim: 0, mem_layers: 0, window: 64, ..small() };
    vec![
        base.clone(),
        ModelConfig { tied: true, norm_gain: false, activation: Activation::Relu2, ..base.clone() },
        ModelConfig { recursion: 2, window: 6, ..base.clone() },
        ModelConfig { mem_dim: 8, mem_layers: 0b10, ..base },
    ]
}

#[test]
fn fused_operations_give_the_loss_and_gradients_of_the_small_ones() {
    let blend = Precision { projections: Projections::Ternary { lambda: 0.4 }, tables: Tables::Float };
    let dropout = Dropout { rate: 0.2, seed: 1, step: 2, part: 0 };
    for config in shapes() {
        for precision in [Precision::FLOAT, Precision::TERNARY, blend] {
            for dropout in [None, Some(dropout)] {
                let net = network(&config, precision);
                let (loss, grads) = step(&net.for_backward(), &config, dropout);
                let (want, plain) = step(&net, &config, dropout);
                assert!((loss - want).abs() <= 1e-6 * want.abs(), "{precision:?}: {loss} is not {want}");
                let error = worst(&grads, &plain);
                assert!(error < 2e-5, "{precision:?} {dropout:?}: gradients differ by {error}");
            }
        }
    }
}

#[test]
fn ternary_products_in_bf16_change_no_bit_and_float_ones_little() {
    let config = ModelConfig { tied: true, ..shapes()[0].clone() };
    let logits = |net: &Network| {
        let (batch, _) = ids(&config, 2, 9, 4);
        let forward = net.forward(&batch, ForwardOptions::default()).unwrap();
        net.logits(forward.answer()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    for precision in [Precision::TERNARY, Precision::FLOAT] {
        let plain = network(&config, precision);
        let mut rounded = plain.clone();
        rounded.emulate_bf16();
        let (want, got) = (logits(&plain), logits(&rounded));
        let size = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let error = want.iter().zip(&got).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / size;
        match precision == Precision::TERNARY {
            true => assert_eq!(got, want),
            false => assert!(error > 1e-5 && error < 0.03, "{error}"),
        }
        // bf16 has 8 bits: gradients stay within a few hundredths of the largest.
        let (a, b) = (step(&rounded.for_backward(), &config, None).1, step(&plain, &config, None).1);
        assert!(worst(&a, &b) < 0.1, "{precision:?}: {}", worst(&a, &b));
    }
}

#[test]
fn the_comparison_sees_another_mask() {
    let config = &shapes()[0];
    let net = network(config, Precision::FLOAT);
    let dropout = |step| Some(Dropout { rate: 0.2, seed: 1, step, part: 0 });
    let (_, grads) = step(&net.for_backward(), config, dropout(2));
    let (_, other) = step(&net, config, dropout(3));
    assert!(worst(&grads, &other) > 1e-2);
}

#[test]
fn fused_gradients_do_not_depend_on_the_number_of_threads() {
    let config = &shapes()[1];
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| step(&network(config, Precision::FLOAT).for_backward(), config, None))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn a_second_loss_over_the_same_pass_computes_again_what_the_first_used_up() {
    let config = &shapes()[0];
    let net = network(config, Precision::FLOAT).for_backward();
    let (batch, targets) = ids(config, 2, 9, 4);
    let forward = net.forward(&batch, ForwardOptions::default()).unwrap();
    let loss = net.cross_entropy(forward.answer(), &targets, &vec![1.0; targets.len()]).unwrap();
    let first = net.gradients(&loss).unwrap();
    assert_eq!(first, net.gradients(&loss).unwrap());
}
