//! What generated tokens say: a call, an answer, a text; and whether it is right.

use forge_formats::tokenizer::SpecialKind;
use forge_runtime::call::Call;

use crate::data::{Completion, Example};
use crate::tokenizer::{self, MARKERS, Tokenizer};

/// Reads a generated completion, up to its `<eos>`. A call that is not well formed is read as text.
pub fn read(tokenizer: &forge_runtime::Tokenizer<'_>, ids: &[u16]) -> Completion {
    if let Some(call) = Call::parse(*tokenizer, ids) {
        let args = call.arguments().map(|(slot, value)| (slot.to_string(), segment(tokenizer, value)));
        return Completion::Tool { tool: call.tool().into(), args: args.collect() };
    }
    let control = |name| tokenizer.special(SpecialKind::Control, name);
    let end = ids.iter().position(|id| Some(*id) == control("<eos>")).unwrap_or(ids.len());
    let ids = &ids[..end];
    // A second thought, should there be one, is part of the first.
    match ids.iter().rposition(|id| Some(*id) == control("</think>")) {
        Some(at) => Completion::Reasoned {
            thought: trace(tokenizer, &ids[..at]),
            answer: segment(tokenizer, &ids[at + 1..]),
        },
        None => Completion::Text(segment(tokenizer, ids)),
    }
}

/// The text of a segment, without the one space it is encoded with.
fn segment(tokenizer: &forge_runtime::Tokenizer<'_>, ids: &[u16]) -> String {
    let text = tokenizer::decode(tokenizer, ids);
    text.strip_prefix(' ').map(String::from).unwrap_or(text)
}

/// The text of a trace, its markers by name: the inverse of [`crate::data::encode::trace`].
pub(super) fn trace(tokenizer: &forge_runtime::Tokenizer<'_>, ids: &[u16]) -> String {
    let marker =
        |id: &u16| MARKERS.into_iter().find(|m| tokenizer.special(SpecialKind::Control, m) == Some(*id));
    let mut parts: Vec<String> = Vec::new();
    let mut rest = ids;
    while let Some(at) = rest.iter().position(|id| marker(id).is_some()) {
        parts.push(segment(tokenizer, &rest[..at]));
        parts.extend(marker(&rest[at]).map(String::from));
        rest = &rest[at + 1..];
    }
    parts.push(segment(tokenizer, rest));
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// Whether generated tokens answer a question as the example does, with or without a thought before the answer.
/// False for examples without a checkable answer.
pub fn answer_matches(tokenizer: &Tokenizer, example: &Example, ids: &[u16]) -> bool {
    is_answer(example, &read(&tokenizer.runtime(), ids))
}

/// As [`answer_matches`], of a completion that has been read.
pub(super) fn is_answer(example: &Example, said: &Completion) -> bool {
    let said = match said {
        Completion::Reasoned { answer, .. } => answer,
        Completion::Text(text) => text,
        Completion::Tool { .. } => return false,
    };
    example.answer().is_some_and(|right| right.trim() == said.trim())
}
