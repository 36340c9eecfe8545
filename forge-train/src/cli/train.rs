//! `forge-train train`: one training run outside the pipeline.

use std::path::{Path, PathBuf};

use clap::ArgGroup;
use forge_train::config_load;
use forge_train::data::mix::Weighted;
use forge_train::device;
use forge_train::error::Result;
use forge_train::pipeline::prepare::DataSource;
use forge_train::pipeline::progress::{Reporter, Style, duration};
use forge_train::pipeline::size::parse_size;
use forge_train::pipeline::table::{Align, bytes as size, count, layout};
use forge_train::pipeline::{Progress, StopFlag};
use forge_train::recipe::{self, Recipe, Report, RunDirectory};

use super::output::{Failure, Outcome, print, print_json};
use super::pipeline::{quoted, watch_signals};

const EXAMPLES: &str = "\
A recipe is a shipped name (see --list) or a TOML file. The run's directory receives the loss curve
(curve.csv), the weights of the lowest held-out loss, the model (model.forge) and what was measured
on it through the runtime (report.json).

Examples:
  forge-train train --list
  forge-train train --recipe char-cpu --corpus text.txt
  forge-train train --recipe char-small --corpus text.txt --device cuda --set run.seed=2
  forge-train train --recipe my.toml --data train.jsonl --valid valid.jsonl --out runs/mine
  forge-train train --recipe my.toml --data calls.jsonl:3 --corpus text.txt:1
  forge-train train --resume runs/mine";

/// What a command begins with: files, of which there may be several, or one of the others.
const SOURCES: [&str; 5] = ["corpus", "data", "resume", "list", "print_config"];

/// Trains one model by a recipe.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("source").args(SOURCES).required(true).multiple(true))]
pub(crate) struct Args {
    /// Shipped recipe or TOML file
    #[arg(long, value_name = "NAME", default_value = "char-cpu")]
    recipe: String,
    /// Running text to train on; its end validates; may be repeated, mixed by weight
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    corpus: Vec<Weighted>,
    /// Examples to train on, one JSON object a line; may be repeated, and mixed with --corpus
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    data: Vec<Weighted>,
    /// Examples to validate on; a tenth of --data without it
    #[arg(long, value_name = "FILE", requires = "data")]
    valid: Option<PathBuf>,
    /// Go on with the run in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "set", "data", "corpus"])]
    resume: Option<PathBuf>,
    /// One setting, such as train.steps=500; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where training computes: cpu, cuda, cuda:N, or auto for a GPU where there is one
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Refuse to train what needs more memory than this, such as 6GB or 512MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// The run's directory; forge-runs/RECIPE-SEED without it
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the resolved settings as TOML and do nothing
    #[arg(long, conflicts_with_all = ["resume", "data", "corpus"])]
    print_config: bool,
    /// List the shipped recipes and do nothing
    #[arg(long, conflicts_with_all = ["resume", "data", "corpus", "print_config"])]
    list: bool,
    /// Print one JSON document at the end instead of the table
    #[arg(long)]
    json: bool,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn main(args: &Args) -> Outcome {
    if args.list {
        let rows: Vec<_> = Recipe::shipped().map(|(name, what)| vec![name.into(), what.into()]).collect();
        return print(&layout(&[("recipe", Align::Left), ("trains", Align::Left)], &rows));
    }
    if args.print_config {
        return print(&config_load::to_toml(&Recipe::load(&args.recipe, &args.set)?)?);
    }
    let directory = directory(args)?;
    let device = device::open(&args.device)?;
    let progress = Reporter::new(Style::detect(args.quiet));
    let stop = StopFlag::new();
    watch_signals(&stop)?;
    let result = recipe::run(&directory, &device, args.memory, &progress, &stop);
    progress.finish();
    let report = result.map_err(|error| Failure::Session(error, resume_command(args, directory.path())))?;
    if args.json { print_json(&report) } else { print(&text(&report, &directory.model())) }
}

fn directory(args: &Args) -> Result<RunDirectory> {
    if let Some(path) = &args.resume {
        return RunDirectory::open(path);
    }
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let source = DataSource::of(&args.data, args.valid.as_deref(), &args.corpus)?;
    RunDirectory::create(
        &args.out.clone().unwrap_or_else(|| default_directory(args, &recipe)),
        &recipe,
        &source,
    )
}

/// `forge-runs/RECIPE-SEED`, a file's recipe by its name without directories and ending.
fn default_directory(args: &Args, recipe: &Recipe) -> PathBuf {
    let name = Path::new(&args.recipe).file_stem().unwrap_or_default().to_string_lossy();
    Path::new("forge-runs").join(format!("{name}-{}", recipe.run.seed))
}

fn resume_command(args: &Args, directory: &Path) -> String {
    let device = if args.device == "auto" { String::new() } else { format!(" --device {}", args.device) };
    format!("forge-train train --resume {}{device}", quoted(&directory.display().to_string()))
}

fn text(report: &Report, model: &Path) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("parameters", count(report.parameters as u64)),
        row("file", format!("{} ({} B)", size(report.bytes as u64), report.bytes)),
        row("tokens trained", count(report.tokens)),
        row("time", duration(report.seconds)),
        row("held-out loss", format!("{:.4} nats after step {}", report.best_loss, report.best_step)),
    ];
    rows.extend(report.measures().map(|(name, value)| row(&format!("file: {name}"), value)));
    format!("{}\n{}\n", layout(&[("measure", Align::Left), ("value", Align::Left)], &rows), model.display())
}
