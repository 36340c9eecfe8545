//! Experiments on phase 1: what recursion, halting and a curriculum of lengths are worth.

pub(crate) mod halting;
mod hops;
mod lab;
pub(crate) mod lengths;
pub(crate) mod recursion;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

/// Options that the experiments share.
#[derive(Debug, Args)]
struct Runs {
    /// Seeds of data, parameters and order
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Settings of the preset nano, as of `forge-train --set`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where training computes
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print a JSON document a row instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints rows: as one JSON document a line, or as the lines of a Markdown table.
fn print<R: Serialize>(
    rows: &[R],
    json: bool,
    heading: &[&str],
    cells: impl Fn(&R) -> Vec<String>,
) -> Result<()> {
    if json {
        for row in rows {
            println!("{}", serde_json::to_string(row)?);
        }
        return Ok(());
    }
    println!("| {} |", heading.join(" | "));
    println!("|{}", "---|".repeat(heading.len()));
    for row in rows {
        println!("| {} |", cells(row).join(" | "));
    }
    Ok(())
}

/// Figures, one a seed.
fn figures(values: impl Iterator<Item = f64>, digits: usize) -> String {
    values.map(|value| format!("{value:.digits$}")).collect::<Vec<_>>().join(", ")
}
