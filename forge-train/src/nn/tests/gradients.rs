//! Every operation's gradient against central finite differences of its forward pass.

use std::sync::Arc;

use candle_core::{Shape, bail};

use super::*;
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
use crate::nn::ops::{Arg, Op};

/// Random operands of the given shapes.
fn operands<const N: usize>(shapes: [&[usize]; N], seed: u64) -> [Vec<f32>; N] {
    let mut i = 0;
    shapes.map(|s| {
        i += 1;
        noise(s.iter().product(), seed * 100 + i)
    })
}

fn args<'a, const N: usize>(values: &'a [Vec<f32>; N], shapes: &[&'a [usize]; N]) -> [Arg<'a>; N] {
    std::array::from_fn(|i| Arg { data: &values[i], dims: shapes[i] })
}

/// `Σ r·f(x)` in f64 with fixed random `r`.
fn objective<const N: usize>(
    op: &impl Op<N>,
    values: &[Vec<f32>; N],
    shapes: &[&[usize]; N],
    r: &[f32],
) -> f64 {
    let (out, _) = op.forward(args(values, shapes)).unwrap();
    out.iter().zip(r).map(|(o, r)| f64::from(*o) * f64::from(*r)).sum()
}

/// Largest difference of analytic and numeric gradients of all operands, relative to the largest gradient of that
/// operand, over the operands that are `wanted`. Five-point differences: their error falls with h⁴, so a step that f32
/// resolves well can be used.
fn worst_error<const N: usize>(op: &impl Op<N>, shapes: [&[usize]; N], wanted: [bool; N], seed: u64) -> f64 {
    let mut values = operands(shapes, seed);
    let (out, _) = op.forward(args(&values, &shapes)).unwrap();
    let r = noise(out.len(), seed + 77);
    let analytic = op.backward(args(&values, &shapes), &out, &r, wanted).unwrap();
    let h = 0.02f32;
    let mut worst = 0.0f64;
    for operand in (0..N).filter(|operand| wanted[*operand]) {
        let gradient = analytic[operand].as_ref().expect("gradient was wanted");
        assert_eq!(gradient.len(), values[operand].len());
        let size = gradient.iter().fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
        assert!(size > 0.0, "operand {operand} has no gradient");
        for i in 0..gradient.len() {
            let at = values[operand][i];
            let mut f = |shift: f32| {
                values[operand][i] = at + shift;
                objective(op, &values, &shapes, &r)
            };
            let numeric = (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * f64::from(h));
            values[operand][i] = at;
            worst = worst.max((numeric - f64::from(gradient[i])).abs() / size);
        }
    }
    worst
}

#[track_caller]
fn check<const N: usize>(op: impl Op<N>, shapes: [&[usize]; N]) {
    for seed in 1..4 {
        let worst = worst_error(&op, shapes, [true; N], seed);
        assert!(worst < 1e-3, "relative error {worst:.2e}, seed {seed}");
    }
}

fn linear(prologue: Prologue, extra: Extra) -> NormLinear {
    NormLinear { prologue, eps: 1e-3, quant: None, device: None, products: Multiplier::default(), extra }
}

/// ReLU has a kink and squared ReLU a discontinuous second derivative, which finite differences straddle: wide
/// rows of values away from 0 are used instead.
fn kinked(activation_width: usize) -> (Vec<f32>, usize) {
    let x = noise(3 * activation_width, 5).iter().map(|v| v + 0.2 * v.signum()).collect();
    (x, activation_width)
}

#[test]
fn linear_with_norm_gain_and_residual() {
    check::<2>(linear(Prologue::Identity, Extra::Gain), [&[5, 6], &[4, 6]]);
    check::<3>(linear(Prologue::Identity, Extra::Gain), [&[5, 6], &[4, 6], &[1, 6]]);
    check::<3>(linear(Prologue::Identity, Extra::Residual), [&[5, 6], &[4, 6], &[5, 4]]);
    check::<3>(linear(Prologue::Gated(Activation::SwiGlu), Extra::Residual), [&[5, 12], &[4, 6], &[5, 4]]);
}

#[test]
fn relu_prologues() {
    for prologue in [Prologue::Relu, Prologue::Gated(Activation::Relu2)] {
        let (x, wide) = kinked(if prologue == Prologue::Relu { 6 } else { 12 });
        let w = noise(4 * 6, 9);
        let op = linear(prologue, Extra::Gain);
        let dims: [&[usize]; 2] = [&[3, wide], &[4, 6]];
        let mut values = [x, w];
        let (out, _) = Op::<2>::forward(&op, args(&values, &dims)).unwrap();
        let r = noise(out.len(), 3);
        let [dx, _] = op.backward(args(&values, &dims), &out, &r, [true; 2]).unwrap();
        let dx = dx.unwrap();
        let size = dx.iter().fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
        for i in 0..dx.len() {
            let (at, h) = (values[0][i], 0.02f32);
            let mut f = |shift: f32| {
                values[0][i] = at + shift;
                objective::<2>(&op, &values, &dims, &r)
            };
            let numeric = (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * f64::from(h));
            values[0][i] = at;
            assert!((numeric - f64::from(dx[i])).abs() < 1e-3 * size, "{prologue:?} at {i}");
        }
    }
}

#[test]
fn many_rows_take_the_same_path_as_few() {
    // Rows in several chunks: gradients of the shared operands are sums over chunks.
    let op = linear(Prologue::Identity, Extra::Gain);
    let dims: [&[usize]; 3] = [&[300, 6], &[4, 6], &[1, 6]];
    let values = operands(dims, 3);
    let (out, _) = Op::<3>::forward(&op, args(&values, &dims)).unwrap();
    let r = noise(out.len(), 4);
    let [_, dw, dgain] = op.backward(args(&values, &dims), &out, &r, [true; 3]).unwrap();
    let (mut dw_sum, mut dgain_sum) = (vec![0.0f64; 24], vec![0.0f64; 6]);
    for row in 0..300 {
        let one = [values[0][row * 6..][..6].to_vec(), values[1].clone(), values[2].clone()];
        let dims: [&[usize]; 3] = [&[1, 6], &[4, 6], &[1, 6]];
        let part = &r[row * 4..][..4];
        let [_, dw, dgain] = op.backward(args(&one, &dims), &out[row * 4..][..4], part, [true; 3]).unwrap();
        dw_sum.iter_mut().zip(dw.unwrap()).for_each(|(s, g)| *s += f64::from(g));
        dgain_sum.iter_mut().zip(dgain.unwrap()).for_each(|(s, g)| *s += f64::from(g));
    }
    for (got, want) in dw.unwrap().iter().zip(&dw_sum).chain(dgain.unwrap().iter().zip(&dgain_sum)) {
        assert!((f64::from(*got) - want).abs() < 1e-4 * (1.0 + want.abs()), "{got} {want}");
    }
}

#[test]
fn recursion_and_halting() {
    check::<3>(GainedResidual { eps: 1e-3 }, [&[4, 6], &[4, 6], &[1, 6]]);
    check::<2>(HaltLogit { eps: 1e-3 }, [&[4, 6], &[1, 7]]);
    let halted = Arc::new(vec![true, false, true, false].into());
    check::<2>(Carry { halted, from: 2 }, [&[4, 6], &[4, 6]]);
}

fn window_of(window: usize) -> Reach {
    Reach { window, globals: Globals::default() }
}

#[test]
fn attention_with_window_and_grouped_heads() {
    for (cols, window) in [(7, 3), (7, 64), (1, 1)] {
        let rope = Arc::new(Rope::new(cols, 4, 13.2877));
        check::<1>(
            Attention {
                heads: 4,
                kv_heads: 2,
                head_dim: 4,
                reach: window_of(window),
                cols,
                rope,
                exact: false,
            },
            [&[2 * cols, 32]],
        );
    }
}

#[test]
fn attention_across_blocks() {
    // 70 positions make two blocks of queries; windows end inside, at and beyond a block.
    for window in [5, 64, 70] {
        let rope = Arc::new(Rope::new(70, 2, 13.2877));
        let reach = window_of(window);
        let op = Attention { heads: 2, kv_heads: 1, head_dim: 2, reach, cols: 70, rope, exact: false };
        let worst = worst_error::<1>(&op, [&[70, 8]], [true], 1);
        assert!(worst < 1e-3, "window {window}: {worst:.2e}");
    }
}

/// Attention to global positions of blocks before and of the same, all of them and the latest few.
fn with_globals(window: usize, every: u32, rows: u32) -> Attention {
    let (cols, reach) = (150, Reach { window, globals: Globals { every, rows } });
    let rope = Arc::new(Rope::new(cols, 2, 13.2877));
    Attention { heads: 2, kv_heads: 1, head_dim: 2, reach, cols, rope, exact: false }
}

#[test]
fn attention_to_globals() {
    for (window, every, rows) in [(1, 2, 80), (5, 7, 30), (5, 7, 3), (64, 3, 9), (20, 70, 1), (200, 2, 4)] {
        let op = with_globals(window, every, rows);
        let worst = worst_error::<1>(&op, [&[op.cols, 8]], [true], 1);
        assert!(worst < 1e-3, "window {window}, every {every}, {rows} rows: {worst:.2e}");
    }
}

/// Both orders of operations against the definition: a softmax over the positions that are seen.
#[test]
fn globals_are_seen_from_beyond_the_window_and_only_they() {
    for (window, every, rows) in [(1, 2, 80), (5, 7, 30), (5, 7, 3), (64, 3, 9), (20, 70, 1), (200, 2, 4)] {
        let op = with_globals(window, every, rows);
        let dims: [&[usize]; 1] = [&[op.cols, 8]];
        let values = operands(dims, 3);
        let out = |op: &Attention| op.forward(args(&values, &dims)).unwrap().0;
        let got = out(&op);
        let want = by_definition(&op, &values[0], |p, q| {
            let (w, every, rows) = (window, every as usize, rows as usize);
            q <= p && (p - q < w || q % every == 0 && (p - w) / every - q / every < rows)
        });
        let differs = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-4);
        assert!(!differs(&got, &want), "window {window}, every {every}, {rows} rows");
        assert!(!differs(&out(&Attention { exact: true, ..op.clone() }), &want), "in the runtime's order");
        // Controls: without them the result is another, unless the window covers everything; so is it with one more.
        let fewer = Reach { globals: Globals::default(), ..op.reach };
        assert_eq!(differs(&out(&Attention { reach: fewer, ..op.clone() }), &want), window < op.cols);
        let more = Reach { globals: Globals { rows: rows + 1, ..op.reach.globals }, ..op.reach };
        let overwritten = op.cols > window + (every * rows) as usize;
        assert_eq!(differs(&out(&Attention { reach: more, ..op.clone() }), &want), overwritten);
        // And with those of another distance.
        let others = Reach { globals: Globals { every: every + 1, ..op.reach.globals }, ..op.reach };
        assert_eq!(differs(&out(&Attention { reach: others, ..op.clone() }), &want), window < op.cols);
    }
}

/// Attention of `op` in f64 with any positions seen.
fn by_definition(op: &Attention, qkv: &[f32], seen: impl Fn(usize, usize) -> bool) -> Vec<f32> {
    let (d, wide) = (op.head_dim, (op.heads + 2 * op.kv_heads) * op.head_dim);
    let rotated = |p: usize, head: usize| {
        let mut out = vec![0.0; d];
        op.rope.rotate(p, &qkv[p * wide + head * d..][..d], &mut out);
        out
    };
    let attend = |p: usize, head: usize| {
        let q = rotated(p, head);
        let kv = head / (op.heads / op.kv_heads);
        let (mut sum, mut out) = (0.0, vec![0.0; d]);
        for at in (0..=p).filter(|at| seen(p, *at)) {
            let dot: f64 =
                q.iter().zip(rotated(at, op.heads + kv)).map(|(q, k)| f64::from(*q) * f64::from(k)).sum();
            let weight = (dot / (d as f64).sqrt()).exp();
            let value = &qkv[at * wide + (op.heads + op.kv_heads + kv) * d..][..d];
            sum += weight;
            out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * f64::from(*v));
        }
        out.into_iter().map(|o| (o / sum) as f32).collect::<Vec<f32>>()
    };
    (0..op.cols).flat_map(|p| (0..op.heads).flat_map(move |h| attend(p, h)).collect::<Vec<_>>()).collect()
}

#[test]
fn memory() {
    check::<2>(Scan { cols: 5 }, [&[10, 6], &[1, 3]]);
    // States are kept every 16 tokens: sequences that end before, at and behind the next.
    for cols in [5, 16, 37] {
        check::<2>(Associate { cols }, [&[2 * cols, 3 * 3 + 3], &[1, 3]]);
    }
    check::<2>(Associate { cols: 4 }, [&[4, 3 * 18 + 3], &[1, 3]]);
    check::<3>(GateBlend, [&[4, 6], &[4, 6], &[4, 6]]);
    check::<2>(Concat, [&[4, 3], &[4, 3]]);
}

#[test]
fn dropout() {
    let dropout = Dropout { rate: 0.4, seed: 3, step: 9, part: 1 };
    let [mask, _] = Mask::branches(&dropout, 2).unwrap();
    check::<1>(Dropped(mask), [&[9, 5]]);
    check::<2>(Dropped(mask), [&[9, 5], &[9, 5]]);
}

#[test]
fn embedding_with_repeated_ids() {
    let ids = Arc::new(vec![3, 0, 3, 3, 1].into());
    check::<1>(Embedding { ids, eps: 1e-3, quant: None, device: None }, [&[4, 6]]);
}

#[test]
fn losses() {
    let targets = Arc::new(vec![1, 0, 4, 2].into());
    let weighting = Weighting::new(vec![0.1, 1.0, 0.0, 2.0]);
    check::<1>(CrossEntropy { targets, weighting: weighting.clone() }, [&[4, 5]]);
    let divergence = Divergence { temperature: 2.0, weighting: weighting.clone() };
    for seed in 1..4 {
        let worst = worst_error(&divergence, [&[4, 5], &[4, 5]], [true, false], seed);
        assert!(worst < 1e-3, "relative error {worst:.2e}, seed {seed}");
    }
    let targets = Arc::new(vec![0.0, 1.0, 0.5, 0.25].into());
    check::<1>(BinaryCrossEntropy { targets, weighting }, [&[4]]);
}

/// An operation whose gradient is wrong by 1 %: the check must see it.
struct SlightlyWrong;

impl Op<1> for SlightlyWrong {
    const NAME: &'static str = "slightly-wrong";

    fn forward(&self, [x]: [Arg<'_>; 1]) -> candle_core::Result<(Vec<f32>, Shape)> {
        if x.data.is_empty() {
            bail!("empty");
        }
        Ok((x.data.iter().map(|v| v * v).collect(), x.dims.into()))
    }

    fn backward(
        &self,
        [x]: [Arg<'_>; 1],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> candle_core::Result<[Option<Vec<f32>>; 1]> {
        Ok([Some(x.data.iter().zip(grad).map(|(x, g)| 2.02 * x * g).collect())])
    }
}

#[cfg(feature = "cuda")]
impl crate::nn::ops::DeviceOp<1> for SlightlyWrong {
    fn device_forward(
        &self,
        _args: [crate::nn::ops::cuda::Operand<'_>; 1],
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        bail!("the control is checked on the CPU only")
    }

    fn device_backward(
        &self,
        _args: [crate::nn::ops::cuda::Operand<'_>; 1],
        _result: crate::nn::ops::cuda::Operand<'_>,
        _grad: crate::nn::ops::cuda::Operand<'_>,
        _wanted: [bool; 1],
    ) -> candle_core::Result<[crate::nn::ops::cuda::Gradient; 1]> {
        bail!("the control is checked on the CPU only")
    }
}

#[test]
fn the_check_sees_a_gradient_wrong_by_one_percent() {
    assert!(worst_error::<1>(&SlightlyWrong, [&[3, 4]], [true], 1) > 5e-3);
}

/// Quantised linear map over the given latents.
fn quantised(w: &[f32], cols: usize, lambda: f32, straight_through: bool) -> NormLinear {
    let weight = QuantWeight::new(w, cols, Grid::Ternary, Blend { lambda, straight_through });
    NormLinear { quant: Some(Arc::new(weight)), ..linear(Prologue::Identity, Extra::Residual) }
}

#[test]
fn straight_through_gradients_are_those_of_the_rounded_operands() {
    // By definition dW = dyᵀ·Q(a) and da = dy·Q(W): the gradients of a float map over the rounded operands.
    let dims: [&[usize]; 3] = [&[5, 6], &[4, 6], &[5, 4]];
    let values = operands(dims, 8);
    let r = noise(20, 9);
    for lambda in [1.0, 0.3] {
        let op = quantised(&values[1], 6, lambda, true);
        let weight = op.quant.clone().unwrap();
        let (out, _) = Op::<3>::forward(&op, args(&values, &dims)).unwrap();
        let [dx, dw, _] = op.backward(args(&values, &dims), &out, &r, [true; 3]).unwrap();

        let float = linear(Prologue::Identity, Extra::Residual);
        let rounded = [values[0].clone(), weight.effective().into_owned(), values[2].clone()];
        let [want_dx, _, _] = float.backward(args(&rounded, &dims), &out, &r, [true; 3]).unwrap();
        assert_eq!(dx, want_dx);

        // The rows the matrix was multiplied with, recovered from the forward pass: out − residual = Q(a)·Q(W)ᵀ.
        let a = rounded_activations(&values[0], 6, lambda);
        let (dw, dims) = (dw.unwrap(), (4, 6));
        for o in 0..dims.0 {
            for i in 0..dims.1 {
                let want: f64 = (0..5).map(|n| f64::from(r[n * 4 + o]) * f64::from(a[n * 6 + i])).sum();
                assert!((f64::from(dw[o * 6 + i]) - want).abs() < 1e-5);
            }
            for n in 0..5 {
                let y: f64 = (0..6).map(|i| f64::from(a[n * 6 + i]) * f64::from(rounded[1][o * 6 + i])).sum();
                let got = f64::from(out[n * 4 + o]) - f64::from(values[2][n * 4 + o]);
                assert!((got - y).abs() < 1e-5, "{got} {y}");
            }
        }
    }
}

/// `a + lambda (Q(a) − a)` of the normalised rows, in plain f64 arithmetic.
fn rounded_activations(x: &[f32], width: usize, lambda: f32) -> Vec<f32> {
    x.chunks(width)
        .flat_map(|row| {
            let ms = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
            let a: Vec<f64> = row.iter().map(|v| f64::from(*v) / (ms + 1e-3).sqrt()).collect();
            let amax = a.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            a.into_iter().map(move |v| {
                let q = (v * 127.0 / amax).round() * amax / 127.0;
                (v + f64::from(lambda) * (q - v)) as f32
            })
        })
        .collect()
}

#[test]
fn without_straight_through_rounding_has_no_gradient() {
    let dims: [&[usize]; 3] = [&[5, 6], &[4, 6], &[5, 4]];
    let values = operands(dims, 8);
    let r = noise(20, 9);
    let zero = |g: &Option<Vec<f32>>| g.as_ref().unwrap().iter().all(|v| *v == 0.0);
    let run = |straight_through| {
        let op = quantised(&values[1], 6, 1.0, straight_through);
        let (out, _) = Op::<3>::forward(&op, args(&values, &dims)).unwrap();
        op.backward(args(&values, &dims), &out, &r, [true; 3]).unwrap()
    };
    let [dx, dw, dres] = run(false);
    assert!(zero(&dx) && zero(&dw) && !zero(&dres), "rounding is flat, the residual is not");
    let [dx, dw, _] = run(true);
    assert!(!zero(&dx) && !zero(&dw));
}
