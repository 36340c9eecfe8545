//! What must hold of every network: gradients everywhere, causality, halting, detached views, determinism.

use forge_formats::role::RoleKind;

use super::*;
use crate::nn::loss::{binary_cross_entropy, weighted_cross_entropy};
use crate::nn::{Dropout, ForwardOptions, Projections, Tables};
use crate::optim::Gradients;

const HALTING: ForwardOptions = ForwardOptions { halting: true, dropout: None };

fn all_precisions() -> [Precision; 3] {
    let blend = Precision { projections: Projections::Ternary { lambda: 0.4 }, tables: Tables::Float };
    [Precision::FLOAT, Precision::TERNARY, blend]
}

/// Loss over every output of the network, halting logits included.
fn total_loss(net: &Network, batch: &Tensor, options: ForwardOptions) -> Tensor {
    let forward = net.forward(batch, options).unwrap();
    let n = forward.depths.len();
    let targets: Vec<u32> = (0..n as u32).map(|i| i % net.config().vocab).collect();
    let ones = vec![1.0; n];
    let mut loss = weighted_cross_entropy(&net.logits(forward.answer()).unwrap(), &targets, &ones).unwrap();
    for halt in &forward.halt {
        loss = (loss + binary_cross_entropy(halt, &vec![0.7; n], &ones).unwrap()).unwrap();
    }
    loss
}

fn gradients(net: &Network, batch: &Tensor, options: ForwardOptions) -> Gradients {
    let mut store = total_loss(net, batch, options).backward().unwrap();
    Gradients::collect(net.vars(), &mut store).unwrap()
}

fn logits(net: &Network, batch: &Tensor, options: ForwardOptions) -> Vec<f32> {
    let forward = net.forward(batch, options).unwrap();
    net.logits(forward.answer()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_parameter_gets_a_finite_gradient_that_is_not_zero() {
    let config = small();
    let (batch, _) = ids(&config, 4, 10, 2);
    for precision in all_precisions() {
        for options in [ForwardOptions::default(), HALTING] {
            let net = network(&config, precision);
            let grads = gradients(&net, &batch, options);
            for key in net.vars().keys() {
                let grad = grads.get(key).unwrap_or_else(|| panic!("{key:?} has no gradient"));
                assert!(grad.iter().all(|g| g.is_finite()), "{key:?} {precision:?}");
                assert!(grad.iter().any(|g| *g != 0.0), "{key:?} {precision:?} {options:?}");
            }
        }
    }
}

#[test]
fn without_the_straight_through_estimator_no_projection_learns() {
    let config = small();
    let (batch, _) = ids(&config, 4, 10, 2);
    let mut net = network(&config, Precision::TERNARY);
    net.set_straight_through(false);
    let grads = gradients(&net, &batch, ForwardOptions::default());
    for (key, grad) in grads.iter().filter(|(key, _)| key.0.kind() == RoleKind::Projection) {
        assert!(grad.host().unwrap().iter().all(|g| *g == 0.0), "{key:?}");
    }
    net.set_straight_through(true);
    let grads = gradients(&net, &batch, ForwardOptions::default());
    let mut projections = grads.iter().filter(|(key, _)| key.0.kind() == RoleKind::Projection);
    assert!(projections.all(|(_, grad)| grad.host().unwrap().iter().any(|g| *g != 0.0)));
}

#[test]
fn dropout_changes_the_pass_as_its_place_says_and_rate_zero_does_not() {
    let config = small();
    let (batch, _) = ids(&config, 4, 10, 2);
    let net = network(&config, Precision::FLOAT);
    let dropped = |rate, step| {
        let dropout = Some(Dropout { rate, seed: 5, step, part: 0 });
        logits(&net, &batch, ForwardOptions { dropout, ..Default::default() })
    };
    assert_eq!(dropped(0.3, 1), dropped(0.3, 1));
    assert_ne!(dropped(0.3, 1), dropped(0.3, 2));
    let plain = logits(&net, &batch, ForwardOptions::default());
    let size = plain.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let error = plain.iter().zip(dropped(0.0, 1)).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(error < 1e-5 * size, "a rate of 0 changes logits by {error} of {size}");
}

#[test]
fn a_token_never_changes_logits_before_it() {
    let config = ModelConfig { halt_threshold: 0.12, ..small() };
    let (rows, cols, vocab) = (2, 12, config.vocab as usize);
    for precision in all_precisions() {
        for options in [ForwardOptions::default(), HALTING] {
            let net = network(&config, precision).detached();
            let (batch, plain) = ids(&config, rows, cols, 5);
            let before = logits(&net, &batch, options);
            for at in 0..cols {
                let mut changed = plain.clone();
                changed[at] = (changed[at] + 1) % config.vocab;
                let changed = Tensor::from_vec(changed, (rows, cols), &Device::Cpu).unwrap();
                let after = logits(&net, &changed, options);
                let same = |from: usize, to: usize| {
                    (from * vocab..to * vocab).all(|i| before[i].to_bits() == after[i].to_bits())
                };
                assert!(same(0, at), "{precision:?}: token {at} changed an earlier logit");
                assert!(!same(at, at + 1), "{precision:?}: token {at} did not change its own logits");
                assert!(same(cols, 2 * cols), "{precision:?}: sequences of a batch mix");
                // Through attention or memory it also reaches the last position.
                assert!(!same(cols - 1, cols), "{precision:?}: token {at} does not reach the end");
            }
        }
    }
}

#[test]
fn memory_reaches_beyond_the_attention_window() {
    // One block, one recursion, window 1: without a memory the last token sees itself alone.
    let config = ModelConfig { layers: 1, recursion: 1, halting: false, window: 1, mem_layers: 1, ..small() };
    let forgetful = ModelConfig { mem_dim: 0, mem_layers: 0, ..config.clone() };
    for (config, reaches) in [(config, true), (forgetful, false)] {
        let net = network(&config, Precision::FLOAT);
        let (batch, mut plain) = ids(&config, 1, 10, 3);
        let before = logits(&net, &batch, ForwardOptions::default());
        plain[0] = (plain[0] + 1) % config.vocab;
        let changed = Tensor::from_vec(plain, (1, 10), &Device::Cpu).unwrap();
        let after = logits(&net, &changed, ForwardOptions::default());
        let last = 9 * config.vocab as usize;
        assert_eq!(before[last..] != after[last..], reaches);
    }
}

#[test]
fn halting_stops_tokens_and_keeps_their_answers() {
    let config = ModelConfig { halt_threshold: 0.12, ..small() };
    let (batch, _) = ids(&config, 4, 10, 6);
    let net = network(&config, Precision::FLOAT);
    let free = net.forward(&batch, ForwardOptions::default()).unwrap();
    let halted = net.forward(&batch, HALTING).unwrap();
    assert!(free.depths.iter().all(|d| *d == 3), "without halting every token takes all recursions");
    for depth in 1..=3 {
        assert!(halted.depths.contains(&depth), "no token stops after {depth}: {:?}", halted.depths);
    }
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    let answers: Vec<_> = halted.answers.iter().map(rows).collect();
    for (token, depth) in halted.depths.iter().enumerate() {
        let kept = &answers[*depth as usize - 1][token];
        assert!(
            (*depth as usize..3).all(|t| &answers[t][token] == kept),
            "token {token} changed after halting"
        );
    }
    // A threshold no probability exceeds changes nothing.
    let never = network(&ModelConfig { halt_threshold: 1.0, ..config }, Precision::FLOAT);
    assert_eq!(logits(&never, &batch, HALTING), logits(&never, &batch, ForwardOptions::default()));
    assert_ne!(logits(&net, &batch, HALTING), logits(&net, &batch, ForwardOptions::default()));
}

#[test]
fn detached_views_record_no_graph_and_follow_updates() {
    let config = small();
    let (batch, _) = ids(&config, 2, 6, 1);
    let net = network(&config, Precision::FLOAT);
    let view = net.detached();
    let answer = view.forward(&batch, HALTING).unwrap();
    assert!(!view.logits(answer.answer()).unwrap().track_op());
    assert!(net.forward(&batch, HALTING).unwrap().answer().track_op());
    let before = logits(&view, &batch, HALTING);
    assert_eq!(before, logits(&net, &batch, HALTING));
    net.load(&weights(&config, 8)).unwrap();
    let after = logits(&view, &batch, HALTING);
    assert!(before != after && after == logits(&net, &batch, HALTING));
}

#[test]
fn weights_survive_the_round_trip() {
    let config = small();
    let before = weights(&config, 3);
    let net = Network::new(&before, Precision::TERNARY, &Device::Cpu).unwrap();
    assert_eq!(net.weights().unwrap(), before);
    let other = weights(&ModelConfig { ffn: 32, ..config.clone() }, 3);
    assert!(net.load(&other).is_err());
    let mut missing = before;
    missing.tensors.pop_first();
    assert!(Network::new(&missing, Precision::FLOAT, &Device::Cpu).is_err());
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let config = nano();
    let (batch, _) = ids(&config, 24, 40, 9);
    for precision in [Precision::FLOAT, Precision::TERNARY] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let net = network(&config, precision);
                let loss = total_loss(&net, &batch, HALTING).to_scalar::<f32>().unwrap();
                (loss.to_bits(), gradients(&net, &batch, HALTING))
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(5), "{precision:?}");
    }
}

#[test]
fn lambda_goes_from_float_to_ternary() {
    let config = small();
    let (batch, _) = ids(&config, 2, 6, 1);
    let at = |lambda: f32| {
        let precision = Precision { projections: Projections::Ternary { lambda }, tables: Tables::Float };
        logits(&network(&config, precision), &batch, ForwardOptions::default())
    };
    let float = logits(&network(&config, Precision::FLOAT), &batch, ForwardOptions::default());
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(distance(&at(0.0), &float) < 1e-5);
    let (near, far) = (distance(&at(0.05), &float), distance(&at(1.0), &float));
    assert!(0.0 < near && near < 0.5 * far, "{near} {far}");
    // The integer path at 1 continues the float path below it.
    assert!(distance(&at(1.0), &at(0.999_999)) < 0.05 * far);
}

#[test]
fn ids_outside_the_vocabulary_are_an_error() {
    let config = small();
    let net = network(&config, Precision::FLOAT);
    let bad = Tensor::new(&[[1u32, config.vocab]], &Device::Cpu).unwrap();
    assert!(net.forward(&bad, HALTING).is_err());
    let empty = Tensor::zeros((0, 4), candle_core::DType::U32, &Device::Cpu).unwrap();
    assert!(net.forward(&empty, HALTING).is_err());
}
