use super::*;
use crate::data::trace::{Piece, pieces};

/// An evaluator written apart from the generator: `or < and < comparison < + − < * mod < brackets`.
struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Number(i64),
    Truth(bool),
}

impl<'a> Parser<'a> {
    fn evaluate(text: &'a str) -> Value {
        let spaced: Vec<&str> = text
            .split_inclusive(['(', ')', ' '])
            .flat_map(|t| match t.strip_suffix(')') {
                Some(inner) => vec![inner, ")"],
                None => vec![t.trim()],
            })
            .filter(|t| !t.is_empty())
            .collect();
        let mut parser = Parser { tokens: spaced, at: 0 };
        let value = parser.level(0);
        assert_eq!(parser.at, parser.tokens.len(), "all of {text:?} is read");
        value
    }

    fn level(&mut self, level: usize) -> Value {
        const OPERATORS: [&[&str]; 5] = [&["or"], &["and"], &[">", "<"], &["+", "-"], &["*", "mod"]];
        if level == OPERATORS.len() {
            return self.atom();
        }
        let mut left = self.level(level + 1);
        while let Some(sign) = self.tokens.get(self.at).filter(|t| OPERATORS[level].contains(t)) {
            self.at += 1;
            left = apply(left, sign, self.level(level + 1));
        }
        left
    }

    fn atom(&mut self) -> Value {
        let token = self.tokens[self.at];
        self.at += 1;
        if let "true" | "false" = token {
            return Value::Truth(token == "true");
        }
        if token != "(" {
            return Value::Number(token.parse().unwrap_or_else(|_| panic!("{token:?} is a number")));
        }
        let value = self.level(0);
        assert_eq!(self.tokens[self.at], ")");
        self.at += 1;
        value
    }
}

fn apply(left: Value, sign: &str, right: Value) -> Value {
    use Value::*;
    match (left, sign, right) {
        (Number(a), "+", Number(b)) => Number(a + b),
        (Number(a), "-", Number(b)) => Number(a - b),
        (Number(a), "*", Number(b)) => Number(a * b),
        (Number(a), "mod", Number(b)) => Number(a.rem_euclid(b)),
        (Number(a), ">", Number(b)) => Truth(a > b),
        (Number(a), "<", Number(b)) => Truth(a < b),
        (Truth(a), "and", Truth(b)) => Truth(a && b),
        (Truth(a), "or", Truth(b)) => Truth(a || b),
        other => panic!("{other:?} has no meaning"),
    }
}

fn text(value: Value) -> String {
    match value {
        Value::Number(n) => n.to_string(),
        Value::Truth(t) => t.to_string(),
    }
}

#[test]
fn answers_agree_with_an_independent_evaluator() {
    for level in 1..=LEVELS {
        for seed in 0..500 {
            let problem = problem(level, &mut Rng::new(seed, &["arithmetic"]));
            let value = Parser::evaluate(&problem.expression);
            assert_eq!(text(value), problem.answer, "level {level}: {}", problem.expression);
        }
    }
}

/// The first claim of a trace that does not hold, and the number of claims.
fn refuted(trace: &str) -> (Option<String>, usize) {
    let mut claims = 0;
    for piece in pieces(trace) {
        let Piece::Text(piece) = piece else { continue };
        let sides: Vec<&str> = piece.split(" = ").flat_map(|side| side.split(" is ")).collect();
        if sides.len() > 1 {
            claims += 1;
            let values: Vec<Value> = sides.iter().map(|side| Parser::evaluate(side)).collect();
            if values.iter().any(|value| *value != values[0]) {
                return (Some(piece), claims);
            }
        }
    }
    (None, claims)
}

#[test]
fn every_claim_of_a_trace_holds_in_every_strategy() {
    for level in 1..=LEVELS {
        for seed in 0..300 {
            let problem = problem(level, &mut Rng::new(seed, &["traces"]));
            for strategy in Strategy::ALL {
                let trace = problem.trace(strategy);
                let (wrong, claims) = refuted(&trace);
                assert_eq!(wrong, None, "level {level}: {trace}");
                let checked = matches!(strategy, Strategy::Refute | Strategy::Other);
                assert_eq!(claims, problem.steps.len() + usize::from(checked), "level {level}: {trace}");
            }
            assert_ne!(problem.slip, problem.answer, "level {level}: {}", problem.expression);
        }
    }
    assert!(refuted("<step> 7 + 5 = 13").0.is_some() && refuted("<step> 7 > 5 is false").0.is_some());
}

#[test]
fn strategies_and_answers_are_written_with_their_markers() {
    let problem = two_plus_two(&mut Rng::new(3, &["markers"]));
    let begins = ["<step>", "<mece>", "<step>", "<expert>", "<step>", "<doubt>", "<reason>"];
    for (strategy, marker) in Strategy::ALL.into_iter().zip(begins) {
        assert!(problem.trace(strategy).starts_with(marker));
    }
    let traces: std::collections::BTreeSet<String> = Strategy::ALL.map(|s| problem.trace(s)).into();
    assert_eq!(traces.len(), 7);
    let drawn: Vec<Strategy> = (0..1000).map(|seed| Strategy::pick(&mut Rng::new(seed, &["pick"]))).collect();
    for strategy in Strategy::ALL {
        let share = drawn.iter().filter(|s| **s == strategy).count();
        let expected = if strategy == Strategy::Chain { 400 } else { 100 };
        assert!(share.abs_diff(expected) < 60, "{strategy:?} {share}");
    }
}

#[test]
fn the_evaluator_can_disagree() {
    assert_eq!(Parser::evaluate("(3 + 4) * 5"), Value::Number(35));
    assert_ne!(Parser::evaluate("3 + 4 * 5"), Value::Number(35));
    assert_eq!(Parser::evaluate("(7 > 3) and (5 > 9)"), Value::Truth(false));
    assert_eq!(Parser::evaluate("(23 + 19) mod 5"), Value::Number(2));
}

#[test]
fn no_split_words_a_question_as_another_does() {
    for (at, wordings) in WORDINGS.iter().enumerate() {
        for other in WORDINGS.iter().skip(at + 1) {
            assert!(wordings.iter().all(|w| !other.contains(w)));
        }
    }
}

#[test]
fn an_expression_belongs_to_one_split() {
    for level in 1..=LEVELS {
        for split in Split::ALL {
            for seed in 0..50 {
                let example = example(split, level, &mut Rng::new(seed, &["splits"]));
                let worded = WORDINGS[split.index()].iter().filter_map(|w| {
                    let (before, after) = w.split_once("{}")?;
                    example.prompt.strip_prefix(before)?.strip_suffix(after)
                });
                // Some wordings are parts of others: the longest leaves the least.
                let expression = worded.min_by_key(|e| e.len()).expect("worded as its split words it");
                let held_apart = split_of(expression) == split;
                assert!(held_apart || TABLES.contains(&level), "{expression}");
            }
        }
    }
}
