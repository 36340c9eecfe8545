//! Experiments on phase 1: what recursion, halting and a curriculum of lengths are worth.

pub(crate) mod halting;
mod hops;
mod lab;
pub(crate) mod lengths;
pub(crate) mod recursion;

use anyhow::Result;
use serde::Serialize;

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
