//! From the bytes of a file to text, on golden files small enough for Miri to interpret in seconds (`./test miri`).

use std::fs;
use std::path::Path;

use forge_formats::tokenizer::SpecialKind;
use forge_runtime::constrain::Mode;
use forge_runtime::generate::prompt;
use forge_runtime::{Constraint, Generator, Model, Options, Sampler, Session, Workspace, call};

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)).unwrap()
}

/// A sampler that uses everything it has.
fn sampler(seed: u64) -> Sampler {
    let mut sampler = Sampler::new(0.9, seed);
    (sampler.top_k, sampler.top_p, sampler.min_p, sampler.repetition_penalty) = (9, 0.95, 0.01, 1.2);
    sampler
}

/// What a session writes after a prompt, as token ids, held to a call when asked.
fn write(file: &[u8], constrained: bool, seed: u64) -> Vec<u16> {
    let model = Model::parse_verified(file).unwrap();
    let tokenizer = model.tokenizer();
    let mut memory = Workspace::with(&model, &Options::device());
    let session = Session::with(&model, &Options::device(), memory.bytes()).unwrap();
    let mut generator = Generator::new(session, sampler(seed), tokenizer.control("<eos>").unwrap());
    if constrained {
        let least = Constraint::new(&model, Mode::Call, u32::MAX).unwrap().minimum();
        generator = generator.constrained(Constraint::new(&model, Mode::Call, least + 2).unwrap());
    }
    let (mut ids, mut out) = ([0; 16], [0; 40]);
    let len = prompt(&tokenizer, Some(b"be"), b"dim", &mut ids).unwrap();
    let room = if constrained { out.len() } else { 3 };
    let count = generator.complete(&ids[..len], &mut out[..room]).unwrap();
    out[..count].to_vec()
}

#[test]
fn a_constrained_completion_is_a_call() {
    let file = golden("tools.forge");
    let model = Model::parse(&file).unwrap();
    let is_tool = |name: &str| model.file().tokenizer().special(SpecialKind::Tool, name).is_some();
    let mut free = 0;
    for seed in 0..if cfg!(miri) { 1 } else { 40 } {
        let completion = write(&file, true, seed);
        let call = call::Call::parse(model.tokenizer(), &completion).expect("it is a call");
        assert!(is_tool(call.tool()), "{} is no tool of the file", call.tool());
        let mut json = String::new();
        call::render(&model.tokenizer(), &completion, &mut json).unwrap();
        assert!(json.starts_with('{') && json.ends_with('}'), "{json}");
        free += usize::from(call::Call::parse(model.tokenizer(), &write(&file, false, seed)).is_some());
    }
    // The control: left free, so short a completion is seldom a call.
    assert!(cfg!(miri) || free < 40, "every free completion is a call too");
}

#[test]
fn a_session_goes_on_from_its_snapshot() {
    const NAMES: [&str; 6] =
        ["titans.forge", "cache_int8.forge", "halting.forge", "memory.forge", "rans.forge", "searched.forge"];
    // Miri takes minutes for each.
    for name in NAMES.into_iter().take(if cfg!(miri) { 2 } else { NAMES.len() }) {
        let file = golden(name);
        let model = Model::parse_verified(&file).unwrap();
        let options = Options::device().block(2);
        let (mut first, mut second) = (Workspace::with(&model, &options), Workspace::with(&model, &options));
        let mut session = Session::with(&model, &options, first.bytes()).unwrap();
        session.prefill(&[1, 9, 4]).unwrap();
        let mut snapshot = vec![0; session.snapshot_len()];
        let len = session.snapshot(&mut snapshot).unwrap();
        let mut resumed = Session::with(&model, &options, second.bytes()).unwrap();
        resumed.restore(&snapshot[..len]).unwrap();
        let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<u32>>();
        let want = bits(session.step(7).unwrap());
        assert_eq!(bits(resumed.step(7).unwrap()), want, "{name}");
        assert!(want.iter().any(|l| *l != want[0]), "{name}: the logits tell tokens apart");
    }
}
