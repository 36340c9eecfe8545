//! Whole networks: loss and every parameter's gradient against the CPU's, and the same bytes twice.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use forge_formats::config::{Activation, CacheKind, ModelConfig};

use super::{Gpu, Report, gpu, noise, values};
use crate::nn::loss::{binary_cross_entropy, kl, token_scores, weighted_cross_entropy};
use crate::nn::{ForwardOptions, Network, Precision};
use crate::rng::Rng;
use crate::weights::{Key, Weights};

/// Everything at once: recursion, halting, memory, grouped heads, a window, gains.
fn whole() -> ModelConfig {
    ModelConfig {
        vocab: 300,
        dim: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        ffn: 160,
        activation: Activation::SwiGlu,
        window: 24,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: false,
        recursion: 3,
        halting: true,
        halt_threshold: 0.5,
        mem_dim: 48,
        mem_gate: 40,
        mem_layers: 0b10,
        cache: CacheKind::default(),
    }
}

/// Initial weights whose gains and biases are random too.
fn weights(config: &ModelConfig) -> Weights {
    let mut weights = Weights::init(config, 7);
    let mut rng = Rng::new(7, &["gains"]);
    for m in weights.tensors.values_mut().filter(|m| m.rows == 1) {
        m.data.iter_mut().for_each(|w| *w += 0.2 * rng.normal());
    }
    weights
}

const ROWS: usize = 3;
const COLS: usize = 70;

/// Loss of every answer, of halting and of a teacher.
fn loss(net: &Network, device: &Device, halting: bool) -> Tensor {
    let mut rng = Rng::new(3, &["ids"]);
    let vocab = net.config().vocab as usize;
    let ids: Vec<u32> = (0..ROWS * COLS).map(|_| rng.below(vocab) as u32).collect();
    let targets: Vec<u32> = ids.iter().map(|id| (id * 7 + 1) % vocab as u32).collect();
    let weights: Vec<f32> = (0..ids.len()).map(|i| if i % 5 == 0 { 0.0 } else { 1.0 }).collect();
    let batch = Tensor::from_slice(&ids, (ROWS, COLS), device).unwrap();
    let options = ForwardOptions { halting, ..Default::default() };
    let forward = net.forward(&batch, options).unwrap();
    let mut terms = Vec::new();
    for answer in &forward.answers {
        terms.push(weighted_cross_entropy(&net.logits(answer).unwrap(), &targets, &weights).unwrap());
    }
    let halts: Vec<f32> = (0..ids.len()).map(|i| (i % 2) as f32).collect();
    for logit in &forward.halt {
        terms.push(binary_cross_entropy(logit, &halts, &weights).unwrap());
    }
    let logits = net.logits(forward.answer()).unwrap();
    let teacher = Tensor::from_vec(noise(ids.len() * vocab, 5), (ids.len(), vocab), device).unwrap();
    let teacher = teacher.to_dtype(logits.dtype()).unwrap();
    terms.push(kl(&logits, &teacher, &weights, 2.0).unwrap());
    assert_eq!(token_scores(&logits, &targets).unwrap().len(), ids.len());
    terms.into_iter().reduce(|sum, term| (sum + term).unwrap()).unwrap()
}

/// The loss and the gradients of all parameters.
fn gradients(net: &Network, device: &Device, halting: bool) -> (f32, BTreeMap<Key, Vec<f32>>) {
    let loss = loss(net, device, halting);
    let store = loss.backward().unwrap();
    let gradients =
        net.vars().iter().filter_map(|(key, var)| Some((*key, values(store.get(var.as_tensor())?))));
    (loss.to_scalar().unwrap(), gradients.collect())
}

/// Compares a device's network with the CPU's of the same weights.
fn compare(gpu: &Gpu, report: &mut Report, name: &str, case: Case) {
    let weights = weights(&case.config);
    let on = |device: &Device| {
        let mut net = Network::new(&weights, case.precision, device).unwrap();
        net.set_straight_through(true);
        gradients(&net, device, case.halting)
    };
    let (want, wanted) = on(&Device::Cpu);
    let (got, found) = on(&gpu.device);
    report.check(&format!("{name}, loss"), &[got], &[want], case.tolerance[0]);
    assert_eq!(found.len(), wanted.len());
    for (key, want) in &wanted {
        report.check(&format!("{name}, {key:?}"), &found[key], want, case.tolerance[1]);
    }
}

struct Case {
    config: ModelConfig,
    precision: Precision,
    halting: bool,
    tolerance: [f64; 2],
}

/// A gradient passes through some twenty products with bf16 operands, each rounding by 2⁻⁹: a few per cent.
const FLOAT: [f64; 2] = [2e-3, 6e-2];
/// Beside that, an activation near the middle between two integers rounds the other way.
const TERNARY: [f64; 2] = [5e-3, 1.2e-1];

#[test]
fn networks_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    for (precision, tolerance) in [(Precision::FLOAT, FLOAT), (Precision::TERNARY, TERNARY)] {
        let case = Case { config: whole(), precision, halting: false, tolerance };
        compare(&gpu, &mut report, &format!("everything, {precision:?}"), case);
        let config = ModelConfig {
            tied: true,
            norm_gain: false,
            recursion: 1,
            halting: false,
            mem_dim: 0,
            mem_layers: 0,
            activation: Activation::Relu2,
            ..whole()
        };
        let case = Case { config, precision, halting: false, tolerance };
        compare(&gpu, &mut report, &format!("plain, {precision:?}"), case);
    }
    report.finish();
}

/// With halting on, a token whose logit lies near the threshold may halt on one device and not on the other; a
/// threshold that no logit is near shows that carrying works.
#[test]
fn halting_networks_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    for halt_threshold in [0.0, 1.0] {
        let config = ModelConfig { halt_threshold, ..whole() };
        let case = Case { config, precision: Precision::FLOAT, halting: true, tolerance: FLOAT };
        compare(&gpu, &mut report, &format!("threshold {halt_threshold}"), case);
    }
    report.finish();
}

#[test]
fn the_same_step_gives_the_same_bytes() {
    let Some(gpu) = gpu() else { return };
    let weights = weights(&whole());
    for precision in [Precision::FLOAT, Precision::TERNARY] {
        let net = Network::new(&weights, precision, &gpu.device).unwrap();
        let run = || {
            let (loss, gradients) = gradients(&net, &gpu.device, false);
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            (loss.to_bits(), gradients.into_iter().map(|(key, g)| (key, bits(g))).collect::<Vec<_>>())
        };
        let first = run();
        for _ in 0..3 {
            assert!(run() == first, "{precision:?}");
        }
    }
}

/// The negative control of the tolerances: one matrix of forty, larger by a fifth, fails them.
#[test]
fn a_perturbed_network_fails_the_tolerances() {
    let Some(gpu) = gpu() else { return };
    for (precision, tolerance) in [(Precision::FLOAT, FLOAT), (Precision::TERNARY, TERNARY)] {
        let plain = weights(&whole());
        let mut changed = plain.clone();
        let matrix = changed.tensors.values_mut().find(|m| m.rows > 1 && m.rows != m.cols).unwrap();
        matrix.data.iter_mut().step_by(2).for_each(|w| *w *= 1.5);
        let run = |weights: &Weights, device: &Device| {
            gradients(&Network::new(weights, precision, device).unwrap(), device, false)
        };
        let (_, wanted) = run(&plain, &Device::Cpu);
        let (_, found) = run(&changed, &gpu.device);
        let mut report = Report::default();
        for (key, want) in &wanted {
            report.check(&format!("control, {key:?}"), &found[key], want, tolerance[1]);
        }
        assert!(report.failures > 0, "{precision:?}");
    }
}
