//! A model of the fuzzer's choice, damaged, and run.

use std::cell::RefCell;

use forge_formats::codec::encode::Simple;
use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams, payload_len};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};
use forge_formats::header::crc32;
use forge_formats::role::RoleKind;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec};
use forge_formats::write::Writer;
use forge_runtime::{Batch, Error, Kernels, Model, ModelConfig, Options, Sampler, Session};

use crate::codecs::trits;
use crate::input::Input;
use crate::payload::make_valid;
use crate::seal;

/// The largest workspace a damaged model may ask for and still be run.
const MEMORY: usize = 1 << 20;

thread_local! {
    // What an input has left here must not matter to the next.
    static MEMORIES: RefCell<[Vec<u64>; 3]> =
        RefCell::new([(); 3].map(|()| vec![0x5555_5555_5555_5555; MEMORY / 8]));
}

/// Writes a model, runs it, changes up to three bytes, makes the checksums right, and runs it again if it still
/// parses. Serves P1 and P2.
pub fn structured(data: &[u8]) {
    // What is done to the model and with it, then the model.
    let (front, rest) = data.split_at(data.len().min(32));
    let mut input = Input::new(front);
    let flips = [(); 3].map(|()| (input.byte(), input.u16(), input.byte()));
    let mut file = model(rest);
    let mut changed = false;
    for (area, at, flip) in flips {
        // The header and the manifest are small; half of the changes are theirs.
        let end = if area & 1 == 0 { file.len() } else { file.len().min(512) };
        file[usize::from(at) % end] ^= flip;
        changed |= flip != 0;
    }
    seal::checksums(&mut file);
    assert!(run(&file, &mut input) || changed, "a valid model is refused");
}

/// The valid model that the bytes decide for.
pub fn model(data: &[u8]) -> Vec<u8> {
    write(&mut Input::new(data))
}

/// Runs two tokens of a file if it parses; returns whether it does.
fn run(file: &[u8], input: &mut Input<'_>) -> bool {
    let Ok(model) = Model::parse(file) else { return false };
    let config = model.config();
    let kernels = Kernels::all().nth(input.below(4)).unwrap_or(Kernels::best());
    let options = Options::default().kernels(kernels).block(input.below(4));
    let token = |n: u16| (u32::from(n) % config.vocab) as u16;
    let tokens = [token(input.u16()), token(input.u16())];
    let device = Options::device();
    let most = [model.workspace_for(&device), model.batch_workspace(&options, 2), model.prepared_bytes()];
    if most.iter().any(|need| *need > MEMORY) {
        return true;
    }
    MEMORIES.with_borrow_mut(|memories| {
        let [first, second, third] =
            memories.each_mut().map(|words| bytemuck::cast_slice_mut::<u64, u8>(words));
        let session = Session::with(&model, &device, &mut first[..most[0]]);
        let mut session = session.expect("as much memory as it asked for");
        let before = digest(session.step(tokens[0]).expect("a token of the vocabulary"));
        let mut snapshot = [0; 1 << 14];
        let snapshot = session.snapshot(&mut snapshot).ok().map(|len| &mut snapshot[..len]);
        let after = digest(session.step(tokens[1]).expect("a token of the vocabulary"));
        assert_eq!(session.position(), 2);
        assert!((1..=config.recursion).contains(&session.recursions()));
        if let Ok(outside) = u16::try_from(config.vocab) {
            assert_eq!(session.feed(outside), Err(Error::Token(outside)));
        }
        // Each of these costs as much as all of the above, so an input has one of them.
        match input.below(8) {
            0 => {
                session.reset();
                let again = digest(session.step(tokens[0]).expect("a token of the vocabulary"));
                assert_eq!(again, before, "a reset is not complete");
            }
            1 => sample(session.step_mut(tokens[0]).expect("a token of the vocabulary"), &tokens, input),
            2 => restore(&mut session, snapshot, tokens[1], after, input),
            3 => {
                let batch = Batch::new(&model, &options, 2, &mut second[..most[1]]);
                let mut batch = batch.expect("as much memory as it asked for");
                batch.prefill(1, &tokens[..1]).expect("a token of the vocabulary");
                batch.step(&[(0, tokens[0]), (1, tokens[1])]).expect("tokens of the vocabulary");
                assert_eq!((digest(batch.logits_mut(0)), digest(batch.logits_mut(1))), (before, after));
            }
            way @ 4..6 => {
                let mut options = options;
                if way == 4 {
                    let prepared = model.prepare(&mut third[..most[2]]);
                    options = options.prepared(prepared.expect("as much memory as it asked for"));
                }
                let need = model.workspace_for(&options);
                let mut other = Session::with(&model, &options, &mut second[..need]).expect("enough memory");
                let logits = other.extend(&tokens).expect("tokens of the vocabulary");
                assert_eq!(digest(logits), after, "{options:?} gives other logits");
            }
            _ => {}
        }
    });
    true
}

/// Any sampler gives a token of the vocabulary.
fn sample(logits: &mut [f32], recent: &[u16], input: &mut Input<'_>) {
    let vocab = logits.len();
    let mut sampler = Sampler::new(input.f32(), u64::from(input.u16()));
    (sampler.top_p, sampler.min_p, sampler.repetition_penalty) = (input.f32(), input.f32(), input.f32());
    sampler.top_k = u32::from(input.byte());
    assert!(usize::from(sampler.sample(logits, recent)) < vocab);
}

/// A snapshot continues where it was taken; a damaged one is refused, or with a right checksum continues somewhere.
fn restore(
    session: &mut Session<'_>,
    snapshot: Option<&mut [u8]>,
    token: u16,
    after: u64,
    input: &mut Input<'_>,
) {
    let Some(snapshot) = snapshot else { return };
    session.restore(snapshot).expect("a snapshot of this very session");
    assert_eq!(
        digest(session.step(token).expect("a token of the vocabulary")),
        after,
        "it goes on elsewhere"
    );
    let (at, flip) = (usize::from(input.u16()) % snapshot.len(), input.byte());
    snapshot[at] ^= flip;
    assert_eq!(session.restore(snapshot).is_ok(), flip == 0);
    let crc = crc32(&snapshot[8..]);
    snapshot[4..8].copy_from_slice(&crc.to_le_bytes());
    let restored = session.restore(snapshot).is_ok();
    assert!(restored || session.position() == 0);
    let stepped = session.step(token);
    assert!(stepped.is_ok() || stepped == Err(Error::Length));
}

/// A hash of the logits' bits. Which not-a-number one is is no part of the definition.
fn digest(logits: &[f32]) -> u64 {
    let bits = |l: &f32| if l.is_nan() { f32::NAN.to_bits() } else { l.to_bits() };
    logits.iter().fold(0, |hash: u64, l| (hash ^ u64::from(bits(l))).wrapping_mul(0x0100_0000_01B3))
}

/// A model that is valid, whatever the input.
fn write(input: &mut Input<'_>) -> Vec<u8> {
    let mut specials = Vec::new();
    let names = ["<bos>", "<eos>", "<sep>"].into_iter().take(input.below(4));
    specials.extend(names.map(|name| (SpecialKind::Control, name.to_owned())));
    let first = specials.len() as u16;
    // Each of these joins a byte and the next.
    let merges = (0..input.below(4) as u16).map(|i| (first + 3 * i, first + 3 * i + 1)).collect();
    let tokenizer = TokenizerSpec { specials, merges, ..TokenizerSpec::default() };
    let vocab = tokenizer.specials.len() + 256 + tokenizer.merges.len();
    let config = config(input, vocab as u32);
    let mut writer = Writer::new(config.clone());
    for (role, layer, shape) in config.tensors() {
        let codec = codec(input, role.kind());
        if let Codec::TernaryRans | Codec::TernarySparse = codec {
            let simple =
                if codec == Codec::TernaryRans { Simple::TernaryRans } else { Simple::TernarySparse };
            writer = writer.tensor(role, layer, codec, trits(input, simple, shape, 12));
            continue;
        }
        let len = payload_len(&codec, shape).expect("the parameters are in range");
        let mut payload = vec![0; len as usize];
        match input.byte() & 3 {
            0 => {}
            1 => payload.fill(0xFF),
            _ => input.clone().fill(&mut payload),
        }
        make_valid(&codec, shape, &mut payload);
        writer = writer.tensor(role, layer, codec, payload);
    }
    if input.byte() & 1 == 1 {
        // Tag 1 would be a tool table.
        writer = writer.card("{}").extra(2 + u32::from(input.byte()), [1, 2, 3]);
    }
    writer.tokenizer(tokenizer.to_bytes().expect("a valid table")).finish().expect("a valid model")
}

/// Every option, in the smallest sizes at which it differs from the others.
fn config(input: &mut Input<'_>, vocab: u32) -> ModelConfig {
    let flags = input.byte();
    let flag = |bit: u8| flags >> bit & 1 == 1;
    let layers = input.from(1, 2);
    let kv_heads = input.from(1, 2);
    let within =
        |x: f32, low: f32, high: f32, otherwise: f32| if (low..=high).contains(&x) { x } else { otherwise };
    ModelConfig {
        vocab,
        dim: input.from(1, 4),
        layers,
        heads: kv_heads * input.from(1, 2),
        kv_heads,
        head_dim: 2 * input.from(1, 3),
        ffn: input.from(1, 8),
        activation: if flag(0) { Activation::SwiGlu } else { Activation::Relu2 },
        window: input.from(1, 4),
        rope_log2_theta: within(input.f32(), 0.0, 64.0, 13.0),
        norm_eps: within(input.f32(), f32::from_bits(1), 0.99, 1e-5),
        norm_gain: flag(1),
        tied: flag(2),
        recursion: input.from(1, 3),
        halting: flag(3),
        halt_threshold: within(input.f32(), f32::MIN, f32::MAX, 0.5),
        mem_dim: if flag(4) { input.from(1, 5) } else { 0 },
        mem_gate: if flag(4) { input.from(1, 5) } else { 0 },
        mem_layers: if flag(4) { input.below(1 << layers) as u64 } else { 0 },
        cache: if flag(5) { CacheKind::Int8 } else { CacheKind::F32 },
        memory: if flag(6) { MemoryKind::Titans } else { MemoryKind::Ema },
        globals: if flag(7) { Globals { every: input.from(2, 4), rows: input.from(1, 3) } } else { Globals::default() },
    }
}

/// A codec that the kind of tensor allows, with parameters in range.
fn codec(input: &mut Input<'_>, kind: RoleKind) -> Codec {
    let searched = [
        Codec::SeedLm(SeedLmParams {
            block: 4,
            coeffs: 2,
            bits: 8,
            exponent: input.byte().cast_signed() % 101,
        }),
        Codec::Vptq(VptqParams { dim: 2, index_bits: 4, residual_bits: input.byte() % 3 }),
        Codec::Hyper(HyperParams { nodes: u16::from(input.byte()) + 1, rings: input.byte() % 17 }),
    ];
    let [seedlm, vptq, hyper] = searched;
    use Codec::{F16, F32, Int8Row, Ternary2b, Ternary5x8, TernaryRans, TernarySparse};
    let all = [F32, F16, Int8Row, seedlm, vptq, hyper, Ternary2b, Ternary5x8, TernaryRans, TernarySparse];
    let allowed = match kind {
        RoleKind::Vector => 2,
        RoleKind::Table => 6,
        RoleKind::Projection => 10,
    };
    all[input.below(allowed)]
}
