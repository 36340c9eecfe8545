//! `forge-train status`: what has run and how it went.

use std::path::PathBuf;

use forge_train::error::Error;
use forge_train::pipeline::session::{find, open_registry, timestamp};
use forge_train::pipeline::table::{Align, layout, phases};
use forge_train::registry::{Registry, SessionRow};
use serde_json::json;

use super::output::{Outcome, print, print_json};

const EXAMPLES: &str = "\
Examples:
  forge-train status
  forge-train status latest
  forge-train status 20261122-170512-3f9a --json";

/// Shows sessions, or the phases of one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A session, the beginning of one's name, or `latest`; without it, all are listed
    session: Option<String>,
    /// Where sessions are kept
    #[arg(long, value_name = "DIR", default_value = "forge-runs")]
    out: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(args: &Args) -> Outcome {
    let registry = open_registry(&args.out)?;
    match &args.session {
        Some(name) => one(&registry, &find(&registry, name)?, args.json),
        None => all(&registry, args.json),
    }
}

fn all(registry: &Registry, json: bool) -> Outcome {
    let sessions = registry.sessions()?;
    if json {
        return print_json(&json!({"schema": 1, "sessions": sessions}));
    }
    let headings = [
        ("session", Align::Left),
        ("preset", Align::Left),
        ("seed", Align::Right),
        ("status", Align::Left),
        ("phase", Align::Left),
        ("last change (UTC)", Align::Left),
    ];
    print(&layout(&headings, &sessions.iter().map(row).collect::<Vec<_>>()))
}

fn row(session: &SessionRow) -> Vec<String> {
    vec![
        session.id.clone(),
        session.preset.clone(),
        session.seed.to_string(),
        session.status.name().to_owned(),
        session.current_phase.map_or("-", |phase| phase.title()).to_owned(),
        timestamp(u64::try_from(session.updated_at).unwrap_or(0)),
    ]
}

fn one(registry: &Registry, session: &SessionRow, json: bool) -> Outcome {
    let (rows, handoffs) = (registry.phases(&session.id)?, registry.handoffs(&session.id)?);
    if json {
        let checks = |text: &str| serde_json::from_str::<serde_json::Value>(text);
        let handoffs = handoffs
            .iter()
            .map(|h| Ok(json!({"source": h.source, "passed": h.passed, "checks": checks(&h.checks)?})))
            .collect::<Result<Vec<_>, serde_json::Error>>()
            .map_err(|e| Error::Artifact(format!("the registry holds malformed checks: {e}")))?;
        return print_json(&json!({"schema": 1, "session": session, "phases": rows, "handoffs": handoffs}));
    }
    let passed = handoffs.iter().filter(|h| h.passed).count();
    let error = session.error.as_ref().map_or(String::new(), |error| format!("error: {error}\n"));
    print(&format!(
        "session {} is {}; {passed} of {} handoffs passed\n{error}\n{}",
        session.id,
        session.status.name(),
        handoffs.len(),
        phases(&rows)
    ))
}
