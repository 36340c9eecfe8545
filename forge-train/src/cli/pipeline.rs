//! `forge-train pipeline`: from data to a model.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::ArgGroup;
use forge_train::config::{Config, Preset};
use forge_train::config_load::{self, Layers, parse_preset};
use forge_train::data::encode::truncated;
use forge_train::data::mix::Weighted;
use forge_train::device::{self, DeviceChoice};
use forge_train::error::{Error, Result};
use forge_train::phases;
use forge_train::pipeline::memory::{self, Place};
use forge_train::pipeline::orchestrator::{Orchestrator, Range};
use forge_train::pipeline::plan::Plan;
use forge_train::pipeline::prepare::{DataSource, prepare};
use forge_train::pipeline::progress::{Reporter, Style, duration};
use forge_train::pipeline::size::parse_size;
use forge_train::pipeline::table::{self, Align, bytes as size, count, layout};
use forge_train::pipeline::{PhaseId, PreparedData, Progress, Session, StopFlag, disk};
use forge_train::registry::PhaseRow;
use serde_json::json;

use super::output::{Failure, Outcome, print, print_json, say};

const EXAMPLES: &str = "\
Phases: 1 cognate, 2 evomerge, 3 quietstar, 4 bitnet, 5 forge, 6 baking, 7 edge, 8 final_compression.
A session can be resumed after an interrupt, a crash or a failed gate. Running a phase again
(`--from`, `--phase`) forgets the later ones, which descend from what it made before.

Examples:
  forge-train pipeline
  forge-train pipeline --data train.jsonl --valid valid.jsonl --preset tiny
  forge-train pipeline --corpus text.txt --set phase5.steps=2000 --seed 7
  forge-train pipeline --data calls.jsonl:3 --corpus text.txt:1
  forge-train pipeline --preset 25m --plan
  forge-train pipeline --resume latest
  forge-train pipeline --resume latest --from bitnet --set phase5.lr=2e-3";

/// Trains a model.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("start").args(["data", "corpus", "preset", "config", "seed"]).multiple(true))]
pub(crate) struct Args {
    /// Examples to train on, one JSON object a line; may be repeated, mixed by weight; built-in data without files
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    data: Vec<Weighted>,
    /// Examples to validate on; a tenth of --data without it
    #[arg(long, value_name = "FILE", requires = "data")]
    valid: Option<PathBuf>,
    /// Running text to train on; may be repeated, and mixed with --data
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    corpus: Vec<Weighted>,
    /// Size of the model with everything that follows: nano, tiny or 25m
    #[arg(long, value_name = "NAME", value_parser = parse_preset)]
    preset: Option<Preset>,
    /// Settings that differ from the preset's
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as phase5.steps=2000; may be repeated and wins over --config
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Run one phase only, by name or number
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from", "to"])]
    phase: Option<PhaseId>,
    /// First phase to run, even if it is done
    #[arg(long, value_name = "NAME")]
    from: Option<PhaseId>,
    /// Last phase to run
    #[arg(long, value_name = "NAME")]
    to: Option<PhaseId>,
    /// Go on with a session: its name, the beginning of it, or `latest`
    #[arg(long, value_name = "SESSION", conflicts_with = "start")]
    resume: Option<String>,
    /// Say what would run, how long and how large, and do nothing
    #[arg(long, conflicts_with = "resume")]
    plan: bool,
    /// Refuse to start what needs more memory than this, such as 6GB or 512MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Print the resolved settings as TOML and do nothing
    #[arg(long, conflicts_with_all = ["resume", "plan"])]
    print_config: bool,
    /// Seed of every random choice
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where to train: auto (a GPU if there is one), cpu, cuda or cuda:N; any when resuming [default: auto]
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceChoice>,
    /// Print one JSON document at the end instead of the table
    #[arg(long)]
    json: bool,
    /// Where sessions are kept
    #[arg(long, value_name = "DIR", default_value = "forge-runs")]
    out: PathBuf,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn main(args: Args) -> Outcome {
    let range = range(&args)?;
    let progress = Reporter::new(Style::detect(args.quiet));
    let (session, data, device) = match &args.resume {
        Some(name) => resume(&args, name, range, &progress)?,
        None => {
            let config = config(&args)?;
            if args.print_config {
                return print(&config_load::to_toml(&config)?);
            }
            let source = DataSource::of(&args.data, args.valid.as_deref(), &args.corpus)?;
            if args.plan {
                return plan(&config, &args);
            }
            refuse_missing_inputs(range)?;
            fits(&config, &args)?;
            let device = config.run.device.open()?;
            // The data is read before the session is made: a bad line leaves nothing behind.
            let data = prepared(&source, &config, &args.out, &progress)?;
            let session = Session::create(&args.out, &config, &source)?;
            session.keep_held_out(&data.dataset)?;
            (session, data, device)
        }
    };
    progress.note(&format!("session {}; training on {}", session.id(), device::describe(&device)));
    let resume = resume_command(&args, session.id());
    let stop = StopFlag::new();
    watch_signals(&stop)?;
    let phases = phases::all();
    let orchestrator = Orchestrator {
        session: &session,
        data: &data,
        phases: &phases,
        progress: &progress,
        stop: &stop,
        device: &device,
    };
    let result = orchestrator.run(range);
    progress.finish();
    report(&session, args.json, result.is_ok())?;
    result.map(|_| ()).map_err(|error| Failure::Session(error, resume))
}

/// The phases asked for.
fn range(args: &Args) -> Result<Range> {
    let first = args.phase.or(args.from);
    let last = args.phase.or(args.to).unwrap_or(PhaseId::Compression);
    let range = Range { first: first.unwrap_or(PhaseId::Cognate), last, restart: first.is_some() };
    if range.first > range.last {
        return Err(Error::Usage {
            what: format!("`--from {}` comes after `--to {}`", range.first, range.last),
            hint: "phases run in the order listed by `forge-train pipeline --help`".into(),
        });
    }
    Ok(range)
}

fn refuse_missing_inputs(range: Range) -> Result<()> {
    if range.first == PhaseId::Cognate {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!(
            "a new session cannot start at phase {}: it needs what earlier phases make",
            range.first
        ),
        hint: format!("add `--resume SESSION`, or stop after it with `--to {}`", range.last),
    })
}

fn config(args: &Args) -> Result<Config> {
    let mut set = args.set.clone();
    set.extend(args.seed.map(|seed| format!("run.seed={seed}")));
    set.extend(args.device.map(|device| format!("run.device={device}")));
    config_load::load(&Layers { preset: args.preset, file: args.config.as_deref(), set: &set })
}

fn prepared(
    source: &DataSource,
    config: &Config,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<PreparedData> {
    let data = prepare(source, config, scratch)?;
    let (set, vocab) = (&data.dataset, data.tokenizer.vocab());
    let counts = [set.train.len(), set.valid.len(), set.test.len()].map(|n| count(n as u64));
    let [train, valid, test] = counts;
    progress.note(&format!("data {}: {train} train, {valid} valid, {test} test; {vocab} tokens", set.name));
    if let Some(note) = set.hygiene.note() {
        progress.note(&note);
    }
    let longest = config.data.max_len;
    let cut: usize =
        set.train.parts().iter().map(|part| truncated(&data.tokenizer, &part.examples, longest)).sum();
    if cut > 0 {
        let cut = count(cut as u64);
        progress.note(&format!("{cut} training sequences are cut to {longest} tokens (data.max_len)"));
    }
    Ok(data)
}

fn resume(
    args: &Args,
    name: &str,
    range: Range,
    progress: &dyn Progress,
) -> Result<(Session, PreparedData, Device)> {
    if !args.set.is_empty() && !range.restart {
        return Err(Error::Usage {
            what: "`--set` would change a session that is under way".into(),
            hint: "say with `--from PHASE` from where on it is to run again".into(),
        });
    }
    let mut session = Session::resume(&args.out, name)?;
    if !args.set.is_empty() {
        let config = config_load::override_with(session.config(), &args.set)?;
        session.reconfigure(&config, range.first)?;
    }
    let device = args.device.unwrap_or(session.config().run.device);
    fits_memory(session.config(), device, args.memory)?;
    let device = device.open()?;
    let data = prepared(session.source(), session.config(), &args.out, progress)?;
    Ok((session, data, device))
}

fn resume_command(args: &Args, id: &str) -> String {
    let out = match args.out == Path::new("forge-runs") {
        true => String::new(),
        false => format!(" --out {}", quoted(&args.out.display().to_string())),
    };
    let last = args.phase.or(args.to).map_or(String::new(), |last| format!(" --to {last}"));
    format!("forge-train pipeline --resume {id}{last}{out}")
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The first signal asks the run to save and stop, the second ends it at once; files are whole either way.
pub(super) fn watch_signals(stop: &StopFlag) -> Result<()> {
    let stop = stop.clone();
    ctrlc::set_handler(move || {
        if stop.request() {
            std::process::exit(130);
        }
        say("stopping after this step and saving; once more to stop at once");
    })
    .map_err(|e| Error::Config(format!("signals cannot be watched: {e}")))
}

/// The end table and the path of the model on stdout, or one JSON document; a failed run's table is talk.
fn report(session: &Session, json: bool, done: bool) -> Outcome {
    let rows = session.registry().phases(session.id())?;
    let model = Some(session.model_path()).filter(|path| path.exists());
    if json {
        return print_json(&document(session, &rows, model.as_deref())?);
    }
    let table = table::phases(&rows);
    if !done {
        say(&format!("\n{table}"));
        return Ok(());
    }
    let model = model.map_or(String::new(), |path| format!("\n{}\n", path.display()));
    print(&format!("{table}{model}"))
}

fn document(session: &Session, rows: &[PhaseRow], model: Option<&Path>) -> Result<serde_json::Value> {
    let row = session.registry().session(session.id())?;
    Ok(json!({"schema": 1, "session": row, "model": model, "phases": rows}))
}

/// Refuses what the disk, or the memory allowed, has no room for.
fn fits(config: &Config, args: &Args) -> Result<()> {
    let model = config.model_config(config.tokenizer.vocab);
    model.validate()?;
    disk::check(&args.out, disk::session_bytes(config, &model))?;
    fits_memory(config, config.run.device, args.memory)
}

/// Refuses what needs more memory than `budget`, where one is given.
fn fits_memory(config: &Config, device: DeviceChoice, budget: Option<u64>) -> Result<()> {
    let Some(budget) = budget else { return Ok(()) };
    let place = if device.open()?.is_cuda() { Place::Gpu } else { Place::Cpu };
    memory::check(config, &config.model_config(config.tokenizer.vocab), place, budget)
}

/// Prints the plan; one that cannot work is a failed gate.
fn plan(config: &Config, args: &Args) -> Outcome {
    let plan = Plan::new(config)?;
    if args.json {
        print_json(&plan)?
    } else {
        print(&plan_text(&plan))?
    }
    fits(config, args)?;
    let problems = plan.problems();
    if problems.is_empty() { Ok(()) } else { Err(Error::Gate(problems.join("; ")).into()) }
}

fn plan_text(plan: &Plan) -> String {
    let row = |phase: &forge_train::pipeline::plan::PhasePlan| {
        vec![
            format!("{} {}", phase.phase.number(), phase.phase.title()),
            count(phase.steps),
            count(phase.training_tokens),
            count(phase.forward_tokens),
            size(phase.peak_memory),
            size(phase.gpu_memory),
            size(phase.checkpoint_bytes),
            duration(phase.seconds),
            size(phase.file_bytes),
        ]
    };
    let headings = [
        ("phase", Align::Left),
        ("steps", Align::Right),
        ("tokens trained", Align::Right),
        ("tokens read", Align::Right),
        ("memory", Align::Right),
        ("on a GPU", Align::Right),
        ("checkpoints", Align::Right),
        ("time", Align::Right),
        ("file", Align::Right),
    ];
    let [float, ternary] = plan.tokens_per_second;
    format!(
        "{}\n{} parameters; FP32 file {}, ternary file {}: {:.2}× smaller (at least {}×)\n\
         {} in all, at {float:.0} tokens/s in f32 and {ternary:.0} in ternary, probed on {} threads; evaluation not counted\n\
         at most {} on disk\n",
        layout(&headings, &plan.phases.iter().map(row).collect::<Vec<_>>()),
        count(plan.parameters),
        size(plan.fp32_bytes),
        size(plan.ternary_bytes),
        plan.ratio,
        plan.min_ratio,
        duration(plan.seconds()),
        plan.threads,
        size(plan.disk_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_commands_survive_a_shell() {
        assert_eq!(quoted("runs/a-1"), "runs/a-1");
        assert_eq!(quoted("my runs"), "'my runs'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
