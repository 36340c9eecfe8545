//! The constraint in the generator: what is skipped changes nothing.

use forge_formats::ModelConfig;
use forge_formats::codec::encode::Simple;
use forge_formats::tokenizer::SpecialKind;
use forge_formats::tools::{SlotSpec, ToolSpec, ValueSpec, to_bytes};
use forge_formats::write::Writer;
use forge_runtime::constrain::Mode;
use forge_runtime::testing::{Noise, random_model};
use forge_runtime::{Constraint, Error, Generator, Model, Sampler, Session, Workspace};

use crate::{oracle, random_sampler};

#[path = "../common/mod.rs"]
mod common;

/// The model's file with tools: `set_light` with these slots `room` and `level`.
fn with_tools(file: &[u8], room: (bool, bool, ValueSpec), level: (bool, bool, ValueSpec)) -> Vec<u8> {
    let model = Model::parse(file).unwrap();
    let id = |kind, name| model.tokenizer().special(kind, name).unwrap();
    let slot = |name, (required, repeatable, value)| SlotSpec {
        token: id(SpecialKind::Slot, name),
        required,
        repeatable,
        value,
    };
    let slots = vec![slot("room", room), slot("level", level)];
    let tools = [ToolSpec { token: id(SpecialKind::Tool, "set_light"), slots }];
    let tools = to_bytes(&tools, &model.tokenizer().table()).unwrap();
    Writer::from_file(model.file()).tools(tools).finish().unwrap()
}

fn model(config: &ModelConfig, seed: u64) -> Vec<u8> {
    let rooms = ["bedroom", "bathroom", "hall", "living room", "attic"].map(String::from);
    let level = ValueSpec::Integer { min: 0, max: 100 };
    let file = random_model(config, seed, Simple::Ternary2b);
    with_tools(
        &file,
        (true, seed.is_multiple_of(3), ValueSpec::Choice(rooms.into())),
        (seed.is_multiple_of(2), false, level),
    )
}

/// Without skipping anything: every token is stepped, and all logits are masked.
fn by_hand(
    model: &Model<'_>,
    prompt: &[u16],
    mode: Mode,
    budget: u32,
    mut sampler: Sampler,
) -> (Vec<u16>, u64) {
    let mut workspace = Workspace::new(model);
    let mut session = Session::new(model, workspace.bytes()).unwrap();
    let mut constraint = Constraint::new(model, mode, budget).unwrap();
    let (mut read, mut written, mut forced) = (prompt.to_vec(), Vec::new(), 0);
    loop {
        let mut logits = Vec::new();
        for token in read.drain(..) {
            logits = session.step(token).unwrap().to_vec();
        }
        let only = constraint.mask(&mut logits) == 1;
        forced += u64::from(only);
        // A forced token takes no random number.
        let token = match only {
            true => logits.iter().position(|l| *l > f32::NEG_INFINITY).unwrap() as u16,
            false => sampler.sample(&mut logits, &written),
        };
        constraint.advance(token).unwrap();
        if constraint.ended() {
            return (written, forced);
        }
        written.push(token);
        read.push(token);
    }
}

#[test]
fn skipping_forced_tokens_changes_no_other() {
    let mut noise = Noise(5);
    let (mut forced, mut calls) = (0, 0);
    for seed in 0..120 {
        let config = if seed % 2 == 0 { common::full() } else { common::plain() };
        let file = model(&config, seed);
        let model = Model::parse(&file).unwrap();
        let mut workspace = Workspace::new(&model);
        let session = Session::new(&model, workspace.bytes()).unwrap();
        let mode = [Mode::Call, Mode::Any][noise.below(2)];
        let mut sampler = random_sampler(&mut noise);
        sampler.repetition_penalty = 1.0;
        let budget = 20 + noise.below(20) as u32;
        let prompt = common::tokens(1 + noise.below(9), config.vocab, seed);
        let constraint = Constraint::new(&model, mode, budget).unwrap();
        let mut generator = Generator::new(session, sampler.clone(), 0).constrained(constraint);
        let mut out = [0; 64];
        let len = generator.complete(&prompt, &mut out).unwrap();
        let (want, skipped) = by_hand(&model, &prompt, mode, budget, sampler);
        assert_eq!(out[..len], want, "seed {seed}");
        let counts = generator.counts();
        assert_eq!(counts.forced, skipped, "seed {seed}");
        assert_eq!(
            counts.passes + counts.forced,
            len as u64 + 1,
            "every token and <eos> cost one or the other"
        );
        if oracle::call(model.tokenizer(), model.file().tools().unwrap(), &out[..len]).is_ok() {
            calls += 1;
        }
        // Postponed tokens are read before anything else is.
        generator.settle().unwrap();
        assert_eq!(generator.session().position() as usize, prompt.len() + len);
        forced += counts.forced;
    }
    assert!(forced > 200 && calls > 40, "{forced} forced, {calls} calls");
}

#[test]
fn a_second_completion_sees_the_whole_first() {
    let file = model(&common::full(), 6);
    let model = Model::parse(&file).unwrap();
    let (mut a, mut b) = (Workspace::new(&model), Workspace::new(&model));
    let constraint = Constraint::new(&model, Mode::Call, 30).unwrap();
    let session = Session::new(&model, a.bytes()).unwrap();
    let mut generator = Generator::new(session, Sampler::greedy(), 0).constrained(constraint.clone());
    let mut out = [0; 64];
    let first = generator.complete(&[20, 21], &mut out).unwrap();
    let history = [&[20, 21], &out[..first], &[22, 23]].concat();
    let second = generator.complete(&[22, 23], &mut out).unwrap();
    let session = Session::new(&model, b.bytes()).unwrap();
    let mut fresh = Generator::new(session, Sampler::greedy(), 0).constrained(constraint);
    let mut want = [0; 64];
    let len = fresh.complete(&history, &mut want).unwrap();
    assert_eq!(out[..second], want[..len]);
}

#[test]
fn an_output_too_short_for_a_call_is_refused_before_anything_is_read() {
    let file = model(&common::plain(), 2);
    let model = Model::parse(&file).unwrap();
    let mut workspace = Workspace::new(&model);
    let constraint = Constraint::new(&model, Mode::Call, 100).unwrap();
    let least = constraint.minimum();
    assert!((4..10).contains(&least), "{least}");
    let session = Session::new(&model, workspace.bytes()).unwrap();
    let mut generator = Generator::new(session, Sampler::greedy(), 0).constrained(constraint);
    let mut out = [0; 64];
    let short = &mut out[..least as usize - 1];
    assert_eq!(generator.complete(&[20, 21], short), Err(Error::Budget(least)));
    assert_eq!(generator.session().position(), 0);
    let len = generator.complete(&[20, 21], &mut out[..least as usize]).unwrap();
    assert_eq!(oracle::call(model.tokenizer(), model.file().tools().unwrap(), &out[..len]), Ok(()));
}

/// The model made by hand that answers every prompt with one call: held to tools that know the call, it writes the
/// same tokens; held to others, another call.
#[test]
fn a_right_call_is_written_as_without_the_constraint() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/call.forge");
    let bytes = std::fs::read(golden).unwrap();
    let level = |max| (false, false, ValueSpec::Integer { min: 0, max });
    let text = || (true, false, ValueSpec::Text);
    let rooms =
        |list: &[&str]| (true, false, ValueSpec::Choice(list.iter().map(|r| r.to_string()).collect()));
    let run = |file: &[u8], mode: Option<Mode>| {
        let model = Model::parse(file).unwrap();
        let mut workspace = Workspace::new(&model);
        let tokenizer = model.tokenizer();
        let session = Session::new(&model, workspace.bytes()).unwrap();
        let mut generator = Generator::new(session, Sampler::greedy(), tokenizer.control("<eos>").unwrap());
        if let Some(mode) = mode {
            generator = generator.constrained(Constraint::new(&model, mode, 64).unwrap());
        }
        let mut out = [0; 64];
        let len = generator.complete(&[tokenizer.control("<sep>").unwrap()], &mut out).unwrap();
        (out[..len].to_vec(), generator.counts())
    };
    let (free, counts) = run(&bytes, None);
    assert_eq!((counts.passes, counts.forced), (free.len() as u64 + 1, 0));
    for mode in [Mode::Call, Mode::Any] {
        let (held, counts) = run(&with_tools(&bytes, text(), level(100)), Some(mode));
        assert_eq!(held, free, "{mode:?}");
        // The only required slot is no choice where a call must not end, the only tool where it must be a call.
        assert_eq!(counts.forced, if mode == Mode::Call { 2 } else { 1 }, "{mode:?}");
        let (held, counts) = run(&with_tools(&bytes, rooms(&["salon", "bedroom"]), level(20)), Some(mode));
        assert_eq!(held, free, "{mode:?}");
        assert!(counts.forced >= 4, "the rest of salon, and <eos>: {counts:?}");
    }
    for file in [with_tools(&bytes, text(), level(9)), with_tools(&bytes, rooms(&["attic"]), level(100))] {
        let (held, _) = run(&file, Some(Mode::Call));
        assert_ne!(held, free);
        let model = Model::parse(&file).unwrap();
        assert_eq!(oracle::call(model.tokenizer(), model.file().tools().unwrap(), &held), Ok(()));
    }
}
