//! Emission: parameters to the bytes of a `.forge` file.

use forge_formats::codec::Codec;
use forge_formats::role::RoleKind;
use forge_formats::write::Writer;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::codec::{self, Metric};
use crate::data::{ToolSchema, schema};
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use crate::weights::{Key, Weights};

/// What a file tells people and tools about itself; stored as JSON in the card section.
#[derive(Clone, Debug, Serialize)]
pub struct Card {
    /// Version of this program.
    pub forge: &'static str,
    /// Phase that emitted the file.
    pub phase: String,
    /// The phases before it: name and hash of the artifact each handed on, first to last.
    pub chain: Vec<(String, String)>,
    /// Seed of the run.
    pub seed: u64,
    /// Name of the data.
    pub data: String,
    /// Tools the model may call; here by their names and those of their arguments, the rest is in the file's own table.
    #[serde(serialize_with = "names")]
    pub tools: Vec<ToolSchema>,
    /// What was measured on this file's weights.
    pub eval: Value,
}

fn names<S: Serializer>(tools: &[ToolSchema], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(tools.iter().map(|tool| {
        let slots: Vec<&str> = tool.slots.iter().map(|slot| slot.name.as_str()).collect();
        json!({ "name": tool.name, "slots": slots })
    }))
}

/// Which codec each tensor takes.
pub type CodecPlan<'a> = &'a dyn Fn(Key) -> Codec;

/// Everything in single precision: phases 1 to 3.
pub fn float32(_: Key) -> Codec {
    Codec::F32
}

/// Phase 4: ternary projections, tables preserved in half precision, vectors untouched.
pub fn ternary_f16(key: Key) -> Codec {
    match key.0.kind() {
        RoleKind::Projection => Codec::Ternary2b,
        RoleKind::Table => Codec::F16,
        RoleKind::Vector => Codec::F32,
    }
}

/// Phases 5 to 7: ternary projections, byte tables, vectors untouched.
pub fn ternary_int8(key: Key) -> Codec {
    match key.0.kind() {
        RoleKind::Projection => Codec::Ternary2b,
        RoleKind::Table => Codec::Int8Row,
        RoleKind::Vector => Codec::F32,
    }
}

/// Writes `weights` with the codec `plan` gives each tensor.
///
/// # Errors
/// If a tensor cannot be coded as planned.
pub fn emit(weights: &Weights, tokenizer: &Tokenizer, card: &Card, plan: CodecPlan<'_>) -> Result<Vec<u8>> {
    emit_with(weights, tokenizer, card, |key| {
        let m = &weights.tensors[&key];
        let codec = plan(key);
        Ok((codec, codec::encode(&codec, m, Metric::Plain)?.payload))
    })
}

/// Writes `weights` with the payloads `code` gives, and the card's tools as the table that generation can be held to.
///
/// # Errors
/// If a payload does not fit its tensor, or the tokenizer has no token for a tool.
pub fn emit_with(
    weights: &Weights,
    tokenizer: &Tokenizer,
    card: &Card,
    mut code: impl FnMut(Key) -> Result<(Codec, Vec<u8>)>,
) -> Result<Vec<u8>> {
    let mut writer = Writer::new(weights.config.clone());
    for (role, layer, _) in weights.config.tensors() {
        let (codec, payload) = code((role, layer))?;
        writer = writer.tensor(role, layer, codec, payload);
    }
    if let Some(tools) = schema::to_bytes(&card.tools, tokenizer)? {
        writer = writer.tools(tools);
    }
    let json = serde_json::to_string(card).expect("a card is plain data");
    Ok(writer.tokenizer(tokenizer.table()).card(json).finish()?)
}
