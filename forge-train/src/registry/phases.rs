//! Rows of the `phases` and `models` tables.

use rusqlite::{Row, Transaction, params};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::pipeline::phase::{ArtifactKind, PhaseId, PhaseOutput};
use crate::registry::{Registry, Status, corrupt, now};

/// A phase of a session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseRow {
    /// Which phase.
    pub phase: PhaseId,
    /// Its state.
    pub status: Status,
    /// Time spent in it, over all attempts that were not killed.
    pub seconds: f64,
    /// Hashes of the artifacts it was given.
    pub parents: Vec<String>,
    /// What it handed on; present when completed or when its gate failed.
    pub output: Option<PhaseOutput>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A model that a phase handed on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelRow {
    /// The session it belongs to.
    pub session: String,
    /// The phase that made it.
    pub phase: PhaseId,
    /// Its label in the phase's output.
    pub label: String,
    /// SHA-256 of its file.
    pub hash: String,
    /// Length of its file.
    pub bytes: u64,
}

impl Registry {
    /// Marks a phase as running on `parents`. Time spent in earlier attempts is kept.
    ///
    /// # Errors
    /// [`Error::Registry`] when the session is unknown or the database fails.
    pub fn start_phase(&self, session: &str, phase: PhaseId, parents: &[String]) -> Result<()> {
        let parents = to_json(&parents)?;
        self.write(|t| {
            let sql = "INSERT INTO phases (session_id, number, name, status, parents, started_at)
                       VALUES (?1, ?2, ?3, 'running', ?4, ?5)
                       ON CONFLICT DO UPDATE SET status = 'running', parents = ?4, output = NULL, error = NULL,
                                                 finished_at = NULL";
            t.execute(sql, params![session, phase.number(), phase.name(), parents, now()])
        })?;
        Ok(())
    }

    /// Records what a phase handed on, with the models in it, and returns the output exactly as a resumed run will
    /// read it back. The phase counts as completed when its gate is open.
    ///
    /// # Errors
    /// [`Error::Registry`] when an artifact was never acknowledged or the database fails.
    pub fn finish_phase(
        &self,
        session: &str,
        phase: PhaseId,
        output: &PhaseOutput,
        seconds: f64,
    ) -> Result<PhaseOutput> {
        let json = to_json(output)?;
        let status = if output.gate.open() { Status::Completed } else { Status::Failed };
        self.write_durably(|t| {
            let sql = "UPDATE phases SET status = ?3, output = ?4, seconds = seconds + ?5, finished_at = ?6,
                       error = NULL WHERE session_id = ?1 AND number = ?2";
            t.execute(sql, params![session, phase.number(), status.name(), json, seconds, now()])?;
            record_models(t, session, phase, output)
        })?;
        serde_json::from_str(&json).map_err(|e| Error::Artifact(format!("output of phase {phase}: {e}")))
    }

    /// Records that a phase stopped before it was done.
    ///
    /// # Errors
    /// [`Error::Registry`] when the database fails.
    pub fn stop_phase(
        &self,
        session: &str,
        phase: PhaseId,
        status: Status,
        error: Option<&str>,
        seconds: f64,
    ) -> Result<()> {
        self.write(|t| {
            let sql = "UPDATE phases SET status = ?3, error = ?4, seconds = seconds + ?5, finished_at = ?6
                       WHERE session_id = ?1 AND number = ?2";
            t.execute(sql, params![session, phase.number(), status.name(), error, seconds, now()])
        })?;
        Ok(())
    }

    /// Forgets `first` and every later phase of a session, with their models and handoffs.
    ///
    /// # Errors
    /// [`Error::Registry`] when the database fails.
    pub fn forget_phases(&self, session: &str, first: PhaseId) -> Result<()> {
        let sql = "DELETE FROM phases WHERE session_id = ?1 AND number >= ?2";
        self.write(|t| t.execute(sql, params![session, first.number()]))?;
        Ok(())
    }

    /// The phases of a session that were started, in order.
    ///
    /// # Errors
    /// [`Error::Registry`] when the database fails or a row is not what this program writes.
    pub fn phases(&self, session: &str) -> Result<Vec<PhaseRow>> {
        let sql = "SELECT number, status, seconds, parents, output, error FROM phases WHERE session_id = ?1
                   ORDER BY number";
        self.with(|c| c.prepare(sql)?.query_map([session], read_phase)?.collect())
    }

    /// The models of a session by phase and label.
    ///
    /// # Errors
    /// [`Error::Registry`] when the database fails.
    pub fn models(&self, session: &str) -> Result<Vec<ModelRow>> {
        let sql = "SELECT session_id, phase, label, hash, bytes FROM models WHERE session_id = ?1
                   ORDER BY phase, label";
        self.with(|c| c.prepare(sql)?.query_map([session], read_model)?.collect())
    }
}

fn record_models(
    t: &Transaction<'_>,
    session: &str,
    phase: PhaseId,
    output: &PhaseOutput,
) -> rusqlite::Result<()> {
    t.execute("DELETE FROM models WHERE session_id = ?1 AND phase = ?2", params![session, phase.number()])?;
    let sql = "INSERT INTO models (session_id, phase, label, hash, kind, bytes, created_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    for (label, a) in &output.artifacts {
        if matches!(a.kind, ArtifactKind::Weights | ArtifactKind::Forge) {
            let bytes = a.bytes as i64;
            t.execute(sql, params![session, phase.number(), label, a.hash, a.kind.name(), bytes, now()])?;
        }
    }
    Ok(())
}

fn read_phase(row: &Row<'_>) -> rusqlite::Result<PhaseRow> {
    let output: Option<String> = row.get(4)?;
    Ok(PhaseRow {
        phase: phase(row.get(0)?)?,
        status: Status::parse(&row.get::<_, String>(1)?)?,
        seconds: row.get(2)?,
        parents: serde_json::from_str(&row.get::<_, String>(3)?).map_err(corrupt)?,
        output: output.map(|json| serde_json::from_str(&json)).transpose().map_err(corrupt)?,
        error: row.get(5)?,
    })
}

fn read_model(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    Ok(ModelRow {
        session: row.get(0)?,
        phase: phase(row.get(1)?)?,
        label: row.get(2)?,
        hash: row.get(3)?,
        bytes: row.get::<_, i64>(4)? as u64,
    })
}

fn phase(number: u8) -> rusqlite::Result<PhaseId> {
    PhaseId::from_number(number).ok_or_else(|| corrupt(format!("no phase {number}")))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Artifact(format!("cannot write JSON: {e}")))
}
