//! Every way to run a model gives the same bits: kernels, prepared weights, blocks, batches, snapshots, teams.

mod common;

use common::{CODECS, full, random_config, tokens};
use forge_formats::ModelConfig;
use forge_formats::codec::encode::Simple;
use forge_formats::config::{CacheKind, Globals};
use forge_runtime::team::with_team;
use forge_runtime::testing::{Noise, random_model};
use forge_runtime::{Batch, Error, Kernels, Model, Options, Prepared, Session, Workspace};

/// Logits as bits, and the number of recursions.
type Step = (Vec<u32>, u32);

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

fn step(session: &mut Session<'_>, token: u16) -> Step {
    let logits = bits(session.step(token).unwrap());
    (logits, session.recursions())
}

/// Every step of a device's session: portable kernels, token by token.
fn definition(model: &Model<'_>, tokens: &[u16]) -> Vec<Step> {
    let options = Options::device();
    let mut memory = Workspace::with(model, &options);
    let mut session = Session::with(model, &options, memory.bytes()).unwrap();
    tokens.iter().map(|t| step(&mut session, *t)).collect()
}

/// A random shape, with either cache.
fn shape(noise: &mut Noise) -> ModelConfig {
    let config = random_config(noise);
    let cache = if noise.below(2) == 0 { CacheKind::Int8 } else { CacheKind::default() };
    ModelConfig { cache, ..config }
}

/// The options of every table, with and without prepared weights, reading `block` tokens at a time.
fn all_options<'m>(prepared: Prepared<'m>, block: usize) -> Vec<Options<'m>> {
    let of = |kernels| {
        let options = Options::default().kernels(kernels).block(block);
        [options, options.prepared(prepared)]
    };
    Kernels::all().flat_map(of).collect()
}

#[test]
fn prompts_in_blocks_are_those_token_by_token() {
    let mut noise = Noise(31);
    let (mut wrapped, mut depths) = (0, [0usize; 4]);
    for seed in 0..40 {
        let config = shape(&mut noise);
        let bytes = random_model(&config, seed, CODECS[seed as usize % CODECS.len()]);
        let model = Model::parse(&bytes).unwrap();
        let tokens = tokens(2 * config.window as usize + 3, config.vocab, seed);
        let want = definition(&model, &tokens);
        wrapped += usize::from(tokens.len() > config.window as usize);
        want.iter().for_each(|(_, recursions)| depths[*recursions as usize] += 1);
        let mut room = Workspace::of(model.prepared_bytes());
        let prepared = room.prepare(&model).unwrap();
        for options in all_options(prepared, 1 + noise.below(20)) {
            let mut memory = Workspace::with(&model, &options);
            let mut session = Session::with(&model, &options, memory.bytes()).unwrap();
            let mut at = 0;
            while at < tokens.len() {
                let to = (at + noise.below(12)).min(tokens.len() - 1);
                session.prefill(&tokens[at..to]).unwrap();
                assert!(
                    step(&mut session, tokens[to]) == want[to],
                    "seed {seed} at {to}: {options:?} {config:?}"
                );
                at = to + 1;
            }
            session.reset();
            let logits = bits(session.extend(&tokens).unwrap());
            assert!(logits == want[tokens.len() - 1].0, "seed {seed} at once: {options:?} {config:?}");
        }
    }
    assert!(wrapped == 40 && depths[1..].iter().all(|n| *n > 20), "recursions used: {depths:?}");
}

#[test]
fn a_batch_is_many_sessions() {
    let mut noise = Noise(32);
    for seed in 0..30 {
        let config = shape(&mut noise);
        let bytes = random_model(&config, seed, CODECS[seed as usize % CODECS.len()]);
        let model = Model::parse(&bytes).unwrap();
        let sequences = 1 + noise.below(6);
        let length = 2 * config.window as usize + 3;
        let tokens: Vec<_> =
            (0..sequences).map(|s| tokens(length, config.vocab, 100 * seed + s as u64)).collect();
        let want: Vec<_> = tokens.iter().map(|t| definition(&model, t)).collect();
        let mut room = Workspace::of(model.prepared_bytes());
        let prepared = room.prepare(&model).unwrap();
        let block = 1 + noise.below(9);
        let pass = block.min(config.window as usize);
        for options in all_options(prepared, block) {
            let mut memory = Workspace::of(model.batch_workspace(&options, sequences));
            let mut batch = Batch::new(&model, &options, sequences, memory.bytes()).unwrap();
            let mut read = vec![0; sequences];
            while read.iter().any(|r| *r < length) {
                // One sequence reads a piece of a prompt or begins again, then some read a token each.
                let some = noise.below(sequences);
                let to = (read[some] + noise.below(4)).min(length - 1).max(read[some]);
                batch.prefill(some, &tokens[some][read[some]..to]).unwrap();
                for (place, at) in (read[some]..to).enumerate().filter(|_| to - read[some] <= pass) {
                    assert_eq!(batch.recursions(place), want[some][at].1, "seed {seed}, {some} at {at}");
                }
                read[some] = to;
                if noise.below(40) == 0 {
                    batch.reset(some);
                    read[some] = 0;
                }
                let next: Vec<_> = (0..sequences)
                    .filter(|s| read[*s] < length && noise.below(3) > 0)
                    .map(|s| (s, tokens[s][read[s]]))
                    .collect();
                batch.step(&next).unwrap();
                for (place, (s, _)) in next.into_iter().enumerate() {
                    let got = (bits(batch.logits_mut(s)), batch.recursions(place));
                    assert!(got == want[s][read[s]], "seed {seed}, {s} at {}: {options:?}", read[s]);
                    read[s] += 1;
                    assert_eq!(batch.position(s) as usize, read[s]);
                }
            }
        }
    }
}

#[test]
fn a_batch_refuses_what_it_cannot_read() {
    let bytes = random_model(&full(), 1, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    let options = Options::default();
    let mut memory = Workspace::of(model.batch_workspace(&options, 3));
    let mut batch = Batch::new(&model, &options, 3, memory.bytes()).unwrap();
    assert_eq!(batch.step(&[(0, 1), (3, 1)]).unwrap_err(), Error::Sequence(3));
    assert_eq!(batch.step(&[(0, 1), (0, 1)]).unwrap_err(), Error::Sequence(0));
    assert_eq!(batch.step(&[(1, 1), (0, 1)]).unwrap_err(), Error::Sequence(0));
    assert_eq!(batch.step(&[(0, 1), (2, 60_000)]).unwrap_err(), Error::Token(60_000));
    assert_eq!(batch.prefill(3, &[1]).unwrap_err(), Error::Sequence(3));
    assert_eq!(batch.prefill(1, &[1, 60_000]).unwrap_err(), Error::Token(60_000));
    assert!((0..3).all(|s| batch.position(s) == 0), "something was read");
    assert!(batch.step(&[(0, 1), (2, 1)]).is_ok());
}

#[test]
fn snapshots_go_on_under_any_options() {
    let mut noise = Noise(33);
    for seed in 0..30 {
        let config = shape(&mut noise);
        let bytes = random_model(&config, seed, CODECS[seed as usize % CODECS.len()]);
        let model = Model::parse(&bytes).unwrap();
        let tokens = tokens(2 * config.window as usize + 6, config.vocab, seed);
        let want = definition(&model, &tokens);
        let mut room = Workspace::of(model.prepared_bytes());
        let prepared = room.prepare(&model).unwrap();
        let cut = noise.below(tokens.len() - 3);
        let mut snapshots: Vec<Vec<u8>> = Vec::new();
        for options in all_options(prepared, 1 + noise.below(9)) {
            let mut memory = Workspace::with(&model, &options);
            let mut session = Session::with(&model, &options, memory.bytes()).unwrap();
            // What was there before does not matter.
            session.prefill(&tokens[..noise.below(tokens.len())]).unwrap();
            if let Some(snapshot) = snapshots.last() {
                session.restore(snapshot).unwrap();
            } else {
                session.reset();
                session.extend(&tokens[..cut]).unwrap();
            }
            assert_eq!(session.position() as usize, cut);
            let mut snapshot = vec![0; session.snapshot_len()];
            assert_eq!(session.snapshot(&mut snapshot), Ok(snapshot.len()));
            assert!(snapshots.iter().all(|s| *s == snapshot), "seed {seed}: {options:?}");
            snapshots.push(snapshot);
            if cut > 0 {
                assert!(bits(session.extend(&[]).unwrap()) == want[cut - 1].0, "seed {seed}: {options:?}");
            }
            for at in cut..tokens.len() {
                assert!(step(&mut session, tokens[at]) == want[at], "seed {seed} at {at}: {options:?}");
            }
        }
    }
}

#[test]
fn damaged_snapshots_are_refused_and_leave_a_fresh_session() {
    for cache in [CacheKind::default(), CacheKind::Int8] {
        let config = ModelConfig { cache, ..full() };
        let bytes = random_model(&config, 3, Simple::Ternary5x8);
        let model = Model::parse(&bytes).unwrap();
        let tokens = tokens(10, config.vocab, 3);
        let want = definition(&model, &tokens);
        let mut memory = Workspace::new(&model);
        let mut session = Session::new(&model, memory.bytes()).unwrap();
        session.extend(&tokens).unwrap();
        let mut snapshot = vec![0; session.snapshot_len()];
        session.snapshot(&mut snapshot).unwrap();
        let short = snapshot.len() - 1;
        assert_eq!(session.snapshot(&mut snapshot[..short]).unwrap_err(), Error::Buffer);
        let mut noise = Noise(4);
        for at in 0..snapshot.len() {
            let mut damaged = snapshot.clone();
            damaged[at] ^= 1 << noise.below(8);
            assert_eq!(session.restore(&damaged).unwrap_err(), Error::Snapshot, "byte {at}");
            assert_eq!(session.restore(&snapshot[..at]).unwrap_err(), Error::Snapshot, "cut at {at}");
            assert_eq!((session.position(), session.recursions()), (0, 0));
            if at % 97 == 0 {
                let again: Vec<_> = tokens.iter().map(|t| step(&mut session, *t)).collect();
                assert!(again == want, "byte {at} left something behind");
            }
        }
        let longer = [&snapshot[..], &[0; 4]].concat();
        assert_eq!(session.restore(&longer).unwrap_err(), Error::Snapshot);
        assert!(session.restore(&snapshot).is_ok(), "the undamaged one is taken");
        // Models of another shape refuse it, of the same shape take it.
        let other = ModelConfig { window: config.window + 1, ..config.clone() };
        let globals = ModelConfig { globals: Globals { every: 2, rows: 3 }, ..config.clone() };
        for (config, taken) in [(other, false), (globals, false), (config, true)] {
            let bytes = random_model(&config, 5, Simple::Ternary2b);
            let model = Model::parse(&bytes).unwrap();
            let mut memory = Workspace::new(&model);
            let mut session = Session::new(&model, memory.bytes()).unwrap();
            assert_eq!(session.restore(&snapshot).is_ok(), taken);
        }
    }
}

#[test]
fn a_team_gives_the_results_of_one() {
    let mut noise = Noise(34);
    let mut sizes = [0usize; 4];
    for seed in 0..24 {
        let random = shape(&mut noise);
        let config = ModelConfig {
            dim: 48 + noise.below(40) as u32,
            heads: 6,
            kv_heads: 3,
            head_dim: 16,
            ffn: 48 + 16 * noise.below(4) as u32,
            ..random
        };
        let bytes = random_model(&config, seed, CODECS[seed as usize % CODECS.len()]);
        let model = Model::parse(&bytes).unwrap();
        let tokens = tokens(config.window as usize + 8, config.vocab, seed);
        let want = definition(&model, &tokens);
        let mut room = Workspace::of(model.prepared_bytes());
        let prepared = room.prepare(&model).unwrap();
        let options = all_options(prepared, 1 + noise.below(9));
        let options = options[noise.below(options.len())];
        for threads in 1..4 {
            let got = with_team(&model, &options, threads, |session| {
                sizes[session.threads()] += 1;
                session.extend(&tokens[..3])?;
                session.reset();
                let half = tokens.len() / 2;
                let mut got = vec![bits(session.extend(&tokens[..half])?)];
                for token in &tokens[half..] {
                    got.push(bits(session.step_mut(*token)?));
                }
                assert_eq!(session.step_mut(u16::MAX).unwrap_err(), Error::Token(u16::MAX));
                assert_eq!(session.position() as usize, tokens.len());
                Ok(got)
            });
            let want: Vec<_> = want[tokens.len() / 2 - 1..].iter().map(|w| w.0.clone()).collect();
            assert!(got.unwrap() == want, "seed {seed}, {threads} threads: {options:?} {config:?}");
        }
    }
    assert_eq!(sizes, [0, 24, 24, 24]);
}

/// A shape whose heads are no whole panels is computed by one thread, whatever is asked for.
#[test]
fn a_team_is_no_larger_than_its_work() {
    let bytes = random_model(&full(), 1, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    assert_eq!(with_team(&model, &Options::default(), 3, |session| Ok(session.threads())), Ok(1));
}
