//! Random tools and random logits.

use forge_formats::tools::Value;
use forge_runtime::constrain::Mode;
use forge_runtime::testing::Noise;
use forge_runtime::{Constraint, Tokenizer};

use crate::worlds::{World, random_text};
use crate::{Logits, oracle, random_sampler, write};

/// Completions of each kind; together more than 10⁵ in a release build.
const COMPLETIONS: u64 = if cfg!(debug_assertions) { 2_000 } else { 60_000 };
/// Completions in one world.
const EACH: u64 = 40;

/// Runs `body` for many seeds on all cores, each with a world and a noise of its own.
fn worlds(body: impl Fn(&World, &mut Noise, u64) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let body = &body;
            scope.spawn(move || {
                for seed in (thread..COMPLETIONS / EACH).step_by(threads as usize) {
                    let mut noise = Noise(seed);
                    body(&World::random(&mut noise), &mut noise, seed);
                }
            });
        }
    });
}

fn logits(tokenizer: &Tokenizer<'_>, noise: &mut Noise) -> Logits {
    Logits::new(noise.next_u64(), tokenizer.vocab(), tokenizer.table().special_count())
}

#[test]
fn every_completion_is_a_call_of_the_tools() {
    worlds(|world, noise, seed| {
        let (tokenizer, tools) = (world.tokenizer(), world.tools());
        let free = Constraint::with_tools(tokenizer, tools, Mode::Call, u32::MAX).unwrap();
        for at in 0..EACH {
            let budget = free.minimum() + [0, 1, 5, 60][noise.below(4)];
            let mut constraint = Constraint::with_tools(tokenizer, tools, Mode::Call, budget).unwrap();
            let ids = write(&mut constraint, &mut logits(&tokenizer, noise), &mut random_sampler(noise));
            let said = oracle::call(tokenizer, tools.unwrap(), &ids);
            assert_eq!(said, Ok(()), "completion {at} of world {seed}, budget {budget}: {ids:?}");
        }
    });
}

#[test]
fn every_completion_is_a_call_or_a_text() {
    let texts = std::sync::atomic::AtomicU64::new(0);
    worlds(|world, noise, seed| {
        let (tokenizer, tools) = (world.tokenizer(), world.tools());
        for at in 0..EACH {
            let budget = noise.below(40) as u32;
            let mut constraint = Constraint::with_tools(tokenizer, tools, Mode::Any, budget).unwrap();
            let ids = write(&mut constraint, &mut logits(&tokenizer, noise), &mut random_sampler(noise));
            let tool = ids.first().is_some_and(|id| tools.unwrap().tool(*id).is_some());
            let said = match tool {
                true => oracle::call(tokenizer, tools.unwrap(), &ids),
                false => oracle::text(tokenizer, &ids),
            };
            assert_eq!(said, Ok(()), "completion {at} of world {seed}, budget {budget}: {ids:?}");
            texts.fetch_add(u64::from(!tool), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let texts = texts.into_inner();
    assert!((COMPLETIONS / 20..COMPLETIONS / 20 * 19).contains(&texts), "both kinds occur: {texts} texts");
}

/// The negative control: the same logits without the constraint.
#[test]
fn without_the_constraint_hardly_any_completion_is_a_call() {
    let calls = std::sync::atomic::AtomicU64::new(0);
    worlds(|world, noise, _| {
        let (tokenizer, tools) = (world.tokenizer(), world.tools().unwrap());
        let end = tokenizer.control("<eos>").unwrap();
        for _ in 0..EACH {
            let (mut logits, mut sampler) = (logits(&tokenizer, noise), random_sampler(noise));
            let mut ids = Vec::new();
            while ids.len() < 40 {
                let token = sampler.sample(logits.draw(), &ids);
                if token == end {
                    break;
                }
                ids.push(token);
            }
            let right = oracle::call(tokenizer, tools, &ids).is_ok();
            calls.fetch_add(u64::from(right), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let calls = calls.into_inner();
    assert!(calls < COMPLETIONS / 50, "{calls} of {COMPLETIONS} are calls");
}

/// At every place: a token is allowed, as many as `mask` leaves, `forced` is the only one, and masking changes
/// nothing else.
#[test]
fn allowed_masked_and_forced_tokens_agree() {
    let forced = std::sync::atomic::AtomicU64::new(0);
    worlds(|world, noise, seed| {
        let tokenizer = world.tokenizer();
        let known = tokenizer.vocab() as u16;
        let mode = [Mode::Call, Mode::Any][noise.below(2)];
        let free = Constraint::with_tools(tokenizer, world.tools(), mode, u32::MAX).unwrap();
        let budget = free.minimum() + noise.below(20) as u32;
        let mut constraint = Constraint::with_tools(tokenizer, world.tools(), mode, budget).unwrap();
        let mut logits = logits(&tokenizer, noise);
        while !constraint.ended() {
            let allowed: Vec<u16> = (0..known + 9).filter(|id| constraint.allows(*id)).collect();
            let only = (allowed.len() == 1).then(|| allowed[0]);
            assert_eq!(constraint.forced(), only, "world {seed}");
            forced.fetch_add(u64::from(only.is_some()), std::sync::atomic::Ordering::Relaxed);
            let before = logits.draw().to_vec();
            let mut after = before.clone();
            assert_eq!(constraint.mask(&mut after), allowed.len());
            for (id, (was, is)) in (0..).zip(before.iter().zip(&after)) {
                let want = if allowed.contains(&id) { was.max(f32::MIN) } else { f32::NEG_INFINITY };
                assert_eq!(is.to_bits(), want.to_bits(), "world {seed}, token {id}");
            }
            let mut refused = constraint.clone();
            let other = noise.below(usize::from(known)) as u16;
            assert_eq!(refused.advance(other).is_ok(), allowed.contains(&other));
            constraint.advance(allowed[noise.below(allowed.len())]).unwrap();
        }
        assert!((0..=u16::MAX).all(|id| !constraint.allows(id)), "nothing follows the end");
    });
    assert!(forced.into_inner() > COMPLETIONS / EACH, "tokens are forced");
}

/// A model that reasons in marked steps is not changed either, and no marker stands where none belongs: outside of a
/// thought, within a character, where only `</think>` has room.
#[test]
fn markers_stand_in_thoughts_alone() {
    let world = World::of(&[&[]], &[]);
    let tokenizer = world.tokenizer();
    let control = |name| tokenizer.control(name).unwrap();
    let [think, step, doubt, close] = ["<think>", "<step>", "<doubt>", "</think>"].map(control);
    let byte = |byte| tokenizer.table().byte_id(byte);
    let free = Constraint::with_tools(tokenizer, world.tools(), Mode::Any, 9).unwrap();
    let marked = |written: &[u16]| {
        let mut constraint = free.clone();
        written.iter().for_each(|id| constraint.advance(*id).unwrap());
        assert_eq!(constraint.allows(step), constraint.allows(doubt));
        constraint.allows(step)
    };
    let [c3, a9, x] = [0xc3, 0xa9, b'x'].map(byte);
    assert!(marked(&[think]) && marked(&[think, step, doubt, x]) && marked(&[think, step, c3, a9]));
    assert!(!marked(&[]) && !marked(&[x]) && !marked(&[think, c3]) && !marked(&[think, step, close]));
    assert!(marked(&[think, x, x, x, x, x, x]) && !marked(&[think, x, x, x, x, x, x, x]), "of 9 tokens");
}

/// A model that writes calls as they are trained is not changed: no token of a right call is refused, and a forced
/// token is the one it would write.
#[test]
fn right_calls_pass_as_they_are() {
    worlds(|world, noise, seed| {
        let (tokenizer, tools) = (world.tokenizer(), world.tools().unwrap());
        for _ in 0..EACH {
            let ids = right_call(&tokenizer, tools, noise);
            assert_eq!(oracle::call(tokenizer, tools, &ids), Ok(()), "world {seed}");
            for mode in [Mode::Call, Mode::Any] {
                let mut constraint = Constraint::with_tools(tokenizer, Some(tools), mode, 4096).unwrap();
                for id in ids.iter().copied().chain([constraint.end()]) {
                    assert!(constraint.forced().is_none_or(|forced| forced == id), "world {seed}: {ids:?}");
                    constraint.advance(id).unwrap_or_else(|e| panic!("world {seed}: {e} in {ids:?}"));
                }
                assert!(constraint.ended());
            }
        }
    });
}

/// A call of a random tool with random slots in random order, encoded as completions are trained.
fn right_call(
    tokenizer: &Tokenizer<'_>,
    tools: forge_formats::tools::ToolTable<'_>,
    noise: &mut Noise,
) -> Vec<u16> {
    let tool = tools.tools().nth(noise.below(tools.len())).unwrap();
    let mut slots = Vec::new();
    for slot in tool.slots() {
        let least = usize::from(slot.required);
        let most = if slot.repeatable { 3 } else { 1 };
        slots.extend((0..least + noise.below(most + 1 - least)).map(|_| slot));
    }
    let mut ids = vec![tool.token()];
    while !slots.is_empty() {
        let slot = slots.swap_remove(noise.below(slots.len()));
        let value = match slot.value {
            Value::Text => random_text(noise),
            Value::Choice(choices) => choices.iter().nth(noise.below(choices.len())).unwrap().to_owned(),
            Value::Integer { min, max } => {
                let span = (i128::from(max) - i128::from(min) + 1) as u128;
                (i128::from(min) + (u128::from(noise.next_u64()) % span) as i128).to_string()
            }
            Value::Number => format!("{}.{}", noise.below(100) as i32 - 50, noise.below(1000)),
        };
        let text = format!(" {value}");
        let mut room = vec![0; text.len()];
        let len = tokenizer.encode(text.as_bytes(), &mut room).unwrap();
        ids.push(slot.token);
        ids.extend(&room[..len]);
    }
    ids
}
