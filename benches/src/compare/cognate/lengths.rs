//! `compare lengths`: the trunk with and without a curriculum of lengths, at equal tokens.

use anyhow::Result;
use clap::Args;
use forge_train::config::LengthStage;
use serde::Serialize;

use super::lab::{Judged, Lab};
use super::{Runs, print};

/// Options of `compare lengths`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Shares of the steps at which a quarter and a half of the longest length end, one curriculum a value
    #[arg(long, value_delimiter = ',', default_value = "0.15:0.3,0.25:0.5")]
    curricula: Vec<String>,
    #[command(flatten)]
    runs: Runs,
}

/// One run.
#[derive(Debug, Serialize)]
struct Row {
    /// Shares of the steps, or none.
    curriculum: String,
    seed: u64,
    steps: u64,
    seconds: f64,
    judged: Judged,
}

/// A quarter of `longest` until the first share of the steps, a half until the second.
fn curriculum(shares: &str, longest: usize) -> Result<Vec<LengthStage>> {
    let shares = shares.split(':').map(str::parse::<f32>).collect::<Result<Vec<_>, _>>()?;
    let stage = |(at, until): (usize, &f32)| LengthStage { until: *until, max_len: (longest / 4) << at };
    Ok(shares.iter().enumerate().map(stage).collect())
}

/// Trains and judges the trunk with each curriculum and without.
///
/// # Errors
/// When an option is wrong or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    for seed in &options.runs.seeds {
        let mut lab = Lab::new(&options.runs.set, *seed, &options.runs.device)?;
        let longest = lab.config.data.max_len;
        let start = lab.start(|_| ());
        let train = lab.config.phase1.trunk.clone();
        for shares in ["none"].into_iter().chain(options.curricula.iter().map(String::as_str)) {
            lab.config.phase1.length_curriculum =
                if shares == "none" { Vec::new() } else { curriculum(shares, longest)? };
            lab.config.phase1.check()?;
            // One name, so that both take the same mixture.
            let trained = lab.train("trunk", &train, &start, false)?;
            let row = Row {
                curriculum: shares.to_owned(),
                seed: *seed,
                steps: train.steps,
                seconds: trained.seconds,
                judged: lab.judge(&trained.weights)?,
            };
            eprintln!("  {}", serde_json::to_string(&row)?);
            rows.push(row);
        }
    }
    let heading = ["curriculum", "seed", "steps", "seconds", "bits per byte", "frames", "answers"];
    print(&rows, options.runs.json, &heading, |row| {
        vec![
            row.curriculum.clone(),
            row.seed.to_string(),
            row.steps.to_string(),
            format!("{:.0}", row.seconds),
            format!("{:.4}", row.judged.bits_per_byte),
            format!("{:.1} %", 100.0 * row.judged.frames),
            format!("{:.1} %", 100.0 * row.judged.answers),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curriculum_doubles_from_a_quarter() {
        let stages = curriculum("0.25:0.5", 128).unwrap();
        assert_eq!(stages, [(0.25, 32), (0.5, 64)].map(|(until, max_len)| LengthStage { until, max_len }));
        assert!(curriculum("soon", 128).is_err());
    }
}
