//! Models made by hand that answer every prompt the same, with one tool call or with a thought and a text, so that tests
//! of what comes out of a model know what must come out.
//!
//! Every projection is zero, so the stack passes the embedding through. The embedding of token `i` of the script is
//! the unit vector `i`, and the head's row of token `i + 1` is that vector too: each token leads to the next. A token
//! may therefore occur only once.

use forge_formats::codec::encode::{Simple, encode};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};
use forge_formats::tokenizer::{SpecialKind, TokenizerTable};
use forge_formats::tools::{SlotSpec, ToolSpec, ValueSpec, to_bytes};
use forge_formats::write::Writer;
use forge_formats::{File, ModelConfig, Role};
use forge_runtime::testing::random_tokenizer;

/// The call it makes, as text.
pub const CALL: &str = r#"{"tool":"set_light","args":{"room":"salon","level":"20"}}"#;

/// The call it makes when it is held to the tools of [`file_with_tools`]: its room is one of theirs, its level is out of
/// their range after the first digit.
pub const HELD_CALL: &str = r#"{"tool":"set_light","args":{"room":"salon","level":"2"}}"#;

/// What the model of [`thinking_file`] thinks.
pub const THOUGHT: &str = "12+3";

/// What it says then.
pub const THOUGHT_ABOUT: &str = "45";

/// What it says at once, when it may not think.
pub const AT_ONCE: &str = "5";

const VOCAB: u32 = 268;
const DIM: u32 = 16;

/// `<sep>` and what follows it.
fn script(table: &TokenizerTable<'_>) -> Vec<u16> {
    let special = |kind, name| table.special(kind, name).expect("a name of the tokenizer");
    let bytes = |text: &str| text.bytes().map(|b| table.byte_id(b)).collect::<Vec<_>>();
    let mut out = vec![special(SpecialKind::Control, "<sep>"), special(SpecialKind::Tool, "set_light")];
    out.push(special(SpecialKind::Slot, "room"));
    out.extend(bytes(" salon"));
    out.push(special(SpecialKind::Slot, "level"));
    out.extend(bytes("20"));
    out.push(special(SpecialKind::Control, "<eos>"));
    out
}

/// `<sep>` and what follows it, of the model that thinks.
fn thinking_script(table: &TokenizerTable<'_>) -> Vec<u16> {
    let control = |name| table.special(SpecialKind::Control, name).expect("a name of the tokenizer");
    let bytes = |text: &str| text.bytes().map(|b| table.byte_id(b)).collect::<Vec<_>>();
    let (thought, answer) = (bytes(THOUGHT), bytes(&format!(" {THOUGHT_ABOUT}")));
    let (before, between) = ([control("<sep>"), control("<think>")], [control("</think>")]);
    [&before[..], &thought, &between, &answer, &[control("<eos>")]].concat()
}

/// The file of the model that calls a tool.
///
/// # Panics
/// When the tokenizer of [`forge_runtime::testing`] no longer has the names the script is made of.
pub fn file() -> Vec<u8> {
    let tokenizer = random_tokenizer(VOCAB, 1);
    let script = script(&TokenizerTable::parse(&tokenizer).expect("a valid table"));
    written(tokenizer, &script, &[], r#"{"name":"script","note":"made by hand"}"#)
}

/// The file of the model that thinks: `<think>12+3</think> 45`, or `5` where it may not.
///
/// # Panics
/// As [`file`].
pub fn thinking_file() -> Vec<u8> {
    let tokenizer = random_tokenizer(VOCAB, 1);
    let table = TokenizerTable::parse(&tokenizer).expect("a valid table");
    let script = thinking_script(&table);
    let at_once = AT_ONCE.bytes().map(|b| table.byte_id(b)).collect::<Vec<_>>();
    let card = r#"{"name":"thinking script","note":"made by hand"}"#;
    written(tokenizer, &script, &at_once, card)
}

/// A file of the model in which each token of a script leads to the next, and the first, half as much, to others.
fn written(tokenizer: Vec<u8>, script: &[u16], others: &[u16], card: &str) -> Vec<u8> {
    let config = ModelConfig {
        vocab: VOCAB,
        dim: DIM,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        ffn: 1,
        activation: Activation::SwiGlu,
        window: 4,
        rope_log2_theta: 13.287_712,
        norm_eps: 1e-5,
        norm_gain: false,
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
    };
    let mut writer = Writer::new(config.clone());
    for (role, layer, [rows, cols]) in config.tensors() {
        let (rows, cols) = (rows as usize, cols as usize);
        let mut weights = vec![if role == Role::FinalNorm { 1.0 } else { 0.0 }; rows * cols];
        for (i, pair) in script.windows(2).enumerate() {
            match role {
                Role::Embedding => weights[usize::from(pair[0]) * cols + i] = 1.0,
                Role::Head => weights[usize::from(pair[1]) * cols + i] = 1.0,
                _ => {}
            }
        }
        if role == Role::Head {
            others.iter().for_each(|other| weights[usize::from(*other) * cols] = 0.5);
        }
        let codec = if rows == 1 { Simple::F32 } else { Simple::Int8Row };
        writer = writer.tensor(role, layer, codec.into(), encode(codec, rows, cols, &weights));
    }
    writer.tokenizer(tokenizer).card(card).finish().expect("a valid model")
}

/// The same model in a file that lists its tool: the room is `attic` or `salon`, the level 0 to 9.
///
/// # Panics
/// As [`file`].
pub fn file_with_tools() -> Vec<u8> {
    let bytes = file();
    let file = File::parse(&bytes).expect("a valid model");
    let table = file.tokenizer();
    let id = |kind, name| table.special(kind, name).expect("a name of the tokenizer");
    let slot = |name, value| {
        let token = id(SpecialKind::Slot, name);
        SlotSpec { token, required: true, repeatable: false, value }
    };
    let rooms = ValueSpec::Choice(["attic", "salon"].map(String::from).into());
    let slots = vec![slot("room", rooms), slot("level", ValueSpec::Integer { min: 0, max: 9 })];
    let tools = [ToolSpec { token: id(SpecialKind::Tool, "set_light"), slots }];
    let tools = to_bytes(&tools, &table).expect("a valid table");
    Writer::from_file(&file).tools(tools).finish().expect("a valid model")
}
