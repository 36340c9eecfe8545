//! The comparison as tables for people.

use std::fmt::Write;

use super::inference::{Entry, Report, Table};
use crate::stats::Summary;

/// What the processor calls itself, or the architecture.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned()
}

/// What holds for all tables.
pub(crate) fn heading(report: &Report) -> String {
    format!(
        "{}; medians of {} rounds of {} runs, all in turn [smallest–largest]; {} tokens from an empty context\n",
        report.processor, report.rounds, report.repetitions, report.tokens
    )
}

/// A shape's results on a number of threads.
pub(crate) fn table(t: &Table) -> String {
    let mut out = String::new();
    lines(&mut out, t).expect("a string takes everything");
    out
}

fn lines(out: &mut String, t: &Table) -> std::fmt::Result {
    let plural = if t.threads == 1 { "" } else { "s" };
    writeln!(out, "\n{}, {} thread{plural}", t.shape, t.threads)?;
    let peaks: Vec<String> =
        t.peaks.iter().map(|(isa, peak)| format!("{isa} {:.0} GMAC/s", peak / 1e9)).collect();
    let (megabytes, rate) = (t.weight_bytes as f64 / 1e6, t.bandwidth.max / 1e9);
    writeln!(out, "  limits: {megabytes:.2} MB of weights read at {rate:.0} GB/s; {}", peaks.join(", "))?;
    writeln!(
        out,
        "  {:<34} {:>24} {:>7} {:>9} {:>9} {:>24} {:>7} {:>8}",
        "", "decode tok/s", "× peer", "floor µs", "of floor", "prefill tok/s", "× peer", "of peak"
    )?;
    t.entries.iter().try_for_each(|e| line(out, e, t.threads))
}

fn line(out: &mut String, e: &Entry, threads: usize) -> std::fmt::Result {
    let chosen = e.threads.filter(|t| *t != threads).map(|t| format!(" ({t} used)")).unwrap_or_default();
    if let Some(error) = &e.error {
        writeln!(out, "  {:<34} {error}", e.label)?;
    }
    if e.decode.is_none() && e.prefill.is_none() {
        return Ok(());
    }
    writeln!(
        out,
        "  {:<34} {:>24} {:>7} {:>9.1} {:>9} {:>24} {:>7} {:>8}",
        e.label.clone() + &chosen,
        speed(e.decode),
        ratio(e.decode_over_best_peer),
        e.floor.decode_us(),
        share(e.decode_of_floor),
        speed(e.prefill),
        ratio(e.prefill_over_best_peer),
        share(e.prefill_of_peak)
    )
}

fn speed(summary: Option<Summary>) -> String {
    summary.map_or("–".into(), |s| format!("{:.0} [{:.0}–{:.0}]", s.median, s.min, s.max))
}

fn ratio(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| format!("{v:.2}"))
}

fn share(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| format!("{:.1} %", v * 100.0))
}
