//! The runtime does not allocate, and writes to exactly the memory it asks for. A program without the test harness: the
//! counters are the whole process's, and the harness has a thread that allocates when it likes.

use std::alloc::System;

use forge_formats::codec::encode::Simple;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};
use forge_formats::tokenizer::MAX_TOKEN;
use forge_runtime::call::render;
use forge_runtime::generate::{Generator, prompt};
use forge_runtime::testing::random_model;
use forge_runtime::{Model, ModelConfig, Options, Sampler, Session};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Tokens each codec generates.
const TOKENS: usize = 1000;
/// What the memory that is lent is filled with.
const FILL: u8 = 0xA5;

/// Every option at once.
fn config() -> ModelConfig {
    ModelConfig {
        vocab: 300,
        dim: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        ffn: 40,
        activation: Activation::SwiGlu,
        window: 16,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: false,
        recursion: 2,
        halting: true,
        halt_threshold: 0.5,
        mem_dim: 7,
        mem_gate: 9,
        mem_layers: 0b10,
        cache: CacheKind::F32,
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// Counts what `render` writes.
struct Sink(usize);

impl core::fmt::Write for Sink {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// Allocations, frees and resizes while `f` runs.
fn allocations<T>(f: impl FnOnce() -> T) -> (usize, T) {
    let region = Region::new(ALLOCATOR);
    let result = f();
    let change = region.change();
    (change.allocations + change.deallocations + change.reallocations, result)
}

/// From bytes to text: parse, verify, prompt, 1000 tokens, rendering. Returns the tokens generated.
fn everything(bytes: &[u8], device: bool, memory: &mut [u8], panels: &mut [u8], ids: &mut [u16]) -> usize {
    let model = Model::parse(bytes).expect("a valid model");
    model.file().verify().expect("an undamaged one");
    let tokenizer = model.tokenizer();
    let len = prompt(&tokenizer, Some(b"be brief"), b"turn on the lights", ids).expect("room for the prompt");
    let options = if device {
        Options::device()
    } else {
        let prepared = model.prepare(&mut panels[..model.prepared_bytes()]).expect("enough memory");
        Options::default().prepared(prepared).block(8)
    };
    let need = model.workspace_for(&options);
    let mut session = Session::with(&model, &options, &mut memory[..need]).expect("enough memory");
    session.prefill(&ids[..len]).expect("tokens of the vocabulary");
    let mut sampler = Sampler::new(1.0, 7);
    (sampler.top_k, sampler.top_p, sampler.min_p, sampler.repetition_penalty) = (40, 0.9, 0.01, 1.1);
    // No id ends the completion, so that it is as long as the test says.
    let mut generator = Generator::new(session, sampler, u16::MAX);
    generator.start(&ids[..len]).expect("tokens of the vocabulary");
    let mut buffer = [0; MAX_TOKEN];
    let mut sink = Sink(0);
    let mut generated = 0;
    while generated < TOKENS {
        let token = generator.next_token().expect("a token of the vocabulary").expect("no end");
        sink.0 += tokenizer.decode(token, &mut buffer).len();
        ids[generated % ids.len()] = token;
        generated += 1;
    }
    render(&tokenizer, &ids[..20], &mut sink).expect("counting cannot fail");
    assert!(sink.0 > 0);
    generated
}

/// A model in every codec: random ones, and the golden file with those that need a search.
fn files() -> Vec<(String, Vec<u8>)> {
    let simple = [Simple::F32, Simple::F16, Simple::Int8Row, Simple::Ternary2b, Simple::Ternary5x8];
    let mut files: Vec<_> = simple.map(|c| (format!("{c:?}"), random_model(&config(), 5, c))).to_vec();
    let searched = concat!(env!("CARGO_MANIFEST_DIR"), "/../formats/tests/golden/v1_0/searched.forge");
    let titans = ModelConfig { memory: MemoryKind::Titans, ..config() };
    let globals = ModelConfig { globals: Globals { every: 3, rows: 4 }, ..config() };
    files.push(("globals".to_owned(), random_model(&globals, 5, Simple::Ternary2b)));
    files.push(("matrix memory".to_owned(), random_model(&titans, 5, Simple::Ternary2b)));
    files.push(("searched".to_owned(), std::fs::read(searched).expect("the golden file")));
    files
}

fn main() {
    from_bytes_to_text_without_an_allocation();
    println!("test from_bytes_to_text_without_an_allocation ... ok");
}

fn from_bytes_to_text_without_an_allocation() {
    // Negative control: the counter counts.
    let (counted, _) = allocations(|| std::hint::black_box(vec![0u8; 100]));
    assert!(counted > 0, "the counter does not count");
    for (name, bytes) in files() {
        for device in [true, false] {
            without_allocation(&format!("{name}, device {device}"), &bytes, device);
        }
    }
}

fn without_allocation(name: &str, bytes: &[u8], device: bool) {
    // More than any of these models needs; the test finds out how much each uses.
    const LENT: usize = 1 << 20;
    let mut words = vec![u32::from_ne_bytes([FILL; 4]); LENT / 4];
    let mut panels = vec![0u64; LENT / 8];
    let mut ids = vec![0u16; 256];
    let need = {
        let model = Model::parse(bytes).expect("a valid model");
        let options = if device { Options::device() } else { Options::default().block(8) };
        model.workspace_for(&options)
    };
    let (memory, panels) = (bytemuck::cast_slice_mut(&mut words), bytemuck::cast_slice_mut(&mut panels));
    let (counted, generated) = allocations(|| everything(bytes, device, memory, panels, &mut ids));
    assert_eq!((counted, generated), (0, TOKENS), "{name}");
    // Not a byte beyond what was asked for, and no part of that for nothing.
    let memory: &[u8] = bytemuck::cast_slice(&words);
    assert!(memory[need..].iter().all(|b| *b == FILL), "{name} writes past its memory");
    let untouched = memory[..need].iter().filter(|b| **b == FILL).count();
    assert!(untouched < need / 2, "{name} leaves {untouched} of {need} bytes untouched");
}
