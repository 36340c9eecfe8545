//! The trainer's forward pass against `forge-runtime` executing the emitted file.

use forge_formats::codec::Codec;
use forge_formats::codec::encode::{Simple, encode};
use forge_formats::role::RoleKind;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec};
use forge_formats::write::Writer;
use forge_runtime::{Model, Session};

use super::*;
use crate::nn::{ForwardOptions, Precision};

/// A tokenizer table of `vocab` tokens; its text does not matter here.
fn table(vocab: u32) -> Vec<u8> {
    let specials = vec![(SpecialKind::Control, "<bos>".to_string())];
    let merges = (0..vocab as u16 - 257).map(|i| (1 + i, 2 + i)).collect();
    TokenizerSpec { specials, merges, ..TokenizerSpec::default() }.to_bytes().unwrap()
}

fn file(weights: &Weights, precision: Precision) -> Vec<u8> {
    let mut writer = Writer::new(weights.config.clone()).tokenizer(table(weights.config.vocab));
    for (&(role, layer), m) in &weights.tensors {
        let simple = match (role.kind(), precision == Precision::TERNARY) {
            (RoleKind::Projection, true) if layer == 0 => Simple::Ternary2b,
            (RoleKind::Projection, true) => Simple::Ternary5x8,
            (RoleKind::Table, true) => Simple::Int8Row,
            _ => Simple::F32,
        };
        writer = writer.tensor(role, layer, Codec::from(simple), encode(simple, m.rows, m.cols, &m.data));
    }
    writer.finish().unwrap()
}

/// Logits of every position, and recursions each token took, by the runtime.
fn execute(bytes: &[u8], ids: &[u32]) -> (Vec<f32>, Vec<u32>) {
    let model = Model::parse(bytes).unwrap();
    let mut memory = vec![0u32; model.workspace().div_ceil(4)];
    let mut session = Session::new(&model, bytemuck::cast_slice_mut(&mut memory)).unwrap();
    let (mut logits, mut depths) = (Vec::new(), Vec::new());
    for id in ids {
        logits.extend_from_slice(session.step(*id as u16).unwrap());
        depths.push(session.recursions());
    }
    (logits, depths)
}

struct Agreement {
    /// Largest difference of a logit, relative to the largest logit.
    error: f32,
    /// Positions whose largest logit is the same token, of all.
    greedy: (usize, usize),
    /// Different recursion depths among the tokens.
    depths: usize,
}

fn agreement(config: &ModelConfig, precision: Precision, seed: u64) -> Agreement {
    let weights = weights(config, seed);
    let net = Network::new(&weights, precision, &Device::Cpu).unwrap().detached();
    let length = 24;
    let (batch, plain) = ids(config, 1, length, seed);
    let forward = net.forward(&batch, ForwardOptions { halting: true, ..Default::default() }).unwrap();
    let trained = net.logits(forward.answer()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (executed, depths) = execute(&file(&weights, precision), &plain);
    assert_eq!(forward.depths, depths, "tokens recurse differently, seed {seed}");
    let size = executed.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let error = trained.iter().zip(&executed).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / size;
    let vocab = config.vocab as usize;
    let best = |row: &[f32]| (0..vocab).fold(0, |b, i| if row[i] > row[b] { i } else { b });
    let pairs = trained.chunks(vocab).zip(executed.chunks(vocab));
    let same = pairs.filter(|(a, b)| best(a) == best(b)).count();
    let mut depths = depths;
    depths.sort_unstable();
    depths.dedup();
    Agreement { error, greedy: (same, length), depths: depths.len() }
}

/// Shapes with one to three recursions, memory, halting, both activations, tied and untied heads.
fn shapes() -> Vec<ModelConfig> {
    let base = ModelConfig { vocab: 300, halt_threshold: 0.12, ..small() };
    vec![
        ModelConfig { recursion: 1, halting: false, mem_dim: 0, mem_layers: 0, ..base.clone() },
        ModelConfig { recursion: 2, halting: false, tied: true, ..base.clone() },
        ModelConfig { activation: Activation::Relu2, norm_gain: false, ..base.clone() },
        ModelConfig { recursion: 2, window: 64, mem_layers: 0b11, ..base.clone() },
        ModelConfig { mem_layers: 0b11, memory: MemoryKind::Titans, ..base.clone() },
        ModelConfig { mem_dim: 21, memory: MemoryKind::Titans, ..base.clone() },
        ModelConfig { window: 4, globals: Globals { every: 3, rows: 2 }, ..base.clone() },
        ModelConfig { window: 3, globals: Globals { every: 2, rows: 20 }, ..base.clone() },
        ModelConfig { halt_threshold: 0.12, ..nano() },
        ModelConfig { recursion: 3, halting: true, halt_threshold: 0.12, ..nano() },
        base,
    ]
}

/// Largest error over all shapes and seeds, and the share of equal greedy tokens.
fn survey(precision: Precision) -> (f32, f64) {
    let (mut worst, mut same, mut all, mut depths) = (0.0f32, 0, 0, 0);
    for config in &shapes() {
        for seed in 0..6 {
            let a = agreement(config, precision, seed);
            worst = worst.max(a.error);
            same += a.greedy.0;
            all += a.greedy.1;
            depths = depths.max(a.depths);
        }
    }
    assert_eq!(depths, 3, "halting is exercised at every depth");
    (worst, same as f64 / all as f64)
}

#[test]
fn float_forward_agrees_with_the_runtime() {
    let (worst, same) = survey(Precision::FLOAT);
    println!("float: largest error {worst:.2e}, same greedy tokens {same:.4}");
    assert!(worst < 1e-5, "{worst:.2e}");
    assert!(same > 0.999);
}

/// Integer sums are exact and everything else is done in the runtime's order: not a bit may differ.
#[test]
fn ternary_forward_is_the_runtimes_to_the_last_bit() {
    let (worst, same) = survey(Precision::TERNARY);
    assert_eq!((worst, same), (0.0, 1.0));
}

/// The runtime's greedy continuation of a prompt, token by token.
fn continue_greedily(bytes: &[u8], prompt: &[u32], new: usize) -> Vec<u32> {
    let model = Model::parse(bytes).unwrap();
    let mut memory = vec![0u32; model.workspace().div_ceil(4)];
    let mut session = Session::new(&model, bytemuck::cast_slice_mut(&mut memory)).unwrap();
    let mut ids = prompt.to_vec();
    for i in 0..prompt.len() + new - 1 {
        let best = argmax(session.step(ids[i] as u16).unwrap());
        if i + 1 >= prompt.len() {
            ids.push(best);
        }
    }
    ids
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b }) as u32
}

#[test]
fn greedy_tokens_are_equal_on_a_thousand_prompts() {
    const NEW: usize = 8;
    let config = ModelConfig { halt_threshold: 0.12, ..nano() };
    let weights = weights(&config, 3);
    let bytes = file(&weights, Precision::TERNARY);
    let net = Network::new(&weights, Precision::TERNARY, &Device::Cpu).unwrap().detached();
    let (mut compared, mut different) = (0, 0);
    for prompt in 0..1000u64 {
        let (_, plain) = ids(&config, 1, 4 + prompt as usize % 13, 1000 + prompt);
        let written = continue_greedily(&bytes, &plain, NEW);
        let batch = Tensor::from_slice(&written, (1, written.len()), &Device::Cpu).unwrap();
        let forward = net.forward(&batch, ForwardOptions { halting: true, ..Default::default() }).unwrap();
        let logits = net.logits(forward.answer()).unwrap().to_vec2::<f32>().unwrap();
        for at in plain.len()..written.len() {
            compared += 1;
            different += usize::from(argmax(&logits[at - 1]) != written[at]);
        }
    }
    assert_eq!((compared, different), (1000 * NEW, 0));
}

/// The comparison sees global positions: a trainer without them, or with others, differs from the runtime once they
/// are beyond the window.
#[test]
fn a_trainer_without_globals_does_not_agree() {
    let globals = Globals { every: 2, rows: 3 };
    let with = ModelConfig { window: 4, globals, ..shapes()[0].clone() };
    let weights = weights(&with, 1);
    let (batch, plain) = ids(&with, 1, 12, 1);
    let (executed, _) = execute(&file(&weights, Precision::TERNARY), &plain);
    // Position 2, the second of these and none of those of distance 3, is beyond the window from 6 on.
    for (every, agree) in [(2, 12), (0, 4), (3, 6)] {
        let globals = if every == 0 { Globals::default() } else { Globals { every, ..globals } };
        let config = ModelConfig { globals, ..with.clone() };
        let net =
            Network::new(&Weights { config, ..weights.clone() }, Precision::TERNARY, &Device::Cpu).unwrap();
        let forward = net.forward(&batch, ForwardOptions::default()).unwrap();
        let logits = net.logits(forward.answer()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let same = |row: usize| {
            let row = row * with.vocab as usize..(row + 1) * with.vocab as usize;
            logits[row.clone()].iter().zip(&executed[row]).all(|(a, b)| (a - b).abs() < 1e-4)
        };
        assert!((0..agree).all(same) && !(agree..12).any(same), "every {every}");
    }
}

#[test]
fn another_precision_does_not_agree() {
    let config = &shapes()[1];
    let weights = weights(config, 1);
    let (batch, plain) = ids(config, 1, 8, 1);
    let net = Network::new(&weights, Precision::FLOAT, &Device::Cpu).unwrap();
    let forward = net.forward(&batch, ForwardOptions::default()).unwrap();
    let float = net.logits(forward.answer()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (ternary, _) = execute(&file(&weights, Precision::TERNARY), &plain);
    let size = ternary.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let error = float.iter().zip(&ternary).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / size;
    assert!(error > 0.05, "the comparison could not tell precisions apart: {error:.2e}");
}
