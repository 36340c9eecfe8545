use super::*;
use crate::data::{Completion, Slice};
use crate::eval::tests::{constant_model, model};
use crate::eval::{Options, evaluate};

fn examples() -> Vec<Example> {
    let example = |i: usize| Example {
        system: None,
        prompt: format!("light number {i}, please"),
        completion: Completion::Text(format!("number {} it is", i * i)),
        slice: Slice::Dialogue,
        level: 0,
    };
    (0..12).map(example).collect()
}

#[test]
fn quarters_are_by_loss_after_one_recursion() {
    let token = |nats: f64, recursions: u64| Token { nats, recursions };
    // Hard tokens first, so that the order in which they come is not what sorts them.
    let one: Vec<Token> = (0..8).map(|i| token(f64::from(8 - i), 1)).collect();
    let as_is: Vec<Token> = (0..8).map(|i| token(0.5, 8 - i)).collect();
    let all: Vec<Token> = (0..8).map(|i| token(f64::from(i), 3)).collect();
    let quarters = quarters(&as_is, &one, &all);
    assert_eq!(quarters.map(|q| q.steps), [1.5, 3.5, 5.5, 7.5]);
    assert_eq!(quarters.map(|q| q.loss_at_one), [1.5, 3.5, 5.5, 7.5]);
    assert_eq!(quarters.map(|q| q.loss_at_all), [6.5, 4.5, 2.5, 0.5]);
    assert!(quarters.iter().all(|q| q.tokens == 2));
}

#[test]
fn the_report_agrees_with_the_evaluation_and_with_the_thresholds() {
    let examples = examples();
    let bits = |bytes: &[u8]| {
        evaluate(bytes, &examples, &Options { generate: false, ..Options::default() }).unwrap()
    };
    // Random weights: take the threshold that splits the tokens.
    let thresholds = (1..200).map(|i| i as f32 / 200.0);
    let split = thresholds
        .map(|t| with_threshold(&model(), t).unwrap())
        .find(|bytes| (1.2..1.8).contains(&halting(bytes, &examples).unwrap().unwrap().steps))
        .expect("a threshold between the probabilities");
    let report = halting(&split, &examples).unwrap().unwrap();
    assert!((report.bits_per_byte - bits(&split).bits_per_byte).abs() < 1e-9);
    let (one, all) = (with_threshold(&split, ALWAYS).unwrap(), with_threshold(&split, NEVER).unwrap());
    assert!((report.bits_per_byte_at_one - bits(&one).bits_per_byte).abs() < 1e-9);
    assert!((report.bits_per_byte_at_all - bits(&all).bits_per_byte).abs() < 1e-9);
    assert_eq!((bits(&one).mean_recursions, bits(&all).mean_recursions), (1.0, 2.0));
    assert_ne!(report.bits_per_byte_at_one, report.bits_per_byte_at_all);
    let steps = report.quarters.iter().map(|q| q.steps * q.tokens as f64).sum::<f64>();
    let tokens = report.quarters.iter().map(|q| q.tokens).sum::<usize>();
    assert!((steps / tokens as f64 - report.steps).abs() < 1e-9);
}

#[test]
fn halting_always_or_never_or_backwards_is_not_learnt() {
    let quarter = |steps: f64| Quarter { tokens: 1, steps, ..Quarter::default() };
    let report = |recursions: u32, steps: [f64; 4]| HaltingReport {
        recursions,
        steps: steps.iter().sum::<f64>() / 4.0,
        quarters: steps.map(quarter),
        bits_per_byte: 1.0,
        bits_per_byte_at_one: 1.0,
        bits_per_byte_at_all: 1.0,
    };
    assert!(report(2, [1.0, 1.2, 1.5, 1.9]).has_learnt());
    assert!(report(3, [1.1, 1.4, 1.9, 2.6]).has_learnt());
    assert!(!report(3, [1.0, 1.1, 1.2, 1.5]).has_learnt(), "hardly ever goes on");
    assert!(!report(2, [1.0; 4]).has_learnt(), "always halts");
    assert!(!report(2, [2.0; 4]).has_learnt(), "never halts");
    assert!(!report(2, [1.9, 1.5, 1.2, 1.0]).has_learnt(), "halts on hard tokens");
}

#[test]
fn files_without_halting_or_tokens_have_no_report() {
    assert!(halting(&constant_model(None), &examples()).unwrap().is_none());
    assert!(halting(&model(), &[]).unwrap().is_none());
    assert!(halting(b"no model", &examples()).is_err());
}
