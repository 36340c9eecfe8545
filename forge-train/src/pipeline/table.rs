//! Tables for people, and the one at the end of a run.

use std::fmt::Write;

use crate::pipeline::progress::duration;
use crate::registry::{PhaseRow, Status};

/// Side of its column a cell is pushed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lays out rows under headings: two spaces between columns, a line under the headings, nothing at line ends.
pub fn layout(headings: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let names: Vec<String> = headings.iter().map(|(name, _)| (*name).to_owned()).collect();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = String::new();
    for row in [&names, &rule].into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(headings) {
            // Writing to a string cannot fail.
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes with a unit: `213 B`, `96.8 kB`, `1.49 MB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} B"),
        1000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// A count in groups of three digits: `24,400,000`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The table at the end of a run: a row for each phase.
pub fn phases(rows: &[PhaseRow]) -> String {
    let headings = [
        ("phase", Align::Left),
        ("parameters", Align::Right),
        ("file", Align::Right),
        ("bits/byte", Align::Right),
        ("frames", Align::Right),
        ("gate", Align::Left),
        ("time", Align::Right),
        ("what it did", Align::Left),
    ];
    layout(&headings, &rows.iter().map(phase).collect::<Vec<_>>())
}

fn phase(row: &PhaseRow) -> Vec<String> {
    let output = row.output.as_ref();
    let metric = |name: &str| output.and_then(|o| o.metrics.get(name)).copied();
    let missing = || "-".to_owned();
    let calls = metric("tool_examples").is_none_or(|n| n > 0.0);
    let frames = metric("frame_accuracy").filter(|_| calls);
    let file = output.and_then(|o| o.artifact("model"));
    let did = row.error.clone().or_else(|| output.map(|o| o.summary.clone()));
    vec![
        format!("{} {}", row.phase.number(), row.phase.title()),
        metric("parameters").map_or_else(missing, |n| count(n as u64)),
        file.map_or_else(missing, |artifact| bytes(artifact.bytes)),
        metric("bits_per_byte").map_or_else(missing, |b| format!("{b:.3}")),
        frames.map_or_else(missing, |rate| format!("{:.1} %", 100.0 * rate)),
        gate(row),
        duration(row.seconds),
        did.unwrap_or_default(),
    ]
}

fn gate(row: &PhaseRow) -> String {
    match (row.status, row.output.as_ref().map(|o| &o.gate)) {
        (_, Some(gate)) if gate.passed => "passed".into(),
        (_, Some(gate)) if gate.fallback.is_some() => "fallback".into(),
        (_, Some(_)) => "FAILED".into(),
        (Status::Failed, None) => "error".into(),
        (status, None) => status.name().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pipeline::phase::{Gate, PhaseId, PhaseOutput};

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 96_800, 1_490_000].map(bytes), ["0 B", "999 B", "96.8 kB", "1.49 MB"]);
        assert_eq!([0, 999, 1000, 24_400_000].map(count), ["0", "999", "1,000", "24,400,000"]);
    }

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let rows = [vec!["é".to_owned(), "1".to_owned()], vec!["bcd".to_owned(), "23".to_owned()]];
        let text = layout(&[("a", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text, "a     n\n---  --\né     1\nbcd  23\n");
    }

    #[test]
    fn a_row_tells_each_kind_of_end() {
        let gate = Gate { passed: false, rule: "r".into(), measured: "m".into(), fallback: None };
        let metrics = BTreeMap::from([
            ("parameters".to_owned(), 413_000.0),
            ("bits_per_byte".to_owned(), 2.3456),
            ("frame_accuracy".to_owned(), 0.876),
            ("tool_examples".to_owned(), 400.0),
        ]);
        let output = PhaseOutput { artifacts: Vec::new(), metrics, summary: "trained".into(), gate };
        let row = PhaseRow {
            phase: PhaseId::Forge,
            status: Status::Failed,
            seconds: 75.0,
            parents: Vec::new(),
            output: Some(output),
            error: None,
        };
        assert_eq!(
            phase(&row),
            ["5 Forge", "413,000", "-", "2.346", "87.6 %", "FAILED", "1m 15s", "trained"]
        );
        let mut without_tools = row.clone();
        let output = without_tools.output.as_mut().unwrap();
        output.metrics.insert("tool_examples".into(), 0.0);
        output.gate.fallback = Some("kept".into());
        assert_eq!(phase(&without_tools)[4..6], ["-".to_owned(), "fallback".to_owned()]);
        let broken = PhaseRow { output: None, error: Some("disk full".into()), ..row };
        assert_eq!(phase(&broken)[5..], ["error", "1m 15s", "disk full"].map(str::to_owned));
    }
}
