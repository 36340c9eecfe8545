//! Random tokenizers with random tools, made to be awkward: merges across any border, strings that begin with one
//! another, characters of several bytes.

use std::collections::BTreeSet;

use forge_formats::tokenizer::{SpecialKind, TokenizerSpec, TokenizerTable};
use forge_formats::tools::{SlotSpec, ToolSpec, ToolTable, ValueSpec, to_bytes};
use forge_runtime::Tokenizer;
use forge_runtime::testing::{CONTROLS, Noise};

/// A tokenizer's table and, where there are tools, theirs.
pub(crate) struct World {
    tokenizer: Vec<u8>,
    tools: Option<Vec<u8>>,
}

/// Markers of reasoning.
pub(crate) const MARKERS: [&str; 2] = ["<step>", "<doubt>"];

/// What values, and so merges, are made of.
const PARTS: [&str; 16] =
    [" ", "a", "b", "ab", "kit", "chen", "é", "€", "🦀", "1", "20", "-", ".", "0", "\n", "the "];

impl World {
    /// A world of a seed.
    pub(crate) fn random(noise: &mut Noise) -> Self {
        let (tools, slots) = (1 + noise.below(4) as u16, noise.below(6) as u16);
        let specials = specials(tools, slots);
        let first = specials.len() as u16;
        let merges = merges(first, noise);
        let tokenizer = TokenizerSpec { specials, merges, ..TokenizerSpec::default() }.to_bytes().unwrap();
        let table = TokenizerTable::parse(&tokenizer).unwrap();
        let tool = |at| first - tools - slots + at;
        let slot = |at| first - slots + at;
        let specs: Vec<ToolSpec> = (0..tools)
            .filter(|at| *at == 0 || noise.below(4) > 0)
            .map(|at| ToolSpec { token: tool(at), slots: Vec::new() })
            .collect();
        let specs = specs.into_iter().map(|spec| {
            let used: Vec<u16> = (0..slots).filter(|_| noise.below(2) > 0).collect();
            ToolSpec { slots: used.into_iter().map(|at| random_slot(slot(at), noise)).collect(), ..spec }
        });
        let tools = to_bytes(&specs.collect::<Vec<_>>(), &table).unwrap();
        Self { tokenizer, tools: Some(tools) }
    }

    /// The tools `t0`, `t1`, … with these slots, called `s0`, `s1`, … by their place; merges are pairs of texts.
    pub(crate) fn of(tools: &[&[(bool, bool, ValueSpec)]], merges: &[(&str, &str)]) -> Self {
        let slots = tools.iter().map(|slots| slots.len()).max().unwrap_or(0);
        let specials = specials(tools.len() as u16, slots as u16);
        let first = specials.len() as u16;
        let mut known: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut pairs = Vec::new();
        for (left, right) in merges {
            let id = |text: &str| known.iter().position(|k| k == text.as_bytes()).unwrap() as u16 + first;
            pairs.push((id(left), id(right)));
            known.push([left.as_bytes(), right.as_bytes()].concat());
        }
        let tokenizer =
            TokenizerSpec { specials, merges: pairs, ..TokenizerSpec::default() }.to_bytes().unwrap();
        let table = TokenizerTable::parse(&tokenizer).unwrap();
        let (tool, slot) = (first - (slots + tools.len()) as u16, first - slots as u16);
        let spec = |(at, (required, repeatable, value)): (u16, &(bool, bool, ValueSpec))| SlotSpec {
            token: slot + at,
            required: *required,
            repeatable: *repeatable,
            value: value.clone(),
        };
        let specs = (tool..)
            .zip(tools)
            .map(|(token, slots)| ToolSpec { token, slots: (0..).zip(slots.iter()).map(spec).collect() });
        let specs: Vec<ToolSpec> = specs.collect();
        let tools = (!specs.is_empty()).then(|| to_bytes(&specs, &table).unwrap());
        Self { tokenizer, tools }
    }

    pub(crate) fn tokenizer(&self) -> Tokenizer<'_> {
        Tokenizer::new(TokenizerTable::parse(&self.tokenizer).unwrap())
    }

    pub(crate) fn tools(&self) -> Option<ToolTable<'_>> {
        let tokenizer = self.tokenizer().table();
        self.tools.as_ref().map(|bytes| ToolTable::parse(bytes, &tokenizer).unwrap())
    }
}

/// The controls, tools and slots of a tokenizer.
fn specials(tools: u16, slots: u16) -> Vec<(SpecialKind, String)> {
    let controls = CONTROLS.iter().chain(&MARKERS).map(|name| (SpecialKind::Control, name.to_string()));
    let tools = (0..tools).map(|at| (SpecialKind::Tool, format!("t{at}")));
    controls.chain(tools).chain((0..slots).map(|at| (SpecialKind::Slot, format!("s{at}")))).collect()
}

/// Up to 60 merges: of bytes that occur in [`PARTS`], and now and then of any.
fn merges(first: u16, noise: &mut Noise) -> Vec<(u16, u16)> {
    let bytes = PARTS.concat().into_bytes();
    let mut merges: Vec<(u16, u16)> = Vec::new();
    let mut lengths = vec![1; 256];
    for _ in 0..noise.below(60) {
        let mut side = || match noise.below(8) {
            0 => noise.below(256),
            1..4 if !merges.is_empty() => 256 + noise.below(merges.len()),
            _ => usize::from(bytes[noise.below(bytes.len())]),
        };
        let (left, right) = (side(), side());
        let pair = (first + left as u16, first + right as u16);
        let length = lengths[left] + lengths[right];
        if length <= 12 && !merges.contains(&pair) {
            merges.push(pair);
            lengths.push(length);
        }
    }
    merges
}

fn random_slot(token: u16, noise: &mut Noise) -> SlotSpec {
    let value = match noise.below(5) {
        0 => ValueSpec::Text,
        1 => ValueSpec::Number,
        2 => random_range(noise),
        _ => {
            let most = [1, 3, 30][noise.below(3)];
            let count = 1 + noise.below(most);
            let strings: BTreeSet<String> = (0..count).map(|_| random_text(noise)).collect();
            ValueSpec::Choice(strings.into_iter().collect())
        }
    };
    SlotSpec { token, required: noise.below(2) > 0, repeatable: noise.below(3) == 0, value }
}

fn random_range(noise: &mut Noise) -> ValueSpec {
    let mut end = || match noise.below(3) {
        0 => noise.below(30) as i64 - 15,
        1 => noise.next_u64() as i64 >> noise.below(64),
        _ => [i64::MIN, i64::MAX][noise.below(2)],
    };
    let (a, b) = (end(), end());
    ValueSpec::Integer { min: a.min(b), max: a.max(b) }
}

/// A text of up to four parts, not empty.
pub(crate) fn random_text(noise: &mut Noise) -> String {
    (0..=noise.below(4)).map(|_| PARTS[noise.below(PARTS.len())]).collect()
}
