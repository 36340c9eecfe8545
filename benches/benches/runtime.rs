//! Speed of the runtime: whole tokens of a nano model, and single linear maps in multiply-accumulates.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forge_formats::Matrix;
use forge_formats::codec::encode::{Simple, encode};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};
use forge_runtime::testing::{LinearMap, Noise, random_model};
use forge_runtime::{Kernels, Model, ModelConfig, Options, Session, Workspace};

/// Every codec that needs no search.
const CODECS: [Simple; 5] =
    [Simple::Ternary2b, Simple::Ternary5x8, Simple::Int8Row, Simple::F32, Simple::F16];

/// The shape of the `nano` preset.
fn nano() -> ModelConfig {
    ModelConfig {
        vocab: 512,
        dim: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        ffn: 256,
        activation: Activation::SwiGlu,
        window: 64,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: true,
        recursion: 2,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 32,
        mem_gate: 32,
        mem_layers: 0b10,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// A model between the devices' and the largest: wide enough for every kernel's whole vectors.
fn small() -> ModelConfig {
    ModelConfig { dim: 256, layers: 6, heads: 8, kv_heads: 8, ffn: 512, vocab: 2048, window: 256, ..plain() }
}

/// `nano` without recursion and memory.
fn plain() -> ModelConfig {
    ModelConfig { recursion: 1, mem_dim: 0, mem_gate: 0, mem_layers: 0, ..nano() }
}

/// Tokens a second of `nano` once the attention window is full, in every codec on the best kernels.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode_nano");
    group.throughput(Throughput::Elements(1));
    for codec in CODECS {
        let bytes = random_model(&nano(), 1, codec);
        let model = Model::parse(&bytes).expect("the model is valid");
        let mut workspace = Workspace::new(&model);
        let mut session = Session::new(&model, workspace.bytes()).expect("the memory suffices");
        (0..64).for_each(|t| session.feed(t + 100).expect("the token is known"));
        let mut token = 0u16;
        group.bench_function(BenchmarkId::from_parameter(format!("{codec:?}")), |b| {
            b.iter(|| {
                token = (token + 1) % 512;
                black_box(session.step(token).expect("the token is known"));
            });
        });
    }
    group.finish();
}

/// Tokens a second of a ternary model on every kernels: generated, from weights as they lie in the file and from
/// prepared ones, and read in blocks.
fn instruction_sets(c: &mut Criterion) {
    let bytes = random_model(&small(), 1, Simple::Ternary2b);
    let model = Model::parse(&bytes).expect("the model is valid");
    let mut memory = Workspace::of(model.prepared_bytes());
    let prepared = memory.prepare(&model).expect("the memory suffices");
    let prompt: Vec<u16> = (0..128).map(|t| t * 13 + 300).collect();
    let mut group = c.benchmark_group("isa_ternary");
    for kernels in Kernels::all() {
        let in_place = Options::default().kernels(kernels);
        for (name, options) in [("in place", in_place), ("prepared", in_place.prepared(prepared))] {
            let mut workspace = Workspace::with(&model, &options);
            let mut session =
                Session::with(&model, &options, workspace.bytes()).expect("the memory suffices");
            let id = BenchmarkId::new(format!("decode 128, {name}"), kernels.name());
            group.throughput(Throughput::Elements(prompt.len() as u64));
            group.bench_function(id, |b| {
                b.iter(|| {
                    session.reset();
                    for token in &prompt {
                        black_box(session.step(*token).expect("the token is known"));
                    }
                });
            });
        }
        let options = in_place.prepared(prepared).block(64);
        let mut workspace = Workspace::with(&model, &options);
        let mut session = Session::with(&model, &options, workspace.bytes()).expect("the memory suffices");
        group.bench_function(BenchmarkId::new("prefill 128, prepared", kernels.name()), |b| {
            b.iter(|| {
                session.reset();
                black_box(session.extend(&prompt).expect("the tokens are known").len())
            });
        });
    }
    group.finish();
}

/// Multiply-accumulates a second of one linear map with one input and with a block of them.
fn linear_maps(c: &mut Criterion) {
    for (rows, cols) in [(256, 128), (512, 512), (2048, 2048)] {
        for inputs in [1, 32] {
            let mut group = c.benchmark_group(format!("linear_{rows}x{cols}_by_{inputs}"));
            group.throughput(Throughput::Elements((rows * cols * inputs) as u64));
            for codec in CODECS {
                let mut noise = Noise(2);
                let weights: Vec<f32> = (0..rows * cols).map(|_| noise.uniform()).collect();
                let payload = encode(codec, rows, cols, &weights);
                let shape = [rows as u32, cols as u32];
                let w = Matrix::new(codec.into(), shape, &payload).expect("the matrix is valid");
                let x: Vec<f32> = (0..cols * inputs).map(|_| noise.uniform()).collect();
                for kernels in Kernels::all() {
                    let mut map = LinearMap::new(kernels, w, inputs, true);
                    group.bench_function(BenchmarkId::new(format!("{codec:?}"), kernels.name()), |b| {
                        b.iter(|| black_box(map.run(black_box(&x)).len()));
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = decode, instruction_sets, linear_maps
}
criterion_main!(benches);
