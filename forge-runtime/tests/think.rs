//! Thoughts are bounded, close, and come once: against a generator without shortcuts, on random models that like markers.

use forge_formats::codec::encode::{Simple, encode};
use forge_formats::role::RoleKind;
use forge_formats::write::Writer;
use forge_formats::{ModelConfig, Role};
use forge_runtime::constrain::Mode;
use forge_runtime::testing::{Noise, random_tokenizer};
use forge_runtime::{Constraint, Error, Generator, Model, Sampler, Session, Thinking, Tokenizer, Workspace};

mod common;

const END: u16 = 2;
const OPEN: u16 = 5;
const CLOSE: u16 = 6;
const LIMIT: usize = 48;

/// A random model whose head has longer rows for the markers and the end, so that they often are likeliest.
fn model(seed: u64) -> Vec<u8> {
    let config = ModelConfig { tied: false, ..common::plain() };
    let mut writer = Writer::new(config.clone()).tokenizer(random_tokenizer(config.vocab, seed));
    let mut noise = Noise(seed);
    for (role, layer, [rows, cols]) in config.tensors() {
        let (rows, cols) = (rows as usize, cols as usize);
        let centre = if role.kind() == RoleKind::Vector { 1.0 } else { 0.0 };
        let mut weights: Vec<f32> = (0..rows * cols).map(|_| centre + noise.uniform() * 0.3).collect();
        if role == Role::Head {
            for (id, by) in [(END, 1.6), (OPEN, 2.2), (CLOSE, 1.6)] {
                weights.chunks_mut(cols).nth(id.into()).unwrap().iter_mut().for_each(|w| *w *= by);
            }
        }
        let payload = encode(Simple::F32, rows, cols, &weights);
        writer = writer.tensor(role, layer, Simple::F32.into(), payload);
    }
    writer.finish().unwrap()
}

/// How a completion is asked for.
#[derive(Clone)]
struct Asked {
    prompt: Vec<u16>,
    sampler: Sampler,
    budget: u32,
    always: bool,
}

impl Asked {
    fn random(noise: &mut Noise) -> Self {
        let mut sampler = Sampler::new([0.0, 0.0, 0.7, 1.5][noise.below(4)], noise.next_u64());
        sampler.top_k = [0, 0, 5][noise.below(3)];
        sampler.repetition_penalty = [1.0, 1.0, 1.3, -1.0, f32::NAN][noise.below(5)];
        let budget = [0, 1, 2, 3, 5, 8, 13, u32::MAX][noise.below(8)];
        let prompt = common::tokens(1 + noise.below(9), 5, noise.next_u64());
        Self { prompt, sampler, budget, always: noise.below(3) == 0 }
    }

    fn thinking(&self, tokenizer: &Tokenizer<'_>) -> Thinking {
        let thinking = Thinking::new(tokenizer, self.budget).unwrap();
        if self.always { thinking.always() } else { thinking }
    }
}

/// A completion, and for each of its tokens whether it was said to be a thought's.
#[derive(Debug, PartialEq)]
struct Written {
    ids: Vec<u16>,
    thought: Vec<bool>,
    forced: u64,
}

/// What the generator writes.
fn written<'m>(generator: &mut Generator<'m, Session<'m>>, prompt: &[u16]) -> Written {
    let forced = generator.counts().forced;
    generator.start(prompt).unwrap();
    assert!(!generator.is_thought());
    let (mut ids, mut thought) = (Vec::new(), Vec::new());
    while let Some(id) = generator.next_token().unwrap() {
        ids.push(id);
        thought.push(generator.is_thought());
        if ids.len() == LIMIT {
            break;
        }
    }
    Written { ids, thought, forced: generator.counts().forced - forced }
}

fn generate(model: &Model<'_>, asked: &Asked) -> Written {
    let mut workspace = Workspace::new(model);
    let session = Session::new(model, workspace.bytes()).unwrap();
    let thinking = asked.thinking(&model.tokenizer());
    written(&mut Generator::new(session, asked.sampler.clone(), END).thinking(thinking), &asked.prompt)
}

/// How often each rule applied.
#[derive(Default)]
struct Rules {
    closed: usize,
    ended: usize,
    barred: usize,
}

/// Without shortcuts: the session reads every token, and every rule is applied as it is stated.
fn by_hand(model: &Model<'_>, asked: &Asked, rules: &mut Rules) -> Written {
    let mut workspace = Workspace::new(model);
    let mut session = Session::new(model, workspace.bytes()).unwrap();
    let mut sampler = asked.sampler.clone();
    let mut out = Written { ids: Vec::new(), thought: Vec::new(), forced: 0 };
    let (mut inside, mut before) = (asked.prompt.last() == Some(&OPEN), true);
    before &= !inside;
    let mut length = 0;
    let mut read = asked.prompt.clone();
    loop {
        let mut logits = Vec::new();
        for token in read.drain(..) {
            logits = session.step(token).unwrap().to_vec();
        }
        let token = if inside && length >= asked.budget {
            rules.closed += 1;
            out.forced += 1;
            CLOSE
        } else if out.ids.is_empty() && before && asked.always && asked.budget > 0 {
            out.forced += 1;
            OPEN
        } else {
            let (opens, closes) = (before && asked.budget > 0, inside);
            let free = sampler.clone().sample(&mut logits.clone(), &out.ids);
            if !opens {
                logits[usize::from(OPEN)] = f32::NEG_INFINITY;
            }
            if !closes {
                logits[usize::from(CLOSE)] = f32::NEG_INFINITY;
            }
            let wrong = |id| (id == OPEN && !opens) || (id == CLOSE && !closes);
            rules.barred += usize::from(wrong(free));
            match sampler.sample(&mut logits, &out.ids) {
                id if inside && (id == END || wrong(id)) => {
                    rules.ended += 1;
                    CLOSE
                }
                id if wrong(id) => END,
                id => id,
            }
        };
        if token == END || out.ids.len() == LIMIT {
            return out;
        }
        out.thought.push(inside || token == OPEN);
        length += u32::from(inside);
        if token == OPEN {
            (inside, before) = (true, false);
        }
        if token == CLOSE {
            inside = false;
        }
        out.ids.push(token);
        read.push(token);
    }
}

/// The tokens of a completion's thought, if it has one; what is wrong with its form otherwise.
fn thought(ids: &[u16], budget: usize) -> Result<Option<&[u16]>, &'static str> {
    let places = |marker| ids.iter().enumerate().filter(move |(_, id)| **id == marker).map(|(at, _)| at);
    match (&places(OPEN).collect::<Vec<_>>()[..], &places(CLOSE).collect::<Vec<_>>()[..]) {
        ([], []) => Ok(None),
        ([open], [close]) if open < close && close - open - 1 <= budget => Ok(Some(&ids[open + 1..*close])),
        ([open], [close]) if open < close => Err("too long"),
        ([open], []) if ids.len() == LIMIT && LIMIT - open - 1 <= budget => Ok(Some(&ids[open + 1..])),
        ([_], []) => Err("not closed"),
        _ => Err("markers out of order"),
    }
}

#[test]
fn the_form_is_told_from_others() {
    assert_eq!(thought(&[9, 9], 0), Ok(None));
    assert_eq!(thought(&[OPEN, 9, 8, CLOSE, 9], 2), Ok(Some(&[9, 8][..])));
    assert_eq!(thought(&[OPEN, 9, 8, CLOSE, 9], 1), Err("too long"));
    assert_eq!(thought(&[OPEN, 9], 8), Err("not closed"));
    for wrong in [&[CLOSE, OPEN][..], &[OPEN, OPEN, CLOSE], &[OPEN, CLOSE, OPEN], &[9, CLOSE]] {
        assert_eq!(thought(wrong, 8), Err("markers out of order"), "{wrong:?}");
    }
}

#[test]
fn a_completion_is_that_of_the_rules() {
    let mut noise = Noise(1);
    let mut rules = Rules::default();
    let mut thoughts = 0;
    for seed in 0..400 {
        let file = model(seed);
        let model = Model::parse(&file).unwrap();
        let asked = Asked::random(&mut noise);
        let got = generate(&model, &asked);
        assert_eq!(got, by_hand(&model, &asked, &mut rules), "seed {seed}");
        let budget = asked.budget.try_into().unwrap_or(usize::MAX);
        let thought = thought(&got.ids, budget).unwrap_or_else(|e| panic!("seed {seed}: {e}, {:?}", got.ids));
        assert!(thought.is_none() || asked.budget > 0, "seed {seed}");
        assert!(!asked.always || asked.budget == 0 || got.ids[0] == OPEN, "seed {seed}");
        thoughts += usize::from(thought.is_some());
    }
    let Rules { closed, ended, barred } = rules;
    assert!(
        thoughts > 100 && closed > 30 && ended > 10 && barred > 30,
        "{thoughts} {closed} {ended} {barred}"
    );
}

#[test]
fn without_thinking_the_same_models_break_every_rule() {
    let mut wrong = std::collections::BTreeSet::new();
    for seed in 0..400 {
        let file = model(seed);
        let model = Model::parse(&file).unwrap();
        let mut workspace = Workspace::new(&model);
        let session = Session::new(&model, workspace.bytes()).unwrap();
        let mut generator = Generator::new(session, Sampler::new(0.7, seed), END);
        let written = written(&mut generator, &[1, 4]);
        wrong.extend(thought(&written.ids, 3).err());
        assert!(written.thought.iter().all(|t| !t), "the markers are not known");
    }
    assert_eq!(wrong.into_iter().collect::<Vec<_>>(), ["markers out of order", "not closed", "too long"]);
}

#[test]
fn a_budget_that_is_not_reached_changes_nothing() {
    let (mut noise, mut seen, mut cut) = (Noise(3), 0, 0);
    for seed in 0..300 {
        let file = model(seed);
        let model = Model::parse(&file).unwrap();
        let asked = Asked { budget: u32::MAX, ..Asked::random(&mut noise) };
        let free = generate(&model, &asked);
        let Some(length) = thought(&free.ids, LIMIT).unwrap().map(<[u16]>::len) else { continue };
        let enough = Asked { budget: length as u32 + 1, ..asked.clone() };
        assert_eq!(generate(&model, &enough), free, "seed {seed}");
        seen += 1;
        if length < 2 {
            continue;
        }
        // A smaller one changes nothing before the thought is cut.
        let less = Asked { budget: length as u32 - 1, ..asked };
        let less = generate(&model, &less);
        let open = free.ids.iter().position(|id| *id == OPEN).unwrap();
        assert_eq!(less.ids[..open + length], free.ids[..open + length], "seed {seed}");
        assert_eq!(less.ids.get(open + length).copied().unwrap_or(CLOSE), CLOSE);
        cut += 1;
    }
    assert!(seen > 100 && cut > 50, "{seen} {cut}");
}

#[test]
fn where_the_model_keeps_to_the_form_thinking_changes_nothing() {
    let mut same = 0;
    for seed in 0..400 {
        let file = model(seed);
        let model = Model::parse(&file).unwrap();
        let mut workspace = Workspace::new(&model);
        let session = Session::new(&model, workspace.bytes()).unwrap();
        let prompt = common::tokens(4, 5, seed);
        let free = written(&mut Generator::new(session, Sampler::greedy(), END), &prompt);
        let Ok(Some(_)) = thought(&free.ids, 20) else { continue };
        let asked = Asked { prompt, sampler: Sampler::greedy(), budget: 20, always: false };
        assert_eq!(generate(&model, &asked).ids, free.ids, "seed {seed}");
        same += 1;
    }
    assert!(same > 3, "{same}");
}

#[test]
fn a_prompt_opens_a_thought_and_every_completion_has_its_own() {
    for seed in 0..50 {
        let file = model(seed);
        let model = Model::parse(&file).unwrap();
        let mut workspace = Workspace::new(&model);
        let session = Session::new(&model, workspace.bytes()).unwrap();
        let thinking = Thinking::new(&model.tokenizer(), 2).unwrap().always();
        let mut generator = Generator::new(session, Sampler::greedy(), END).thinking(thinking);
        for _ in 0..2 {
            let said = written(&mut generator, &[1, 4]);
            assert_eq!(said.ids[0], OPEN);
            thought(&said.ids, 2).unwrap();
        }
        let said = written(&mut generator, &[1, 4, OPEN]);
        let whole = [&[OPEN], &said.ids[..said.ids.len().min(LIMIT - 1)]].concat();
        assert!(thought(&whole, 2).unwrap().is_some());
        assert!(said.thought[0]);
    }
}

/// Tokens beyond the budget, and whether the thought was cut by it.
fn constrained(seed: u64, noise: &mut Noise) -> Option<usize> {
    let file = model(seed);
    let model = Model::parse(&file).unwrap();
    let tokenizer = model.tokenizer();
    let mut workspace = Workspace::new(&model);
    let session = Session::new(&model, workspace.bytes()).unwrap();
    let mut asked = Asked::random(noise);
    asked.always |= noise.below(2) == 0;
    let limit = noise.below(LIMIT);
    let constraint = Constraint::with_tools(tokenizer, None, Mode::Any, LIMIT as u32).unwrap();
    let generator = Generator::new(session, asked.sampler.clone(), 0);
    let thinking = asked.thinking(&tokenizer);
    let mut generator = match noise.below(2) {
        0 => generator.constrained(constraint).thinking(thinking),
        _ => generator.thinking(thinking).constrained(constraint),
    };
    let mut out = [0; LIMIT];
    let len = generator.complete(&asked.prompt, &mut out[..limit]).unwrap();
    assert_eq!(generator.next_token(), Ok(None), "seed {seed}: it has come to its end");
    let ids = &out[..len];
    let text = |ids: &[u16]| {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.decode(*id, &mut [0; 64]).to_vec()).collect();
        String::from_utf8(bytes)
    };
    let budget = asked.budget.try_into().unwrap_or(usize::MAX);
    let thought =
        thought(ids, budget.saturating_add(3)).unwrap_or_else(|e| panic!("seed {seed}: {e}, {ids:?}"));
    assert!(!asked.always || budget == 0 || limit < 2 || ids[0] == OPEN, "seed {seed}");
    let Some(thought) = thought else {
        text(ids).unwrap();
        return None;
    };
    assert!(budget > 0 && ids[0] == OPEN, "seed {seed}");
    text(thought).unwrap();
    text(&ids[thought.len() + 2..]).unwrap();
    // Beyond its budget it goes on only as long as a character is not whole.
    (budget..thought.len()).for_each(|at| assert!(text(&thought[..at]).is_err(), "seed {seed}"));
    (thought.len() >= budget).then(|| thought.len() - budget)
}

#[test]
fn constrained_thoughts_close_behind_whole_characters() {
    let mut noise = Noise(7);
    let mut beyond = [0; 4];
    for seed in 0..600 {
        if let Some(by) = constrained(seed, &mut noise) {
            beyond[by] += 1;
        }
    }
    assert!(beyond[0] > 100 && beyond[1] > 10 && beyond[2] > 0, "{beyond:?}");
}

#[test]
fn what_a_constraint_does_not_allow_is_not_thought() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tools.forge");
    let bytes = std::fs::read(golden).unwrap();
    let model = Model::parse(&bytes).unwrap();
    let tokenizer = model.tokenizer();
    let run = |thinking: Option<Thinking>| {
        let mut workspace = Workspace::new(&model);
        let session = Session::new(&model, workspace.bytes()).unwrap();
        let constraint = Constraint::new(&model, Mode::Call, 32).unwrap();
        let mut generator = Generator::new(session, Sampler::greedy(), 0).constrained(constraint);
        if let Some(thinking) = thinking {
            generator = generator.thinking(thinking);
        }
        let mut out = [0; 64];
        let len = generator.complete(&[1, 4], &mut out).unwrap();
        (out[..len].to_vec(), generator.counts())
    };
    let thinking = Thinking::new(&tokenizer, 4).unwrap();
    assert_eq!(run(Some(thinking.always())), run(None));
    assert_eq!(run(Some(thinking)), run(None));
}

#[test]
fn a_tokenizer_without_markers_is_refused() {
    use forge_formats::tokenizer::{SpecialKind, TokenizerSpec, TokenizerTable};
    for (names, missing) in [(&["<eos>", "</think>"], "<think>"), (&["<eos>", "<think>"], "</think>")] {
        let specials = names.iter().map(|name| (SpecialKind::Control, name.to_string())).collect();
        let bytes = TokenizerSpec { specials, ..TokenizerSpec::default() }.to_bytes().unwrap();
        let tokenizer = Tokenizer::new(TokenizerTable::parse(&bytes).unwrap());
        assert_eq!(Thinking::new(&tokenizer, 8), Err(Error::Control(missing)));
    }
}
