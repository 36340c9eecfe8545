//! `forge-train inspect`: what is in a model file.

use std::path::PathBuf;

use forge_formats::config::{Globals, MemoryKind, ModelConfig};
use forge_formats::file::File;
use forge_formats::manifest::{Content, Section};
use forge_formats::tools::TAG;
use forge_runtime::Options;
use forge_train::error::{Error, Result};
use forge_train::pipeline::artifact::sha256_hex;
use forge_train::pipeline::table::{Align, bytes as size, count, layout};
use serde_json::{Value, json};

use super::output::{Outcome, print, print_json};
use super::{model, tools};

const EXAMPLES: &str = "\
Examples:
  forge-train inspect model.forge
  forge-train inspect model.forge --tensors
  forge-train inspect model.forge --json | jq .card.eval";

/// Shows what is in a model file.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The .forge file
    model: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print one JSON document with everything
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(args: &Args) -> Outcome {
    let bytes = model::read(&args.model)?;
    let model = model::parse(&args.model, &bytes)?;
    let facts =
        Facts { bytes: &bytes, file: model.file(), workspace: model.workspace_for(&Options::device()) };
    if args.json { print_json(&facts.document()?) } else { print(&facts.text(args.tensors)) }
}

struct Facts<'a> {
    bytes: &'a [u8],
    file: &'a File<'a>,
    workspace: usize,
}

impl Facts<'_> {
    fn card(&self) -> Value {
        serde_json::from_str(self.file.card()).unwrap_or(Value::Null)
    }

    fn document(&self) -> Result<Value> {
        let config = serde_json::to_value(self.file.config())
            .map_err(|e| Error::Config(format!("cannot write JSON: {e}")))?;
        let tensors: Vec<Value> = self.file.sections().filter_map(|s| tensor_json(&s)).collect();
        Ok(json!({
            "schema": 1,
            "bytes": self.bytes.len(),
            "sha256": sha256_hex(self.bytes),
            "workspace": self.workspace,
            "parameters": self.file.config().parameters(),
            "config": config,
            "tensors": tensors,
            "tokenizer": { "vocab": self.file.tokenizer().vocab(),
                           "specials": self.file.tokenizer().specials().map(|(_, name)| name).collect::<Vec<_>>() },
            "tools": tools::document(self.file),
            "card": self.card(),
        }))
    }

    fn text(&self, tensors: bool) -> String {
        let config = self.file.config();
        let mut rows = vec![
            ["file".into(), format!("{} ({} B)", size(self.bytes.len() as u64), self.bytes.len())],
            ["sha256".into(), sha256_hex(self.bytes)],
            ["parameters".into(), count(config.parameters())],
            ["workspace".into(), format!("{} a session", size(self.workspace as u64))],
        ];
        rows.extend(config_rows(config));
        rows.push(["special tokens".into(), self.specials()]);
        let tools = tools::lines(self.file);
        let heading = |at| if at == 0 { "tools".to_owned() } else { String::new() };
        rows.extend(tools.into_iter().enumerate().map(|(at, line)| [heading(at), line]));
        let text = pairs(rows);
        let tensors = if tensors { format!("\n{}", self.tensor_table()) } else { String::new() };
        let mut card = self.card();
        if let Some(fields) = card.as_object_mut().filter(|_| self.file.tools().is_some()) {
            // The table above says more.
            fields.remove("tools");
        }
        format!("{text}\n{}{tensors}\n{}", self.codec_table(), card_text(&card))
    }

    fn specials(&self) -> String {
        self.file.tokenizer().specials().map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    }

    /// Sections by what codes them, in the order they first occur.
    fn codec_table(&self) -> String {
        let mut groups: Vec<(String, u64, u64, u64)> = Vec::new();
        for section in self.file.sections() {
            let (name, parameters) = match section.content {
                Content::Tensor { codec, shape: [rows, cols], .. } => {
                    (codec.name().to_owned(), u64::from(rows) * u64::from(cols))
                }
                other => (kind(&other).to_owned(), 0),
            };
            let len = u64::from(section.len);
            match groups.iter_mut().find(|group| group.0 == name) {
                Some(group) => {
                    (group.1, group.2, group.3) = (group.1 + 1, group.2 + parameters, group.3 + len)
                }
                None => groups.push((name, 1, parameters, len)),
            }
        }
        let row = |(name, n, parameters, len): &(String, u64, u64, u64)| {
            let bits = if *parameters > 0 {
                format!("{:.2}", 8.0 * *len as f64 / *parameters as f64)
            } else {
                "-".into()
            };
            vec![name.clone(), n.to_string(), count(*parameters), count(*len), bits]
        };
        let headings = [
            ("codec", Align::Left),
            ("sections", Align::Right),
            ("parameters", Align::Right),
            ("bytes", Align::Right),
            ("bits each", Align::Right),
        ];
        layout(&headings, &groups.iter().map(row).collect::<Vec<_>>())
    }

    fn tensor_table(&self) -> String {
        let row = |section: Section| match section.content {
            Content::Tensor { role, layer, shape: [rows, cols], codec } => Some(vec![
                format!("{}.{layer}", role.name()),
                format!("{rows}×{cols}"),
                codec.name().to_owned(),
                count(u64::from(section.len)),
                format!("{:08x}", section.crc),
            ]),
            _ => None,
        };
        let headings = [
            ("tensor", Align::Left),
            ("shape", Align::Right),
            ("codec", Align::Left),
            ("bytes", Align::Right),
            ("crc32", Align::Left),
        ];
        layout(&headings, &self.file.sections().filter_map(row).collect::<Vec<_>>())
    }
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Tensor { .. } => "tensor",
        Content::Tokenizer => "tokenizer",
        Content::Card => "card",
        Content::Extra { tag: TAG } => "tools",
        Content::Extra { .. } => "extra",
    }
}

fn tensor_json(section: &Section) -> Option<Value> {
    let Content::Tensor { role, layer, shape, codec } = section.content else { return None };
    Some(json!({
        "role": role.name(),
        "layer": layer,
        "shape": shape,
        "codec": codec.name(),
        "bytes": section.len,
        "crc32": format!("{:08x}", section.crc),
    }))
}

fn config_rows(c: &ModelConfig) -> Vec<[String; 2]> {
    let memory: Vec<String> = (0..c.layers).filter(|l| c.has_memory(*l)).map(|l| l.to_string()).collect();
    let memory = match memory.is_empty() {
        true => "none".to_owned(),
        false => {
            let kind = match c.memory {
                MemoryKind::Ema => "averages",
                MemoryKind::Titans => "matrix (Titans)",
            };
            format!("{kind}, {} wide, gate {}, in block {}", c.mem_dim, c.mem_gate, memory.join(", "))
        }
    };
    let halting = if c.halting { format!(", halting above {}", c.halt_threshold) } else { String::new() };
    let globals = match c.globals {
        Globals { every: 0, .. } => String::new(),
        Globals { every, rows } => format!(", beyond it one in {every}, the latest {rows} of them"),
    };
    let head = if c.tied { "tied" } else { "own head" };
    [
        ("vocabulary", format!("{} ({head})", c.vocab)),
        ("width", c.dim.to_string()),
        ("blocks", format!("{}, applied {} times{halting}", c.layers, c.recursion)),
        ("attention", format!("{} heads of {}, {} for keys and values", c.heads, c.head_dim, c.kv_heads)),
        ("window", format!("{} tokens{globals}", c.window)),
        ("feed-forward", format!("{} ({:?})", c.ffn, c.activation)),
        ("memory", memory),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .into()
}

/// Provenance and measures, as the card tells them.
fn card_text(card: &Value) -> String {
    let Some(fields) = card.as_object() else { return "no card\n".into() };
    let mut rows = Vec::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("eval", Value::Object(measures)) => {
                rows.extend(measures.iter().map(|(name, value)| [name.replace('_', " "), measure(value)]));
            }
            ("chain", Value::Array(links)) => {
                let link = |link: &Value| format!("{} {:.12}", plain(&link[0]), plain(&link[1]));
                rows.push(["descends from".into(), links.iter().map(link).collect::<Vec<_>>().join(" → ")]);
            }
            ("tools", Value::Array(tools)) => {
                let tool = |tool: &Value| {
                    let slots: Vec<String> =
                        tool["slots"].as_array().map(|s| s.iter().map(plain).collect()).unwrap_or_default();
                    format!("{}({})", plain(&tool["name"]), slots.join(", "))
                };
                rows.push(["tools".into(), tools.iter().map(tool).collect::<Vec<_>>().join(" ")]);
            }
            (name, value) => rows.push([name.replace('_', " "), plain(value)]),
        }
    }
    pairs(rows)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A rate with its interval, or the value as it is.
fn measure(value: &Value) -> String {
    let percent = |key: &str| value[key].as_f64().map(|v| 100.0 * v);
    match (percent("value"), percent("low"), percent("high")) {
        (Some(v), Some(low), Some(high)) => format!("{v:.1} % [{low:.1}, {high:.1}], n = {}", value["n"]),
        _ => value.as_f64().filter(|_| !value.is_u64()).map_or_else(|| plain(value), |v| format!("{v:.4}")),
    }
}

fn pairs(rows: Vec<[String; 2]>) -> String {
    let width = rows.iter().map(|[name, _]| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|[name, value]| format!("{name:<width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_reads_as_provenance_and_measures() {
        let card = json!({
            "phase": "bitnet",
            "chain": [["cognate", "0123456789abcdef"], ["evomerge", "ff"]],
            "tools": [{"name": "set_light", "slots": ["room", "level"]}],
            "eval": {"bits_per_byte": 2.5, "examples": 12,
                     "frame_accuracy": {"value": 0.5, "low": 0.25, "high": 0.75, "hits": 6, "n": 12}},
        });
        let text = card_text(&card);
        for line in [
            "phase           bitnet",
            "descends from   cognate 0123456789ab → evomerge ff",
            "tools           set_light(room, level)",
            "bits per byte   2.5000",
            "examples        12",
            "frame accuracy  50.0 % [25.0, 75.0], n = 12",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(card_text(&Value::Null), "no card\n");
    }
}
