//! `compare halting`: what halting saves and costs, and whether it goes by difficulty.
//!
//! As in phase 1, a first stage runs every recursion of every token and a second lets tokens halt. The ablation trains the
//! same steps without a halting head. The halting file is also read with halting off.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::lab::{Judged, Lab};
use super::{Runs, figures, print};

/// Options of `compare halting`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Most recursions
    #[arg(long, value_delimiter = ',', default_value = "2,3")]
    recursions: Vec<u32>,
    #[command(flatten)]
    runs: Runs,
}

/// One run.
#[derive(Debug, Serialize)]
struct Row {
    recursion: u32,
    /// Whether it was trained to halt.
    halting: bool,
    seed: u64,
    steps: [u64; 2],
    /// Seconds of both stages.
    seconds: f64,
    judged: Judged,
}

/// Trains and judges each with halting and without.
///
/// # Errors
/// When an option is wrong or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    for seed in &options.runs.seeds {
        let lab = Lab::new(&options.runs.set, *seed, &options.runs.device)?;
        let (trunk, branch) = (&lab.config.phase1.trunk, &lab.config.phase1.branch);
        for recursion in &options.recursions {
            for halting in [true, false] {
                let start = lab.start(|model| (model.recursion, model.halting) = (*recursion, halting));
                let first = lab.train("trunk", trunk, &start, false)?;
                let second = lab.train("branch", branch, &first.weights, true)?;
                let row = Row {
                    recursion: *recursion,
                    halting,
                    seed: *seed,
                    steps: [trunk.steps, branch.steps],
                    seconds: first.seconds + second.seconds,
                    judged: lab.judge(&second.weights)?,
                };
                eprintln!("  {}", serde_json::to_string(&row)?);
                rows.push(row);
            }
        }
    }
    let heading = [
        "recursions",
        "halting",
        "seed",
        "steps",
        "mean",
        "easiest to hardest quarter",
        "bits per byte",
        "never halting",
        "always",
        "frames",
        "answers",
    ];
    print(&rows, options.runs.json, &heading, cells)
}

fn cells(row: &Row) -> Vec<String> {
    let judged = &row.judged;
    let of = |value: &dyn Fn(&forge_train::eval::HaltingReport) -> String| {
        judged.halting.as_ref().map_or("–".to_owned(), value)
    };
    vec![
        row.recursion.to_string(),
        if row.halting { "learnt" } else { "off" }.into(),
        row.seed.to_string(),
        format!("{} + {}", row.steps[0], row.steps[1]),
        format!("{:.2}", judged.halting.as_ref().map_or(judged.recursions, |h| h.steps)),
        of(&|h| figures(h.quarters.iter().map(|q| q.steps), 2)),
        format!("{:.4}", judged.bits_per_byte),
        of(&|h| format!("{:.4}", h.bits_per_byte_at_all)),
        of(&|h| format!("{:.4}", h.bits_per_byte_at_one)),
        format!("{:.1} %", 100.0 * judged.frames),
        format!("{:.1} %", 100.0 * judged.answers),
    ]
}
