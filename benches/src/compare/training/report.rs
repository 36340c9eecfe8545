//! The figures of the comparison, and a table of them for people.

use std::fmt::Write;

use serde::Serialize;

use super::super::report::processor;
use super::WARM;
use super::ours::Run;
use super::task::Task;
use crate::stats::Summary;

/// All results.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    processor: String,
    threads: usize,
    rounds: usize,
    steps: usize,
    pub(super) tables: Vec<Table>,
}

/// The results of a shape.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    shape: &'static str,
    tokens_a_step: usize,
    operations_a_step: f64,
    /// Operations a second of plain f32 matrix products on all threads, the best reading of the run.
    sgemm_peak: f64,
    /// Largest difference of the losses of the same architecture in f32, step by step.
    loss_difference: Option<f64>,
    entries: Vec<Entry>,
}

/// A contestant's results.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    label: String,
    version: String,
    /// Tokens a second: the median step of each round.
    speed: Option<Summary>,
    /// Speed over that of the faster of the peers in f32, round by round.
    over_f32: Option<Summary>,
    /// Likewise over the peer in bf16.
    over_bf16: Option<Summary>,
    /// Time the step's products take at the peak, over the time the step took.
    of_floor: Option<f64>,
    /// The most memory any of the processes had.
    peak_bytes: u64,
    /// Losses of the first round.
    losses: Vec<f64>,
}

impl Report {
    pub(super) fn new(threads: usize, rounds: usize, steps: usize) -> Self {
        Self { processor: processor(), threads, rounds, steps, tables: Vec::new() }
    }
}

impl Table {
    pub(super) fn new(task: &Task, peak: f64, entries: Vec<Entry>, loss_difference: Option<f64>) -> Self {
        Self {
            shape: task.shape.name,
            tokens_a_step: task.tokens(),
            operations_a_step: task.operations(),
            sgemm_peak: peak,
            loss_difference,
            entries,
        }
    }
}

impl Entry {
    pub(super) fn new(
        label: String,
        task: &Task,
        runs: &[Run],
        f32_peer: Option<&[Run]>,
        bf16_peer: Option<&[Run]>,
        peak: f64,
    ) -> Self {
        let speed = Summary::of(&speeds(task, runs));
        let over = |peer: &[Run]| {
            let pairs = speeds(task, runs).into_iter().zip(speeds(task, peer));
            Summary::of(&pairs.map(|(own, other)| own / other).collect::<Vec<f64>>())
        };
        let floor = task.tokens() as f64 * peak / task.operations();
        Self {
            label,
            version: runs.first().map(|r| r.version.clone()).unwrap_or_default(),
            over_f32: f32_peer.and_then(over),
            over_bf16: bf16_peer.and_then(over),
            of_floor: speed.map(|s| s.median / floor),
            speed,
            peak_bytes: runs.iter().map(|r| r.peak_bytes).max().unwrap_or_default(),
            losses: runs.first().map(|r| r.losses.clone()).unwrap_or_default(),
        }
    }
}

/// Tokens a second of each round: of its median step, first ones left out.
fn speeds(task: &Task, runs: &[Run]) -> Vec<f64> {
    let medians = runs.iter().filter_map(|run| Summary::of(run.seconds.get(WARM..)?));
    medians.map(|s| task.tokens() as f64 / s.median).collect()
}

/// The median of the rounds, 0 of none.
pub(super) fn median(task: &Task, runs: &[Run]) -> f64 {
    Summary::of(&speeds(task, runs)).map_or(0.0, |s| s.median)
}

/// Largest difference of two first rounds' losses, step by step.
pub(super) fn loss_difference(a: &[Run], b: &[Run]) -> f64 {
    let pairs = a.iter().zip(b).take(1).flat_map(|(a, b)| a.losses.iter().zip(&b.losses));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A shape's table.
pub(super) fn text(report: &Report, table: &Table) -> String {
    let mut out = String::new();
    lines(&mut out, report, table).expect("a string takes everything");
    out
}

fn lines(out: &mut String, report: &Report, t: &Table) -> std::fmt::Result {
    let Report { processor, threads, rounds, steps, .. } = report;
    writeln!(out, "{}: {} tokens a step, {threads} threads, {processor}", t.shape, t.tokens_a_step)?;
    let (work, peak) = (t.operations_a_step / 1e9, t.sgemm_peak / 1e9);
    writeln!(out, "  medians of {rounds} rounds of {steps} steps, all in turn [smallest–largest]")?;
    writeln!(out, "  {work:.1} GFLOP a step; plain matrix products here: {peak:.0} GFLOP/s")?;
    let heads = ["tok/s", "× PyTorch f32", "× PyTorch bf16", "of floor", "memory"];
    let [a, b, c, d, e] = heads;
    writeln!(out, "  {:<40} {a:>22} {b:>18} {c:>18} {d:>9} {e:>9}", "")?;
    for entry in &t.entries {
        let speed = spread(entry.speed, 0);
        let (f32, bf16) = (spread(entry.over_f32, 2), spread(entry.over_bf16, 2));
        let floor = entry.of_floor.map_or("–".into(), |v| format!("{:.0} %", v * 100.0));
        let megabytes = entry.peak_bytes as f64 / 1e6;
        writeln!(
            out,
            "  {:<40} {speed:>22} {f32:>18} {bf16:>18} {floor:>9} {megabytes:>6.0} MB",
            entry.label
        )?;
    }
    if let Some(difference) = t.loss_difference {
        writeln!(out, "  losses of the same architecture in f32 differ by at most {difference:.1e} nats")?;
    }
    Ok(())
}

fn spread(summary: Option<Summary>, digits: usize) -> String {
    let of = |s: Summary| format!("{:.digits$} [{:.digits$}–{:.digits$}]", s.median, s.min, s.max);
    summary.map_or("–".into(), of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: f64, loss: f64) -> Run {
        // The first steps are slow, one later step is disturbed: neither counts.
        let seconds = vec![9.0, 9.0, 9.0, seconds, 7.0, seconds];
        Run { losses: vec![loss; seconds.len()], seconds, peak_bytes: 1000, version: "x".into() }
    }

    #[test]
    fn ratios_are_of_pairs_and_shares_of_the_floor() {
        let task = Task::named("tiny").expect("it is there");
        let (ours, peer) = ([run(1.0, 3.0), run(2.0, 3.0)], [run(2.0, 3.5), run(3.0, 3.5)]);
        let entry = Entry::new("ours".into(), &task, &ours, Some(&peer), None, task.operations() * 2.0);
        assert_eq!(entry.speed.map(|s| (s.min, s.median, s.max)), Some((1024.0, 1536.0, 2048.0)));
        assert_eq!(entry.over_f32.map(|s| (s.min, s.max)), Some((1.5, 2.0)));
        assert_eq!((entry.over_bf16, entry.of_floor, entry.peak_bytes), (None, Some(0.375), 1000));
        assert_eq!(loss_difference(&ours, &peer), 0.5);
        let table = Table::new(&task, 1e12, vec![entry], Some(0.5));
        assert!(text(&Report::new(2, 2, 3), &table).contains("1.75 [1.50–2.00]"));
    }
}
