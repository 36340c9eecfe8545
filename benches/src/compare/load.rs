//! `compare load`: from the start of a process to the first token, and the memory it takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::Peers;
use super::contestant::Contestant;
use super::peer::Peer;
use super::shape::Shape;
use crate::stats::Summary;

/// Peak memory may exceed file and workspace by so much: the program itself and the system's libraries.
const ALLOWANCE: usize = 2_000_000;

/// The program that maps a model and reads one token, and the package it is of: `first-token/`.
const PROGRAM: &str = "first-token";

/// Options of `compare load`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Processes to start for each model
    #[arg(long, default_value_t = 21)]
    processes: usize,
    /// Shapes to load, and `device`: 1.1 M parameters in about 340 kB
    #[arg(long, value_delimiter = ',', default_value = "device,2M,25Mq")]
    shapes: Vec<String>,
    #[command(flatten)]
    peers: Peers,
}

/// A program and model's figures.
#[derive(Debug, Serialize)]
struct Entry {
    label: String,
    shape: String,
    /// From starting the process to its end, microseconds.
    process_us: Summary,
    /// From `main` to a checked model, to a session, to the first token; ours alone.
    checked_us: Option<Summary>,
    ready_us: Option<Summary>,
    first_token_us: Option<Summary>,
    file_bytes: u64,
    /// What ours was lent.
    workspace_bytes: Option<usize>,
    /// The most that any of the processes took.
    peak_bytes: Option<usize>,
    /// Peak memory less file and workspace.
    beyond_bytes: Option<i64>,
    /// Whether that is within the allowance.
    within_allowance: Option<bool>,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When an option is wrong, a peer cannot be built, or a process fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.processes > 0, "at least one process is needed");
    let folder = tempfile::tempdir().context("cannot make a folder for the models")?;
    let shared: Vec<Shape> = options.shapes.iter().filter_map(|name| Shape::named(name).ok()).collect();
    let peers = options.peers.find(&shared)?;
    let program = first_token_program()?;
    let mut programs = Vec::new();
    for name in &options.shapes {
        let path = folder.path().join(format!("{name}.forge"));
        // In a process of its own: what the system reports of a child's peak memory begins at its parent's.
        let status =
            Command::new(std::env::current_exe()?).arg("write-model").arg(name).arg(&path).status()?;
        ensure!(status.success(), "cannot write the model {name}");
        programs.push(Program::ours("forge, weights in place", name, vec![program.clone(), path.clone()]));
        let prepare = PathBuf::from("prepare");
        programs.push(Program::ours("forge, weights prepared", name, vec![program.clone(), path, prepare]));
    }
    programs.extend(peers.iter().filter_map(Program::peer));
    for _ in 0..options.processes {
        programs.iter_mut().try_for_each(Program::start)?;
    }
    let entries: Vec<Entry> = programs.iter().map(Program::entry).collect::<Result<_>>()?;
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&entries)?),
        false => entries.iter().for_each(|e| println!("{}", line(e))),
    }
    Ok(())
}

/// Where the program is: built anew under `cargo run`, else beside this one. Without the system's shared libraries,
/// if they can be linked in, as their pages would count.
fn first_token_program() -> Result<PathBuf> {
    if let (Some(cargo), Some(package)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"))
    {
        let build = |how: &str, rest: &[&str]| {
            let mut command = Command::new(&cargo);
            command.current_dir(PathBuf::from(&package).join(PROGRAM));
            command.args([how, "--quiet", "--release", "--bin", PROGRAM]).args(rest);
            command.stdout(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        let whole = ["--", "-C", "target-feature=+crt-static"];
        ensure!(build("rustc", &whole) || build("build", &[]), "cannot build {PROGRAM}");
    }
    let mut folder = std::env::current_exe()?;
    folder.pop();
    if folder.ends_with("deps") {
        // Where the programs of tests lie.
        folder.pop();
    }
    let beside = folder.join(format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX));
    ensure!(
        beside.is_file(),
        "there is no {}\n\nhint: cargo build --release -p first-token",
        beside.display()
    );
    Ok(beside)
}

/// What the program prints: microseconds from the start of its `main`, and bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct FirstToken {
    checked_us: f64,
    ready_us: f64,
    first_token_us: f64,
    lent_bytes: usize,
    /// 0 where the system does not tell.
    peak_bytes: usize,
}

impl FirstToken {
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [checked, ready, first_token, _file, lent, peak] = words.try_into().ok()?;
        Some(Self {
            checked_us: checked.parse().ok()?,
            ready_us: ready.parse().ok()?,
            first_token_us: first_token.parse().ok()?,
            lent_bytes: lent.parse().ok()?,
            peak_bytes: peak.parse().ok()?,
        })
    }
}

/// A program that is started again and again, and what came of it.
struct Program {
    label: String,
    shape: String,
    command: Box<dyn Fn() -> Option<Command>>,
    file_bytes: u64,
    process_us: Vec<f64>,
    inside: Vec<FirstToken>,
    peaks: Vec<usize>,
    ours: bool,
}

impl Program {
    fn new(label: &str, shape: &str, file: &Path, command: Box<dyn Fn() -> Option<Command>>) -> Self {
        let file_bytes = std::fs::metadata(file).map_or(0, |m| m.len());
        let (label, shape) = (label.to_owned(), shape.to_owned());
        let (process_us, inside, peaks) = (Vec::new(), Vec::new(), Vec::new());
        Self { label, shape, command, file_bytes, process_us, inside, peaks, ours: false }
    }

    /// Ours, with program, model and option.
    fn ours(label: &str, shape: &str, line: Vec<PathBuf>) -> Self {
        let model = line.get(1).cloned().unwrap_or_default();
        let command = move || {
            let (program, arguments) = line.split_first()?;
            let mut command = Command::new(program);
            command.args(arguments);
            Some(command)
        };
        Self { ours: true, ..Self::new(label, shape, &model, Box::new(command)) }
    }

    fn peer(peer: &Peer) -> Option<Self> {
        let (label, shape, owned) = (peer.label(), peer.shape().name, peer.clone());
        peer.first_token()?;
        Some(Self::new(label, shape, peer.model(), Box::new(move || owned.first_token())))
    }

    /// Starts it once.
    fn start(&mut self) -> Result<()> {
        let mut command = (self.command)().context("there is no program to start")?;
        let start = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut said)?;
        }
        let (success, peak) = system::wait(child)?;
        self.process_us.push(start.elapsed().as_secs_f64() * 1e6);
        ensure!(success, "{} on {} failed", self.label, self.shape);
        if self.ours {
            let inside = FirstToken::read(&said).context("the process does not report")?;
            self.peaks.extend((inside.peak_bytes > 0).then_some(inside.peak_bytes));
            self.inside.push(inside);
        } else {
            self.peaks.extend(peak);
        }
        Ok(())
    }

    fn entry(&self) -> Result<Entry> {
        let inside =
            |of: fn(&FirstToken) -> f64| Summary::of(&self.inside.iter().map(of).collect::<Vec<f64>>());
        let workspace_bytes = self.inside.first().map(|i| i.lent_bytes);
        let peak_bytes = self.peaks.iter().copied().max();
        let beyond = |workspace: usize| Some(peak_bytes? as i64 - self.file_bytes as i64 - workspace as i64);
        let beyond_bytes = workspace_bytes.and_then(beyond);
        Ok(Entry {
            label: self.label.clone(),
            shape: self.shape.clone(),
            process_us: Summary::of(&self.process_us).context("no process was started")?,
            checked_us: inside(|i| i.checked_us),
            ready_us: inside(|i| i.ready_us),
            first_token_us: inside(|i| i.first_token_us),
            file_bytes: self.file_bytes,
            workspace_bytes,
            peak_bytes,
            beyond_bytes,
            within_allowance: beyond_bytes.map(|b| b <= ALLOWANCE as i64),
        })
    }
}

/// An entry for people.
fn line(e: &Entry) -> String {
    let us = |s: Summary| format!("{:.0} µs [{:.0}–{:.0}]", s.median, s.min, s.max);
    let megabytes = |bytes: f64| format!("{:.2} MB", bytes / 1e6);
    let mut text = format!("{:<7} {:<26} process {}", e.shape, e.label, us(e.process_us));
    if let (Some(checked), Some(ready), Some(first)) = (e.checked_us, e.ready_us, e.first_token_us) {
        text +=
            &format!("; checked {:.0}, ready {:.0}, first token {}", checked.median, ready.median, us(first));
    }
    text += &format!("; file {}", megabytes(e.file_bytes as f64));
    if let Some(workspace) = e.workspace_bytes {
        text += &format!(", workspace {}", megabytes(workspace as f64));
    }
    if let Some(peak) = e.peak_bytes {
        text += &format!(", peak {}", megabytes(peak as f64));
    }
    if let (Some(beyond), Some(within)) = (e.beyond_bytes, e.within_allowance) {
        text += &format!(
            ", beyond {} ({})",
            megabytes(beyond as f64),
            if within { "within" } else { "too much" }
        );
    }
    text
}

#[cfg(unix)]
mod system {
    use std::process::Child;

    use anyhow::{Result, bail};

    /// Waits for a child's end: whether it succeeded, and its peak memory. The system counts from the parent's peak
    /// (a child begins as its copy), so a figure not above that says nothing.
    pub(super) fn wait(child: Child) -> Result<(bool, Option<usize>)> {
        let mut status = 0;
        // SAFETY: all zero is a valid `rusage`, which is plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let id = libc::pid_t::try_from(child.id())?;
        // SAFETY: both pointers are to live variables of the types the call fills in.
        if unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) } != id {
            bail!("cannot wait for a child: {}", std::io::Error::last_os_error());
        }
        let success = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        // Kilobytes on Linux, bytes on macOS.
        let unit = if cfg!(target_os = "macos") { 1 } else { 1 << 10 };
        let bytes = usize::try_from(usage.ru_maxrss).ok().map(|m| m * unit);
        Ok((success, bytes.filter(|b| *b > own_peak(unit))))
    }

    /// The most memory this process has had.
    fn own_peak(unit: usize) -> usize {
        // SAFETY: all zero is a valid `rusage`, which is plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live variable of the type the call fills in.
        match unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } {
            0 => usize::try_from(usage.ru_maxrss).map_or(usize::MAX, |m| m * unit),
            _ => usize::MAX,
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::process::Child;

    use anyhow::Result;

    /// Waits for a child's end: whether it succeeded, and no memory, which is not told.
    pub(super) fn wait(mut child: Child) -> Result<(bool, Option<usize>)> {
        Ok((child.wait()?.success(), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is started with these options and a model file of its own.
    fn generated(shape: &str, file: &[u8], how: &[&str]) -> Entry {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join(shape);
        std::fs::write(&path, file).expect("there is room");
        let mut line = vec![first_token_program().expect("the program can be built"), path];
        line.extend(how.iter().map(PathBuf::from));
        let mut program = Program::ours("forge", shape, line);
        program.start().expect("the program runs");
        program.entry().expect("it has run")
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_generates_takes_file_and_workspace_and_two_megabytes() {
        let device = super::super::ours::device_file();
        let shape = Shape::named("25Mq").expect("it is a shape");
        let large = super::super::ours::model_file(&shape);
        // The first fills its whole window, and so its whole workspace.
        let small = generated("device", &device, &["300"]);
        assert_eq!(small.within_allowance, Some(true), "{}", line(&small));
        let in_place = generated("25Mq", &large, &["20"]);
        assert_eq!(in_place.within_allowance, Some(true), "{}", line(&in_place));
        // The control: what weights laid out take besides is noticed when it is not stated.
        let prepared = generated("25Mq", &large, &["prepare", "20"]);
        let peak = prepared.peak_bytes.expect("Linux tells it");
        let touched = in_place.peak_bytes.expect("Linux tells it");
        assert!(peak > touched + ALLOWANCE, "{peak} bytes with them, {touched} without");
    }

    #[test]
    fn a_report_is_read_and_half_of_one_is_not() {
        let report = FirstToken {
            checked_us: 1.5,
            ready_us: 2.0,
            first_token_us: 3.25,
            lent_bytes: 200,
            peak_bytes: 0,
        };
        assert_eq!(FirstToken::read("1.5 2 3.25 100 200 0\n"), Some(report));
        assert_eq!(FirstToken::read("1.5 2 3.25 100\n"), None);
    }
}
