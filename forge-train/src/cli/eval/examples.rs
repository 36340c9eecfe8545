//! `eval --data`: examples, answered.

use std::path::{Path, PathBuf};

use forge_formats::file::File;
use forge_train::data::{Example, PERSONA_SYSTEM, TOOL_SYSTEM, load};
use forge_train::error::Result;
use forge_train::eval::{self, EvalReport, HaltingReport, Options, Paired, Rate, Verdict};
use forge_train::pipeline::table::{Align, bytes as size, layout};
use serde_json::{Value, json};

use super::against::{self, Files};
use crate::cli::model::{self, Constrained};
use crate::cli::output::{Outcome, print, print_json};

/// How examples are asked.
#[derive(Debug, clap::Args)]
pub(super) struct Asking {
    /// System text in front of every prompt; empty for none
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens to write for each example
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Hold completions to the tools the file lists, as `run` does, and count the steps that saves
    #[arg(long, value_name = "HOW", default_value = "off", default_missing_value = "auto",
          num_args = 0..=1, require_equals = true)]
    constrained: Constrained,
}

/// Measures one file, or compares two.
pub(super) fn main(files: &Files, data: &Path, asking: &Asking, json: bool) -> Outcome {
    let examples = load::jsonl(data)?;
    let measure = |(path, bytes): &(PathBuf, Vec<u8>)| -> Result<(Measured, Vec<Verdict>)> {
        let mut examples = examples.clone();
        set_system(&mut examples, asking.system.as_deref(), asked_without(bytes)?);
        let constrained = asking.constrained.mode(model::parse(path, bytes)?.file());
        let options = Options { max_tokens: asking.max_tokens, constrained, ..Options::default() };
        let (report, verdicts) = eval::evaluate_each(bytes, &examples, &options)?;
        Ok((Measured { report, halting: eval::halting(bytes, &examples)? }, verdicts))
    };
    let (first, verdicts) = measure(&files.first)?;
    let Some(second) = &files.second else {
        return if json { print_json(&document(&first)?) } else { print(&text(&first)) };
    };
    let (second, others) = measure(second)?;
    let pair = |verdict: &dyn Fn(&Verdict) -> Option<bool>| {
        let hits = |list: &[Verdict]| -> Vec<bool> { list.iter().filter_map(verdict).collect() };
        Paired::of(&hits(&verdicts), &hits(&others))
    };
    let paired = [
        ("tool accuracy", pair(&|v| v.tool)),
        ("frame accuracy", pair(&|v| v.frame)),
        ("answer accuracy", pair(&|v| v.answer)),
    ];
    if json {
        let [tool, frame, answer] = paired.map(|(_, paired)| paired);
        let paired = json!({"tool_accuracy": tool, "frame_accuracy": frame, "answer_accuracy": answer});
        return print_json(&against::document(&first, &second, paired)?);
    }
    print(&format!("{}\n{}\n{}", text(&first), text(&second), against::accuracies(&paired)))
}

/// What one file came to.
#[derive(serde::Serialize)]
struct Measured {
    #[serde(flatten)]
    report: EvalReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    halting: Option<HaltingReport>,
}

/// Whether the file's card says that it was measured without system text.
fn asked_without(bytes: &[u8]) -> Result<bool> {
    let card: Value = serde_json::from_str(File::parse(bytes)?.card()).unwrap_or_default();
    Ok(card["eval"]["prompted"] == json!(false))
}

/// `chosen` for every example; without it, baked behaviours are asked bare where the file was measured so.
fn set_system(examples: &mut [Example], chosen: Option<&str>, bare: bool) {
    for example in examples {
        match chosen {
            Some(text) => example.system = Some(text.to_owned()).filter(|text| !text.is_empty()),
            None if bare => {
                let baked = |text: &String| *text == TOOL_SYSTEM || *text == PERSONA_SYSTEM;
                example.system = example.system.take().filter(|text| !baked(text));
            }
            None => {}
        }
    }
}

fn document(report: &Measured) -> Result<Value> {
    let mut value = against::value(report)?;
    value["schema"] = 1.into();
    Ok(value)
}

/// Recursions of the quarters, and what halting costs in bits.
fn halting_row(halting: &HaltingReport) -> Vec<String> {
    let [easy, second, third, hard] = halting.quarters.map(|quarter| quarter.steps);
    let note = format!(
        "by quarters of difficulty {easy:.2}, {second:.2}, {third:.2}, {hard:.2}; bits per byte at one recursion {:.4}, at all {} {:.4}",
        halting.bits_per_byte_at_one, halting.recursions, halting.bits_per_byte_at_all
    );
    vec!["recursions a scored token".into(), format!("{:.2}", halting.steps), note]
}

fn text(Measured { report, halting }: &Measured) -> String {
    let row = |name: &str, value: String, note: String| vec![name.to_owned(), value, note];
    let rate = |name: &str, rate: &Rate| {
        let [low, high] = rate.interval();
        let interval = format!("[{:.1}, {:.1}], {} of {}", 100.0 * low, 100.0 * high, rate.hits, rate.n);
        (rate.n > 0).then(|| row(name, format!("{:.1} %", 100.0 * rate.value()), interval))
    };
    let rows: Vec<Vec<String>> = [
        Some(row("file", size(report.bytes), format!("{} B", report.bytes))),
        Some(row("examples", report.n.to_string(), String::new())),
        rate("tool accuracy", &report.tool_accuracy),
        rate("frame accuracy", &report.frame_accuracy),
        rate("answer accuracy", &report.answer_accuracy),
        rate("persona consistency", &report.persona_consistency),
        Some(row("bits per byte", format!("{:.4}", report.bits_per_byte), String::new())),
        Some(row("recursions a token", format!("{:.2}", report.mean_recursions), String::new())),
        halting.as_ref().map(halting_row),
        report.steps.map(|steps| {
            let all = (steps.passes + steps.forced).max(1) as f64;
            let note = format!("{} forced, {} forward passes", steps.forced, steps.passes);
            row("steps saved", format!("{:.1} %", 100.0 * steps.forced as f64 / all), note)
        }),
        Some(row("tokens a second", format!("{:.0}", report.tokens_per_second), "all threads".into())),
    ]
    .into_iter()
    .flatten()
    .collect();
    layout(&[("measure", Align::Left), ("value", Align::Right), ("95 % interval", Align::Left)], &rows)
}

#[cfg(test)]
mod tests {
    use forge_train::data::{Completion, Slice};

    use super::*;

    fn systems(chosen: Option<&str>, bare: bool) -> Vec<Option<String>> {
        let example = |system: Option<&str>| Example {
            system: system.map(str::to_owned),
            prompt: "p".into(),
            completion: Completion::Text("c".into()),
            slice: Slice::Tool,
            level: 0,
        };
        let mut examples = [Some(TOOL_SYSTEM), Some("speak up"), None].map(example);
        set_system(&mut examples, chosen, bare);
        examples.into_iter().map(|e| e.system).collect()
    }

    #[test]
    fn the_system_text_follows_flag_then_card_then_data() {
        let own = [Some(TOOL_SYSTEM.to_owned()), Some("speak up".to_owned()), None];
        assert_eq!(systems(None, false), own);
        assert_eq!(systems(None, true), [None, Some("speak up".into()), None]);
        assert_eq!(systems(Some("x"), true), [Some("x".into()), Some("x".into()), Some("x".into())]);
        assert_eq!(systems(Some(""), false), [None, None, None]);
    }
}
