//! Random models, and single kernels, for tests and benches of this and other crates.
#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;

use forge_formats::codec::Codec;
use forge_formats::codec::encode::{Simple, encode};
use forge_formats::role::RoleKind;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec};
use forge_formats::write::Writer;
use forge_formats::{Matrix, ModelConfig, Role};

use crate::kernels::generic::{HeadF32, HeadInt8};
use crate::kernels::{Floats, Kernels, Meta, Outputs, PANEL_ROWS, Panels, VECTOR, pack_panel, panel_vectors};
use crate::linear::{Scratch, Vectors, Weights, linear, quantised_words, tile_vectors};

/// The control tokens every tokenizer has, in id order.
pub const CONTROLS: [&str; 7] = ["<pad>", "<bos>", "<eos>", "<sys>", "<sep>", "<think>", "</think>"];

/// What the random tokenizers' merges are made of.
const LETTERS: &[u8] = b"etaoinshrdlu";

/// SplitMix64, enough for test weights.
#[derive(Clone, Debug)]
pub struct Noise(pub u64);

impl Noise {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[-1, 1)`.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
}

/// A tokenizer of exactly `vocab` ids: the control tokens, the tool `set_light`, the slots `room` and `level`, the
/// bytes, and merges drawn at random from what fits in 8 bytes.
///
/// # Panics
/// When `vocab` is below 266, which has no room for them.
pub fn random_tokenizer(vocab: u32, seed: u64) -> Vec<u8> {
    let name = |kind, name: &str| (kind, String::from(name));
    let mut specials: Vec<_> = CONTROLS.iter().map(|c| name(SpecialKind::Control, c)).collect();
    specials.push(name(SpecialKind::Tool, "set_light"));
    specials.push(name(SpecialKind::Slot, "room"));
    specials.push(name(SpecialKind::Slot, "level"));
    let first = specials.len();
    let mut noise = Noise(seed);
    let mut lengths = alloc::vec![1u32; 256];
    let mut merges: Vec<(u16, u16)> = Vec::new();
    let wanted = (vocab as usize).checked_sub(first + 256).expect("at least 266 ids");
    while merges.len() < wanted {
        // Common letters, and half the time what has been made of them.
        let mut side = || match noise.below(2) * merges.len() {
            0 => usize::from(LETTERS[noise.below(LETTERS.len())]),
            made => 256 + noise.below(made),
        };
        let (left, right) = (side(), side());
        let pair = ((first + left) as u16, (first + right) as u16);
        let length = lengths[left] + lengths[right];
        if length <= 8 && !merges.contains(&pair) {
            merges.push(pair);
            lengths.push(length);
        }
    }
    TokenizerSpec { specials, merges, ..TokenizerSpec::default() }.to_bytes().expect("the tokenizer is valid")
}

/// A model file with random weights of about the size of trained ones: projections in `codec`, tables in `Int8Row`
/// when that is a ternary codec and else in `codec` too, vectors in `F32`. Where they are in `TernarySparse`, nine of
/// ten are 0.
///
/// # Panics
/// When the config is invalid or its vocabulary below 266.
pub fn random_model(config: &ModelConfig, seed: u64, codec: Simple) -> Vec<u8> {
    let mut writer = Writer::new(config.clone()).tokenizer(random_tokenizer(config.vocab, seed));
    for (at, (role, layer, [rows, cols])) in config.tensors().enumerate() {
        let mut noise = Noise(seed.wrapping_mul(1009).wrapping_add(at as u64));
        let simple = match (role.kind(), codec) {
            (RoleKind::Vector, _) => Simple::F32,
            (RoleKind::Table, codec) if Codec::from(codec).is_ternary() => Simple::Int8Row,
            _ => codec,
        };
        let size = rows as usize * cols as usize;
        let mut weights: Vec<f32> = (0..size).map(|_| noise.uniform() * 0.3).collect();
        if simple == Simple::TernarySparse {
            weights.iter_mut().filter(|_| noise.below(10) > 0).for_each(|w| *w = 0.0);
        }
        centre(role, &mut weights);
        let payload = encode(simple, rows as usize, cols as usize, &weights);
        writer = writer.tensor(role, layer, simple.into(), payload);
    }
    writer.finish().expect("the model is valid")
}

/// Moves vectors to where trained ones lie: gains near 1, rates and halting both ways.
fn centre(role: Role, weights: &mut [f32]) {
    let by = match role {
        Role::AttnNorm | Role::FfnNorm | Role::FinalNorm | Role::LoopOut => 1.0,
        Role::LoopAnswer | Role::LoopLatent => 0.3,
        Role::MemBias => -1.0,
        _ => 0.0,
    };
    weights.iter_mut().for_each(|w| *w += by);
}

/// A linear map with the memory it works in, which holds leftovers at first, and more room than needed.
pub struct LinearMap<'w> {
    kernels: &'static Kernels,
    matrix: Matrix<'w>,
    n: usize,
    /// Panels laid out before, if any.
    vectors: Vec<[u8; VECTOR]>,
    row: Vec<f32>,
    quantised: Vec<u32>,
    meta: Vec<Meta>,
    tile: Vec<[u8; VECTOR]>,
    y: Vec<f32>,
}

impl<'w> LinearMap<'w> {
    /// `matrix` times `n` inputs on some kernels; from panels laid out before when `prepared` and there are any.
    pub fn new(kernels: &'static Kernels, matrix: Matrix<'w>, n: usize, prepared: bool) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let per_panel = panel_vectors(matrix.codec(), cols);
        let panels = rows.div_ceil(PANEL_ROWS);
        let mut vectors = alloc::vec![[0xA5; VECTOR]; if prepared { per_panel * panels } else { 0 }];
        if per_panel > 0 {
            for (i, panel) in vectors.chunks_mut(per_panel).enumerate() {
                pack_panel(&matrix, i * PANEL_ROWS, panel);
            }
        }
        Self {
            kernels,
            matrix,
            n,
            vectors,
            row: alloc::vec![f32::NAN; cols + 3],
            quantised: alloc::vec![u32::MAX; quantised_words(kernels, cols, n)],
            meta: alloc::vec![Meta { inverse: f32::NAN, sum: -1 }; n],
            tile: alloc::vec![[0x5A; VECTOR]; tile_vectors(kernels, matrix.codec(), cols)],
            y: alloc::vec![f32::NAN; n * panels * PANEL_ROWS],
        }
    }

    /// The products with the inputs, one after another in `xs`; the results of one input every
    /// `rows` rounded up to 16.
    pub fn run(&mut self, xs: &[f32]) -> &[f32] {
        let per_panel = panel_vectors(self.matrix.codec(), self.matrix.cols());
        let panels = (!self.vectors.is_empty()).then_some(Panels { vectors: &self.vectors, per_panel });
        let weights = Weights { matrix: self.matrix, panels };
        let mut scratch = Scratch {
            row: &mut self.row,
            quantised: &mut self.quantised,
            meta: &mut self.meta,
            tile: &mut self.tile,
        };
        let xs = Vectors { x: xs, stride: self.matrix.cols(), n: self.n };
        let stride = self.y.len() / self.n;
        let mut out = Outputs { y: &mut self.y, stride };
        linear(self.kernels, &weights, xs, &mut out, &mut scratch);
        &self.y
    }
}

/// `W x` of `n` inputs, one after another in `xs`. Returns the results of one input after another.
pub fn product(kernels: &'static Kernels, w: &Matrix<'_>, xs: &[f32], n: usize, prepared: bool) -> Vec<f32> {
    let mut map = LinearMap::new(kernels, *w, n, prepared);
    let stride = map.y.len() / n;
    map.run(xs).chunks(stride).flat_map(|y| y[..w.rows()].to_vec()).collect()
}

/// Every float operation of some kernels on random vectors of random lengths, now and then with infinities, NaN,
/// zeros and subnormal numbers in them; the bits of all results.
pub fn float_operations(kernels: &'static Kernels, seed: u64) -> Vec<u32> {
    let floats = &kernels.floats;
    let mut noise = Noise(seed);
    let n = 1 + noise.below(70);
    let strange = noise.below(4) == 0;
    let vector = |noise: &mut Noise, n: usize| -> Vec<f32> {
        let odd = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0, 1e-40, -1e-30, 3e38, 1e-20];
        let scale = [1.0, 1e-3, 40.0, 1e-18][noise.below(4)];
        let mut number = || match strange && noise.below(6) == 0 {
            true => odd[noise.below(odd.len())],
            false => noise.uniform() * scale,
        };
        (0..n).map(|_| number()).collect()
    };
    let (x, y, z) = (vector(&mut noise, n), vector(&mut noise, n), vector(&mut noise, n));
    let mut results: Vec<f32> = Vec::new();
    let mut integers: Vec<i32> = Vec::new();
    let mut out = alloc::vec![0.0; n];
    (floats.norm)(&x, 1e-5, &mut out);
    results.extend(&out);
    (floats.norm_in_place)(&mut out, 1e-5);
    results.extend(&out);
    (floats.norm_gained)(&x, &y, 1e-5, &mut out);
    results.extend(&out);
    (floats.swiglu)(&x, &y, &mut out);
    results.extend(&out);
    (floats.relu2)(&x, &y, &mut out);
    results.extend(&out);
    (floats.add)(&mut out, &y);
    results.extend(&out);
    (floats.blend)(&mut out, &x, &y);
    results.extend(&out);
    (floats.remember)(&mut out, &x, &y, &z);
    results.extend(&out);
    let width = 1 + noise.below(40);
    let mut state = vector(&mut noise, 2 * width * width);
    let (mut projected, bias) = (vector(&mut noise, 3 * width + 3), vector(&mut noise, 3));
    let mut read = alloc::vec![0.0; width];
    (floats.associate)(&mut state, &mut projected, &bias, &mut read);
    results.extend(state.iter().chain(&read));
    let mut q = alloc::vec![1i8; n + 5];
    let meta = (floats.quantise)(&x, &mut q);
    results.push(meta.inverse);
    integers.push(meta.sum);
    integers.extend(q.iter().map(|q| i32::from(*q)));
    let unit = (floats.store_int8)(&y, &mut q[..n]);
    results.push(unit);
    integers.extend(q.iter().map(|q| i32::from(*q)));
    // The widths that have code of their own, and others.
    let d = if noise.below(3) == 0 { 16 << noise.below(4) } else { 2 * (1 + noise.below(40)) };
    let mut heads = vector(&mut noise, 3 * d);
    (floats.rotate)(&mut heads, &vector(&mut noise, d));
    results.extend(&heads);
    let query = strange.then_some(vector(&mut noise, d));
    results.extend(attention(floats, &mut noise, d, query));
    // Which NaN it is (sign, payload) is the processor's choice and no part of the definition.
    let bits = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
    results.into_iter().map(bits).chain(integers.into_iter().map(i32::cast_unsigned)).collect()
}

/// Both kinds of attention over a ring that may have wrapped.
fn attention(floats: &Floats, noise: &mut Noise, d: usize, query: Option<Vec<f32>>) -> Vec<f32> {
    let window = 1 + noise.below(50);
    let wrapped = noise.below(2) == 1;
    let (len, first) = if wrapped { (window, noise.below(window)) } else { (1 + noise.below(window), 0) };
    let slots = window.next_multiple_of(PANEL_ROWS);
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| noise.uniform() * 2.0).collect() };
    let (keys, values) = (numbers(slots * d), numbers(window * d));
    let (key_units, value_units) = (numbers(window), numbers(window));
    let query = query.unwrap_or_else(|| numbers(d));
    let mut scratch = alloc::vec![f32::NAN; 2 * slots];
    let mut out = alloc::vec![f32::NAN; d];
    let head = HeadF32 { keys: &keys, values: &values, len, first };
    (floats.attend)(&head, &query, 0.3, &mut scratch, &mut out);
    let mut results = out.clone();
    let integers = |x: &[f32]| -> Vec<i8> { x.iter().map(|x| (x * 63.0) as i8).collect() };
    let (keys, values) = (integers(&keys[..window * d]), integers(&values));
    let (key_units, value_units) = (&key_units[..], &value_units[..]);
    let head = HeadInt8 { keys: &keys, values: &values, key_units, value_units, len, first };
    (floats.attend_int8)(&head, &query, 0.3, &mut scratch, &mut out);
    results.extend(out);
    results
}

/// Both kinds of attention over two rings, the first of which has wrapped, of random sizes and contents; the bits of all
/// results.
pub fn hybrid_attention(kernels: &'static Kernels, seed: u64) -> Vec<u32> {
    let (floats, mut noise) = (&kernels.floats, Noise(seed));
    // The widths that have code of their own, and others.
    let d = if noise.below(3) == 0 { 16 << noise.below(4) } else { 2 * (1 + noise.below(40)) };
    let [far, near] = [1 + noise.below(20), 1 + noise.below(40)];
    let firsts = [noise.below(far), 0];
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| noise.uniform() * 2.0).collect() };
    let rings = [far, near].map(|len| {
        let slots = len.next_multiple_of(PANEL_ROWS);
        (len, numbers(slots * d), numbers(len * d), numbers(len))
    });
    let query = numbers(d);
    let mut scratch = alloc::vec![f32::NAN; 2 * (far + near).next_multiple_of(PANEL_ROWS)];
    let mut out = alloc::vec![f32::NAN; d];
    let ring = |i: usize| {
        let (len, keys, values, _) = &rings[i];
        HeadF32 { keys, values, len: *len, first: firsts[i] }
    };
    (floats.attend_hybrid)(&[ring(0), ring(1)], &query, 0.3, &mut scratch, &mut out);
    let mut results = out.clone();
    let integers = |x: &[f32]| -> Vec<i8> { x.iter().map(|x| (x * 63.0) as i8).collect() };
    let bytes = rings.each_ref().map(|(len, keys, values, _)| (integers(&keys[..len * d]), integers(values)));
    let ring = |i: usize| {
        let ((len, .., units), (keys, values)) = (&rings[i], &bytes[i]);
        HeadInt8 { keys, values, key_units: units, value_units: units, len: *len, first: firsts[i] }
    };
    (floats.attend_hybrid_int8)(&[ring(0), ring(1)], &query, 0.3, &mut scratch, &mut out);
    results.extend(out);
    results.into_iter().map(f32::to_bits).collect()
}
