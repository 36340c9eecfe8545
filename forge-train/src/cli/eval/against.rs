//! The files that are measured, and how two compare.

use std::path::{Path, PathBuf};

use forge_train::error::{Error, Result};
use forge_train::eval::{Estimate, Paired};
use forge_train::pipeline::table::{Align, layout};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::model;

/// One or two model files with their content.
pub(super) struct Files {
    /// The one that is measured.
    pub(super) first: (PathBuf, Vec<u8>),
    /// The one it is compared with.
    pub(super) second: Option<(PathBuf, Vec<u8>)>,
}

impl Files {
    /// Reads them.
    pub(super) fn read(first: &Path, second: Option<&Path>) -> Result<Self> {
        let read = |path: &Path| Ok::<_, Error>((path.to_owned(), model::read(path)?));
        Ok(Self { first: read(first)?, second: second.map(read).transpose()? })
    }
}

/// A report as JSON.
pub(super) fn value(report: &impl Serialize) -> Result<Value> {
    serde_json::to_value(report).map_err(|e| Error::Config(format!("cannot write JSON: {e}")))
}

/// Two reports and their comparison as one JSON document.
pub(super) fn document(
    first: &impl Serialize,
    second: &impl Serialize,
    paired: impl Serialize,
) -> Result<Value> {
    Ok(json!({"schema": 1, "first": value(first)?, "second": value(second)?, "paired": value(&paired)?}))
}

/// A table of accuracies compared; measures without rows are left out.
pub(super) fn accuracies(paired: &[(&str, Paired)]) -> String {
    let row = |(name, p): &(&str, Paired)| {
        vec![
            (*name).to_owned(),
            format!("{:+.1} %", 100.0 * p.difference.value),
            format!("[{:+.1}, {:+.1}]", 100.0 * p.difference.low, 100.0 * p.difference.high),
            format!("{} : {} of {}", p.first_only, p.second_only, p.n),
            format!("{:.2e}", p.p),
        ]
    };
    let rows: Vec<_> = paired.iter().filter(|(_, p)| p.n > 0).map(row).collect();
    let headings = [
        ("first − second", Align::Left),
        ("difference", Align::Right),
        ("95 % interval", Align::Left),
        ("right alone", Align::Left),
        ("p (McNemar)", Align::Right),
    ];
    layout(&headings, &rows)
}

/// A figure and its interval.
pub(super) fn estimate(e: &Estimate) -> [String; 2] {
    [format!("{:.4}", e.value), format!("[{:.4}, {:.4}]", e.low, e.high)]
}
