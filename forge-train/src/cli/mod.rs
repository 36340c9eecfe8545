//! The command line: parses, calls the library, prints. Data goes to stdout, everything else to stderr.

mod chat;
mod eval;
mod inspect;
mod lineage;
mod merge;
mod model;
mod output;
mod pipeline;
mod run;
mod status;
mod tools;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const ABOUT: &str = "Trains tiny language models in eight phases and runs what comes out";

const EXAMPLES: &str = "\
Examples:
  forge-train pipeline                                   train on built-in data; minutes on two cores
  forge-train pipeline --data train.jsonl --plan         what a run would do, with nothing done
  forge-train train --recipe char-cpu --corpus text.txt  one training run by a recipe
  forge-train run model.forge \"dim the bedroom lights to 20\"
  forge-train eval model.forge --data test.jsonl --json
  forge-train inspect model.forge --tensors

Exit codes: 0 done, 1 a quality gate failed, 2 wrong usage or could not run, 130 interrupted.";

#[derive(Debug, Parser)]
#[command(name = "forge-train", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model: data in, eight phases, one .forge file out
    Pipeline(Box<pipeline::Args>),
    /// Train one model by a recipe: data in, one .forge file and its loss curve out
    Train(Box<train::Args>),
    /// Answer one prompt
    Run(run::Args),
    /// Answer a prompt a line from stdin
    Chat(chat::Args),
    /// Measure a model on examples, running text or questions, or compare two
    Eval(eval::Args),
    /// Show what is in a model file
    Inspect(inspect::Args),
    /// Merge .safetensors files of one shape by a recipe
    Merge(merge::Args),
    /// Show how the champion of phase 2 came about
    Lineage(lineage::Args),
    /// Show sessions, or the phases of one
    Status(status::Args),
}

/// Runs the command and gives the process's exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help and version are data (stdout, 0), everything else is talk (stderr, 2); a closed pipe is neither.
            let _ = message.print();
            return ExitCode::from(if message.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Pipeline(args) => pipeline::main(*args),
        Command::Train(args) => train::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Chat(args) => chat::main(&args),
        Command::Eval(args) => eval::main(&args),
        Command::Inspect(args) => inspect::main(&args),
        Command::Merge(args) => merge::main(&args),
        Command::Lineage(args) => lineage::main(&args),
        Command::Status(args) => status::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_is_described() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
