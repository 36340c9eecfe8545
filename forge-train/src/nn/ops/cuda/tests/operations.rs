//! Each operation's result and gradients against the CPU's. The error is `‖device − CPU‖ / ‖CPU‖`; inputs that the
//! device takes as bf16 are rounded for both.

use std::sync::Arc;

use candle_core::{Tensor, Var};
use forge_formats::config::{Activation, Globals};

use super::{Gpu, Report, gpu, noise, probe, rounded, values};
use crate::nn::ops::associate::Associate;
use crate::nn::ops::attention::{Attention, Reach};
use crate::nn::ops::carry::{Carry, HaltLogit};
use crate::nn::ops::dropout::{Dropout, Dropped, Mask};
use crate::nn::ops::embedding::Embedding;
use crate::nn::ops::gemm::Multiplier;
use crate::nn::ops::glu::Prologue;
use crate::nn::ops::linear::{Extra, NormLinear};
use crate::nn::ops::loss::{BinaryCrossEntropy, CrossEntropy, Divergence, Weighting};
use crate::nn::ops::memory::{Concat, GateBlend, Scan};
use crate::nn::ops::norm::GainedResidual;
use crate::nn::ops::quant::{Blend, Grid, QuantWeight};
use crate::nn::ops::rope::Rope;
use crate::nn::ops::{Arg, DeviceWeight, Op, apply1, apply2, apply3};

/// Products of bf16 operands, and whatever is stored as bf16.
const BF16: f64 = 1e-2;
/// Arithmetic in f32 throughout, but for the order of sums and the hardware's exponential.
const F32: f64 = 2e-5;

/// Type an operand has on the device.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    F32,
    Bf16,
}

/// A random operand.
struct Operand {
    values: Vec<f32>,
    dims: Vec<usize>,
    kind: Type,
}

fn operand(dims: &[usize], kind: Type, seed: u64) -> Operand {
    let values = noise(dims.iter().product(), seed);
    let values = if kind == Type::Bf16 { rounded(&values) } else { values };
    Operand { values, dims: dims.to_vec(), kind }
}

/// Compares result and gradients of `op` with those that `apply` finds on the device.
fn compare<const N: usize>(
    gpu: &Gpu,
    report: &mut Report,
    name: &str,
    operands: &[Operand; N],
    op: &impl Op<N>,
    apply: impl Fn([&Tensor; N]) -> candle_core::Result<Tensor>,
    tolerance: [f64; 2],
) {
    let args = || std::array::from_fn(|i| Arg { data: &operands[i].values, dims: &operands[i].dims });
    let (want, _) = op.forward(args()).unwrap();
    let r = rounded(&noise(want.len(), 99));
    let want_gradients = op.backward(args(), &want, &r, [true; N]).unwrap();
    let vars: [Var; N] = std::array::from_fn(|i| {
        let Operand { values, dims, kind } = &operands[i];
        let tensor = Tensor::from_slice(values, dims.as_slice(), &gpu.device).unwrap();
        let kind = if *kind == Type::Bf16 { candle_core::DType::BF16 } else { candle_core::DType::F32 };
        Var::from_tensor(&tensor.to_dtype(kind).unwrap()).unwrap()
    });
    let got = match apply(std::array::from_fn(|i| vars[i].as_tensor())) {
        Ok(got) => got,
        Err(error) => panic!("{name}: {error}"),
    };
    report.check(&format!("{name}, result"), &values(&got), &want, tolerance[0]);
    let r = Tensor::from_slice(&r, got.shape(), &gpu.device).unwrap();
    let objective = (got.to_dtype(candle_core::DType::F32).unwrap() * r).unwrap().sum_all().unwrap();
    let gradients = objective.backward().unwrap();
    for (i, want) in want_gradients.iter().enumerate() {
        let got = gradients.get(vars[i].as_tensor());
        match want {
            Some(want) => {
                let got = values(got.expect("a gradient"));
                report.check(&format!("{name}, gradient {i}"), &got, want, tolerance[1]);
            }
            None => assert!(got.is_none(), "{name}: operand {i} has a gradient on the device only"),
        }
    }
}

/// A linear map in all its parts; `grid` quantises it.
struct Linear {
    name: &'static str,
    prologue: Prologue,
    extra: Option<Extra>,
    kind: Type,
    grid: Option<(Grid, Blend)>,
    /// Rows, inputs and outputs.
    sizes: [usize; 3],
    tolerance: [f64; 2],
}

fn compare_linear(gpu: &Gpu, report: &mut Report, case: &Linear) {
    let [rows, ins, outs] = case.sizes;
    let x = operand(&[rows, case.prologue.input_width(ins)], case.kind, 1);
    let mut w = operand(&[outs, ins], Type::F32, 2);
    if case.grid.is_none() {
        w.values = rounded(&w.values);
    }
    let quant = case.grid.map(|(grid, blend)| Arc::new(QuantWeight::new(&w.values, ins, grid, blend)));
    let extra = case.extra.unwrap_or(Extra::Gain);
    let op = NormLinear {
        prologue: case.prologue,
        eps: 1e-5,
        quant,
        device: None,
        products: Multiplier::default(),
        extra,
    };
    let on_device = |w: &Tensor| {
        let device = Some(Arc::new(DeviceWeight::new(w, case.grid).unwrap()));
        NormLinear { quant: None, device, ..op.clone() }
    };
    match case.extra {
        None => compare::<2>(
            gpu,
            report,
            case.name,
            &[x, w],
            &op,
            |[x, w]| apply2(on_device(w), x, w),
            case.tolerance,
        ),
        Some(extra) => {
            let dims = if extra == Extra::Gain { [1, ins] } else { [rows, outs] };
            let extra = operand(&dims, Type::F32, 3);
            let apply = |[x, w, e]: [&Tensor; 3]| apply3(on_device(w), x, w, e);
            compare::<3>(gpu, report, case.name, &[x, w, extra], &op, apply, case.tolerance);
        }
    }
}

#[test]
fn float_linear_maps() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    let swiglu = Prologue::Gated(Activation::SwiGlu);
    let relu2 = Prologue::Gated(Activation::Relu2);
    for (name, prologue, extra, kind) in [
        ("float, norm", Prologue::Identity, None, Type::Bf16),
        ("float, gain", Prologue::Identity, Some(Extra::Gain), Type::F32),
        ("float, residual", Prologue::Identity, Some(Extra::Residual), Type::Bf16),
        ("float, relu", Prologue::Relu, None, Type::Bf16),
        ("float, swiglu and residual", swiglu, Some(Extra::Residual), Type::Bf16),
        ("float, squared relu", relu2, None, Type::Bf16),
    ] {
        for sizes in [[300, 96, 64], [77, 37, 29]] {
            let case = Linear { name, prologue, extra, kind, grid: None, sizes, tolerance: [BF16; 2] };
            compare_linear(&gpu, &mut report, &case);
        }
    }
    report.finish();
}

#[test]
fn quantised_linear_maps() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    let swiglu = Prologue::Gated(Activation::SwiGlu);
    let whole = Blend { lambda: 1.0, straight_through: true };
    let part = Blend { lambda: 0.3, straight_through: true };
    let flat = Blend { lambda: 0.5, straight_through: false };
    // Integer sums are exact, so a map into the f32 residual differs only where an activation rounds the other way.
    let exact = [2e-3, BF16];
    for (name, prologue, extra, kind, grid, tolerance) in [
        (
            "ternary, gain",
            Prologue::Identity,
            Some(Extra::Gain),
            Type::F32,
            (Grid::Ternary, whole),
            [BF16; 2],
        ),
        ("int8, gain", Prologue::Identity, Some(Extra::Gain), Type::F32, (Grid::Int8, whole), [BF16; 2]),
        (
            "ternary, residual",
            Prologue::Identity,
            Some(Extra::Residual),
            Type::Bf16,
            (Grid::Ternary, whole),
            exact,
        ),
        ("ternary, swiglu", swiglu, Some(Extra::Residual), Type::Bf16, (Grid::Ternary, whole), exact),
        ("ternary, blended", Prologue::Identity, None, Type::Bf16, (Grid::Ternary, part), [BF16; 2]),
        (
            "ternary, flat",
            Prologue::Relu,
            Some(Extra::Residual),
            Type::Bf16,
            (Grid::Ternary, flat),
            [BF16; 2],
        ),
    ] {
        for sizes in [[300, 384, 64], [77, 37, 29]] {
            let case = Linear { name, prologue, extra, kind, grid: Some(grid), sizes, tolerance };
            compare_linear(&gpu, &mut report, &case);
        }
    }
    report.finish();
}

#[test]
fn window_attention() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    for (name, heads, kv_heads, head_dim, window, cols, rows) in [
        ("attention, 6 × 64 over 256", 6, 6, 64, 256, 256, 2),
        ("attention, 4 × 32 in 2 groups, window 70 of 200", 4, 2, 32, 70, 200, 2),
        ("attention, 2 × 20, window 5 of 33", 2, 1, 20, 5, 33, 3),
        ("attention, 1 × 128 over 130, a wider window", 1, 1, 128, 4096, 130, 1),
        ("attention, 4 × 6, one token", 4, 2, 6, 8, 1, 3),
    ] {
        // Without global positions, with more than a tile of them, and with some that are overwritten.
        for [every, kept] in [[0, 0], [2, 200], [3, 20], [16, 5]] {
            let globals = Globals { every, rows: kept };
            let rope = Arc::new(Rope::new(cols, head_dim, 13.0));
            let reach = Reach { window, globals };
            let op = Attention { heads, kv_heads, head_dim, reach, cols, rope, exact: false };
            let qkv = operand(&[rows * cols, (heads + 2 * kv_heads) * head_dim], Type::Bf16, 5);
            let apply = |[qkv]: [&Tensor; 1]| apply1(op.clone(), qkv);
            compare::<1>(
                &gpu,
                &mut report,
                &format!("{name}, globals {globals:?}"),
                &[qkv],
                &op,
                apply,
                [BF16, 2e-2],
            );
        }
    }
    report.finish();
}

#[test]
fn memory_and_carrying() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    let (n, d) = (3 * 50, 37);
    let rows = |width: usize, seed| operand(&[n, width], Type::Bf16, seed);
    let bias = operand(&[1, d], Type::F32, 2);
    let scan = |[a, b]: [&Tensor; 2]| apply2(Scan { cols: 50 }, a, b);
    compare::<2>(&gpu, &mut report, "scan", &[rows(2 * d, 1), bias], &Scan { cols: 50 }, scan, [BF16; 2]);
    for (n, cols, width) in [(150, 50, 37), (96, 16, 64), (64, 64, 8)] {
        let projected = operand(&[n, 3 * width + 3], Type::Bf16, 1);
        let bias = operand(&[1, 3], Type::F32, 2);
        let apply = |[a, b]: [&Tensor; 2]| apply2(Associate { cols }, a, b);
        let name = &format!("associate {width}");
        compare::<2>(&gpu, &mut report, name, &[projected, bias], &Associate { cols }, apply, [BF16, 1e-2]);
    }
    let three = [rows(d, 1), rows(d, 2), rows(d, 3)];
    let blend = |[a, b, c]: [&Tensor; 3]| apply3(GateBlend, a, b, c);
    compare::<3>(&gpu, &mut report, "gate blend", &three, &GateBlend, blend, [BF16; 2]);
    let two = [rows(d, 1), rows(d, 2)];
    let concat = |[a, b]: [&Tensor; 2]| apply2(Concat, a, b);
    compare::<2>(&gpu, &mut report, "concat", &two, &Concat, concat, [1e-30; 2]);
    for kind in [Type::F32, Type::Bf16] {
        let halted: Vec<bool> = (0..n).map(|r| r % 3 == 1).collect();
        let carry = || Carry { halted: Arc::new(halted.clone().into()), from: 11 };
        let two = [operand(&[n, d], kind, 4), operand(&[n, d], kind, 5)];
        let apply = |[a, b]: [&Tensor; 2]| apply2(carry(), a, b);
        compare::<2>(&gpu, &mut report, "carry", &two, &carry(), apply, [1e-30; 2]);
    }
    report.finish();
}

#[test]
fn rows_of_the_residual_stream() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    for (n, d) in [(700, 64), (33, 41)] {
        let row = |dims: &[usize], seed| operand(dims, Type::F32, seed);
        let (halt, gained) = (|| HaltLogit { eps: 1e-5 }, || GainedResidual { eps: 1e-5 });
        let operands = [row(&[n, d], 1), row(&[1, d + 1], 2)];
        let apply = |[y, h]: [&Tensor; 2]| apply2(halt(), y, h);
        compare::<2>(&gpu, &mut report, "halting logit", &operands, &halt(), apply, [F32; 2]);
        let operands = [row(&[n, d], 3), row(&[n, d], 4), row(&[1, d], 5)];
        let apply = |[b, z, g]: [&Tensor; 3]| apply3(gained(), b, z, g);
        compare::<3>(&gpu, &mut report, "gained residual", &operands, &gained(), apply, [F32; 2]);
    }
    report.finish();
}

#[test]
fn embedding() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    let (vocab, d, tokens) = (50, 41, 400);
    let table = operand(&[vocab, d], Type::F32, 1);
    // Half of the tokens are one id, and ids from 40 on never occur.
    let ids: Vec<u32> = (0..tokens).map(|i| if i % 2 == 0 { 7 } else { (i * i % 40) as u32 }).collect();
    let blend = Blend { lambda: 1.0, straight_through: true };
    for grid in [None, Some((Grid::Int8, blend))] {
        let quant = grid.map(|(grid, blend)| Arc::new(QuantWeight::new(&table.values, d, grid, blend)));
        let make = |quant, device| Embedding { ids: Arc::new(ids.clone().into()), eps: 1e-5, quant, device };
        let apply = |[e]: [&Tensor; 1]| {
            let device = grid.is_some().then(|| Arc::new(DeviceWeight::new(e, grid).unwrap()));
            apply1(make(None, device), e)
        };
        let table = [operand(&[vocab, d], Type::F32, 1)];
        compare::<1>(&gpu, &mut report, "embedding", &table, &make(quant, None), apply, [F32; 2]);
    }
    report.finish();
}

#[test]
fn losses() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    for (n, vocab, kind) in [(60, 8192, Type::Bf16), (33, 41, Type::F32), (20, 43, Type::Bf16)] {
        let tolerance = [1e-4, if kind == Type::Bf16 { BF16 } else { 1e-4 }];
        let weights: Vec<f32> = (0..n).map(|r| [0.1, 1.0, 0.0, 2.0][r % 4]).collect();
        let weighting = Weighting::new(weights);
        let targets: Vec<u32> = (0..n).map(|r| (r * 31 % vocab) as u32).collect();
        let entropy =
            || CrossEntropy { targets: Arc::new(targets.clone().into()), weighting: weighting.clone() };
        let logits = [operand(&[n, vocab], kind, 1)];
        let apply = |[x]: [&Tensor; 1]| apply1(entropy(), x);
        compare::<1>(&gpu, &mut report, "cross entropy", &logits, &entropy(), apply, tolerance);
        let divergence = || Divergence { temperature: 2.0, weighting: weighting.clone() };
        let logits = [operand(&[n, vocab], kind, 1), operand(&[n, vocab], kind, 2)];
        let apply = |[x, t]: [&Tensor; 2]| apply2(divergence(), x, t);
        compare::<2>(&gpu, &mut report, "divergence", &logits, &divergence(), apply, tolerance);
    }
    let weighting = Weighting::new((0..300).map(|r| (r % 3) as f32).collect());
    let targets: Vec<f32> = (0..300).map(|r| (r % 5) as f32 / 4.0).collect();
    let entropy =
        || BinaryCrossEntropy { targets: Arc::new(targets.clone().into()), weighting: weighting.clone() };
    let apply = |[x]: [&Tensor; 1]| apply1(entropy(), x);
    let logits = [operand(&[300], Type::F32, 1)];
    compare::<1>(&gpu, &mut report, "binary cross entropy", &logits, &entropy(), apply, [1e-4; 2]);
    report.finish();
}

#[test]
fn dropout() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report::default();
    let [mask, _] =
        Mask::branches(&Dropout { rate: 0.3, seed: 0x0123_4567_89AB, step: 7, part: 1 }, 3).unwrap();
    for (n, d) in [(50, 41), (64, 32)] {
        let rows = [operand(&[n, d], Type::F32, 1)];
        let apply = |[x]: [&Tensor; 1]| apply1(Dropped(mask), x);
        compare::<1>(&gpu, &mut report, "dropout", &rows, &Dropped(mask), apply, [1e-7; 2]);
        let rows = [operand(&[n, d], Type::F32, 1), operand(&[n, d], Type::Bf16, 2)];
        let apply = |[u, x]: [&Tensor; 2]| apply2(Dropped(mask), u, x);
        compare::<2>(&gpu, &mut report, "dropout of a branch", &rows, &Dropped(mask), apply, [1e-6, BF16]);
    }
    report.finish();
}

#[test]
fn token_scores() {
    let Some(gpu) = gpu() else { return };
    for (n, vocab) in [(40, 512), (30, 41)] {
        let mut logits = rounded(&noise(n * vocab, 3));
        let targets: Vec<u32> = (0..n).map(|r| (r * 7 % vocab) as u32).collect();
        for r in (0..n).step_by(2) {
            logits[r * vocab + targets[r] as usize] = 9.0;
            // The first of equals wins: ahead of the target here, behind it there.
            let rival = (targets[r] as usize + if r % 4 == 0 { vocab - 1 } else { 1 }) % vocab;
            logits[r * vocab + rival] = 9.0;
        }
        let on = |device: &candle_core::Device| Tensor::from_slice(&logits, (n, vocab), device).unwrap();
        let want = crate::nn::loss::token_scores(&on(&candle_core::Device::Cpu), &targets).unwrap();
        for kind in [candle_core::DType::F32, candle_core::DType::BF16] {
            let logits = on(&gpu.device).to_dtype(kind).unwrap();
            let got = crate::nn::loss::token_scores(&logits, &targets).unwrap();
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.correct, want.correct);
                assert!((got.loss - want.loss).abs() < 1e-4, "{got:?} {want:?}");
            }
        }
        assert!(want.iter().any(|s| s.correct) && want.iter().any(|s| !s.correct));
    }
}

/// The negative control of the tolerances: 2 % on one of the operands is seen by result and gradients.
#[test]
fn a_perturbed_operand_is_seen() {
    let Some(gpu) = gpu() else { return };
    probe::set_poison(false);
    let case =
        [operand(&[64, 96], Type::F32, 1), operand(&[32, 96], Type::F32, 2), operand(&[1, 96], Type::F32, 3)];
    let op = NormLinear {
        prologue: Prologue::Identity,
        eps: 1e-5,
        quant: None,
        device: None,
        products: Multiplier::default(),
        extra: Extra::Gain,
    };
    let mut report = Report::default();
    let apply = |[x, w, g]: [&Tensor; 3]| {
        let device = Some(Arc::new(DeviceWeight::new(w, None).unwrap()));
        apply3(NormLinear { device, ..op.clone() }, x, w, &(g * 1.02)?)
    };
    compare::<3>(&gpu, &mut report, "control", &case, &op, apply, [BF16; 2]);
    assert_eq!(report.failures, 4, "result and gradients are off by 2 %");
}
