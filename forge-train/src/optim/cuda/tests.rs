//! The optimisers on a device against those on the host. Skipped, with a message, where there is no device.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use forge_formats::role::{Role, RoleKind};

use crate::nn::ops::cuda::tests::gpu;
use crate::optim::tests::{gradients, model, values, variables};
use crate::optim::{AdamW, AdamWConfig, Array, Gradients, Grokfast, Muon, MuonConfig, Optimizer, State};
use crate::weights::Key;

/// The test's variables on `device`.
fn placed(device: &Device) -> BTreeMap<Key, Var> {
    let var = |var: &Var| Var::from_tensor(&var.to_device(device).unwrap()).unwrap();
    variables().iter().map(|(key, value)| (*key, var(value))).collect()
}

/// The test's gradients of a step on `device`.
fn gradients_on(step: u64, device: &Device) -> Gradients {
    let mut grads = gradients(step);
    for (_, grad) in grads.iter_mut() {
        let host = grad.to_host().unwrap();
        *grad = Array::of(&Tensor::from_slice(&host, host.len(), device).unwrap()).unwrap();
    }
    grads
}

/// Steps `from..to` of filter, clipping and optimiser.
fn steps(
    vars: &BTreeMap<Key, Var>,
    device: &Device,
    optimizer: &mut dyn Optimizer,
    filter: &mut Grokfast,
    range: std::ops::Range<u64>,
) {
    for step in range {
        let mut grads = gradients_on(step, device);
        filter.apply(&mut grads).unwrap();
        grads.clip(1.0).unwrap();
        optimizer.step(vars, &grads, 0.01).unwrap();
    }
}

/// Largest relative error of what `got` changed since the start against what `want` changed, over the parameters
/// that Muon orthogonalises (`projections`) or the others.
fn worst(got: &BTreeMap<Key, Var>, want: &BTreeMap<Key, Var>, projections: bool) -> f64 {
    let start = variables();
    let changes = |vars: &BTreeMap<Key, Var>, role: Role| -> Vec<f64> {
        let pairs = values(vars, role).into_iter().zip(values(&start, role));
        pairs.map(|(now, then)| f64::from(now) - f64::from(then)).collect()
    };
    let roles = got.keys().map(|key| key.0).filter(|r| (r.kind() == RoleKind::Projection) == projections);
    let error = |role: Role| {
        let (a, b) = (changes(got, role), changes(want, role));
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        square(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / square(&mut b.iter().copied()).max(1e-30)
    };
    roles.map(error).fold(0.0, f64::max)
}

fn optimizers() -> [(&'static str, Box<dyn Optimizer>); 2] {
    [
        ("AdamW", Box::new(AdamW::new(AdamWConfig::default()))),
        ("Muon", Box::new(Muon::new(MuonConfig::default(), &model()))),
    ]
}

fn optimizer(name: &str) -> Box<dyn Optimizer> {
    optimizers().into_iter().find(|(other, _)| *other == name).unwrap().1
}

/// Of changes. Without bf16 products only the order of operations differs; with them 8 bits remain of each factor.
const EXACT: f64 = 1e-4;
const ROUNDED: f64 = 0.05;

#[test]
fn optimisers_step_as_on_the_host() {
    let Some(gpu) = gpu() else { return };
    for (name, _) in optimizers() {
        let run = |device: &Device, range| {
            let vars = placed(device);
            steps(&vars, device, &mut *optimizer(name), &mut Grokfast::new(0.9, 2.0), range);
            vars
        };
        let (host, on_device) = (run(&Device::Cpu, 0..4), run(&gpu.device, 0..4));
        let tolerance = if name == "Muon" { ROUNDED } else { EXACT };
        let (matrices, others) = (worst(&on_device, &host, true), worst(&on_device, &host, false));
        println!("{name}: {matrices:.1e} of {tolerance:.0e}, {others:.1e} of {EXACT:.0e}");
        assert!(matrices < tolerance && others < EXACT, "{name}");
        let control = worst(&run(&gpu.device, 1..5), &host, true);
        assert!(control > tolerance, "control: other gradients change something else: {control}");
    }
}

#[test]
fn a_step_on_the_device_gives_the_same_bytes_each_time() {
    let Some(gpu) = gpu() else { return };
    for (name, _) in optimizers() {
        let run = || {
            let vars = placed(&gpu.device);
            steps(&vars, &gpu.device, &mut *optimizer(name), &mut Grokfast::new(0.9, 2.0), 0..3);
            [Role::Embedding, Role::Qkv, Role::Down, Role::FinalNorm].map(|role| values(&vars, role))
        };
        assert_eq!(run(), run(), "{name}");
    }
}

#[test]
fn norms_and_sums_are_those_of_the_host() {
    let Some(gpu) = gpu() else { return };
    let (mut host, mut on_device) = (gradients(1), gradients_on(1, &gpu.device));
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12 * b, "{a} is not {b}");
    for (a, b) in on_device.norms().unwrap().values().zip(host.norms().unwrap().values()) {
        close(*a, *b);
    }
    close(on_device.norm().unwrap(), host.norm().unwrap());
    on_device.add(gradients_on(2, &gpu.device)).unwrap();
    host.add(gradients(2)).unwrap();
    on_device.scale(0.5).unwrap();
    host.scale(0.5).unwrap();
    assert_eq!(on_device, host, "sums and products of two numbers are rounded alike");
    assert!(on_device.add(gradients(2)).is_err(), "host and device do not mix");
}

/// Three steps on `first`, the rest on `second` with the state passed through what a checkpoint holds.
fn moved(name: &str, first: &Device, second: &Device) -> BTreeMap<Key, Var> {
    let (vars, mut before, mut filter) = (placed(first), optimizer(name), Grokfast::new(0.9, 2.0));
    steps(&vars, first, &mut *before, &mut filter, 0..3);
    let mut saved: State = before.state().unwrap();
    saved.extend(filter.state().unwrap());
    let (mut after, mut filter) = (optimizer(name), Grokfast::new(0.9, 2.0));
    after.restore(&saved).unwrap();
    filter.restore(&saved).unwrap();
    let var = |var: &Var| Var::from_tensor(&var.to_device(second).unwrap().copy().unwrap()).unwrap();
    let vars = vars.iter().map(|(key, value)| (*key, var(value))).collect();
    steps(&vars, second, &mut *after, &mut filter, 3..6);
    vars
}

#[test]
fn a_state_goes_on_on_the_other_device() {
    let Some(gpu) = gpu() else { return };
    for (name, mut uninterrupted) in optimizers() {
        let tolerance = if name == "Muon" { ROUNDED } else { EXACT };
        let host = moved(name, &Device::Cpu, &Device::Cpu);
        for (first, second) in [(&Device::Cpu, &gpu.device), (&gpu.device, &Device::Cpu)] {
            assert!(worst(&moved(name, first, second), &host, true) < tolerance, "{name}");
        }
        let whole = placed(&gpu.device);
        steps(&whole, &gpu.device, &mut *uninterrupted, &mut Grokfast::new(0.9, 2.0), 0..6);
        let halves = moved(name, &gpu.device, &gpu.device);
        for role in [Role::Embedding, Role::Qkv, Role::FinalNorm] {
            assert_eq!(values(&halves, role), values(&whole, role), "{name}: restored on the same device");
        }
    }
}
