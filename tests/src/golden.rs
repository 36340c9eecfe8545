//! Golden files: small models with random weights, and what every target must make of them to the bit.
//!
//! `tests/golden/golden.tsv` has a line a case: name, prompt ids, seed (`-` for greedy), ids generated, CRC-32 of all
//! logits. The model of case `x` is `tests/golden/x.forge`. The host (`tests/tests/golden.rs`), Node
//! (`forge-wasm/test`) and the firmware (`examples/firmware`) read the same lines.
//!
//! Files and lines never change once committed: they are the promise that old files keep working and keep saying
//! the same. New cases are added with `cargo run --release -p forge-tests --bin golden -- --write`.

use std::path::PathBuf;

use forge_formats::codec::encode::Simple;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};
use forge_runtime::testing::{Noise, random_model};
use forge_runtime::{Model, ModelConfig};

use crate::replay::replay;
use crate::script;

/// What a case is made from.
pub struct Recipe {
    /// Name of the case and its file.
    pub name: &'static str,
    /// Where the model comes from.
    pub source: Source,
    /// Tokens read before any is generated.
    pub prompt: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Seed of the sampler; `None` is greedy.
    pub sampled: Option<u64>,
}

/// Where the model of a case comes from.
pub enum Source {
    /// Random weights.
    Random {
        /// Sizes.
        config: ModelConfig,
        /// Codec of the projections.
        codec: Simple,
    },
    /// A model that answers every prompt with the same tool call.
    Script,
    /// The same in a file that lists its tool.
    Tools,
    /// A model that answers every prompt with the same thought and text.
    Thinking,
    /// A file of this repository, by its path from the root.
    File(&'static str),
}

/// A line of `golden.tsv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Name of the case and its file.
    pub name: String,
    /// Ids read.
    pub prompt: Vec<u16>,
    /// Seed of the sampler; `None` is greedy.
    pub seed: Option<u64>,
    /// Ids generated.
    pub generated: Vec<u16>,
    /// CRC-32 of what every step gave, see [`replay`].
    pub crc: u32,
}

/// Folder of the golden files.
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden"))
}

/// The smallest model that has everything but recursion and memory.
fn plain() -> ModelConfig {
    ModelConfig {
        vocab: 272,
        dim: 20,
        layers: 2,
        heads: 2,
        kv_heads: 2,
        head_dim: 10,
        ffn: 36,
        activation: Activation::SwiGlu,
        window: 64,
        rope_log2_theta: 13.287_712,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: false,
        recursion: 1,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// Memory in one block of two, three recursions, halting: tokens stop at different depths.
fn full() -> ModelConfig {
    ModelConfig { recursion: 3, halting: true, mem_dim: 20, mem_gate: 8, mem_layers: 0b10, ..plain() }
}

/// Query heads that share key/value heads, the other activation, no gains.
fn grouped() -> ModelConfig {
    ModelConfig {
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        activation: Activation::Relu2,
        norm_gain: false,
        ..full()
    }
}

/// Several panels of each matrix, heads that two threads can share, a window that is no multiple of 16.
fn wide() -> ModelConfig {
    ModelConfig {
        dim: 72,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 112,
        mem_dim: 37,
        mem_gate: 21,
        window: 23,
        ..full()
    }
}

/// Every case, in the order of the file.
pub fn recipes() -> Vec<Recipe> {
    use Simple::{F16, F32, Int8Row, Ternary2b, Ternary5x8, TernaryRans, TernarySparse};
    let random = |name, codec, config| Recipe {
        name,
        source: Source::Random { config, codec },
        prompt: 12,
        generated: 12,
        sampled: None,
    };
    let tied = || ModelConfig { tied: true, ..plain() };
    let memory = ModelConfig { mem_dim: 20, mem_gate: 8, mem_layers: 0b11, ..plain() };
    let grouped = grouped();
    let int8 = |config| ModelConfig { cache: CacheKind::Int8, ..config };
    // More than are kept leave the window.
    let globals = |every, rows, config| ModelConfig { globals: Globals { every, rows }, ..config };
    let titans = |config| ModelConfig { memory: MemoryKind::Titans, ..config };
    let wide = wide();
    // Read and write well past the window.
    let long = |recipe| Recipe { prompt: 30, generated: 30, ..recipe };
    let short = |config| ModelConfig { window: 8, ..config };
    let searched = Source::File("formats/tests/golden/v1_0/searched.forge");
    vec![
        random("f32", F32, plain()),
        random("f16", F16, tied()),
        random("int8", Int8Row, tied()),
        random("ternary2b", Ternary2b, plain()),
        random("ternary5x8", Ternary5x8, plain()),
        random("recursion", Ternary2b, ModelConfig { recursion: 3, ..plain() }),
        random("halting", Ternary2b, ModelConfig { recursion: 3, halting: true, ..plain() }),
        random("memory", Ternary2b, memory.clone()),
        random("full", Ternary5x8, full()),
        random("rans", TernaryRans, plain()),
        random("sparse", TernarySparse, full()),
        random("full_f16", F16, full()),
        random("grouped", Ternary2b, grouped.clone()),
        Recipe {
            prompt: 20,
            generated: 20,
            ..random("window", Ternary5x8, ModelConfig { window: 8, ..full() })
        },
        Recipe { sampled: Some(7), generated: 40, ..random("sampled", Ternary2b, full()) },
        Recipe { source: searched, ..random("searched", F32, plain()) },
        Recipe { source: Source::Script, ..random("call", F32, plain()) },
        Recipe { source: Source::Tools, ..random("tools", F32, plain()) },
        long(random("wide", Ternary2b, wide.clone())),
        Recipe { sampled: Some(3), ..long(random("wide5x8", Ternary5x8, wide.clone())) },
        long(random("wide_cache", Ternary2b, int8(wide.clone()))),
        long(random("cache_f32", F32, short(int8(plain())))),
        Recipe { sampled: Some(5), ..long(random("cache_f16", F16, short(int8(full())))) },
        long(random("cache_int8", Int8Row, short(int8(grouped)))),
        long(random("cache_ternary2b", Ternary2b, int8(ModelConfig { recursion: 2, ..short(plain()) }))),
        long(random("cache_ternary5x8", Ternary5x8, short(int8(memory)))),
        long(random("full_int8", Int8Row, short(full()))),
        long(random("wide_rans", TernaryRans, wide.clone())),
        Recipe { sampled: Some(9), ..long(random("wide_sparse", TernarySparse, int8(wide.clone()))) },
        long(random("titans", Ternary2b, short(titans(full())))),
        long(random("wide_titans", Ternary5x8, titans(wide.clone()))),
        Recipe { source: Source::Thinking, ..random("thinking", F32, plain()) },
        long(random("globals", Ternary2b, globals(4, 3, short(full())))),
        long(random("wide_globals", Ternary5x8, globals(2, 9, int8(wide.clone())))),
    ]
}

impl Recipe {
    /// The model's file.
    ///
    /// # Panics
    /// When a file it comes from is missing.
    pub fn file(&self) -> Vec<u8> {
        match &self.source {
            Source::Random { config, codec } => random_model(config, 1, *codec),
            Source::Script => script::file(),
            Source::Tools => script::file_with_tools(),
            Source::Thinking => script::thinking_file(),
            Source::File(path) => {
                let path = folder().join("../..").join(path);
                std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            }
        }
    }

    /// The case as this machine computes it. The prompt's ids are drawn from those of ordinary tokens.
    ///
    /// # Panics
    /// When the file is not a model.
    pub fn case(&self, file: &[u8]) -> Case {
        let model = Model::parse(file).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let specials = model.file().tokenizer().special_count();
        let ordinary = model.config().vocab as usize - usize::from(specials);
        let mut noise = Noise(0x5eed);
        let prompt = (0..self.prompt).map(|_| specials + noise.below(ordinary) as u16).collect();
        run(self.name, file, prompt, self.sampled, self.generated)
    }
}

/// Replays a file.
///
/// # Panics
/// When it is not a model, or a token is outside its vocabulary.
pub fn run(name: &str, file: &[u8], prompt: Vec<u16>, seed: Option<u64>, generated: usize) -> Case {
    let model = Model::parse(file).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut memory = vec![0u32; model.workspace().div_ceil(4)];
    let mut out = vec![0; generated];
    let crc = replay(&model, bytemuck::cast_slice_mut(&mut memory), &prompt, seed, &mut out)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    Case { name: name.to_owned(), prompt, seed, generated: out, crc }
}

impl Case {
    /// The case's line, without its end.
    pub fn to_line(&self) -> String {
        let ids = |ids: &[u16]| ids.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let seed = self.seed.map_or("-".to_owned(), |s| s.to_string());
        let (prompt, generated) = (ids(&self.prompt), ids(&self.generated));
        format!("{}\t{prompt}\t{seed}\t{generated}\t{:08x}", self.name, self.crc)
    }

    /// Reads a line; `None` when it is malformed.
    pub fn from_line(line: &str) -> Option<Self> {
        let ids = |text: &str| text.split(',').map(|id| id.parse().ok()).collect::<Option<Vec<u16>>>();
        let [name, prompt, seed, generated, crc] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        let seed = if seed == "-" { None } else { Some(seed.parse().ok()?) };
        let crc = u32::from_str_radix(crc, 16).ok()?;
        Some(Self { name: name.to_owned(), prompt: ids(prompt)?, seed, generated: ids(generated)?, crc })
    }
}
