//! What a model is, as JSON.

use std::fmt::Write;

use forge_formats::tokenizer::SpecialKind;
use forge_runtime::Kernels;

use crate::owned::OwnedModel;

/// Sizes, tools, slots, and the card as a string of its own JSON.
pub(crate) fn json(owned: &OwnedModel) -> String {
    let model = owned.model();
    let c = model.config();
    let numbers: [(&str, u64); 15] = [
        ("bytes", owned.bytes() as u64),
        ("prepared", owned.prepared_bytes() as u64),
        ("workspace", model.workspace_for(&owned.options()) as u64),
        ("parameters", c.parameters()),
        ("vocab", c.vocab.into()),
        ("dim", c.dim.into()),
        ("layers", c.layers.into()),
        ("heads", c.heads.into()),
        ("kvHeads", c.kv_heads.into()),
        ("headDim", c.head_dim.into()),
        ("ffn", c.ffn.into()),
        ("window", c.window.into()),
        ("recursion", c.recursion.into()),
        ("memory", c.mem_dim.into()),
        ("memoryLayers", c.mem_layers.count_ones().into()),
    ];
    let mut out = String::from("{");
    for (name, value) in numbers {
        // Writing to a String does not fail, here and below.
        let _ = write!(out, "\"{name}\":{value},");
    }
    let _ = write!(out, "\"halting\":{},\"kernels\":", c.halting);
    push_string(&mut out, Kernels::best().name());
    for (name, kind) in [("tools", SpecialKind::Tool), ("slots", SpecialKind::Slot)] {
        let _ = write!(out, ",\"{name}\":[");
        let names = model.file().tokenizer().specials().filter(|(k, _)| *k == kind);
        for (i, (_, special)) in names.enumerate() {
            out.push_str(if i > 0 { "," } else { "" });
            push_string(&mut out, special);
        }
        out.push(']');
    }
    out.push_str(",\"card\":");
    push_string(&mut out, model.card());
    out.push('}');
    out
}

/// Appends a JSON string (RFC 8259, section 7).
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        super::push_string(&mut out, "a\"b\\c\nd€");
        assert_eq!(out, r#""a\"b\\c\u000ad€""#);
    }
}
