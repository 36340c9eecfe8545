//! Any table, any text, any tokens.

use std::cell::RefCell;
use std::fmt;

use forge_formats::pretokens;
use forge_formats::tokenizer::{MAX_TOKEN, TokenizerTable};
use forge_runtime::Tokenizer;
use forge_runtime::call::{Call, render};
use forge_runtime::generate::prompt;

use crate::input::Input;
use crate::touch::table;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Counts what it is given.
struct Count(usize);

impl fmt::Write for Count {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// Loads a table, raw or put together from the input, encodes text, decodes it and renders tokens as a completion.
/// Serves P1 and P2 for the tokenizer.
pub fn tokenizer(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte() & 1 == 0 {
        if let Ok(parsed) = TokenizerTable::parse(input.rest()) {
            table(parsed);
            text(&Tokenizer::new(parsed), input);
        }
        return;
    }
    BUFFER.with_borrow_mut(|buffer| {
        assemble(&mut input, buffer);
        // A pair may occur twice and a token may be too long; all else is right.
        if let Ok(parsed) = TokenizerTable::parse(buffer) {
            table(parsed);
            text(&Tokenizer::new(parsed), input);
        }
    });
}

/// A table whose merges are of earlier tokens and whose index is sorted.
fn assemble(input: &mut Input<'_>, out: &mut Vec<u8>) {
    const KNOWN: [&str; 6] = ["<bos>", "<eos>", "<sys>", "<sep>", "tool", "slot"];
    let mut names = [0u8; 6 * 8];
    let (specials, merges) = (input.below(KNOWN.len() + 1), input.below(40));
    let mut used = 0;
    for (i, name) in KNOWN.iter().enumerate().take(specials) {
        names[used] = i.saturating_sub(3) as u8;
        names[used + 1] = name.len() as u8;
        names[used + 2..][..name.len()].copy_from_slice(name.as_bytes());
        used += 2 + name.len();
    }
    let mut pairs = [(0u16, 0u16); 40];
    let mut order = [0u16; 40];
    for i in 0..merges {
        // A byte, or one of the tokens made so far.
        let mut side = || match (input.byte(), i) {
            (made @ 0xC0.., 1..) => 256 + usize::from(made) % i,
            (byte, _) => usize::from(byte),
        };
        pairs[i] = ((specials + side()) as u16, (specials + side()) as u16);
        order[i] = i as u16;
    }
    order[..merges].sort_unstable_by_key(|i| pairs[usize::from(*i)]);
    out.clear();
    out.extend((specials as u16).to_le_bytes());
    out.extend((merges as u16).to_le_bytes());
    out.extend((used as u32).to_le_bytes());
    out.extend(pairs[..merges].iter().flat_map(|(l, r)| [l.to_le_bytes(), r.to_le_bytes()]).flatten());
    out.extend(order[..merges].iter().flat_map(|rank| rank.to_le_bytes()));
    out.extend(&names[..used]);
}

/// Encodes the rest of the input as text, and reads it as tokens.
fn text(tokenizer: &Tokenizer<'_>, input: Input<'_>) {
    const LONGEST: usize = 256;
    let text = &input.rest()[..input.rest().len().min(LONGEST)];
    let mut left = text;
    for piece in pretokens(text) {
        assert!(!piece.is_empty() && left.starts_with(piece));
        left = &left[piece.len()..];
    }
    assert!(left.is_empty(), "the pieces are not the text");
    let mut ids = [0u16; LONGEST];
    let len = tokenizer.encode(text, &mut ids[..text.len()]).expect("as many places as bytes suffice");
    let (mut left, mut buffer) = (text, [0; MAX_TOKEN]);
    for id in &ids[..len] {
        let bytes = tokenizer.decode(*id, &mut buffer);
        assert!(!bytes.is_empty() && left.starts_with(bytes), "decoding is not the inverse of encoding");
        left = &left[bytes.len()..];
    }
    assert!(left.is_empty(), "decoding is not the inverse of encoding");
    if let Some(short) = len.checked_sub(1) {
        let _ = tokenizer.encode(text, &mut ids[..short]);
    }
    let _ = prompt(tokenizer, Some(text), text, &mut [0; 2 * LONGEST + 3])
        .map(|len| assert!(len <= 2 * text.len() + 3));
    // Text as ids: special ones half of the time, some outside the vocabulary.
    let specials = u16::from(text.first().copied().unwrap_or(0) & 7) + 1;
    for (id, pair) in ids.iter_mut().zip(text.chunks(2)) {
        let n = u16::from_le_bytes([pair[0], pair.last().copied().unwrap_or(0)]);
        *id = if n & 1 == 0 { (n >> 1) % specials } else { n % (tokenizer.vocab() as u16).saturating_add(3) };
    }
    let ids = &ids[..text.len().div_ceil(2)];
    let mut count = Count(0);
    render(tokenizer, ids, &mut count).expect("counting cannot fail");
    if let Some(call) = Call::parse(*tokenizer, ids) {
        assert!(!call.tool().is_empty() && count.0 > 0);
        assert!(call.arguments().count() <= ids.len());
    }
}
