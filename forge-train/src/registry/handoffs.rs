//! Rows of the `handoffs` table.

use rusqlite::params;
use serde::Serialize;

use crate::error::Result;
use crate::pipeline::PhaseId;
use crate::registry::{Registry, now};

/// The outcome of a handoff contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HandoffRow {
    /// Number of the phase that hands on.
    pub source: u8,
    /// Whether every check passed.
    pub passed: bool,
    /// The checks as JSON.
    pub checks: String,
}

impl Registry {
    /// Records the outcome of the contract between `source` and the phase after it.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when `source` never ran in this session or the database fails.
    pub fn record_handoff(&self, session: &str, source: PhaseId, passed: bool, checks: &str) -> Result<()> {
        let status = if passed { "passed" } else { "failed" };
        self.write(|t| {
            let sql = "INSERT INTO handoffs (session_id, source, target, status, checks, created_at)
                       VALUES (?1, ?2, ?2 + 1, ?3, ?4, ?5)
                       ON CONFLICT DO UPDATE SET status = ?3, checks = ?4, created_at = ?5";
            t.execute(sql, params![session, source.number(), status, checks, now()])
        })?;
        Ok(())
    }

    /// The handoffs of a session in order.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the database fails.
    pub fn handoffs(&self, session: &str) -> Result<Vec<HandoffRow>> {
        let sql =
            "SELECT source, status = 'passed', checks FROM handoffs WHERE session_id = ?1 ORDER BY source";
        self.with(|c| {
            let read = |row: &rusqlite::Row<'_>| {
                Ok(HandoffRow { source: row.get(0)?, passed: row.get(1)?, checks: row.get(2)? })
            };
            c.prepare(sql)?.query_map([session], read)?.collect()
        })
    }
}
