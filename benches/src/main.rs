//! `forge-benches`: runtime and trainer beside their peers and the machine's limits. Criterion's benches are in `benches/`.

mod compare;
mod limits;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As in the `forge-train` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Speed, memory and load time of the runtime, speed and memory of the trainer
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure beside other runtimes
    #[command(subcommand)]
    Compare(compare::Compare),
    /// Measure what this machine can read and multiply at most
    Limits,
    /// Train a shape for some steps; what `compare training` starts
    #[command(hide = true)]
    TrainingSteps(compare::training::Steps),
    /// Write a random model of a shape
    WriteModel {
        /// Name of the shape, or `device`
        shape: String,
        /// Where to: a file of ours, or 16-bit weights for other runtimes' quantisers if its name ends in .gguf
        path: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = run(Cli::parse().command);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Compare(compare) => compare.run(),
        Command::Limits => {
            print_limits();
            Ok(())
        }
        Command::TrainingSteps(options) => options.run(),
        Command::WriteModel { shape, path } => compare::write_model(&shape, &path),
    }
}

/// Sizes a working set may have, in KiB: each cache of a common processor, and memory.
const SIZES_KIB: [usize; 9] = [32, 256, 512, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 512 << 10];

fn print_limits() {
    for threads in [1, 2] {
        for kib in SIZES_KIB {
            let s = limits::read_bandwidth((kib << 10) * threads, threads);
            let [median, min, max] = [s.median, s.min, s.max].map(|v| v / 1e9);
            println!("{threads} × read {kib:>7} KiB {median:>8.1} GB/s [{min:.1}–{max:.1}]");
        }
        for unit in limits::Unit::all() {
            let s = limits::int8_peak(unit, threads);
            let [median, min, max] = [s.median, s.min, s.max].map(|v| v / 1e9);
            println!("{threads} × {:<12} {median:>14.1} GMAC/s [{min:.1}–{max:.1}]", unit.isa());
        }
    }
}
