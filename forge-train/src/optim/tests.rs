//! One step of every optimiser against its formula in f64, and saved state against uninterrupted runs.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_formats::role::Role;

use super::*;
use crate::rng::Rng;

pub(super) fn model() -> ModelConfig {
    ModelConfig {
        vocab: 12,
        dim: 8,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 12,
        activation: Activation::SwiGlu,
        window: 8,
        rope_log2_theta: 13.0,
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

fn noise(n: usize, labels: &[&str]) -> Vec<f32> {
    let mut rng = Rng::new(1, labels);
    (0..n).map(|_| rng.normal()).collect()
}

pub(super) fn variables() -> BTreeMap<Key, Var> {
    model()
        .tensors()
        .map(|(role, layer, [r, c])| {
            let (r, c) = (r as usize, c as usize);
            let values = Tensor::from_vec(noise(r * c, &[role.name()]), (r, c), &Device::Cpu).unwrap();
            ((role, layer), Var::from_tensor(&values).unwrap())
        })
        .collect()
}

pub(super) fn gradients(step: u64) -> Gradients {
    let mut map = BTreeMap::new();
    for (role, layer, [r, c]) in model().tensors() {
        let labels = ["gradient", role.name(), &step.to_string()];
        map.insert((role, layer), noise((r * c) as usize, &labels));
    }
    Gradients::from_map(map)
}

pub(super) fn values(vars: &BTreeMap<Key, Var>, role: Role) -> Vec<f32> {
    vars[&(role, 0)].flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() <= tolerance * (1.0 + w.abs()), "{g} is not {w}");
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn adamw_takes_the_steps_of_its_formula() {
    let (vars, config) = (variables(), AdamWConfig { weight_decay: 0.2, ..Default::default() });
    let mut adam = AdamW::new(config);
    for (role, decay) in [(Role::Embedding, 0.2), (Role::Down, 0.2), (Role::FinalNorm, 0.0)] {
        let (vars, mut adam) = (variables(), AdamW::new(config));
        let mut w = wide(&values(&vars, role));
        let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        for step in 1..=3 {
            let grads = gradients(step);
            adam.step(&vars, &grads, 0.01).unwrap();
            let g = wide(grads.get(&(role, 0)).unwrap());
            for i in 0..w.len() {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
                let (mh, vh) =
                    (m[i] / (1.0 - 0.9f64.powi(step as i32)), v[i] / (1.0 - 0.95f64.powi(step as i32)));
                w[i] -= 0.01 * (mh / (vh.sqrt() + 1e-8) + decay * w[i]);
            }
            close(&values(&vars, role), &w, 1e-6);
        }
    }
    // A parameter without a gradient is left alone, decay included.
    let before = values(&vars, Role::Down);
    let mut grads = gradients(1);
    grads.retain(|key| key.0 != Role::Down);
    adam.step(&vars, &grads, 0.01).unwrap();
    assert_eq!(values(&vars, Role::Down), before);
}

/// Newton–Schulz in f64 with plain loops.
fn orthogonal(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let product = |a: &[f64], b: &[f64], n: usize, k: usize, m: usize| -> Vec<f64> {
        (0..n * m).map(|i| (0..k).map(|j| a[i / m * k + j] * b[j * m + i % m]).sum()).collect()
    };
    let transpose =
        |a: &[f64], n: usize, m: usize| -> Vec<f64> { (0..n * m).map(|i| a[i % n * m + i / n]).collect() };
    let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mut x: Vec<f64> = x.iter().map(|v| v / (norm + 1e-7)).collect();
    for _ in 0..5 {
        let gram = product(&x, &transpose(&x, rows, cols), rows, cols, rows);
        let square = product(&gram, &gram, rows, rows, rows);
        let poly: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| -4.7750 * g + 2.0315 * s).collect();
        let change = product(&poly, &x, rows, rows, cols);
        x = x.iter().zip(&change).map(|(x, c)| 3.4445 * x + c).collect();
    }
    x
}

#[test]
fn muon_takes_the_step_of_its_formula_part_by_part() {
    let (rate, decay) = (0.02, 0.1);
    for scale in [MuonScale::Spectral, MuonScale::MatchAdamW] {
        // Parts of the fused projections: queries, keys, values; gate, up.
        let cases: [(Role, usize, &[usize]); 4] = [
            (Role::Qkv, 8, &[8, 4, 4]),
            (Role::GateUp, 8, &[12, 12]),
            (Role::Down, 12, &[8]),
            (Role::AttnOut, 8, &[8]),
        ];
        for (role, cols, parts) in cases {
            let vars = variables();
            let mut muon = Muon::new(MuonConfig { scale, ..Default::default() }, &model());
            let mut w = wide(&values(&vars, role));
            let mut m = vec![0.0; w.len()];
            for step in 1..=2 {
                let grads = gradients(step);
                muon.step(&vars, &grads, rate).unwrap();
                let g = wide(grads.get(&(role, 0)).unwrap());
                let mut at = 0;
                for &rows in parts {
                    let part = at..at + rows * cols;
                    let mut u = Vec::new();
                    for i in part.clone() {
                        m[i] = 0.95 * m[i] + 0.05 * g[i];
                        u.push(0.05 * g[i] + 0.95 * m[i]);
                    }
                    let factor = match scale {
                        MuonScale::Spectral => (rows as f64 / cols as f64).max(1.0).sqrt(),
                        MuonScale::MatchAdamW => 0.2 * (rows.max(cols) as f64).sqrt(),
                    };
                    for (i, o) in part.zip(orthogonal(&u, rows, cols)) {
                        w[i] = w[i] * (1.0 - f64::from(rate) * decay) - f64::from(rate) * factor * o;
                    }
                    at += rows * cols;
                }
                close(&values(&vars, role), &w, 1e-5);
            }
        }
    }
}

#[test]
fn muon_leaves_tables_and_vectors_to_adamw() {
    let (a, b) = (variables(), variables());
    let mut muon = Muon::new(MuonConfig { rest_rate: 0.5, ..Default::default() }, &model());
    let mut adam = AdamW::new(AdamWConfig::default());
    muon.step(&a, &gradients(1), 0.02).unwrap();
    adam.step(&b, &gradients(1), 0.01).unwrap();
    for role in [Role::Embedding, Role::FinalNorm, Role::AttnNorm] {
        assert_eq!(values(&a, role), values(&b, role), "{role:?}");
    }
    assert_ne!(values(&a, Role::Down), values(&b, Role::Down));
}

/// Amplitudes with which the filter passes a constant and an alternating gradient.
fn gains(filter: impl Fn(&mut Gradients)) -> (f32, f32) {
    let key = (Role::FinalNorm, 0);
    let mut last = (0.0, 0.0);
    for step in 0..400 {
        let alternating = if step % 2 == 0 { 1.0 } else { -1.0 };
        let mut grads = Gradients::from_map([(key, vec![1.0, alternating])].into());
        filter(&mut grads);
        let g = grads.get(&key).unwrap();
        last = (g[0].abs(), g[1].abs());
    }
    last
}

#[test]
fn grokfast_amplifies_the_slow_gradient_and_its_inverse_would_not() {
    let grokfast = RefCell::new(Grokfast::new(0.98, 2.0));
    let (slow, fast) = gains(|g| grokfast.borrow_mut().apply(g).unwrap());
    assert!((slow - 3.0).abs() < 1e-3, "a constant gains 1 + λ: {slow}");
    assert!((fast - 1.0).abs() < 0.05, "an alternating one is left alone: {fast}");
    // The sign error this guards against: g + λ(g − μ) does the opposite.
    let mean = RefCell::new(None::<Vec<f32>>);
    let (slow, fast) = gains(|grads| {
        for (_, g) in grads.iter_mut() {
            let mut mean = mean.borrow_mut();
            let g = g.host_mut().unwrap();
            let mean = mean.get_or_insert_with(|| g.to_vec());
            for (g, m) in g.iter_mut().zip(mean) {
                *m = 0.98 * *m + 0.02 * *g;
                *g += 2.0 * (*g - *m);
            }
        }
    });
    assert!(slow < 1.01 && fast > 2.5, "the inverse filter: {slow} {fast}");
}

#[test]
fn grokfast_starts_from_the_first_gradient() {
    let mut grokfast = Grokfast::new(0.9, 2.0);
    let (mut first, mut second) = (gradients(1), gradients(2));
    let (g1, g2) = (first.clone(), second.clone());
    grokfast.apply(&mut first).unwrap();
    grokfast.apply(&mut second).unwrap();
    let key = (Role::Down, 0);
    let (g1, g2) = (wide(g1.get(&key).unwrap()), wide(g2.get(&key).unwrap()));
    let want: Vec<f64> = g1.iter().map(|g| g + 2.0 * g).collect();
    close(first.get(&key).unwrap(), &want, 1e-6);
    let want: Vec<f64> = g1.iter().zip(&g2).map(|(a, b)| b + 2.0 * (0.9 * a + 0.1 * b)).collect();
    close(second.get(&key).unwrap(), &want, 1e-6);
}

/// Six steps in one go, and in two halves with the state passed through a saved copy; `new` makes the optimiser.
fn interrupted<T: Optimizer>(new: impl Fn() -> T) {
    let run =
        |vars: &BTreeMap<Key, Var>, optimizer: &mut T, filter: &mut Grokfast, steps: std::ops::Range<u64>| {
            for step in steps {
                let mut grads = gradients(step);
                filter.apply(&mut grads).unwrap();
                grads.clip(1.0).unwrap();
                optimizer.step(vars, &grads, 0.01).unwrap();
            }
        };
    let whole = variables();
    run(&whole, &mut new(), &mut Grokfast::new(0.9, 2.0), 0..6);
    let halves = variables();
    let (mut optimizer, mut filter) = (new(), Grokfast::new(0.9, 2.0));
    run(&halves, &mut optimizer, &mut filter, 0..3);
    let mut saved = optimizer.state().unwrap();
    saved.extend(filter.state().unwrap());
    let (mut optimizer, mut filter) = (new(), Grokfast::new(0.9, 2.0));
    optimizer.restore(&saved).unwrap();
    filter.restore(&saved).unwrap();
    run(&halves, &mut optimizer, &mut filter, 3..6);
    let forgetful = variables();
    let (mut optimizer, mut filter) = (new(), Grokfast::new(0.9, 2.0));
    run(&forgetful, &mut optimizer, &mut filter, 0..3);
    run(&forgetful, &mut new(), &mut filter, 3..6);
    for role in [Role::Embedding, Role::Qkv, Role::FinalNorm] {
        assert_eq!(values(&whole, role), values(&halves, role), "{role:?}");
        assert_ne!(values(&whole, role), values(&forgetful, role), "state does not matter for {role:?}");
    }
    assert!(optimizer.restore(&State::new()).is_err());
}

#[test]
fn saved_state_continues_exactly() {
    interrupted(|| AdamW::new(AdamWConfig::default()));
    interrupted(|| Muon::new(MuonConfig::default(), &model()));
}

#[test]
fn averages_follow_their_formula_and_survive_saving() {
    let vars = variables();
    let role = Role::Down;
    let mut average = Average::new(0.6, &vars).unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut want = wide(&values(&vars, role));
    for t in 0..12_u64 {
        optimizer.step(&vars, &gradients(t), 0.05).unwrap();
        average.update(&vars).unwrap();
        let decay = f64::from(0.6f32).min((1 + t) as f64 / (10 + t) as f64);
        for (a, w) in want.iter_mut().zip(wide(&values(&vars, role))) {
            *a = decay * *a + (1.0 - decay) * w;
        }
        if t == 5 {
            let saved = average.state().unwrap();
            average = Average::new(0.6, &variables()).unwrap();
            average.restore(&saved).unwrap();
            assert_eq!(average.state().unwrap(), saved);
        }
    }
    let found: Vec<f32> = average.values()[&(role, 0)].flatten_all().unwrap().to_vec1().unwrap();
    close(&found, &want, 1e-5);
    assert_ne!(found, values(&vars, role), "the average lags behind");
    assert!(average.restore(&State::new()).is_err());
}

/// The formula of the paper with one query head a group: `√γ` on both sides.
#[test]
fn qk_clip_scales_queries_and_keys_by_the_root_and_values_not_at_all() {
    let model = ModelConfig { heads: 2, kv_heads: 2, ..model() };
    let rows = 3 * 2 * 4;
    let before = noise(rows * 8, &["qkv"]);
    let tensor = Tensor::from_slice(&before, (rows, 8), &Device::Cpu).unwrap();
    let vars = BTreeMap::from([((Role::Qkv, 0), Var::from_tensor(&tensor).unwrap())]);
    assert_eq!(qk_clip(&vars, &model, &[3.0, 29.0], 30.0).unwrap(), 0);
    assert_eq!(values(&vars, Role::Qkv), before, "nothing exceeds τ");
    assert_eq!(qk_clip(&vars, &model, &[3.0, 120.0], 30.0).unwrap(), 1);
    let want: Vec<f64> = wide(&before)
        .iter()
        .enumerate()
        .map(|(i, w)| match i / 8 {
            4..8 | 12..16 => w * (30f64 / 120.0).sqrt(),
            _ => *w,
        })
        .collect();
    close(&values(&vars, Role::Qkv), &want, 1e-6);
    assert!(qk_clip(&vars, &model, &[1.0], 30.0).is_err());
}

#[test]
fn step_counters_are_exact() {
    for step in [0, 1, 0xF_FFFF, 0x10_0000, 123_456_789_012] {
        let mut state = State::new();
        save_step("s", step, &mut state);
        assert_eq!(load_step("s", &state).unwrap(), step);
    }
}

#[test]
fn parameter_names_round_trip() {
    for (role, layer, _) in model().tensors() {
        assert_eq!(parameter_key(&parameter_name(&(role, layer))).unwrap(), (role, layer));
    }
    assert!(parameter_key("nonsense.0").is_err() && parameter_key("qkv").is_err());
}

#[test]
fn clipping_limits_the_global_norm() {
    let mut grads = gradients(1);
    let all =
        |grads: &Gradients| -> Vec<f32> { grads.iter().flat_map(|(_, g)| g.to_host().unwrap()).collect() };
    let original = grads.clone();
    let by_hand = all(&original).iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    assert!((grads.clip(1e9).unwrap() - by_hand).abs() < 1e-9 * by_hand);
    assert_eq!(all(&grads), all(&original), "below the limit nothing changes");
    assert!((grads.clip(0.5).unwrap() - by_hand).abs() < 1e-9 * by_hand);
    assert!((grads.norm().unwrap() - 0.5).abs() < 1e-6);
    let ratio = grads.get(&(Role::Down, 0)).unwrap()[0] / original.get(&(Role::Down, 0)).unwrap()[0];
    assert!((f64::from(ratio) - 0.5 / by_hand).abs() < 1e-6);
}

#[test]
fn accumulated_micro_batches_are_their_mean() {
    let mut sum = gradients(1);
    sum.add(gradients(2)).unwrap();
    sum.scale(0.5).unwrap();
    let key = (Role::Qkv, 0);
    let (a, b) = (gradients(1), gradients(2));
    let pairs = a.get(&key).unwrap().iter().zip(b.get(&key).unwrap());
    let want: Vec<f64> = pairs.map(|(a, b)| (f64::from(*a) + f64::from(*b)) / 2.0).collect();
    close(sum.get(&key).unwrap(), &want, 1e-6);
}

#[test]
fn gradients_of_other_models_are_refused() {
    let vars = variables();
    let mut adam = AdamW::new(AdamWConfig::default());
    let unknown = Gradients::from_map([((Role::MemIn, 0), vec![1.0])].into());
    assert!(adam.step(&vars, &unknown, 0.1).is_err());
    let short = Gradients::from_map([((Role::Down, 0), vec![1.0])].into());
    assert!(adam.step(&vars, &short, 0.1).is_err());
}

#[test]
fn schedules_warm_up_hold_and_decay() {
    let cosine = Schedule::Cosine { warmup: 10, total: 110, floor: 0.1 };
    let rates: Vec<f32> = (0..130).map(|s| cosine.rate(2.0, s)).collect();
    assert_eq!((rates[0], rates[9], rates[10]), (0.2, 2.0, 2.0));
    assert!((rates[60] - 1.1).abs() < 1e-6, "half-way between peak and floor: {}", rates[60]);
    assert!((rates[110] - 0.2).abs() < 1e-6 && rates[129] == rates[110]);
    assert!(rates[10..].windows(2).all(|w| w[1] <= w[0]));
    let stable = Schedule::Stable { warmup: 10, total: 110, decay: 20, floor: 0.0 };
    assert_eq!((stable.rate(1.0, 4), stable.rate(1.0, 10), stable.rate(1.0, 89)), (0.5, 1.0, 1.0));
    assert!((stable.rate(1.0, 100) - 0.5).abs() < 1e-6 && stable.rate(1.0, 110) == 0.0);
    // Degenerate lengths neither divide by zero nor leave [floor, 1].
    for s in 0..3 {
        let rate = Schedule::Cosine { warmup: 0, total: 0, floor: 0.3 }.rate(1.0, s);
        assert!((0.3..=1.0).contains(&rate));
    }
}
