//! Multiple choice by likelihood: of all choices, the one the model finds likeliest is its answer.

use std::path::Path;

use forge_runtime::Model;
use serde::{Deserialize, Serialize};

use super::rate::Rate;
use super::runner::failed;
use super::score::{Span, score_all};
use crate::data::lines::Lines;
use crate::data::{Completion, Example, Slice, encode};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A question with its choices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// What may be answered.
    pub choices: Vec<String>,
    /// Which choice is right, from 0.
    pub answer: usize,
}

/// What was measured on questions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChoiceReport {
    /// Questions.
    pub n: usize,
    /// Accuracy of guessing: the mean of `1 / choices`.
    pub chance: f64,
    /// The likeliest choice is the right one.
    pub accuracy: Rate,
    /// As `accuracy`, with the likelihood of a choice per byte of it, so that short ones are not favoured.
    pub accuracy_per_byte: Rate,
    /// How far `accuracy` is above guessing: 0 at chance, 1 when all are right; with its 95 % interval.
    pub above_chance: [f64; 3],
    /// The same of `accuracy_per_byte`.
    pub above_chance_per_byte: [f64; 3],
}

/// Reads questions from a JSONL file, `{"question","choices","answer"}` a line; other keys are ignored.
///
/// # Errors
/// [`Error::Io`], or [`Error::Data`] naming the line that is none.
pub fn questions(path: &Path) -> Result<Vec<Question>> {
    let mut lines = Lines::open(path)?;
    let mut out = Vec::new();
    while let Some((line, text)) = lines.next()? {
        let wrong = |what: String| Error::Data { path: path.into(), line, what };
        let question: Question = serde_json::from_str(text)
            .map_err(|e| wrong(format!("{e}; expected {{\"question\",\"choices\",\"answer\"}}")))?;
        if question.choices.len() < 2 || question.answer >= question.choices.len() {
            return Err(wrong("expected two choices or more, and the index of the right one, from 0".into()));
        }
        out.push(question);
    }
    Ok(out)
}

/// Which choice of each question a model takes, by likelihood and by likelihood per byte. A choice is read behind
/// `<bos> question <sep>`, as a completion.
///
/// # Errors
/// [`Error::Format`] for a file that is not a model.
pub fn choose(file: &[u8], questions: &[Question]) -> Result<Vec<[usize; 2]>> {
    let model = Model::parse(file).map_err(failed)?;
    let tokenizer = Tokenizer::from_spec(model.file().tokenizer().to_spec())?;
    let mut sequences: Vec<(Vec<u16>, usize)> = Vec::new();
    for question in questions {
        let prefix = encode::prefix(&tokenizer, &asked(&question.question));
        for choice in &question.choices {
            let said = encode::segment(&tokenizer, choice);
            sequences.push(([prefix.as_slice(), &said].concat(), prefix.len()));
        }
    }
    let spans: Vec<Span<'_>> =
        sequences.iter().map(|(ids, from)| Span { ids, from: *from, completion: *from }).collect();
    let mut nats = score_all(&model, &spans, None)?.into_iter().map(|score| score.nats);
    let take = |question: &Question| {
        let nats: Vec<f64> = nats.by_ref().take(question.choices.len()).collect();
        let least = |cost: &dyn Fn(usize) -> f64| {
            (0..nats.len()).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0)
        };
        // A segment is encoded with a space in front.
        [least(&|i| nats[i]), least(&|i| nats[i] / (question.choices[i].len() + 1) as f64)]
    };
    Ok(questions.iter().map(take).collect())
}

fn asked(question: &str) -> Example {
    Example {
        system: None,
        prompt: question.into(),
        completion: Completion::Text(String::new()),
        slice: Slice::Arithmetic,
        level: 0,
    }
}

/// Measures a file on questions.
///
/// # Errors
/// As [`choose`].
pub fn evaluate_choices(file: &[u8], questions: &[Question]) -> Result<ChoiceReport> {
    let chosen = choose(file, questions)?;
    let rate = |way: usize| Rate::of(questions.iter().zip(&chosen).map(|(q, c)| c[way] == q.answer));
    let chance =
        questions.iter().map(|q| 1.0 / q.choices.len() as f64).sum::<f64>() / questions.len().max(1) as f64;
    let above = |rate: Rate| {
        let [low, high] = rate.interval();
        [rate.value(), low, high].map(|p| (p - chance) / (1.0 - chance))
    };
    let [accuracy, accuracy_per_byte] = [rate(0), rate(1)];
    Ok(ChoiceReport {
        n: questions.len(),
        chance,
        accuracy,
        accuracy_per_byte,
        above_chance: above(accuracy),
        above_chance_per_byte: above(accuracy_per_byte),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::tests::{constant_model, model, tokenizer};

    fn question(choices: &[&str], answer: usize) -> Question {
        Question {
            question: "which".into(),
            choices: choices.iter().map(|c| c.to_string()).collect(),
            answer,
        }
    }

    /// A model that finds one token likely chooses what is made of it.
    #[test]
    fn the_likeliest_choice_is_taken() {
        let letter = tokenizer(&model()).encode("x")[0];
        let file = constant_model(Some(letter));
        let asked = [question(&["abc", "xxx", "abx"], 1), question(&["xx", "ab"], 1)];
        assert_eq!(choose(&file, &asked).unwrap(), [[1, 1], [0, 0]]);
        let report = evaluate_choices(&file, &asked).unwrap();
        assert_eq!((report.accuracy, report.n), (Rate { hits: 1, n: 2 }, 2));
        let chance = (1.0 / 3.0 + 0.5) / 2.0;
        assert!((report.above_chance[0] - (0.5 - chance) / (1.0 - chance)).abs() < 1e-12);
    }

    /// Where every token is equally likely, fewer tokens are likelier, and the length is all that speaks.
    #[test]
    fn length_is_made_up_for() {
        let file = constant_model(None);
        let t = tokenizer(&file);
        let (short, long) = ("q", "qzqzqzqzqz");
        assert!(encode::segment(&t, short).len() < encode::segment(&t, long).len());
        let [plain, per_byte] = choose(&file, &[question(&[long, short], 0)]).unwrap()[0];
        let cost = |text: &str| encode::segment(&t, text).len() as f64 / (text.len() + 1) as f64;
        assert_eq!(plain, 1);
        assert_eq!(per_byte, usize::from(cost(short) < cost(long)));
    }

    #[test]
    fn lines_that_are_no_questions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.jsonl");
        let good = r#"{"question":"q","choices":["a","b"],"answer":1,"id":3}"#;
        std::fs::write(&path, format!("{good}\n\n{good}\n")).unwrap();
        assert_eq!(questions(&path).unwrap().len(), 2);
        for bad in [
            r#"{"question":"q"}"#,
            r#"{"question":"q","choices":["a"],"answer":0}"#,
            "{",
            r#"{"question":"q","choices":["a","b"],"answer":2}"#,
        ] {
            std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
            let error = questions(&path).unwrap_err();
            assert!(error.to_string().contains("q.jsonl:2: "), "{error}");
        }
    }
}
