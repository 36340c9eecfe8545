//! `docs/numerics.md` §2 and §3 written down once more, in the plainest way: whole matrices in memory, the keys
//! and values of every position kept, no buffers reused. Shares only the elementary functions with the runtime.

use forge_formats::config::{Activation, CacheKind, MemoryKind};
use forge_formats::{File, ModelConfig, Role};
use forge_runtime::math::{cos_turns, exp, exp2, round_even, sigmoid, silu, sin_turns, sqrt};

pub(crate) struct Reference<'a> {
    config: ModelConfig,
    file: File<'a>,
    /// `[recursion][layer][position]`
    keys: Vec<Vec<Vec<Vec<f32>>>>,
    values: Vec<Vec<Vec<Vec<f32>>>>,
    memory: Vec<Vec<f32>>,
    position: usize,
    pub(crate) recursions: u32,
}

pub(crate) fn sum16(x: &[f32]) -> f32 {
    let mut a = [0.0f32; 16];
    for (i, v) in x.iter().enumerate() {
        a[i % 16] += v;
    }
    for step in [8, 4, 2, 1] {
        for j in 0..step {
            a[j] += a[j + step];
        }
    }
    a[0]
}

pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len());
    let products: Vec<f32> = x.iter().zip(y).map(|(a, b)| a * b).collect();
    sum16(&products)
}

fn norm(x: &[f32], eps: f32) -> Vec<f32> {
    let r = 1.0 / sqrt(dot(x, x) / x.len() as f32 + eps);
    x.iter().map(|v| v * r).collect()
}

/// The real value of a unit, then the integers.
fn int8(x: &[f32]) -> Vec<f32> {
    let amax = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    if amax <= 1e-30 {
        return vec![0.0; x.len() + 1];
    }
    let s = 127.0 / amax;
    let integers = x.iter().map(|x| round_even((x * s).clamp(-127.0, 127.0)));
    std::iter::once(amax / 127.0).chain(integers).collect()
}

impl<'a> Reference<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let file = File::parse(bytes).unwrap();
        let config = file.config().clone();
        let cache = vec![vec![Vec::new(); config.layers as usize]; config.recursion as usize];
        let memory = vec![vec![0.0; config.mem_state()]; config.layers as usize];
        let (keys, values) = (cache.clone(), cache);
        Self { config, file, keys, values, memory, position: 0, recursions: 0 }
    }

    /// A row of a tensor as floats.
    fn row(&self, role: Role, layer: usize, row: usize) -> Vec<f32> {
        let m = self.file.tensor(role, layer as u32).unwrap();
        let mut out = vec![0.0; m.cols()];
        m.decode_row(row, &mut out);
        out
    }

    fn gained(&self, x: &[f32], role: Role, layer: usize) -> Vec<f32> {
        let n = norm(x, self.config.norm_eps);
        if role != Role::FinalNorm && !self.config.norm_gain {
            return n;
        }
        n.iter().zip(self.row(role, layer, 0)).map(|(x, g)| x * g).collect()
    }

    fn linear(&self, role: Role, layer: usize, x: &[f32]) -> Vec<f32> {
        linear(&self.file.tensor(role, layer as u32).unwrap(), x)
    }

    /// The positions that the newest attends to: the latest global ones that have left the window, then the window.
    fn seen(&self) -> Vec<usize> {
        let [window, every, rows] =
            [self.config.window, self.config.globals.every, self.config.globals.rows].map(|n| n as usize);
        let first = (self.position + 1).saturating_sub(window);
        let left: Vec<usize> = (0..first).filter(|at| every > 0 && at % every == 0).collect();
        left.iter().rev().take(rows).rev().copied().chain(first..=self.position).collect()
    }

    fn attend(&mut self, t: usize, l: usize, mut qkv: Vec<f32>) -> Vec<f32> {
        let c = self.config.clone();
        let (d, attn, kv) = (c.head_dim as usize, c.attn_dim() as usize, c.kv_dim() as usize);
        for head in 0..(attn + kv) / d {
            for i in 0..d / 2 {
                let f = exp2(
                    -((2 * i) as f32 / d as f32) * c.rope_log2_theta - std::f64::consts::TAU.log2() as f32,
                );
                let turn = self.position as f32 * f;
                let (at, bt) = (head * d + i, head * d + i + d / 2);
                let (a, b) = (qkv[at], qkv[bt]);
                qkv[at] = a * cos_turns(turn) - b * sin_turns(turn);
                qkv[bt] = b * cos_turns(turn) + a * sin_turns(turn);
            }
        }
        if c.cache == CacheKind::Int8 {
            return self.attend_int8(t, l, &qkv);
        }
        self.keys[t][l].push(qkv[attn..attn + kv].to_vec());
        self.values[t][l].push(qkv[attn + kv..].to_vec());
        let seen = self.seen();
        let mut out = Vec::new();
        for h in 0..c.heads as usize {
            let g = h / (c.heads / c.kv_heads) as usize;
            let q = &qkv[h * d..(h + 1) * d];
            let scale = 1.0 / sqrt(d as f32);
            let s: Vec<f32> =
                seen.iter().map(|at| dot(q, &self.keys[t][l][*at][g * d..(g + 1) * d]) * scale).collect();
            let top = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f32> = s.iter().map(|s| exp(s - top)).collect();
            for i in 0..d {
                let mut sum = 0.0f32;
                for (e, at) in e.iter().zip(&seen) {
                    sum += e * self.values[t][l][*at][g * d + i];
                }
                out.push(sum * (1.0 / sum16(&e)));
            }
        }
        out
    }

    /// §3 with caches of int8: what is kept of a head is `(unit, integers)`, here side by side in one vector.
    fn attend_int8(&mut self, t: usize, l: usize, qkv: &[f32]) -> Vec<f32> {
        let c = self.config.clone();
        let (d, attn, kv) = (c.head_dim as usize, c.attn_dim() as usize, c.kv_dim() as usize);
        let heads = |x: &[f32]| x.chunks(d).flat_map(int8).collect::<Vec<f32>>();
        self.keys[t][l].push(heads(&qkv[attn..attn + kv]));
        self.values[t][l].push(heads(&qkv[attn + kv..]));
        let seen = self.seen();
        let scale = 1.0 / sqrt(d as f32);
        let mut out = Vec::new();
        for h in 0..c.heads as usize {
            let g = h / (c.heads / c.kv_heads) as usize * (d + 1);
            let q = int8(&qkv[h * d..(h + 1) * d]);
            let score = |at: &usize| {
                let k = &self.keys[t][l][*at][g..g + d + 1];
                let sum: i64 = q[1..].iter().zip(&k[1..]).map(|(a, b)| *a as i64 * *b as i64).sum();
                sum as f32 * (q[0] * k[0]) * scale
            };
            let s: Vec<f32> = seen.iter().map(score).collect();
            let top = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f32> = s.iter().map(|s| exp(s - top)).collect();
            for i in 0..d {
                let mut sum = 0.0f32;
                for (e, at) in e.iter().zip(&seen) {
                    let v = &self.values[t][l][*at];
                    sum += (e * v[g]) * v[g + 1 + i];
                }
                out.push(sum * (1.0 / sum16(&e)));
            }
        }
        out
    }

    fn blend(&mut self, t: usize, l: usize, a: &[f32], o: Vec<f32>, reads: &mut [Vec<f32>]) -> Vec<f32> {
        let (eps, mem) = (self.config.norm_eps, self.config.mem_dim as usize);
        if t == 0 {
            let projected = self.linear(Role::MemIn, l, a);
            let bias = self.row(Role::MemBias, l, 0);
            let read = match self.config.memory {
                MemoryKind::Ema => {
                    for i in 0..mem {
                        let m = self.memory[l][i];
                        self.memory[l][i] = m + sigmoid(projected[mem + i] + bias[i]) * (projected[i] - m);
                    }
                    self.memory[l].clone()
                }
                MemoryKind::Titans => associate(&mut self.memory[l], &projected, &bias),
            };
            reads[l] = self.linear(Role::MemOut, l, &norm(&read, eps));
        }
        let m = &reads[l];
        let joined: Vec<f32> = o.iter().chain(m).copied().collect();
        let hidden = self.linear(Role::MemGate1, l, &norm(&joined, eps));
        let hidden: Vec<f32> = hidden.iter().map(|f| f.max(0.0)).collect();
        let gate = self.linear(Role::MemGate2, l, &norm(&hidden, eps));
        o.iter().zip(m).zip(gate).map(|((o, m), g)| m + sigmoid(g) * (o - m)).collect()
    }

    fn block(&mut self, t: usize, l: usize, mut u: Vec<f32>, reads: &mut [Vec<f32>]) -> Vec<f32> {
        let (eps, ffn) = (self.config.norm_eps, self.config.ffn as usize);
        let a = self.gained(&u, Role::AttnNorm, l);
        let qkv = self.linear(Role::Qkv, l, &a);
        let mut o = self.attend(t, l, qkv);
        if self.config.has_memory(l as u32) {
            o = self.blend(t, l, &a, o, reads);
        }
        let out = self.linear(Role::AttnOut, l, &norm(&o, eps));
        u.iter_mut().zip(out).for_each(|(u, o)| *u += o);
        let fw = self.linear(Role::GateUp, l, &self.gained(&u, Role::FfnNorm, l));
        let act = |f: f32| match self.config.activation {
            Activation::SwiGlu => silu(f),
            Activation::Relu2 => f.max(0.0) * f.max(0.0),
        };
        let hidden: Vec<f32> = (0..ffn).map(|i| act(fw[i]) * fw[ffn + i]).collect();
        let out = self.linear(Role::Down, l, &norm(&hidden, eps));
        u.iter_mut().zip(out).for_each(|(u, o)| *u += o);
        u
    }

    pub(crate) fn step(&mut self, token: u16) -> Vec<f32> {
        let c = self.config.clone();
        let (rounds, layers, dim) = (c.recursion as usize, c.layers as usize, c.dim as usize);
        let x = norm(&self.row(Role::Embedding, 0, token as usize), c.norm_eps);
        let (mut y, mut z) = (vec![0.0f32; dim], vec![0.0f32; dim]);
        let mut reads = vec![Vec::new(); layers];
        for t in 0..rounds {
            let mut u = x.clone();
            if t > 0 {
                let (la, ll) = (self.row(Role::LoopAnswer, 0, 0), self.row(Role::LoopLatent, 0, 0));
                let (ny, nz) = (norm(&y, c.norm_eps), norm(&z, c.norm_eps));
                u = (0..dim).map(|i| x[i] + la[i] * ny[i] + ll[i] * nz[i]).collect();
            }
            for l in 0..layers {
                u = self.block(t, l, u, &mut reads);
            }
            z = u;
            if rounds == 1 {
                y = z.clone();
            } else {
                let (lo, nz) = (self.row(Role::LoopOut, 0, 0), norm(&z, c.norm_eps));
                y = (0..dim).map(|i| y[i] + lo[i] * nz[i]).collect();
            }
            self.recursions = t as u32 + 1;
            if c.halting && t + 1 < rounds && self.halts(&y) {
                self.carry(t);
                break;
            }
        }
        self.position += 1;
        let answer = self.gained(&y, Role::FinalNorm, 0);
        self.linear(if c.tied { Role::Embedding } else { Role::Head }, 0, &answer)
    }

    fn halts(&self, y: &[f32]) -> bool {
        let halt = self.row(Role::Halt, 0, 0);
        let (weights, bias) = halt.split_at(y.len());
        sigmoid(dot(weights, &norm(y, self.config.norm_eps)) + bias[0]) > self.config.halt_threshold
    }

    fn carry(&mut self, t: usize) {
        for l in 0..self.config.layers as usize {
            let (k, v) = (self.keys[t][l].last().unwrap().clone(), self.values[t][l].last().unwrap().clone());
            for later in t + 1..self.config.recursion as usize {
                self.keys[later][l].push(k.clone());
                self.values[later][l].push(v.clone());
            }
        }
    }
}

/// §3, memory as a matrix: writes a token into `M ‖ S` and returns what it reads.
fn associate(state: &mut [f32], projected: &[f32], bias: &[f32]) -> Vec<f32> {
    let width = (projected.len() - 3) / 3;
    let part =
        |i: usize| projected[i * width..(i + 1) * width].iter().map(|x| silu(*x)).collect::<Vec<f32>>();
    let unit = |x: Vec<f32>| {
        let r = 1.0 / sqrt(dot(&x, &x) + 1e-6);
        x.iter().map(|x| x * r).collect::<Vec<f32>>()
    };
    let (k, v, q) = (unit(part(0)), part(1), unit(part(2)));
    let gate = |i: usize| sigmoid(projected[3 * width + i] + bias[i]);
    let (surprise, momentum, keep) = (gate(0), gate(1), 1.0 - gate(2));
    let mut read = Vec::new();
    for i in 0..width {
        let e = (0..width).fold(-v[i], |e, j| e + k[j] * state[j * width + i]);
        let mut y = 0.0;
        for j in 0..width {
            let (m, s) = (j * width + i, width * width + j * width + i);
            state[s] = momentum * state[s] - surprise * k[j] * e;
            state[m] = keep * state[m] + state[s];
            y += q[j] * state[m];
        }
        read.push(y);
    }
    read
}

/// §2, with i64 sums and weights taken from their decoded values.
pub(crate) fn linear(m: &forge_formats::Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; m.cols()];
    let integer = m.codec().is_integer();
    let amax = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    (0..m.rows())
        .map(|r| {
            m.decode_row(r, &mut row);
            if !integer {
                return dot(&row, x);
            }
            if amax.is_nan() || amax <= 1e-30 {
                return 0.0;
            }
            let (s, inv, scale) = (127.0 / amax, amax / 127.0, m.scale(r));
            let weight =
                |w: f32| if scale == 0.0 { 0 } else { (f64::from(w) / f64::from(scale)).round() as i64 };
            let acc: i64 = row.iter().zip(x).map(|(w, x)| weight(*w) * round_even(x * s) as i64).sum();
            acc as f32 * (inv * scale)
        })
        .collect()
}
