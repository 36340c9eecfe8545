#![allow(missing_docs)]
use forge_formats::codec::encode::Simple;
use forge_formats::config::{Activation, CacheKind};
use forge_runtime::testing::random_model;
use forge_runtime::*;
fn shape(name: &str) -> ModelConfig {
    let (dim, layers, heads, ffn, vocab, window) = match name {
        "25M" => (512, 8, 8, 1408, 8192, 512),
        _ => (192, 6, 6, 512, 2048, 256),
    };
    ModelConfig {
        vocab,
        dim,
        layers,
        heads,
        kv_heads: heads,
        head_dim: dim / heads,
        ffn,
        activation: Activation::SwiGlu,
        window,
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
    }
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let bytes = random_model(&shape(&a[1]), 1, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    let mut pm = Workspace::of(model.prepared_bytes());
    let prepared = pm.prepare(&model).unwrap();
    let kernels = Kernels::all().find(|k| k.name() == a[3]).unwrap();
    let options = Options::default().kernels(kernels).block(32).prepared(prepared);
    let mut ws = Workspace::with(&model, &options);
    let mut s = Session::with(&model, &options, ws.bytes()).unwrap();
    let n: usize = a[4].parse().unwrap();
    let toks: Vec<u16> = (0..128u16).map(|i| i * 7 + 20).collect();
    for _ in 0..n {
        s.reset();
        if a[2] == "decode" {
            for i in 0..128u16 {
                s.step(i * 7 + 20).unwrap();
            }
        } else {
            s.extend(&toks).unwrap();
        }
    }
}
