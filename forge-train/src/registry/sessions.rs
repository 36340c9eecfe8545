//! Rows of the `sessions` table.

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::pipeline::PhaseId;
use crate::registry::{Registry, corrupt, now};

/// State of a session or phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// At work, or killed while at work.
    Running,
    /// Done, and its gate is open.
    Completed,
    /// Stopped by an error or a failed gate.
    Failed,
    /// Stopped by the user, or at the end of what was asked for; can be resumed.
    Paused,
}

impl Status {
    /// The name stored in the registry.
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Paused => "paused",
        }
    }

    pub(super) fn parse(name: &str) -> rusqlite::Result<Self> {
        [Self::Running, Self::Completed, Self::Failed, Self::Paused]
            .into_iter()
            .find(|status| status.name() == name)
            .ok_or_else(|| corrupt(format!("unknown status `{name}`")))
    }
}

/// What a new session is recorded with.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<'a> {
    /// Its identifier.
    pub id: &'a str,
    /// The preset's name.
    pub preset: &'a str,
    /// The seed of every random stream.
    pub seed: u64,
    /// The resolved configuration as TOML.
    pub config: &'a str,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionRow {
    /// Its identifier.
    pub id: String,
    /// The preset's name.
    pub preset: String,
    /// The seed of every random stream.
    pub seed: u64,
    /// Its state.
    pub status: Status,
    /// The phase it is in or stopped in.
    pub current_phase: Option<PhaseId>,
    /// Why it failed.
    pub error: Option<String>,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds.
    pub updated_at: i64,
}

const COLUMNS: &str = "id, preset, seed, status, current_phase, error, created_at, updated_at";

impl Registry {
    /// Records a new session as running.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the id is taken.
    pub fn create_session(&self, session: &NewSession<'_>) -> Result<()> {
        self.write_durably(|t| {
            let sql = "INSERT INTO sessions (id, preset, seed, config, status, created_at, updated_at)
                       VALUES (?1, ?2, ?3, ?4, 'running', ?5, ?5)";
            t.execute(sql, params![session.id, session.preset, session.seed as i64, session.config, now()])
        })?;
        Ok(())
    }

    /// Replaces a session's configuration.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the database fails.
    pub fn set_session_config(&self, id: &str, preset: &str, seed: u64, config: &str) -> Result<()> {
        self.write_durably(|t| {
            let sql =
                "UPDATE sessions SET preset = ?2, seed = ?3, config = ?4, updated_at = ?5 WHERE id = ?1";
            t.execute(sql, params![id, preset, seed as i64, config, now()])
        })?;
        Ok(())
    }

    /// Updates a session's state.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the database fails.
    pub fn set_session(
        &self,
        id: &str,
        status: Status,
        phase: Option<PhaseId>,
        error: Option<&str>,
    ) -> Result<()> {
        self.write(|t| {
            let sql = "UPDATE sessions SET status = ?2, current_phase = ?3, error = ?4, updated_at = ?5
                       WHERE id = ?1";
            t.execute(sql, params![id, status.name(), phase.map(PhaseId::number), error, now()])
        })?;
        Ok(())
    }

    /// The session with this id.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the database fails.
    pub fn session(&self, id: &str) -> Result<Option<SessionRow>> {
        let sql = format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1");
        self.with(|c| c.query_row(&sql, [id], read).optional())
    }

    /// Every session, newest first.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the database fails.
    pub fn sessions(&self) -> Result<Vec<SessionRow>> {
        let sql = format!("SELECT {COLUMNS} FROM sessions ORDER BY created_at DESC, id DESC");
        self.with(|c| c.prepare(&sql)?.query_map([], read)?.collect())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let phase: Option<u8> = row.get(4)?;
    Ok(SessionRow {
        id: row.get(0)?,
        preset: row.get(1)?,
        seed: row.get::<_, i64>(2)? as u64,
        status: Status::parse(&row.get::<_, String>(3)?)?,
        current_phase: phase.and_then(PhaseId::from_number),
        error: row.get(5)?,
        created_at: row.get(6)?,
        updated_at: row.get(7)?,
    })
}
