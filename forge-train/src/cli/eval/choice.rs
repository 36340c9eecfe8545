//! `eval --questions`: multiple choice by likelihood.

use std::path::Path;

use forge_train::eval::{ChoiceReport, Paired, Question, Rate, choose, evaluate_choices, questions};
use forge_train::pipeline::table::{Align, layout};
use serde_json::json;

use super::against::{self, Files};
use crate::cli::output::{Outcome, print, print_json};

/// Measures one file, or compares two.
pub(super) fn main(files: &Files, path: &Path, json: bool) -> Outcome {
    let questions = questions(path)?;
    let first = evaluate_choices(&files.first.1, &questions)?;
    let Some((_, other)) = &files.second else {
        let mut document = against::value(&first)?;
        document["schema"] = 1.into();
        return if json { print_json(&document) } else { print(&table(&first)) };
    };
    let second = evaluate_choices(other, &questions)?;
    let (own, others) = (choose(&files.first.1, &questions)?, choose(other, &questions)?);
    let pair = |way: usize| Paired::of(&hits(&own, &questions, way), &hits(&others, &questions, way));
    let (plain, per_byte) = (pair(0), pair(1));
    if json {
        let paired = json!({"accuracy": plain, "accuracy_per_byte": per_byte});
        return print_json(&against::document(&first, &second, paired)?);
    }
    let compared = against::accuracies(&[("accuracy", plain), ("accuracy per byte", per_byte)]);
    print(&format!("{}\n{}\n{compared}", table(&first), table(&second)))
}

fn hits(chosen: &[[usize; 2]], questions: &[Question], way: usize) -> Vec<bool> {
    chosen.iter().zip(questions).map(|(chosen, question)| chosen[way] == question.answer).collect()
}

fn table(report: &ChoiceReport) -> String {
    let percent = |p: f64| format!("{:.1}", 100.0 * p);
    let accuracy = |name: &str, rate: &Rate| {
        let [low, high] = rate.interval().map(percent);
        let note = format!("[{low}, {high}], {} of {}", rate.hits, rate.n);
        vec![name.to_owned(), format!("{} %", percent(rate.value())), note]
    };
    let above = |name: &str, above: [f64; 3]| {
        let [value, low, high] = above.map(percent);
        vec![name.to_owned(), format!("{value} %"), format!("[{low}, {high}]")]
    };
    let rows = [
        vec!["questions".to_owned(), report.n.to_string(), format!("chance {} %", percent(report.chance))],
        accuracy("accuracy", &report.accuracy),
        accuracy("accuracy per byte", &report.accuracy_per_byte),
        above("above chance", report.above_chance),
        above("above chance per byte", report.above_chance_per_byte),
    ];
    layout(&[("measure", Align::Left), ("value", Align::Right), ("95 % interval", Align::Left)], &rows)
}
