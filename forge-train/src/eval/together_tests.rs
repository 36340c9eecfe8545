//! Side by side or each in a session of its own: the same figures and the same tokens.

use forge_runtime::constrain::Mode;
use forge_runtime::generate::Counts;
use forge_runtime::sampler::argmax;
use forge_runtime::{Constraint, Generator, Sampler, Session};

use super::*;
use crate::eval::score::{Score, Span, score_all, surprise};
use crate::eval::tests::model;
use crate::eval::write::{Writing, hold_all, write_all};
use crate::rng::Rng;

/// Token sequences of 1 to 90 tokens: below and above the model's window.
fn sequences(vocab: u32) -> Vec<Vec<u16>> {
    let mut rng = Rng::new(1, &["together"]);
    let mut sequence = || (0..1 + rng.below(90)).map(|_| rng.below(vocab as usize) as u16).collect();
    (0..70).map(|_| sequence()).collect()
}

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn scored_alone(model: &Model<'_>, span: &Span<'_>) -> Score {
    let mut memory = workspace(model).unwrap();
    let mut session = Session::new(model, memory.bytes()).unwrap();
    let (mut score, mut agrees) = (Score::default(), true);
    for at in 1..span.ids.len() {
        let (token, right) = (span.ids[at - 1], span.ids[at]);
        let logits = session.step(token).unwrap();
        if at >= span.from {
            score.nats += surprise(logits, right);
            agrees &= at < span.completion || argmax(logits) == right;
            score.agreed += usize::from(agrees && at >= span.completion);
        }
        score.recursions += u64::from(session.recursions());
        score.tokens += 1;
    }
    score
}

#[test]
fn scores_are_those_of_sessions_of_their_own() {
    let bytes = model();
    let model = Model::parse(&bytes).unwrap();
    let sequences = sequences(model.config().vocab);
    let spans: Vec<Span<'_>> = sequences
        .iter()
        .zip(0..)
        .filter(|(ids, _)| ids.len() > 1)
        .map(|(ids, i)| {
            let from = 1 + i % (ids.len() - 1);
            Span { ids, from, completion: (from + i % 3).min(ids.len()) }
        })
        .collect();
    let alone: Vec<Score> = spans.iter().map(|span| scored_alone(&model, span)).collect();
    assert!(
        alone.iter().any(|s| s.recursions > s.tokens) && alone.iter().any(|s| s.recursions < 2 * s.tokens)
    );
    for threads in [1, 3] {
        for together in [Some(1), Some(2), Some(7), Some(64), None] {
            let scores = with_threads(threads, || score_all(&model, &spans, together)).unwrap();
            assert!(scores == alone, "{threads} threads, {together:?}");
        }
    }
}

fn written_alone(model: &Model<'_>, mut job: Writing<'_>) -> Vec<u16> {
    let mut memory = workspace(model).unwrap();
    let mut session = Session::new(model, memory.bytes()).unwrap();
    let (mut next, before) = job.prefix.split_last().unwrap();
    before.iter().for_each(|token| session.feed(*token).unwrap());
    while job.written.len() < job.max_tokens && !job.written.last().is_some_and(|t| job.stops.contains(t)) {
        let logits = session.step_mut(*next).unwrap();
        job.banned.iter().for_each(|id| logits[usize::from(*id)] = f32::NEG_INFINITY);
        job.written.push(job.sampler.sample(logits, &job.written));
        next = &job.written[job.written.len() - 1];
    }
    job.written
}

#[test]
fn completions_are_those_of_sessions_of_their_own() {
    let bytes = model();
    let model = Model::parse(&bytes).unwrap();
    let prefixes = sequences(model.config().vocab);
    // Many stop tokens, so that completions end early and late.
    let stops: Vec<u16> = (0..model.config().vocab as u16).step_by(9).collect();
    let jobs = || {
        prefixes.iter().zip(0u64..).map(|(prefix, i)| Writing {
            prefix,
            sampler: Sampler::new(0.7 * (i % 3) as f32, i),
            max_tokens: (i % 40) as usize,
            stops: &stops,
            banned: i.is_multiple_of(2).then_some(5),
            written: Vec::new(),
        })
    };
    let alone: Vec<Vec<u16>> = jobs().map(|job| written_alone(&model, job)).collect();
    assert!(alone.iter().any(|w| w.len() > 20) && alone.iter().any(|w| (1..5).contains(&w.len())));
    for threads in [1, 3] {
        assert!(with_threads(threads, || write_all(&model, jobs().collect())).unwrap() == alone, "{threads}");
    }
}

fn held_alone(model: &Model<'_>, prefix: &[u16], mode: Mode, most: usize) -> (Vec<u16>, Counts) {
    let constraint = Constraint::new(model, mode, most as u32).unwrap();
    let mut memory = workspace(model).unwrap();
    let session = Session::new(model, memory.bytes()).unwrap();
    let mut generator = Generator::new(session, Sampler::greedy(), constraint.end()).constrained(constraint);
    let mut written = vec![0; most];
    let len = generator.complete(prefix, &mut written).unwrap();
    written.truncate(len);
    (written, generator.counts())
}

#[test]
fn held_completions_are_those_of_a_generator() {
    let bytes = crate::eval::tests::model_with_tools();
    let model = Model::parse(&bytes).unwrap();
    let prefixes = sequences(model.config().vocab);
    let prefixes: Vec<&[u16]> = prefixes.iter().map(Vec::as_slice).collect();
    for (mode, most) in [(Mode::Any, 0), (Mode::Any, 25), (Mode::Call, 12), (Mode::Call, 60)] {
        let alone: Vec<_> = prefixes.iter().map(|p| held_alone(&model, p, mode, most)).collect();
        assert!(mode == Mode::Any || alone.iter().all(|(_, counts)| counts.forced > 0));
        for threads in [1, 3] {
            let held = with_threads(threads, || hold_all(&model, &prefixes, mode, most)).unwrap();
            assert!(held == alone, "{threads} threads, {mode:?}, {most}");
        }
    }
}
