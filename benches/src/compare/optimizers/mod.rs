//! `compare optimizers`: AdamW, Muon, and both behind Grokfast, on two tasks, at equal tokens and at equal time.
//!
//! Each contestant's learning rate is the best of a grid on a seed that is not reported. Equal time means that steps are
//! scaled by the seconds a step took in the grid, where all contestants ran side by side; schedules are stretched along.

mod job;
mod task;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use forge_train::device;
use serde::Serialize;

use crate::stats::Summary;
use job::{Job, Outcome, run_all};
use task::Task;

/// Options of `compare optimizers`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Running text for the task `characters`
    #[arg(long, value_name = "FILE")]
    corpus: PathBuf,
    /// Tasks: characters, modular
    #[arg(long, value_delimiter = ',', default_value = "characters,modular")]
    tasks: Vec<String>,
    /// Seeds that are reported
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Runs side by side; each takes about two threads
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Share of each recipe's steps to run
    #[arg(long, default_value_t = 1.0)]
    share: f64,
    /// Where training computes
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// A way to turn gradients into updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Contestant {
    AdamW,
    AdamWGrokfast,
    Muon,
    MuonGrokfast,
}

impl Contestant {
    const ALL: [Self; 4] = [Self::AdamW, Self::AdamWGrokfast, Self::Muon, Self::MuonGrokfast];

    fn label(self) -> &'static str {
        match self {
            Self::AdamW => "AdamW",
            Self::AdamWGrokfast => "AdamW × Grokfast",
            Self::Muon => "Muon",
            Self::MuonGrokfast => "Muon × Grokfast",
        }
    }

    /// Assignments for a recipe at learning rate `rate`. Muon's updates have the size of AdamW's, so one grid serves both;
    /// Grokfast as its paper has it for algorithmic tasks.
    fn settings(self, rate: f64) -> Vec<String> {
        let mut set = vec![format!("train.lr={rate}")];
        if matches!(self, Self::Muon | Self::MuonGrokfast) {
            set.push(format!("train.muon_lr={rate}"));
        }
        if matches!(self, Self::AdamWGrokfast | Self::MuonGrokfast) {
            set.extend(["train.grokfast_lambda=2.0".into(), "train.grokfast_alpha=0.98".into()]);
        }
        set
    }
}

/// One contestant on one task.
#[derive(Debug, Serialize)]
struct Row {
    task: &'static str,
    contestant: Contestant,
    /// Chosen learning rate.
    rate: f64,
    /// Median seconds of a step in the grid.
    step_seconds: f64,
    /// At the task's steps.
    equal_tokens: Results,
    /// At as many steps as take AdamW's time.
    equal_time: Results,
}

/// What the reported seeds came to.
#[derive(Debug, Serialize)]
struct Results {
    steps: u64,
    /// Lowest held-out loss in nats.
    loss: Summary,
    /// Last held-out accuracy.
    accuracy: Summary,
    /// First step at which 95 % of held-out tokens were right, of the seeds that got there.
    solved_at: Option<Summary>,
}

/// Runs the comparison.
///
/// # Errors
/// When the text cannot be read or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(!options.seeds.is_empty() && options.jobs > 0, "at least one seed and one job are needed");
    ensure!(options.share > 0.0 && options.share <= 1.0, "--share is above 0 and at most 1");
    let scratch = tempfile::tempdir().context("no scratch folder")?;
    let mut rows = Vec::new();
    for name in &options.tasks {
        let task = Task::named(name, &options.corpus, scratch.path())?;
        rows.extend(compare(options, &task, scratch.path())?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows);
    }
    Ok(())
}

fn compare(options: &Options, task: &Task, scratch: &std::path::Path) -> Result<Vec<Row>> {
    let device = device::open(&options.device)?;
    let steps = ((task.steps as f64 * options.share) as u64).max(1);
    let job = |contestant: Contestant, rate: f64, seed: u64, steps: u64| {
        Job::new(task, contestant.settings(rate), seed, steps, scratch)
    };
    let grid: Vec<(Contestant, f64)> =
        Contestant::ALL.iter().flat_map(|c| task.rates.iter().map(|rate| (*c, *rate))).collect();
    eprintln!("{}: {} runs to choose learning rates", task.name, grid.len());
    let tried =
        run_all(grid.iter().map(|(c, rate)| job(*c, *rate, 0, steps)).collect(), options.jobs, &device)?;
    let mut chosen = Vec::new();
    for contestant in Contestant::ALL {
        let own = grid.iter().zip(&tried).filter(|((c, _), _)| *c == contestant);
        let best = own.min_by(|a, b| a.1.loss.total_cmp(&b.1.loss)).context("an empty grid")?;
        chosen.push((contestant, best.0.1, best.1.step_seconds));
    }
    let adamw_seconds = chosen[0].2;
    let scaled = |seconds: f64| ((steps as f64 * adamw_seconds / seconds).round() as u64).max(1);
    let mut jobs = Vec::new();
    for (contestant, rate, seconds) in &chosen {
        for steps in [steps, scaled(*seconds)] {
            jobs.extend(options.seeds.iter().map(|seed| job(*contestant, *rate, *seed, steps)));
        }
    }
    eprintln!("{}: {} runs", task.name, jobs.len());
    let outcomes = run_all(jobs, options.jobs, &device)?;
    let n = options.seeds.len();
    chosen
        .into_iter()
        .zip(outcomes.chunks(2 * n))
        .map(|((contestant, rate, step_seconds), outcomes)| {
            Ok(Row {
                task: task.name,
                contestant,
                rate,
                step_seconds,
                equal_tokens: results(steps, &outcomes[..n])?,
                equal_time: results(scaled(step_seconds), &outcomes[n..])?,
            })
        })
        .collect()
}

fn results(steps: u64, outcomes: &[Outcome]) -> Result<Results> {
    let of = |value: fn(&Outcome) -> f64| {
        Summary::of(&outcomes.iter().map(value).collect::<Vec<_>>()).context("no seeds")
    };
    let solved: Vec<f64> = outcomes.iter().filter_map(|o| o.solved_at).map(|step| step as f64).collect();
    Ok(Results {
        steps,
        loss: of(|o| o.loss)?,
        accuracy: of(|o| o.accuracy)?,
        solved_at: Summary::of(&solved),
    })
}

fn print(rows: &[Row]) {
    let mut task = "";
    for row in rows {
        if row.task != task {
            task = row.task;
            println!(
                "\n{task}: held-out loss (nats), accuracy, steps to 95 %; median [least–most] of the seeds"
            );
            println!("  {:<18} {:>8} {:>8}  {:<52} equal time", "", "rate", "ms/step", "equal tokens");
        }
        let (label, milliseconds) = (row.contestant.label(), 1e3 * row.step_seconds);
        let [tokens, time] = [&row.equal_tokens, &row.equal_time].map(cell);
        println!("  {label:<18} {:>8} {milliseconds:>8.1}  {tokens:<52} {time}", row.rate);
    }
}

fn cell(r: &Results) -> String {
    let Summary { median, min, max, .. } = r.loss;
    let solved = r
        .solved_at
        .map_or("–".into(), |s| format!("{:.0} ({} of {})", s.median, s.samples, r.loss.samples));
    format!(
        "{median:.4} [{min:.4}–{max:.4}], {:.1} %, {solved}; {} steps",
        100.0 * r.accuracy.median,
        r.steps
    )
}
