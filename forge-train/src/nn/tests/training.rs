//! Whole training steps.

use std::time::Instant;

use super::*;
use crate::nn::loss::weighted_cross_entropy;
use crate::nn::{ForwardOptions, Projections, Tables};
use crate::optim::{AdamW, AdamWConfig, Gradients, Muon, MuonConfig, Optimizer};

/// Mean loss over all recursions, and its gradients.
fn step(net: &Network, ids: &Tensor, targets: &[u32]) -> (f32, Gradients) {
    let forward = net.forward(ids, ForwardOptions::default()).unwrap();
    let ones = vec![1.0; targets.len()];
    let mut total: Option<Tensor> = None;
    for answer in &forward.answers {
        let loss = weighted_cross_entropy(&net.logits(answer).unwrap(), targets, &ones).unwrap();
        total = Some(match total {
            Some(t) => (t + loss).unwrap(),
            None => loss,
        });
    }
    let loss = (total.unwrap() / forward.answers.len() as f64).unwrap();
    let mut store = loss.backward().unwrap();
    (loss.to_scalar().unwrap(), Gradients::collect(net.vars(), &mut store).unwrap())
}

/// Targets a model can learn: each id's successor in a fixed permutation.
fn successors(ids: &[u32], vocab: u32) -> Vec<u32> {
    ids.iter().map(|i| (i * 7 + 3) % vocab).collect()
}

fn falls(optimizer: &mut dyn Optimizer, precision: Precision, lr: f32) -> (f32, f32) {
    let config = small();
    let net = network(&config, precision);
    let mut losses = Vec::new();
    for s in 0..120 {
        let (batch, plain) = ids(&config, 8, 12, s);
        let (loss, mut grads) = step(&net, &batch, &successors(&plain, config.vocab));
        grads.clip(1.0).unwrap();
        optimizer.step(net.vars(), &grads, lr).unwrap();
        losses.push(loss);
    }
    assert!(net.weights().unwrap().is_finite());
    (losses[0], losses[119])
}

#[test]
fn training_lowers_the_loss_in_every_precision() {
    for precision in [Precision::FLOAT, Precision::TERNARY] {
        let (first, last) = falls(&mut AdamW::new(AdamWConfig::default()), precision, 1e-2);
        assert!(last < 0.5 * first, "AdamW {precision:?}: {first} -> {last}");
        let (first, last) = falls(&mut Muon::new(MuonConfig::default(), &small()), precision, 1e-2);
        assert!(last < 0.5 * first, "Muon {precision:?}: {first} -> {last}");
    }
    let (first, last) = falls(&mut AdamW::new(AdamWConfig::default()), Precision::FLOAT, 0.0);
    assert!(last > 0.9 * first, "without steps nothing is learnt: {first} -> {last}");
}

/// Not a test of correctness: prints tokens per second of the nano shape. Run with
/// `cargo test --release -p forge-train throughput -- --ignored --nocapture`.
#[test]
#[ignore = "measures speed; needs a quiet machine"]
fn throughput_of_nano() {
    let config = nano();
    let (batch, plain) = ids(&config, 64, 48, 1);
    let targets = successors(&plain, config.vocab);
    let half = Precision { projections: Projections::Ternary { lambda: 0.5 }, tables: Tables::Float };
    for (name, precision) in [("float", Precision::FLOAT), ("ternary", Precision::TERNARY), ("half", half)] {
        let net = network(&config, precision);
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let mut times = Vec::new();
        for _ in 0..12 {
            let start = Instant::now();
            let (_, mut grads) = step(&net, &batch, &targets);
            grads.clip(1.0).unwrap();
            optimizer.step(net.vars(), &grads, 1e-3).unwrap();
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let rate = |t: f64| plain.len() as f64 / t;
        println!("{name}: best {:.0} tokens/s, median {:.0}", rate(times[0]), rate(times[6]));
    }
}
