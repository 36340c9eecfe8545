//! `forge-train lineage`: how the champion of phase 2 came about.

use std::fs;
use std::path::PathBuf;

use forge_train::error::Error;
use forge_train::phases::evomerge::family::Family;
use forge_train::pipeline::PhaseId;
use forge_train::pipeline::artifact::sha256_hex;
use forge_train::pipeline::session::{find, open_registry};
use serde_json::json;

use super::output::{Outcome, print, print_json};

const EXAMPLES: &str = "\
Each line is a model: the beginning of its name, how it was made, and its loss in the search.
Below it, indented, are its parents; a parent shown before is not repeated.

Examples:
  forge-train lineage
  forge-train lineage 20261122-170512-3f9a --json";

/// Shows the family tree of the champion of phase 2.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A session, the beginning of one's name, or `latest`
    #[arg(default_value = "latest")]
    session: String,
    /// Where sessions are kept
    #[arg(long, value_name = "DIR", default_value = "forge-runs")]
    out: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(args: &Args) -> Outcome {
    let registry = open_registry(&args.out)?;
    let session = find(&registry, &args.session)?;
    let rows = registry.phases(&session.id)?;
    let output = rows.iter().find(|row| row.phase == PhaseId::EvoMerge).and_then(|row| row.output.as_ref());
    let stored = output.and_then(|o| o.artifacts.iter().find(|(label, _)| label.as_str() == "evolution"));
    let Some((_, artifact)) = stored else {
        let what = format!("session {} has not finished phase 2, evomerge", session.id);
        let hint = format!("go on with it: `forge-train pipeline --resume {}`", session.id);
        return Err(Error::Usage { what, hint }.into());
    };
    // Only read: a store opened for writing would clean up under a run that goes on.
    let path = args.out.join(&session.id).join(&artifact.file);
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    if sha256_hex(&bytes) != artifact.hash {
        return Err(Error::Artifact(format!("`{}` is damaged", path.display())).into());
    }
    let family = Family::parse(&bytes)?;
    if args.json {
        let tree = family.document()?;
        return print_json(
            &json!({"schema": 1, "session": session.id, "champion": family.champion(), "tree": tree}),
        );
    }
    print(&format!("session {}\n{}", session.id, family.text()?))
}
