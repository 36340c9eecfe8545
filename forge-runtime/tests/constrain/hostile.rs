//! Tools and tokenizers at the edges.

use std::collections::BTreeSet;

use forge_formats::tools::ValueSpec;
use forge_runtime::constrain::Mode;
use forge_runtime::{Constraint, Error, Sampler};

use crate::worlds::World;
use crate::{Logits, oracle, write};

fn choice(strings: &[&str]) -> ValueSpec {
    ValueSpec::Choice(strings.iter().map(|s| s.to_string()).collect())
}

fn constraint(world: &World, mode: Mode, budget: u32) -> Constraint<'_> {
    Constraint::with_tools(world.tokenizer(), world.tools(), mode, budget).unwrap()
}

/// Every completion a constraint allows, by following every allowed token.
fn all(constraint: &Constraint<'_>, vocab: u32) -> BTreeSet<Vec<u16>> {
    let mut out = BTreeSet::new();
    let mut open = vec![(constraint.clone(), Vec::new())];
    while let Some((at, ids)) = open.pop() {
        for id in (0..vocab as u16).filter(|id| at.allows(*id)) {
            let mut next = at.clone();
            next.advance(id).unwrap();
            if next.ended() {
                out.insert(ids.clone());
            } else {
                open.push((next, [ids.as_slice(), &[id]].concat()));
            }
        }
    }
    out
}

/// The texts of the completions' only values.
fn values(world: &World, completions: &BTreeSet<Vec<u16>>) -> BTreeSet<String> {
    let tokenizer = world.tokenizer();
    let text = |ids: &Vec<u16>| {
        let mut buffer = [0; 64];
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.decode(*id, &mut buffer).to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    };
    completions.iter().map(text).collect()
}

#[test]
fn a_constraint_is_as_small_as_stated() {
    assert!(size_of::<Constraint<'_>>() <= Constraint::BYTES, "{}", size_of::<Constraint<'_>>());
}

#[test]
fn strings_that_begin_with_one_another_are_all_written() {
    let strings = ["a", "ab", "abc", "b", "é", "éa", "è"];
    let world = World::of(&[&[(true, false, choice(&strings))]], &[("a", "b"), (" ", "a"), (" a", "b")]);
    let completions = all(&constraint(&world, Mode::Call, 64), world.tokenizer().vocab());
    let spaced = strings.map(|s| format!(" {s}"));
    let expected: BTreeSet<String> = strings.iter().map(|s| s.to_string()).chain(spaced).collect();
    assert_eq!(values(&world, &completions), expected);
    // " ab" as one token, as " a" + "b", " " + "ab" and " " + "a" + "b".
    let ways =
        completions.iter().filter(|ids| values(&world, &BTreeSet::from([(*ids).clone()])).contains(" ab"));
    assert_eq!(ways.count(), 4);
}

#[test]
fn one_string_is_forced_as_it_is_encoded() {
    let slots: &[_] = &[(true, false, choice(&["kitchen"]))];
    let world = World::of(&[slots], &[(" ", "k"), ("c", "h"), ("ch", "e")]);
    let mut constraint = constraint(&world, Mode::Call, 64);
    let mut written = Vec::new();
    while !constraint.ended() {
        let forced = constraint.forced().expect("one tool, one slot, one string");
        constraint.advance(forced).unwrap();
        written.push(forced);
    }
    let tokenizer = world.tokenizer();
    let mut ids = [0; 16];
    let len = tokenizer.encode(b" kitchen", &mut ids).unwrap();
    assert_eq!(written[2..written.len() - 1], ids[..len]);
    assert_eq!(len, 5, "k, i, t, che and n");
}

#[test]
fn ranges_allow_exactly_their_numbers() {
    for (min, max) in [(0, 12), (-3, 3), (98, 102), (-20, -9), (7, 7)] {
        let world =
            World::of(&[&[(true, false, ValueSpec::Integer { min, max })]], &[(" ", "1"), ("1", "0")]);
        let completions = all(&constraint(&world, Mode::Call, 64), world.tokenizer().vocab());
        let numbers = (min..=max).flat_map(|n| [n.to_string(), format!(" {n}")]);
        assert_eq!(values(&world, &completions), numbers.collect(), "{min}..={max}");
    }
}

#[test]
fn characters_cut_over_tokens_come_out_whole() {
    // Without merges every character is cut, and all strings go on with the space they are trained with.
    let world = World::of(&[&[(true, false, choice(&["€a", "é", "è"]))]], &[]);
    let completions = all(&constraint(&world, Mode::Call, 64), world.tokenizer().vocab());
    assert_eq!(values(&world, &completions), [" €a", " é", " è"].map(String::from).into());
    // Any text of one byte or one character of two: with three tokens behind the slot, nothing longer fits.
    let world = World::of(&[&[(true, false, ValueSpec::Text)]], &[]);
    let texts = all(&constraint(&world, Mode::Call, 2 + 2), world.tokenizer().vocab());
    let texts = values(&world, &texts);
    assert!(texts.contains("é") && texts.contains("ab") && texts.contains(" a") && texts.contains("  "));
    assert!(!texts.contains(" ") && !texts.contains(" é"));
    assert_eq!(texts.len(), 128 - 1 + 128 * 128 + 30 * 64, "one byte, two, and characters of two bytes");
}

#[test]
fn a_tool_without_slots_is_written_without_any_logits() {
    let world = World::of(&[&[]], &[]);
    let mut constraint = constraint(&world, Mode::Call, 1);
    let tool = constraint.forced().unwrap();
    constraint.advance(tool).unwrap();
    assert_eq!(constraint.forced(), Some(constraint.end()));
    constraint.advance(constraint.end()).unwrap();
    assert!(constraint.ended() && constraint.forced().is_none());
    assert_eq!(constraint.advance(tool), Err(Error::Refused(tool)));
}

#[test]
fn without_tools_there_is_no_call_but_there_is_text() {
    let world = World::of(&[], &[]);
    let tokenizer = world.tokenizer();
    let call = Constraint::with_tools(tokenizer, None, Mode::Call, 1000);
    assert_eq!(call.err(), Some(Error::Budget(u32::MAX)));
    let mut constraint = constraint(&world, Mode::Any, 8);
    for seed in 0..200 {
        constraint.restart(u32::MAX).unwrap();
        let mut logits = Logits::new(seed, tokenizer.vocab(), tokenizer.table().special_count());
        let ids = write(&mut constraint, &mut logits, &mut Sampler::new(1.0, seed));
        assert_eq!(oracle::text(tokenizer, &ids), Ok(()));
    }
}

#[test]
fn the_minimum_suffices_and_less_is_refused() {
    let long = "x".repeat(255);
    let strings: Vec<String> = (0..300).map(|i| format!("{i}{}", "y".repeat(100))).collect();
    let world = World::of(
        &[&[
            (true, false, choice(&[&long])),
            (true, true, ValueSpec::Choice(strings)),
            (true, false, ValueSpec::Integer { min: 12_345, max: 99_999 }),
            (true, false, ValueSpec::Number),
            (true, false, ValueSpec::Text),
            (false, true, ValueSpec::Text),
        ]],
        &[("x", "x"), ("xx", "xx"), ("y", "y")],
    );
    // 255 = 63 · 4 + 2 + 1; a digit and 50 pairs; five digits.
    let minimum = 1 + (1 + 65) + (1 + 51) + (1 + 5) + 2 + 2;
    let tokenizer = world.tokenizer();
    for budget in [0, 1, minimum - 1] {
        let refused = Constraint::with_tools(tokenizer, world.tools(), Mode::Call, budget);
        assert_eq!(refused.err(), Some(Error::Budget(minimum)));
    }
    for extra in [0, 1, 2, 3, 40] {
        let mut constraint = constraint(&world, Mode::Call, minimum + extra);
        for seed in 0..40 {
            constraint.restart(u32::MAX).unwrap();
            let mut logits = Logits::new(seed, tokenizer.vocab(), tokenizer.table().special_count());
            let ids = write(&mut constraint, &mut logits, &mut Sampler::greedy());
            assert_eq!(oracle::call(tokenizer, world.tools().unwrap(), &ids), Ok(()));
        }
        assert_eq!(constraint.restart(minimum - 1), Err(Error::Budget(minimum)));
    }
}
