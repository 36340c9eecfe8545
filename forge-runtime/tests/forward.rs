//! The session against the reference, and what the architecture promises.

mod common;

use common::reference::Reference;
use common::{CODECS, full, plain, random_config, run, steps, tokens};
use forge_formats::ModelConfig;
use forge_formats::codec::encode::Simple;
use forge_formats::config::{CacheKind, Globals};
use forge_runtime::testing::{Noise, random_model};
use forge_runtime::{Error, Model, Session, Workspace};

/// Compares every logit of a run to the bit; returns how often each number of recursions was used.
fn agree(config: &ModelConfig, codec: Simple, seed: u64) -> [usize; 4] {
    let bytes = random_model(config, seed, codec);
    let tokens = tokens(2 * config.window as usize + 3, config.vocab, seed);
    let mut reference = Reference::new(&bytes);
    let mut used = [0; 4];
    for (i, (got, recursions)) in run(&bytes, &tokens).into_iter().enumerate() {
        let want: Vec<u32> = reference.step(tokens[i]).iter().map(|l| l.to_bits()).collect();
        assert_eq!(recursions, reference.recursions, "recursions at {i}: {config:?} {codec:?}");
        assert!(got == want, "logits at {i}: {config:?} {codec:?}");
        used[recursions as usize] += 1;
    }
    used
}

#[test]
fn every_codec_agrees_with_the_reference() {
    for codec in CODECS {
        let mut used = [0; 4];
        for seed in 0..6 {
            agree(&plain(), codec, seed);
            let counts = agree(&full(), codec, seed);
            used.iter_mut().zip(counts).for_each(|(u, c)| *u += c);
        }
        assert!(used[1] > 0 && used[2] > 0 && used[3] > 0, "{codec:?}: recursions used {used:?}");
    }
}

#[test]
fn random_shapes_agree_with_the_reference() {
    let mut noise = Noise(7);
    let mut used = [0; 4];
    for seed in 0..60 {
        let config = random_config(&mut noise);
        let counts = agree(&config, CODECS[seed as usize % CODECS.len()], seed);
        used.iter_mut().zip(counts).for_each(|(u, c)| *u += c);
    }
    assert!(used[1..].iter().all(|u| *u > 50), "recursions used: {used:?}");
}

#[test]
fn caches_of_int8_agree_with_the_reference() {
    let mut noise = Noise(8);
    let mut used = [0; 4];
    for seed in 0..60 {
        let config = ModelConfig { cache: CacheKind::Int8, ..random_config(&mut noise) };
        let counts = agree(&config, CODECS[seed as usize % CODECS.len()], seed);
        used.iter_mut().zip(counts).for_each(|(u, c)| *u += c);
    }
    assert!(used[1..].iter().all(|u| *u > 50), "recursions used: {used:?}");
}

#[test]
fn the_cache_matters() {
    let int8 = ModelConfig { cache: CacheKind::Int8, ..plain() };
    let a = tokens(10, int8.vocab, 12);
    let wide = run(&random_model(&plain(), 12, Simple::Ternary2b), &a);
    let narrow = run(&random_model(&int8, 12, Simple::Ternary2b), &a);
    assert!(wide[1..].iter().zip(&narrow[1..]).all(|(w, n)| w.0 != n.0));
}

#[test]
fn tokens_beyond_the_window_do_not_matter() {
    let config = ModelConfig { layers: 1, ..plain() };
    let bytes = random_model(&config, 3, Simple::Ternary2b);
    let mut a = tokens(12, config.vocab, 3);
    let before = run(&bytes, &a);
    a[3] ^= 1;
    let after = run(&bytes, &a);
    let window = config.window as usize;
    for at in 0..12 {
        let touched = (3..3 + window).contains(&at);
        assert_eq!(before[at].0 != after[at].0, touched, "position {at}");
    }
}

/// A global position is seen from beyond the window until as many later ones as are kept have left it too.
#[test]
fn global_positions_matter_beyond_the_window_until_they_are_overwritten() {
    let globals = Globals { every: 4, rows: 2 };
    for cache in [CacheKind::F32, CacheKind::Int8] {
        let config = ModelConfig { layers: 1, globals, cache, ..plain() };
        let bytes = random_model(&config, 3, Simple::Ternary2b);
        let window = config.window as usize;
        let before = run(&bytes, &tokens(30, config.vocab, 3));
        for changed in [0, 3, 4, 5, 8, 9] {
            let mut other = tokens(30, config.vocab, 3);
            other[changed] ^= 1;
            let after = run(&bytes, &other);
            let last = if changed % 4 == 0 { changed + window + 4 * 2 } else { changed + window };
            for at in 0..30 {
                let touched = (changed..last).contains(&at);
                assert_eq!(before[at].0 != after[at].0, touched, "position {at} of {changed}, {cache:?}");
            }
        }
    }
}

/// The same weights without global positions: nothing changes until the first has left the window, then everything.
#[test]
fn ignoring_globals_is_noticed() {
    for cache in [CacheKind::F32, CacheKind::Int8] {
        let off = ModelConfig { cache, ..full() };
        let on = ModelConfig { globals: Globals { every: 2, rows: 3 }, ..off.clone() };
        let a = tokens(20, off.vocab, 12);
        let [with, without] = [&on, &off].map(|c| run(&random_model(c, 12, Simple::Ternary2b), &a));
        let window = off.window as usize;
        assert!(with[..window] == without[..window], "{cache:?}");
        assert!((window..20).all(|at| with[at].0 != without[at].0), "{cache:?}");
    }
}

#[test]
fn the_receptive_field_grows_with_recursion() {
    let config = ModelConfig { layers: 1, recursion: 2, ..plain() };
    let bytes = random_model(&config, 4, Simple::Int8Row);
    let mut a = tokens(20, config.vocab, 4);
    let before = run(&bytes, &a);
    a[3] ^= 1;
    let after = run(&bytes, &a);
    let reach = 2 * (config.window as usize - 1) + 1;
    for at in 0..20 {
        let touched = (3..3 + reach).contains(&at);
        assert_eq!(before[at].0 != after[at].0, touched, "position {at}");
    }
}

#[test]
fn later_tokens_never_change_earlier_logits() {
    for codec in CODECS {
        let bytes = random_model(&full(), 5, codec);
        let a = tokens(24, full().vocab, 5);
        let before = run(&bytes, &a);
        for changed in [0, 7, 23] {
            let mut b = a.clone();
            b[changed] ^= 1;
            let after = run(&bytes, &b);
            assert!(before[..changed] == after[..changed], "{codec:?}: {changed} reached back");
            assert!(before[changed] != after[changed], "{codec:?}: {changed} had no effect");
        }
    }
}

#[test]
fn the_memory_outlasts_the_window() {
    let config = ModelConfig { layers: 1, mem_dim: 8, mem_gate: 8, mem_layers: 1, ..plain() };
    let bytes = random_model(&config, 6, Simple::Ternary2b);
    let mut a = tokens(12, config.vocab, 6);
    let before = run(&bytes, &a);
    a[0] ^= 1;
    let after = run(&bytes, &a);
    assert!(before[config.window as usize + 1].0 != after[config.window as usize + 1].0);
}

#[test]
fn reset_gives_the_same_logits_again() {
    let bytes = random_model(&full(), 8, Simple::Ternary5x8);
    let model = Model::parse(&bytes).unwrap();
    let mut memory = Workspace::new(&model);
    let mut session = Session::new(&model, memory.bytes()).unwrap();
    let a = tokens(15, full().vocab, 8);
    let first = steps(&mut session, &a);
    assert_eq!(session.position(), 15);
    assert!(steps(&mut session, &a) != first, "the state does not matter");
    session.reset();
    assert_eq!((session.position(), session.recursions()), (0, 0));
    assert!(steps(&mut session, &a) == first);
}

#[test]
fn feeding_equals_stepping() {
    let bytes = random_model(&full(), 9, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    let a = tokens(10, full().vocab, 9);
    let mut memory = Workspace::new(&model);
    let mut session = Session::new(&model, memory.bytes()).unwrap();
    let want = steps(&mut session, &a);
    session.reset();
    a[..9].iter().for_each(|t| session.feed(*t).unwrap());
    assert!(steps(&mut session, &a[9..]) == want[9..]);
}

#[test]
fn the_workspace_is_exact() {
    let globals = ModelConfig { globals: Globals { every: 3, rows: 5 }, ..full() };
    for config in [plain(), full(), globals] {
        let bytes = random_model(&config, 10, Simple::Ternary2b);
        let model = Model::parse(&bytes).unwrap();
        let n = model.workspace();
        let mut memory = Workspace::new(&model);
        assert_eq!(n % 4, 0);
        assert!(Session::new(&model, &mut memory.bytes()[..n]).is_ok());
        assert_eq!(Session::new(&model, &mut memory.bytes()[..n - 1]).unwrap_err(), Error::Buffer);
        let mut more = vec![0u32; n / 4 + 1];
        let off = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut more)[1..=n];
        assert_eq!(Session::new(&model, off).unwrap_err(), Error::Buffer);
    }
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let bytes = random_model(&plain(), 11, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    let mut memory = Workspace::new(&model);
    let mut session = Session::new(&model, memory.bytes()).unwrap();
    assert_eq!(session.step(300).unwrap_err(), Error::Token(300));
    assert_eq!(session.position(), 0);
    assert!(session.step(299).is_ok());
}
