//! Arithmetic and logic in ten levels, each question with the trace that leads to its answer.
//!
//! 1 single-digit sums · 2 differences up to 18 · 3 two digits plus one · 4 two digits plus two · 5 two digits
//! minus two · 6 single-digit products · 7 two digits times one · 8 comparisons of a sum · 9 two steps with a
//! bracket · 10 remainders of a bracket, and logic of two comparisons.
//!
//! Wordings belong to one split each. From level 3 on, but for the products of level 6, so does an expression, by a
//! hash of its text; the tables of single digits are facts that can only be known, so all of them are trained on.

use super::traces::{Problem, Step, Strategy, step};
use super::values::split_of;
use crate::data::{Completion, Example, Slice, Split};
use crate::rng::Rng;

/// Number of levels.
pub const LEVELS: u8 = 10;

/// Levels that ask for facts about single digits.
const TABLES: [u8; 3] = [1, 2, 6];

/// Wordings of train, valid and test; `{}` is the expression. Those of train are many and put it in many places: of six, a
/// model learns at which positions its digits stand, and reads the wrong ones behind a word it has not met.
const WORDINGS: [&[&str]; 3] = [
    &[
        "what is {}",
        "compute {}",
        "solve {}",
        "tell me {}",
        "please compute {}",
        "what do you get for {}",
        "{}",
        "how much is {}",
        "find {}",
        "evaluate {}",
        "{} equals what",
        "{} is what",
        "i need {}",
        "do you know {}",
        "help me with {}",
        "what would {} be",
        "please tell me what {} is",
        "could you find {} for me",
        "the value of {}",
        "what is the value of {}",
        "quick question what is {}",
        "i want to know {}",
        "say what {} makes",
        "next one {}",
    ],
    &["calculate {}", "what does {} give", "please solve {}"],
    &["work out {}", "what is the answer to {}", "can you compute {}"],
];

/// A random question of `level` (1–10) whose wording, and expression outside [`TABLES`], belong to `split`.
pub(super) fn example(split: Split, level: u8, rng: &mut Rng) -> Example {
    let problem = loop {
        let problem = problem(level, rng);
        if TABLES.contains(&level) || split_of(&problem.expression) == split {
            break problem;
        }
    };
    let wording = rng.pick(WORDINGS[split.index()]);
    let thought = problem.trace(Strategy::pick(rng));
    Example {
        system: None,
        prompt: wording.replace("{}", &problem.expression),
        completion: Completion::Reasoned { thought, answer: problem.answer },
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
fn one_step(expression: String, result: i64, check: String, other: String, rule: &'static str) -> Problem {
    Problem {
        steps: vec![step("result", format!("{expression} = {result}"))],
        expression,
        check,
        other,
        rule,
        slip: (result + 1).to_string(),
        answer: result.to_string(),
    }
}

fn digits_sum(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 0, 9), between(rng, 0, 9));
    let c = a + b;
    one_step(format!("{a} + {b}"), c, format!("{c} - {b} = {a}"), format!("{b} + {a} = {c}"), "count on")
}

fn digits_difference(rng: &mut Rng) -> Problem {
    let (difference, b) = (between(rng, 0, 9), between(rng, 0, 9));
    let a = difference + b;
    let (check, other) = (format!("{difference} + {b} = {a}"), format!("{a} - {difference} = {b}"));
    one_step(format!("{a} - {b}"), difference, check, other, "count back")
}

fn digits_product(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 0, 9), between(rng, 0, 9));
    let other = format!("{b} * {a} = {}", a * b);
    one_step(format!("{a} * {b}"), a * b, fewer_times(a, b), other, "know the table")
}

/// A product from the one with a factor one less.
fn fewer_times(a: i64, b: i64) -> String {
    format!("{a} * {} + {a} = {}", b - 1, a * b)
}

/// The column method: units, then tens with the carry.
fn column_sum(a: i64, b: i64, steps: Vec<Step>, carry: i64) -> Problem {
    let sum = a + b;
    Problem {
        expression: format!("{a} + {b}"),
        steps,
        check: format!("{sum} - {b} = {a}"),
        other: format!("{b} + {a} = {sum}"),
        rule: "carry the ten",
        // As if the carry had been forgotten, or added where there is none.
        slip: (sum + 10 - 20 * carry).to_string(),
        answer: sum.to_string(),
    }
}

fn two_plus_one(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 10, 98), between(rng, 1, 9));
    let units = a % 10 + b;
    let (tens, carry) = (a / 10, units / 10);
    let steps = vec![
        step("units", format!("{} + {b} = {units}", a % 10)),
        step("tens", format!("{tens} + {carry} = {}", tens + carry)),
    ];
    column_sum(a, b, steps, carry)
}

fn two_plus_two(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 10, 99), between(rng, 10, 99));
    let units = a % 10 + b % 10;
    let carry = units / 10;
    let steps = vec![
        step("units", format!("{} + {} = {units}", a % 10, b % 10)),
        step("tens", format!("{} + {} + {carry} = {}", a / 10, b / 10, a / 10 + b / 10 + carry)),
    ];
    column_sum(a, b, steps, carry)
}

fn two_minus_two(rng: &mut Rng) -> Problem {
    let (x, y) = (between(rng, 10, 99), between(rng, 10, 99));
    let (a, b) = (x.max(y), x.min(y));
    let borrow = i64::from(a % 10 < b % 10);
    let top = a % 10 + 10 * borrow;
    let tens = a / 10 - b / 10 - borrow;
    let difference = a - b;
    Problem {
        expression: format!("{a} - {b}"),
        steps: vec![
            step("units", format!("{top} - {} = {}", b % 10, top - b % 10)),
            step("tens", format!("{} - {} - {borrow} = {tens}", a / 10, b / 10)),
        ],
        check: format!("{difference} + {b} = {a}"),
        other: format!("{a} - {difference} = {b}"),
        rule: "borrow a ten",
        slip: (difference + if borrow == 1 || difference < 10 { 10 } else { -10 }).to_string(),
        answer: difference.to_string(),
    }
}

fn two_times_one(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 11, 99), between(rng, 2, 9));
    let (units, tens, product) = (a % 10 * b, a / 10 * 10 * b, a * b);
    Problem {
        expression: format!("{a} * {b}"),
        steps: vec![
            step("tens", format!("{} * {b} = {tens}", a / 10 * 10)),
            step("units", format!("{} * {b} = {units}", a % 10)),
            step("both", format!("{tens} + {units} = {product}")),
        ],
        check: fewer_times(a, b),
        other: format!("{b} * {a} = {product}"),
        rule: "multiply the parts",
        slip: (product + 10).to_string(),
        answer: product.to_string(),
    }
}

fn comparison(rng: &mut Rng) -> Problem {
    let (a, b) = (between(rng, 2, 49), between(rng, 2, 49));
    let sum = a + b;
    let c = (sum + between(rng, -9, 9)).max(1);
    let (sign, truth) = *rng.pick(&[('>', sum > c), ('<', sum < c)]);
    Problem {
        expression: format!("{a} + {b} {sign} {c}"),
        steps: vec![
            step("sum", format!("{a} + {b} = {sum}")),
            step("sides", format!("{sum} {sign} {c} is {truth}")),
        ],
        check: format!("{sum} - {b} = {a}"),
        other: format!("{b} + {a} = {sum}"),
        rule: "add before comparing",
        slip: (!truth).to_string(),
        answer: truth.to_string(),
    }
}

fn two_steps(rng: &mut Rng) -> Problem {
    let (a, b, c) = (between(rng, 1, 9), between(rng, 1, 9), between(rng, 2, 9));
    let (high, low) = (a.max(b), a.min(b));
    let (bracket, inner, sign, other) = match rng.below(3) {
        0 => (format!("{a} + {b}"), a + b, '*', format!("{a} * {c} + {b} * {c}")),
        1 => (format!("{a} * {b}"), a * b, '+', format!("{c} + {a} * {b}")),
        _ => (format!("{high} - {low}"), high - low, '*', format!("{high} * {c} - {low} * {c}")),
    };
    let (result, check) = match sign {
        '*' => (inner * c, format!("{c} * {inner} = {}", inner * c)),
        _ => (inner + c, format!("{} - {c} = {inner}", inner + c)),
    };
    Problem {
        expression: format!("({bracket}) {sign} {c}"),
        steps: vec![
            step("bracket", format!("{bracket} = {inner}")),
            step("whole", format!("{inner} {sign} {c} = {result}")),
        ],
        check,
        other: format!("{other} = {result}"),
        rule: "brackets first",
        slip: (result + c).to_string(),
        answer: result.to_string(),
    }
}

fn remainder(rng: &mut Rng) -> Problem {
    let (a, b, m) = (between(rng, 2, 30), between(rng, 2, 30), between(rng, 2, 9));
    let sum = a + b;
    let (quotient, rest) = (sum / m, sum % m);
    Problem {
        expression: format!("({a} + {b}) mod {m}"),
        steps: vec![
            step("sum", format!("{a} + {b} = {sum}")),
            step("rest", format!("{sum} - {m} * {quotient} = {sum} - {} = {rest}", m * quotient)),
        ],
        check: format!("{m} * {quotient} + {rest} = {sum}"),
        other: format!("({b} + {a}) mod {m} = {rest}"),
        rule: "take out whole times",
        slip: ((rest + 1) % m).to_string(),
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
        steps: vec![
            step("left", format!("{left} is {p}")),
            step("right", format!("{right} is {q}")),
            step("both", format!("{p} {word} {q} is {truth}")),
        ],
        check: format!("{q} {word} {p} is {truth}"),
        other: format!("({right}) {word} ({left}) is {truth}"),
        rule: "sides before the whole",
        slip: (!truth).to_string(),
        answer: truth.to_string(),
    }
}

#[cfg(test)]
#[path = "arithmetic_tests.rs"]
mod tests;
