//! Random models as GGUF files with 16-bit weights, for llama.cpp's own quantiser to work on.

use forge_runtime::testing::Noise;
use half::f16;

use super::shape::{NORM_EPS, ROPE_BASE, Shape};

/// Version of the container.
const VERSION: u32 = 3;
/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: usize = 32;
/// Control tokens before the 256 byte tokens.
const CONTROLS: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// A tensor's data in the making: rows, columns and values.
struct Tensor {
    name: String,
    /// Columns, then rows; the latter missing for a vector.
    sizes: Vec<u64>,
    /// 0 for `f32`, 1 for `f16`.
    kind: u32,
    data: Vec<u8>,
}

/// A Llama model of a shape, with ternary weights: what its products cost does not depend on their values.
pub(crate) fn model(shape: &Shape) -> Vec<u8> {
    let tensors = tensors(shape);
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    let (entries, count) = metadata(shape);
    out.extend(count.to_le_bytes());
    out.extend(entries);
    let mut offset = 0u64;
    for t in &tensors {
        string(&mut out, &t.name);
        out.extend((t.sizes.len() as u32).to_le_bytes());
        t.sizes.iter().for_each(|s| out.extend(s.to_le_bytes()));
        out.extend(t.kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += t.data.len().next_multiple_of(ALIGNMENT) as u64;
    }
    for t in &tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(&t.data);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

fn tensors(shape: &Shape) -> Vec<Tensor> {
    let (d, f) = (shape.dim, shape.ffn);
    let mut noise = Noise(u64::from(shape.dim + shape.ffn));
    let mut all = vec![embedding(shape, &mut noise), gain("output_norm.weight".into(), d)];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        all.extend([gain(name("attn_norm"), d), gain(name("ffn_norm"), d)]);
        let maps = [
            ("attn_q", d, d),
            ("attn_k", d, d),
            ("attn_v", d, d),
            ("attn_output", d, d),
            ("ffn_gate", f, d),
            ("ffn_up", f, d),
            ("ffn_down", d, f),
        ];
        for (part, rows, cols) in maps {
            let trit = |_| f16::from_f32((noise.below(3) as f32 - 1.0) * 0.05).to_le_bytes();
            let data = (0..rows * cols).flat_map(trit).collect();
            all.push(Tensor { name: name(part), sizes: vec![cols.into(), rows.into()], kind: 1, data });
        }
    }
    all
}

/// Embeddings whose control tokens are never the likeliest, so that nothing that generates stops early.
fn embedding(shape: &Shape, noise: &mut Noise) -> Tensor {
    let quiet = CONTROLS.len() * shape.dim as usize;
    let size = shape.vocab as usize * shape.dim as usize;
    let value = |i: usize| noise.uniform() * if i < quiet { 0.000_03 } else { 0.03 };
    let data = (0..size).map(value).flat_map(|v| f16::from_f32(v).to_le_bytes()).collect();
    let sizes = vec![shape.dim.into(), shape.vocab.into()];
    Tensor { name: "token_embd.weight".into(), sizes, kind: 1, data }
}

fn gain(name: String, width: u32) -> Tensor {
    let data = (0..width).flat_map(|_| 1f32.to_le_bytes()).collect();
    Tensor { name, sizes: vec![width.into()], kind: 0, data }
}

/// The key-value pairs, and how many they are.
fn metadata(shape: &Shape) -> (Vec<u8>, u64) {
    let numbers = [
        ("llama.context_length", shape.context),
        ("llama.embedding_length", shape.dim),
        ("llama.block_count", shape.layers),
        ("llama.feed_forward_length", shape.ffn),
        ("llama.attention.head_count", shape.heads),
        ("llama.attention.head_count_kv", shape.heads),
        ("llama.rope.dimension_count", shape.dim / shape.heads),
        ("llama.vocab_size", shape.vocab),
        ("general.file_type", 1),
        ("tokenizer.ggml.unknown_token_id", 0),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", 2),
    ];
    let reals = [("llama.attention.layer_norm_rms_epsilon", NORM_EPS), ("llama.rope.freq_base", ROPE_BASE)];
    let strings =
        [("general.architecture", "llama"), ("general.name", shape.name), ("tokenizer.ggml.model", "llama")];
    let mut out = Vec::new();
    for (key, value) in strings {
        head(&mut out, key, 8);
        string(&mut out, value);
    }
    for (key, value) in numbers {
        head(&mut out, key, 4);
        out.extend(value.to_le_bytes());
    }
    for (key, value) in reals {
        head(&mut out, key, 6);
        out.extend(value.to_le_bytes());
    }
    let arrays = tokenizer(shape.vocab as usize, &mut out);
    (out, (strings.len() + numbers.len() + reals.len()) as u64 + arrays)
}

/// The tokenizer's lists: controls, bytes, and distinct words for the rest. Returns how many lists there are.
fn tokenizer(vocab: usize, out: &mut Vec<u8>) -> u64 {
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let words = (0..).map(|i| format!("\u{2581}w{i}"));
    let tokens = CONTROLS.iter().map(|c| (*c).to_owned()).chain(bytes).chain(words).take(vocab);
    array(out, "tokenizer.ggml.tokens", 8, vocab);
    tokens.for_each(|t| string(out, &t));
    array(out, "tokenizer.ggml.scores", 6, vocab);
    (0..vocab).for_each(|i| out.extend((-(i as f32)).to_le_bytes()));
    array(out, "tokenizer.ggml.token_type", 5, vocab);
    // Unknown, control, control, byte, normal: the kinds llama.cpp tells apart.
    let kind = |i: usize| -> i32 {
        match i {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        }
    };
    (0..vocab).for_each(|i| out.extend(kind(i).to_le_bytes()));
    3
}

/// A key and the number of its value's type.
fn head(out: &mut Vec<u8>, key: &str, kind: u32) {
    string(out, key);
    out.extend(kind.to_le_bytes());
}

/// A key with a list of so many values of a type.
fn array(out: &mut Vec<u8>, key: &str, kind: u32, len: usize) {
    head(out, key, 9);
    out.extend(kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
