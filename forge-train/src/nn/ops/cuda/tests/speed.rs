//! Time, launches and memory of a training step. Run with
//! `cargo test --release --features cuda -p forge-train speed -- --ignored --nocapture --test-threads=1`.

use std::time::Instant;

use candle_core::{Device, Tensor};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};

use super::{gpu, probe};
use crate::nn::{ForwardOptions, Network, Precision};
use crate::optim::{AdamW, AdamWConfig, Optimizer};
use crate::rng::Rng;
use crate::weights::Weights;

/// The model of 24.4 million parameters that the figures of docs/results.md are about.
fn model() -> ModelConfig {
    ModelConfig {
        vocab: 8192,
        dim: 384,
        layers: 12,
        heads: 6,
        kv_heads: 6,
        head_dim: 64,
        ffn: 1024,
        activation: Activation::SwiGlu,
        window: 256,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: true,
        recursion: 1,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

const COLS: usize = 256;

/// A whole step, as the trainer takes it: forward, backward, clipping, AdamW; returns the loss.
fn step(net: &Network, adamw: &mut AdamW, device: &Device, ids: &[u32]) -> f32 {
    let batch = Tensor::from_slice(ids, (ids.len() / COLS, COLS), device).unwrap();
    let net = net.for_backward();
    let forward = net.forward(&batch, ForwardOptions::default()).unwrap();
    let loss = net.cross_entropy(forward.answer(), ids, &vec![1.0; ids.len()]).unwrap();
    let mut gradients = net.gradients(&loss).unwrap();
    gradients.clip(1.0).unwrap();
    adamw.step(net.vars(), &gradients, 1e-4).unwrap();
    loss.to_scalar().unwrap()
}

#[test]
#[ignore = "measures; run it alone on a GPU"]
fn speed_of_a_step() {
    let Some(gpu) = gpu() else { return };
    probe::set_poison(false);
    let weights = Weights::init(&model(), 1);
    for (name, precision) in [("float", Precision::FLOAT), ("ternary", Precision::TERNARY)] {
        let net = Network::new(&weights, precision, &gpu.device).unwrap();
        let mut adamw = AdamW::new(AdamWConfig::default());
        for batch in [64, 128] {
            let mut rng = Rng::new(1, &["ids"]);
            let ids: Vec<u32> = (0..batch * COLS).map(|_| rng.below(8192) as u32).collect();
            for _ in 0..3 {
                step(&net, &mut adamw, &gpu.device, &ids);
            }
            crate::device::reset_peak_memory(&gpu.device).unwrap();
            probe::take_launches();
            let mut times: Vec<f64> = (0..8)
                .map(|_| {
                    let start = Instant::now();
                    step(&net, &mut adamw, &gpu.device, &ids);
                    gpu.device.synchronize().unwrap();
                    start.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            println!(
                "{name}, batch {batch}: {median:.2} ms ({:.2} to {:.2}), {:.0} tokens/s, {} launches, {:.2} GB",
                times[0],
                times[times.len() - 1],
                (batch * COLS) as f64 / median * 1e3,
                probe::take_launches() / times.len(),
                crate::device::peak_memory(&gpu.device).unwrap().unwrap_or(0) as f64 / 1e9,
            );
            probe::start_timing();
            step(&net, &mut adamw, &gpu.device, &ids);
            gpu.device.synchronize().unwrap();
            for (kernel, ms, count) in probe::stop_timing() {
                println!("    {ms:8.3} ms  {count:4} × {kernel}");
            }
        }
    }
}
