//! A model of the fuzzer's choice, damaged, and run.

use std::cell::RefCell;

use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams, payload_len};
use forge_formats::config::Activation;
use forge_formats::role::RoleKind;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec};
use forge_formats::write::Writer;
use forge_runtime::{Error, Model, ModelConfig, Sampler, Session};

use crate::input::Input;
use crate::payload::make_valid;
use crate::seal;

/// The largest workspace a damaged model may ask for and still be run.
const MEMORY: usize = 1 << 20;

thread_local! {
    static WORDS: RefCell<Vec<u64>> = RefCell::new(vec![0x5555_5555_5555_5555; MEMORY / 8]);
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
    let need = model.workspace();
    if need > MEMORY {
        return true;
    }
    WORDS.with_borrow_mut(|words| {
        let config = model.config();
        let vocab = config.vocab;
        let token = |n: u16| (u32::from(n) % vocab) as u16;
        let (first, second) = (token(input.u16()), token(input.u16()));
        // What an earlier input has left in the memory must not matter.
        let memory = &mut bytemuck::cast_slice_mut::<u64, u8>(words)[..need];
        let mut session = Session::new(&model, memory).expect("as much memory as it asked for");
        let before = digest(session.step(first).expect("a token of the vocabulary"));
        let logits = session.step_mut(second).expect("a token of the vocabulary");
        assert_eq!(logits.len(), vocab as usize);
        // These two cost more than all the rest.
        let extras = input.byte();
        if extras & 7 == 1 {
            let mut sampler = Sampler::new(input.f32(), u64::from(input.u16()));
            (sampler.top_p, sampler.min_p, sampler.repetition_penalty) =
                (input.f32(), input.f32(), input.f32());
            sampler.top_k = u32::from(input.byte());
            assert!(u32::from(sampler.sample(logits, &[first, second])) < vocab);
        }
        assert_eq!(session.position(), 2);
        assert!((1..=config.recursion).contains(&session.recursions()));
        if let Ok(outside) = u16::try_from(vocab) {
            assert_eq!(session.feed(outside), Err(Error::Token(outside)));
        }
        if extras & 0x70 == 0x10 {
            session.reset();
            assert_eq!(
                digest(session.step(first).expect("a token of the vocabulary")),
                before,
                "a reset is not complete"
            );
        }
    });
    true
}

/// A hash of the logits' bits.
fn digest(logits: &[f32]) -> u64 {
    logits.iter().fold(0, |hash: u64, l| (hash ^ u64::from(l.to_bits())).wrapping_mul(0x0100_0000_01B3))
}

/// A model that is valid, whatever the input.
fn write(input: &mut Input<'_>) -> Vec<u8> {
    let mut specials = Vec::new();
    let names = ["<bos>", "<eos>", "<sep>"].into_iter().take(input.below(4));
    specials.extend(names.map(|name| (SpecialKind::Control, name.to_owned())));
    let first = specials.len() as u16;
    // Each of these joins a byte and the next.
    let merges = (0..input.below(4) as u16).map(|i| (first + 3 * i, first + 3 * i + 1)).collect();
    let tokenizer = TokenizerSpec { specials, merges };
    let vocab = tokenizer.specials.len() + 256 + tokenizer.merges.len();
    let config = config(input, vocab as u32);
    let mut writer = Writer::new(config.clone());
    for (role, layer, shape) in config.tensors() {
        let codec = codec(input, role.kind());
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
        writer = writer.card("{}").extra(u32::from(input.byte()), [1, 2, 3]);
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
    use Codec::{F16, F32, Int8Row, Ternary2b, Ternary5x8};
    let all = [F32, F16, Int8Row, seedlm, vptq, hyper, Ternary2b, Ternary5x8];
    let allowed = match kind {
        RoleKind::Vector => 2,
        RoleKind::Table => 6,
        RoleKind::Projection => 8,
    };
    all[input.below(allowed)]
}
