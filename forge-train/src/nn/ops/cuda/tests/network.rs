//! Whole networks: loss and every parameter's gradient against the CPU's, and the same bytes twice.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_formats::role::Role;

use super::{Gpu, Report, gpu, noise};
use crate::nn::loss::{binary_cross_entropy, kl, token_scores};
use crate::nn::{Dropout, ForwardOptions, Network, Precision};
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
        memory: MemoryKind::default(),
        globals: Globals::default(),
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
fn loss(net: &Network, device: &Device, case: &Case) -> Tensor {
    let mut rng = Rng::new(3, &["ids"]);
    let vocab = net.config().vocab as usize;
    let ids: Vec<u32> = (0..ROWS * COLS).map(|_| rng.below(vocab) as u32).collect();
    let targets: Vec<u32> = ids.iter().map(|id| (id * 7 + 1) % vocab as u32).collect();
    let weights: Vec<f32> = (0..ids.len()).map(|i| if i % 5 == 0 { 0.0 } else { 1.0 }).collect();
    let batch = Tensor::from_slice(&ids, (ROWS, COLS), device).unwrap();
    let dropout = case.dropout.then_some(Dropout { rate: 0.2, seed: 5, step: 3, part: 1 });
    let options = ForwardOptions { halting: case.halting, dropout };
    let forward = net.forward(&batch, options).unwrap();
    let mut terms = Vec::new();
    for answer in &forward.answers {
        terms.push(net.cross_entropy(answer, &targets, &weights).unwrap());
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
fn gradients(net: &Network, device: &Device, case: &Case) -> (f32, BTreeMap<Key, Vec<f32>>) {
    let net = if case.fused { net.for_backward() } else { net.clone() };
    let loss = loss(&net, device, case);
    let all = net.gradients(&loss).unwrap();
    (loss.to_scalar().unwrap(), all.iter().map(|(key, grad)| (*key, grad.to_host().unwrap())).collect())
}

/// Compares a device's network with the CPU's of the same weights.
fn compare(gpu: &Gpu, report: &mut Report, name: &str, case: &Case) {
    let weights = weights(&case.config);
    let on =
        |device: &Device| gradients(&Network::new(&weights, case.precision, device).unwrap(), device, case);
    let (want, wanted) = on(&Device::Cpu);
    let (got, found) = on(&gpu.device);
    report.check(&format!("{name}, loss"), &[got], &[want], LOSS);
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (key, want) in &wanted {
        report.check(&format!("{name}, {key:?}"), &found[key], want, tolerance(*key));
    }
}

#[derive(Clone)]
struct Case {
    config: ModelConfig,
    precision: Precision,
    halting: bool,
    /// Whether blocks run as one operation, and head with loss.
    fused: bool,
    dropout: bool,
}

impl Case {
    fn new(config: ModelConfig, precision: Precision) -> Self {
        Self { config, precision, halting: false, fused: false, dropout: false }
    }
}

/// Of the loss, a mean over hundreds of rows.
const LOSS: f64 = 2e-3;

/// Of a gradient: it comes through some twenty products with bf16 operands, each rounding by 2⁻⁹, and in ternary
/// networks past activations near the middle between two integers, which round the other way. The gate's first matrix
/// lies behind a ReLU besides, where small differences decide whether anything passes.
fn tolerance((role, _): Key) -> f64 {
    match role {
        Role::MemGate1 => 1.5e-1,
        // Of a matrix three numbers, each a sum over all tokens of terms of either sign.
        Role::MemBias => 1e-1,
        _ => 6e-2,
    }
}

/// Without memory and halting: what runs as whole blocks.
fn plain() -> ModelConfig {
    ModelConfig { halting: false, mem_dim: 0, mem_layers: 0, ..whole() }
}

#[test]
fn networks_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    for precision in [Precision::FLOAT, Precision::TERNARY] {
        let case = Case::new(whole(), precision);
        compare(&gpu, &mut report, &format!("everything, {precision:?}"), &case);
        let globals = ModelConfig { globals: Globals { every: 3, rows: 6 }, ..whole() };
        compare(
            &gpu,
            &mut report,
            &format!("global positions, {precision:?}"),
            &Case::new(globals, precision),
        );
        let titans = ModelConfig { memory: MemoryKind::Titans, ..whole() };
        compare(&gpu, &mut report, &format!("a matrix, {precision:?}"), &Case::new(titans, precision));
        let config = ModelConfig {
            tied: true,
            norm_gain: false,
            recursion: 1,
            activation: Activation::Relu2,
            ..plain()
        };
        compare(&gpu, &mut report, &format!("plain, {precision:?}"), &Case::new(config, precision));
    }
    report.finish();
}

#[test]
fn whole_blocks_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    for precision in [Precision::FLOAT, Precision::TERNARY] {
        for (tied, dropout) in [(false, false), (true, true)] {
            let config = ModelConfig { tied, ..plain() };
            let case = Case { fused: true, dropout, ..Case::new(config, precision) };
            compare(&gpu, &mut report, &format!("blocks, dropout {dropout}, {precision:?}"), &case);
            let apart = Case { fused: false, ..case.clone() };
            compare(&gpu, &mut report, &format!("their parts, dropout {dropout}, {precision:?}"), &apart);
        }
    }
    let case = Case { fused: true, ..Case::new(whole(), Precision::FLOAT) };
    compare(&gpu, &mut report, "blocks beside a memory", &case);
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
        let case = Case { halting: true, ..Case::new(config, Precision::FLOAT) };
        compare(&gpu, &mut report, &format!("threshold {halt_threshold}"), &case);
    }
    report.finish();
}

#[test]
fn the_same_step_gives_the_same_bytes() {
    let Some(gpu) = gpu() else { return };
    for precision in [Precision::FLOAT, Precision::TERNARY] {
        for config in [whole(), plain(), ModelConfig { memory: MemoryKind::Titans, ..whole() }] {
            let net = Network::new(&weights(&config), precision, &gpu.device).unwrap();
            let case = Case { fused: true, dropout: true, ..Case::new(config, precision) };
            let run = || {
                let (loss, gradients) = gradients(&net, &gpu.device, &case);
                let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                (loss.to_bits(), gradients.into_iter().map(|(key, g)| (key, bits(g))).collect::<Vec<_>>())
            };
            let first = run();
            for _ in 0..3 {
                assert!(run() == first, "{precision:?}");
            }
        }
    }
}

/// The negative control of the tolerances: every other weight of one matrix, larger by half, fails them.
#[test]
fn a_perturbed_network_fails_the_tolerances() {
    let Some(gpu) = gpu() else { return };
    for precision in [Precision::FLOAT, Precision::TERNARY] {
        let case = Case::new(whole(), precision);
        let plain = weights(&whole());
        let mut changed = plain.clone();
        let matrix = changed.tensors.values_mut().find(|m| m.rows > 1 && m.rows != m.cols).unwrap();
        matrix.data.iter_mut().step_by(2).for_each(|w| *w *= 1.5);
        let run = |weights: &Weights, device: &Device| {
            gradients(&Network::new(weights, precision, device).unwrap(), device, &case)
        };
        let (_, wanted) = run(&plain, &Device::Cpu);
        let (_, found) = run(&changed, &gpu.device);
        let mut report = Report::default();
        for (key, want) in &wanted {
            report.check(&format!("control, {key:?}"), &found[key], want, tolerance(*key));
        }
        assert_eq!(report.failures, wanted.len(), "{precision:?}");
    }
}
