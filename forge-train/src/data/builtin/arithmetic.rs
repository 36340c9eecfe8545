//! Arithmetic and logic in ten levels, each question with the trace that leads to its answer.
//!
//! 1 single-digit sums · 2 differences up to 18 · 3 two digits plus one · 4 two digits plus two · 5 two digits
//! minus two · 6 single-digit products · 7 two digits times one · 8 comparisons of a sum · 9 two steps with a
//! bracket · 10 remainders of a bracket, and logic of two comparisons.
//!
//! Wordings belong to one split each. From level 3 on, but for the products of level 6, so does an expression, by a
//! hash of its text; the tables of single digits are facts that can only be known, so all of them are trained on.

use super::values::split_of;
use crate::data::{Completion, Example, Slice, Split};
use crate::rng::Rng;

/// Number of levels.
pub const LEVELS: u8 = 10;

/// Levels that ask for facts about single digits.
const TABLES: [u8; 3] = [1, 2, 6];

/// Wordings of train, valid and test; `{}` is the expression.
const WORDINGS: [&[&str]; 3] = [
    &["what is {}", "compute {}", "solve {}", "tell me {}", "please compute {}", "what do you get for {}"],
    &["calculate {}", "what does {} give", "please solve {}"],
    &["work out {}", "what is the answer to {}", "can you compute {}"],
];

/// An expression with its trace and answer.
struct Problem {
    expression: String,
    thought: String,
    answer: String,
}

/// A random question of `level` (1–10) whose wording, and expression outside [`TABLES`], belong to `split`.
pub(super) fn example(split: Split, level: u8, rng: &mut Rng) -> Example {
    let problem = loop {
        let problem = problem(level, rng);
        if TABLES.contains(&level) || split_of(&problem.expression) == split {
            break problem;
        }
    };
    let wording = rng.pick(WORDINGS[split.index()]);
    Example {
        system: None,
        prompt: wording.replace("{}", &problem.expression),
        completion: Completion::Reasoned { thought: problem.thought, answer: problem.answer },
        slice: Slice::Arithmetic,
        level,
    }
}

fn problem(level: u8, rng: &mut Rng) -> Problem {
    match level {
        1 => digits_sum(rng),
        2 => digits_difference(rng),
        3 => two_plus_one(rng),
        4 => two_plus_two(rng),
        5 => two_minus_two(rng),
        6 => digits_product(rng),
        7 => two_times_one(rng),
        8 => comparison(rng),
        9 => two_steps(rng),
        _ if rng.chance(0.5) => remainder(rng),
        _ => logic(rng),
    }
}

/// Uniform in `low..=high`.
fn between(rng: &mut Rng, low: i64, high: i64) -> i64 {
    low + rng.below((high - low + 1) as usize) as i64
}

/// A question answered in one step.
fn one_step(a: i64, sign: char, b: i64, result: i64) -> Problem {
    let expression = format!("{a} {sign} {b}");
    Problem { thought: format!("{expression} = {result}"), expression, answer: result.to_string() }
}

fn digits_sum(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 0, 9), between(rng, 0, 9));
    one_step(a, '+', b, a + b)
}

fn digits_difference(rng: &mut Rng) -> Problem {
    let (difference, b) = (between(rng, 0, 9), between(rng, 0, 9));
    one_step(difference + b, '-', b, difference)
}

fn digits_product(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 0, 9), between(rng, 0, 9));
    one_step(a, '*', b, a * b)
}

/// The column method: units, then tens with the carry.
fn two_plus_one(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 10, 98), between(rng, 1, 9));
    let units = a % 10 + b;
    Problem {
        expression: format!("{a} + {b}"),
        thought: format!("{} + {b} = {units}, {} + {} = {}", a % 10, a / 10, units / 10, a / 10 + units / 10),
        answer: (a + b).to_string(),
    }
}

fn two_plus_two(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 10, 99), between(rng, 10, 99));
    let units = a % 10 + b % 10;
    let tens = a / 10 + b / 10 + units / 10;
    Problem {
        expression: format!("{a} + {b}"),
        thought: format!(
            "{} + {} = {units}, {} + {} + {} = {tens}",
            a % 10,
            b % 10,
            a / 10,
            b / 10,
            units / 10
        ),
        answer: (a + b).to_string(),
    }
}

fn two_minus_two(rng: &mut Rng) -> Problem {
    let (x, y) = (between(rng, 10, 99), between(rng, 10, 99));
    let (a, b) = (x.max(y), x.min(y));
    let borrow = i64::from(a % 10 < b % 10);
    let top = a % 10 + 10 * borrow;
    let tens = a / 10 - b / 10 - borrow;
    Problem {
        expression: format!("{a} - {b}"),
        thought: format!(
            "{top} - {} = {}, {} - {} - {borrow} = {tens}",
            b % 10,
            top - b % 10,
            a / 10,
            b / 10
        ),
        answer: (a - b).to_string(),
    }
}

fn two_times_one(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 11, 99), between(rng, 2, 9));
    let (units, tens) = (a % 10 * b, a / 10 * 10 * b);
    Problem {
        expression: format!("{a} * {b}"),
        thought: format!(
            "{} * {b} = {tens}, {} * {b} = {units}, {tens} + {units} = {}",
            a / 10 * 10,
            a % 10,
            a * b
        ),
        answer: (a * b).to_string(),
    }
}

fn comparison(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 2, 49), between(rng, 2, 49));
    let sum = a + b;
    let c = (sum + between(rng, -9, 9)).max(1);
    let (sign, truth) = *rng.pick(&[('>', sum > c), ('<', sum < c)]);
    Problem {
        expression: format!("{a} + {b} {sign} {c}"),
        thought: format!("{a} + {b} = {sum}, {sum} {sign} {c} is {truth}"),
        answer: truth.to_string(),
    }
}

fn two_steps(rng: &mut Rng) -> Problem {
    let (a, b, c) = (between(rng, 1, 9), between(rng, 1, 9), between(rng, 2, 9));
    let (expression, first, inner, outer) = match rng.below(3) {
        0 => (format!("({a} + {b}) * {c}"), format!("{a} + {b}"), a + b, ('*', (a + b) * c)),
        1 => (format!("({a} * {b}) + {c}"), format!("{a} * {b}"), a * b, ('+', a * b + c)),
        _ => {
            let (high, low) = (a.max(b), a.min(b));
            let inner = high - low;
            (format!("({high} - {low}) * {c}"), format!("{high} - {low}"), inner, ('*', inner * c))
        }
    };
    let (sign, result) = outer;
    Problem {
        expression,
        thought: format!("{first} = {inner}, {inner} {sign} {c} = {result}"),
        answer: result.to_string(),
    }
}

fn remainder(rng: &mut Rng) -> Problem {
    let (a, b, m) = (between(rng, 2, 30), between(rng, 2, 30), between(rng, 2, 9));
    let sum = a + b;
    let (quotient, rest) = (sum / m, sum % m);
    Problem {
        expression: format!("({a} + {b}) mod {m}"),
        thought: format!("{a} + {b} = {sum}, {sum} - {m} * {quotient} = {sum} - {} = {rest}", m * quotient),
        answer: rest.to_string(),
    }
}

fn logic(rng: &mut Rng) -> Problem {
    let mut side = || {
        let (a, b) = (between(rng, 1, 30), between(rng, 1, 30));
        let (sign, truth) = *rng.pick(&[('>', a > b), ('<', a < b)]);
        (format!("{a} {sign} {b}"), truth)
    };
    let ((left, p), (right, q)) = (side(), side());
    let (word, truth) = *rng.pick(&[("and", p && q), ("or", p || q)]);
    Problem {
        expression: format!("({left}) {word} ({right})"),
        thought: format!("{left} is {p}, {right} is {q}, {p} {word} {q} is {truth}"),
        answer: truth.to_string(),
    }
}

#[cfg(test)]
#[path = "arithmetic_tests.rs"]
mod tests;
