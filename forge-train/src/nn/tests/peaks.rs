//! Largest attention logits against a naive computation.

use forge_formats::role::Role;

use super::*;
use crate::nn::ForwardOptions;
use crate::nn::ops::rope::Rope;

/// One block without memory and recursion, whose queries, keys and values follow from the embedding alone.
fn plain() -> ModelConfig {
    ModelConfig { layers: 1, recursion: 1, halting: false, mem_layers: 0, mem_dim: 0, mem_gate: 0, ..small() }
}

fn normalised(x: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().map(|v| v / (mean + eps).sqrt()).collect()
}

/// Whether a position attends to one that is not behind it.
fn sees(config: &ModelConfig, q: usize, k: usize) -> bool {
    let [window, every, rows] =
        [config.window, config.globals.every, config.globals.rows].map(|n| n as usize);
    q - k < window || every > 0 && k.is_multiple_of(every) && (q - window) / every - k / every < rows
}

/// Largest logit of every head by the definition, in f64 but for the rotation.
fn expected(config: &ModelConfig, ids: &[u32], cols: usize) -> Vec<f64> {
    let w = weights(config, 7);
    let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
    let (d, heads) = (config.head_dim as usize, config.heads as usize);
    let group = heads / config.kv_heads as usize;
    let rope = Rope::new(cols, d, config.rope_log2_theta);
    let gain = wide(w.get(Role::AttnNorm, 0).row(0));
    let eps = f64::from(config.norm_eps);
    let rotated = |position: usize, head: usize| -> Vec<f64> {
        let embedded = normalised(&wide(w.get(Role::Embedding, 0).row(ids[position] as usize)), eps);
        let input: Vec<f64> = normalised(&embedded, eps).iter().zip(&gain).map(|(x, g)| x * g).collect();
        let row =
            |r: usize| wide(w.get(Role::Qkv, 0).row(r)).iter().zip(&input).map(|(w, x)| w * x).sum::<f64>();
        let plain: Vec<f32> = (head * d..(head + 1) * d).map(|r| row(r) as f32).collect();
        let mut out = vec![0.0; d];
        rope.rotate(position, &plain, &mut out);
        wide(&out)
    };
    (0..heads)
        .map(|head| {
            let mut peak = f64::NEG_INFINITY;
            for q in 0..cols {
                for k in (0..=q).filter(|k| sees(config, q, *k)) {
                    let key = rotated(k, heads + head / group);
                    let dot: f64 = rotated(q, head).iter().zip(&key).map(|(a, b)| a * b).sum();
                    peak = peak.max(dot / (d as f64).sqrt());
                }
            }
            peak
        })
        .collect()
}

#[test]
fn the_largest_logit_of_each_head_is_found() {
    let narrow = ModelConfig { window: 1, ..plain() };
    let globals = ModelConfig { globals: Globals { every: 2, rows: 4 }, ..narrow.clone() };
    for config in [plain(), narrow.clone(), globals.clone()] {
        let mut net = network(&config, Precision::FLOAT);
        let (batch, plain) = ids(&config, 1, 24, 3);
        net.forward(&batch, ForwardOptions::default()).unwrap();
        assert!(net.logit_peaks().is_none(), "measured only when asked");
        net.measure_logits(true);
        net.for_backward().forward(&batch, ForwardOptions::default()).unwrap();
        let found = net.logit_peaks().unwrap();
        for (found, wanted) in found.iter().zip(expected(&config, &plain, 24)) {
            assert!(
                (f64::from(*found) - wanted).abs() < 1e-4 * (1.0 + wanted.abs()),
                "{found} is not {wanted}"
            );
        }
    }
    // Control: some head's largest is of a global position.
    let (_, plain) = ids(&narrow, 1, 24, 3);
    let [with, without] = [&globals, &narrow].map(|config| expected(config, &plain, 24));
    assert!(with.iter().zip(&without).any(|(with, without)| *with > without + 1e-3), "{with:?} {without:?}");
}

#[test]
fn qk_clip_caps_the_logits_and_leaves_other_heads_alone() {
    let config = plain();
    let mut net = network(&config, Precision::FLOAT);
    let (batch, _) = ids(&config, 4, 12, 3);
    let peaks = |net: &mut Network| {
        net.measure_logits(true);
        net.forward(&batch, ForwardOptions::default()).unwrap();
        net.logit_peaks().unwrap()
    };
    let before = peaks(&mut net);
    let mut sorted = before.clone();
    sorted.sort_by(f32::total_cmp);
    // Two of four heads are beyond it, each in the company of a head that may not be.
    let tau = 0.5 * (sorted[1] + sorted[2]);
    let clipped = crate::optim::qk_clip(net.vars(), &config, &before, tau).unwrap();
    assert_eq!(clipped, 2);
    for (before, after) in before.iter().zip(peaks(&mut net)) {
        let wanted = before.min(tau);
        assert!((after - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "{before} became {after}");
    }
}
