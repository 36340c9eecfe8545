//! `compare training`: this project's training step and PyTorch's in one run, in turn, each in a process of its own.

mod ours;
mod report;
mod task;
mod torch;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::install::default_cache;
use crate::limits::sgemm_peak;
use ours::Run;
pub(crate) use ours::Steps;
use report::{Entry, Report, Table};
use task::Task;

/// First steps of a process, in which memory is first touched and clocks rise; they are not counted.
const WARM: usize = 3;

/// Options of `compare training`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Shapes to train
    #[arg(long, value_delimiter = ',', default_value = "tiny,25m")]
    shapes: Vec<String>,
    /// Threads of PyTorch and of our pool; ours always computes the two halves of a batch side by side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Times everyone has a turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Steps of a turn that count
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// A Python that has PyTorch, instead of one made for it
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Leave PyTorch out
    #[arg(long)]
    no_peer: bool,
    /// PyTorch through torch.compile too
    #[arg(long)]
    compile: bool,
    /// PyTorch's bf16 autocast even where the processor has no bf16 products
    #[arg(long)]
    bf16: bool,
    /// Where PyTorch is installed and kept [default: forge-benches in the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

/// Who trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    /// This project, in an arithmetic.
    Ours(&'static str),
    /// PyTorch: architecture and mode, as `peer.py` takes them.
    Torch([&'static str; 2]),
}

/// The peers in f32 and their counterpart in bf16.
const PLAIN: Contestant = Contestant::Torch(["plain", "f32"]);
const SAME: Contestant = Contestant::Torch(["forge", "f32"]);
const BF16: Contestant = Contestant::Torch(["plain", "bf16"]);
/// Ours in f32, whose loss is that of [`SAME`].
const FLOAT: Contestant = Contestant::Ours("float");

impl Contestant {
    fn label(self) -> String {
        match self {
            Self::Ours(arithmetic) => format!("forge {arithmetic}"),
            Self::Torch([architecture, mode]) => format!("PyTorch {mode}, {architecture} architecture"),
        }
    }

    fn all(options: &Options) -> Vec<Self> {
        let mut all = vec![FLOAT, Self::Ours("ternary")];
        if has_bf16() {
            all.extend([Self::Ours("float-bf16"), Self::Ours("ternary-bf16")]);
        }
        if !options.no_peer {
            all.extend([PLAIN, SAME]);
            if options.bf16 || has_bf16() {
                all.push(BF16);
            }
            if options.compile {
                all.push(Self::Torch(["plain", "compile"]));
            }
        }
        all
    }

    /// One turn.
    fn run(self, task: &Task, folder: &Path, python: Option<&Path>, numbers: [usize; 2]) -> Result<Run> {
        match (self, python) {
            (Self::Torch(how), Some(python)) => torch::run(python, folder, task.shape.name, numbers, how),
            (Self::Torch(_), None) => anyhow::bail!("there is no Python to run PyTorch with"),
            (Self::Ours(arithmetic), _) => {
                let mut command = Command::new(std::env::current_exe()?);
                // As the `forge-train` command sets it: candle's own threads would only spin beside ours.
                command.env("CANDLE_NUM_THREADS", "1");
                command.args(["training-steps", task.shape.name, arithmetic]);
                torch::printed(command.args(numbers.map(|n| n.to_string())))
            }
        }
    }
}

/// Whether the processor multiplies bf16 numbers.
fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When an option is wrong, PyTorch cannot be had, or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.steps > 0, "at least one round of one step is needed");
    ensure!(options.threads > 0, "a run needs at least one thread");
    let tasks: Vec<Task> = options.shapes.iter().map(|name| Task::named(name)).collect::<Result<_>>()?;
    let cache = options.cache.clone().unwrap_or_else(default_cache);
    let python = match options.no_peer {
        true => None,
        false => Some(torch::python(options.python.as_deref(), &cache)?),
    };
    let mut report = Report::new(options.threads, options.rounds, options.steps);
    for task in &tasks {
        let table = table(options, task, python.as_deref())?;
        if !options.json {
            print!("{}", report::text(&report, &table));
        }
        report.tables.push(table);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

/// Compares on one shape: everyone has a turn before anyone has the next, so that what else the machine does meets
/// all alike.
fn table(options: &Options, task: &Task, python: Option<&Path>) -> Result<Table> {
    let folder = tempfile::tempdir().context("cannot make a folder for weights and batches")?;
    let steps = WARM + options.steps;
    task.write(steps, folder.path())?;
    let contestants = Contestant::all(options);
    let mut runs: Vec<Vec<Run>> = contestants.iter().map(|_| Vec::new()).collect();
    let mut peak = 0f64;
    for round in 1..=options.rounds {
        // What the machine can do is the best of several readings: others on it only ever lower one.
        peak = peak.max(sgemm_peak(options.threads).max);
        for (contestant, runs) in contestants.iter().zip(&mut runs) {
            eprintln!("{}, round {round}: {} …", task.shape.name, contestant.label());
            runs.push(contestant.run(task, folder.path(), python, [steps, options.threads])?);
        }
    }
    let of = |wanted| contestants.iter().position(|c| *c == wanted).map(|i| runs[i].as_slice());
    let faster = |a: &[Run], b: &[Run]| report::median(task, a) > report::median(task, b);
    let best_float = match (of(PLAIN), of(SAME)) {
        (Some(plain), Some(same)) if faster(same, plain) => Some(same),
        (plain, _) => plain,
    };
    let loss_difference = of(FLOAT).zip(of(SAME)).map(|(ours, same)| report::loss_difference(ours, same));
    let entries = contestants.iter().zip(&runs);
    let entries = entries.map(|(c, runs)| Entry::new(c.label(), task, runs, best_float, of(BF16), peak));
    Ok(Table::new(task, peak, entries.collect(), loss_difference))
}
