//! The network against the same forward pass written with candle's elementary operations, values and gradients.

use candle_core::{D, DType};
use forge_formats::role::Role;

use super::*;
use crate::nn::loss::{kl, token_scores, weighted_cross_entropy};
use crate::nn::{ForwardOptions, Network};

type Result<T> = candle_core::Result<T>;

/// Plain forward pass of `docs/numerics.md` without halting, over [b, t, ·] tensors.
struct Plain<'n> {
    net: &'n Network,
    c: ModelConfig,
}

impl Plain<'_> {
    fn var(&self, role: Role, layer: u32) -> &Tensor {
        self.net.vars()[&(role, layer)].as_tensor()
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        let ms = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(ms + f64::from(self.c.norm_eps))?.sqrt()?)
    }

    fn linear(&self, role: Role, layer: u32, x: &Tensor) -> Result<Tensor> {
        x.broadcast_matmul(&self.var(role, layer).t()?)
    }

    /// cos and sin `[t, d/2]` with angles in f64.
    fn angles(&self, t: usize) -> Result<(Tensor, Tensor)> {
        let half = self.c.head_dim as usize / 2;
        let theta = 2f64.powf(f64::from(self.c.rope_log2_theta));
        let angles: Vec<f64> = (0..t * half)
            .map(|i| (i / half) as f64 * theta.powf(-((i % half) as f64) / half as f64))
            .collect();
        let angles = Tensor::from_vec(angles, (t, half), &Device::Cpu)?;
        Ok((angles.cos()?.to_dtype(DType::F32)?, angles.sin()?.to_dtype(DType::F32)?))
    }

    /// Splits heads, rotates: `[b, t, n·d]` to `[b, n, t, d]`.
    fn heads(&self, x: &Tensor, n: u32, rotate: bool) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let d = self.c.head_dim as usize;
        let x = x.reshape((b, t, n as usize, d))?.transpose(1, 2)?.contiguous()?;
        if !rotate {
            return Ok(x);
        }
        let (cos, sin) = self.angles(t)?;
        let (p, q) = (x.narrow(3, 0, d / 2)?, x.narrow(3, d / 2, d / 2)?);
        let first = (p.broadcast_mul(&cos)? - q.broadcast_mul(&sin)?)?;
        let second = (q.broadcast_mul(&cos)? + p.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 3)
    }

    /// Whether position `p` attends to `j`.
    fn sees(&self, p: usize, j: usize) -> bool {
        let [window, every, rows] =
            [self.c.window, self.c.globals.every, self.c.globals.rows].map(|n| n as usize);
        j <= p
            && (p - j < window
                || every > 0 && j.is_multiple_of(every) && (p - window) / every - j / every < rows)
    }

    fn attention(&self, qkv: &Tensor) -> Result<Tensor> {
        let c = &self.c;
        let (b, t, _) = qkv.dims3()?;
        let (a, kv) = (c.attn_dim() as usize, c.kv_dim() as usize);
        let q = self.heads(&qkv.narrow(2, 0, a)?, c.heads, true)?;
        let repeat = |x: Tensor| {
            let (b, h, t, d) = x.dims4()?;
            let group = (c.heads / c.kv_heads) as usize;
            x.unsqueeze(2)?.broadcast_as((b, h, group, t, d))?.reshape((b, h * group, t, d))
        };
        let k = repeat(self.heads(&qkv.narrow(2, a, kv)?, c.kv_heads, true)?)?;
        let v = repeat(self.heads(&qkv.narrow(2, a + kv, kv)?, c.kv_heads, false)?)?;
        let scores = (q.matmul(&k.t()?.contiguous()?)? / f64::from(c.head_dim).sqrt())?;
        let mask: Vec<f32> = (0..t * t)
            .map(|i| (i / t, i % t))
            .map(|(p, j)| if self.sees(p, j) { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (t, t), &Device::Cpu)?)?;
        let p = candle_nn::ops::softmax(&scores, D::Minus1)?;
        p.matmul(&v.contiguous()?)?.transpose(1, 2)?.reshape((b, t, a))
    }

    /// `S = η S − θ kᵀ(k M − v)`, `M = (1 − α) M + S`, read `q M`: matrices, a token at a time.
    fn associations(&self, layer: u32, a: &Tensor) -> Result<Tensor> {
        let m = self.c.mem_dim as usize;
        let projected = self.linear(Role::MemIn, layer, a)?;
        let (b, t, _) = projected.dims3()?;
        let part = |i: usize| projected.narrow(2, i * m, m)?.silu();
        let unit = |x: Tensor| x.broadcast_div(&(x.sqr()?.sum_keepdim(2)? + 1e-6)?.sqrt()?);
        let (k, v, q) = (unit(part(0)?)?, part(1)?, unit(part(2)?)?);
        let gates = projected.narrow(2, 3 * m, 3)?.broadcast_add(self.var(Role::MemBias, layer))?;
        let gates = candle_nn::ops::sigmoid(&gates)?;
        let mut memory = Tensor::zeros((b, m, m), DType::F32, &Device::Cpu)?;
        let mut moment = memory.clone();
        let mut reads = Vec::new();
        for s in 0..t {
            let [k, v, q] = [&k, &v, &q].map(|x| x.narrow(1, s, 1).unwrap());
            let gate = |g: usize| gates.narrow(1, s, 1)?.narrow(2, g, 1);
            let error = (k.matmul(&memory)? - v)?;
            let gradient = k.t()?.contiguous()?.matmul(&error)?;
            moment = (moment.broadcast_mul(&gate(1)?)? - gradient.broadcast_mul(&gate(0)?)?)?;
            memory = (memory.broadcast_mul(&(1.0 - gate(2)?)?)? + &moment)?;
            reads.push(q.matmul(&memory)?);
        }
        self.linear(Role::MemOut, layer, &self.norm(&Tensor::cat(&reads, 1)?)?)
    }

    fn memory(&self, layer: u32, a: &Tensor) -> Result<Tensor> {
        if self.c.memory == MemoryKind::Titans {
            return self.associations(layer, a);
        }
        let m = self.c.mem_dim as usize;
        let vr = self.linear(Role::MemIn, layer, a)?;
        let (b, t, _) = vr.dims3()?;
        let rate = vr.narrow(2, m, m)?.broadcast_add(self.var(Role::MemBias, layer))?;
        let rate = candle_nn::ops::sigmoid(&rate)?;
        let mut state = Tensor::zeros((b, 1, m), DType::F32, &Device::Cpu)?;
        let mut states = Vec::new();
        for s in 0..t {
            let (v, r) = (vr.narrow(1, s, 1)?.narrow(2, 0, m)?, rate.narrow(1, s, 1)?);
            state = (&state + (r * (v - &state)?)?)?;
            states.push(state.clone());
        }
        self.linear(Role::MemOut, layer, &self.norm(&Tensor::cat(&states, 1)?)?)
    }

    fn block(&self, l: u32, u: &Tensor, read: &mut Option<Tensor>) -> Result<Tensor> {
        let f = self.c.ffn as usize;
        let a = self.norm(u)?.broadcast_mul(self.var(Role::AttnNorm, l))?;
        let mut o = self.attention(&self.linear(Role::Qkv, l, &a)?)?;
        if self.c.has_memory(l) {
            if read.is_none() {
                *read = Some(self.memory(l, &a)?);
            }
            let m = read.as_ref().unwrap();
            let hidden = self.linear(Role::MemGate1, l, &self.norm(&Tensor::cat(&[&o, m], 2)?)?)?.relu()?;
            let gate = candle_nn::ops::sigmoid(&self.linear(Role::MemGate2, l, &self.norm(&hidden)?)?)?;
            o = (m + (gate * (&o - m)?)?)?;
        }
        let u = (u + self.linear(Role::AttnOut, l, &self.norm(&o)?)?)?;
        let b = self.norm(&u)?.broadcast_mul(self.var(Role::FfnNorm, l))?;
        let gu = self.linear(Role::GateUp, l, &b)?;
        let act = match self.c.activation {
            Activation::SwiGlu => gu.narrow(2, 0, f)?.silu()?,
            Activation::Relu2 => gu.narrow(2, 0, f)?.relu()?.sqr()?,
        };
        let h = (act * gu.narrow(2, f, f)?)?;
        u + self.linear(Role::Down, l, &self.norm(&h)?)?
    }

    /// Logits after every recursion, and halting logits after every one but the last, as [b·t, ·].
    fn run(&self, ids: &Tensor) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let (b, t) = ids.dims2()?;
        let dim = self.c.dim as usize;
        let e = self.var(Role::Embedding, 0).index_select(&ids.flatten_all()?, 0)?.reshape((b, t, dim))?;
        let x = self.norm(&e)?;
        let mut reads = vec![None; self.c.layers as usize];
        let (mut y, mut z): (Option<Tensor>, Option<Tensor>) = (None, None);
        let (mut logits, mut halts) = (Vec::new(), Vec::new());
        for step in 0..self.c.recursion {
            let mut u = x.clone();
            if let (Some(y), Some(z)) = (&y, &z) {
                u = (u + self.norm(y)?.broadcast_mul(self.var(Role::LoopAnswer, 0))?)?;
                u = (u + self.norm(z)?.broadcast_mul(self.var(Role::LoopLatent, 0))?)?;
            }
            for l in 0..self.c.layers {
                u = self.block(l, &u, &mut reads[l as usize])?;
            }
            let mut answer = u.clone();
            if self.c.recursion > 1 {
                answer = self.norm(&u)?.broadcast_mul(self.var(Role::LoopOut, 0))?;
                if let Some(y) = &y {
                    answer = (y + answer)?;
                }
            }
            let normed = self.norm(&answer)?;
            if self.c.halting && step + 1 < self.c.recursion {
                let halt = self.var(Role::Halt, 0);
                let dot = normed.broadcast_mul(&halt.narrow(1, 0, dim)?)?.sum(D::Minus1)?;
                halts.push(dot.broadcast_add(&halt.narrow(1, dim, 1)?.reshape(1)?)?.flatten_all()?);
            }
            let head = if self.c.tied { Role::Embedding } else { Role::Head };
            let l = self.linear(head, 0, &normed.broadcast_mul(self.var(Role::FinalNorm, 0))?)?;
            logits.push(l.reshape((b * t, self.c.vocab as usize))?);
            (y, z) = (Some(answer), Some(u));
        }
        Ok((logits, halts))
    }
}

/// A scalar that depends on every output: random weights times each.
fn mix(logits: &[Tensor], halts: &[Tensor]) -> Tensor {
    let mut total: Option<Tensor> = None;
    for (i, out) in logits.iter().chain(halts).enumerate() {
        let r = Tensor::from_vec(noise(out.elem_count(), i as u64), out.shape(), &Device::Cpu).unwrap();
        let part = (out * r).unwrap().sum_all().unwrap();
        total = Some(match total {
            Some(t) => (t + part).unwrap(),
            None => part,
        });
    }
    total.unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> (f32, f32) {
    let max = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    (max(&(a - b).unwrap()), max(b))
}

fn compare(config: &ModelConfig) {
    let net = network(config, Precision::FLOAT);
    let (batch, _) = ids(config, 3, 9, 4);
    let forward = net.forward(&batch, ForwardOptions::default()).unwrap();
    let logits: Vec<Tensor> = forward.answers.iter().map(|y| net.logits(y).unwrap()).collect();
    let (plain_logits, plain_halts) = Plain { net: &net, c: config.clone() }.run(&batch).unwrap();
    assert_eq!((logits.len(), forward.halt.len()), (plain_logits.len(), plain_halts.len()));
    for (a, b) in logits.iter().chain(&forward.halt).zip(plain_logits.iter().chain(&plain_halts)) {
        let (error, size) = difference(a, b);
        assert!(error < 2e-5 * size, "values differ by {error} of {size}");
    }
    let grads = mix(&logits, &forward.halt).backward().unwrap();
    let plain = mix(&plain_logits, &plain_halts).backward().unwrap();
    for (key, var) in net.vars() {
        let (a, b) = (grads.get(var).expect("gradient"), plain.get(var).expect("plain gradient"));
        let (error, size) = difference(a, b);
        assert!(size > 0.0 && error < 1e-4 * size, "{key:?}: gradients differ by {error} of {size}");
    }
}

#[test]
fn fused_network_equals_elementary_operations() {
    let everything = small();
    compare(&everything);
    compare(&ModelConfig { activation: Activation::Relu2, tied: true, ..everything.clone() });
    compare(&ModelConfig {
        recursion: 1,
        halting: false,
        mem_layers: 0b11,
        kv_heads: 4,
        ..everything.clone()
    });
    compare(&ModelConfig { memory: MemoryKind::Titans, mem_layers: 0b11, ..everything.clone() });
    for globals in [Globals { every: 2, rows: 8 }, Globals { every: 3, rows: 1 }] {
        compare(&ModelConfig { globals, window: 2, ..everything.clone() });
    }
    compare(&ModelConfig { recursion: 2, mem_dim: 0, mem_layers: 0, window: 64, ..everything });
}

#[test]
fn losses_equal_elementary_operations() {
    let logits = Tensor::from_vec(noise(6 * 40, 1), (6, 40), &Device::Cpu).unwrap();
    let teacher = Tensor::from_vec(noise(6 * 40, 2), (6, 40), &Device::Cpu).unwrap();
    let targets = [3u32, 39, 0, 7, 7, 20];
    let weights = [1.0f32, 0.1, 0.0, 2.0, 1.0, 0.5];
    let w = Tensor::new(&weights, &Device::Cpu).unwrap();
    let mean = |rows: Tensor| {
        let sum = (rows * &w).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        sum / weights.iter().sum::<f32>()
    };

    let log_p = candle_nn::ops::log_softmax(&logits, 1).unwrap();
    let index = Tensor::new(&targets, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let nll = log_p.gather(&index, 1).unwrap().squeeze(1).unwrap().neg().unwrap();
    let scores = token_scores(&logits, &targets).unwrap();
    for (score, want) in scores.iter().zip(nll.to_vec1::<f32>().unwrap()) {
        assert!((score.loss - want).abs() < 1e-5);
    }
    let best = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
    assert!(scores.iter().zip(best.iter().zip(&targets)).all(|(s, (b, t))| s.correct == (b == t)));
    assert!(token_scores(&logits, &best).unwrap().iter().all(|s| s.correct));
    let got = weighted_cross_entropy(&logits, &targets, &weights).unwrap().to_scalar::<f32>().unwrap();
    assert!((got - mean(nll)).abs() < 1e-5);

    let tau = 2.0;
    let log_s = candle_nn::ops::log_softmax(&(&logits / tau).unwrap(), 1).unwrap();
    let log_t = candle_nn::ops::log_softmax(&(&teacher / tau).unwrap(), 1).unwrap();
    let rows = (log_t.exp().unwrap() * (log_t - log_s).unwrap()).unwrap().sum(1).unwrap();
    let want = mean((rows * (tau * tau)).unwrap());
    let got = kl(&logits, &teacher, &weights, tau as f32).unwrap().to_scalar::<f32>().unwrap();
    assert!((got - want).abs() < 1e-5, "{got} {want}");
    let same = kl(&logits, &logits, &weights, tau as f32).unwrap().to_scalar::<f32>().unwrap();
    assert!(same.abs() < 1e-6, "a distribution does not diverge from itself: {same}");
    let none = weighted_cross_entropy(&logits, &targets, &[0.0; 6]).unwrap().to_scalar::<f32>().unwrap();
    assert_eq!(none, 0.0);
}
