//! Random models for tests and benches of this and other crates.

use alloc::string::String;
use alloc::vec::Vec;

use forge_formats::codec::Codec;
use forge_formats::codec::encode::{Simple, encode};
use forge_formats::role::RoleKind;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec};
use forge_formats::write::Writer;
use forge_formats::{ModelConfig, Role};

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
    TokenizerSpec { specials, merges }.to_bytes().expect("the tokenizer is valid")
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
