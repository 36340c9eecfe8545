//! Rows of the `artifacts` table.

use rusqlite::{Row, params};

use crate::error::Result;
use crate::pipeline::phase::{ArtifactKind, ArtifactRef};
use crate::registry::{Registry, corrupt, now};

impl Registry {
    /// Acknowledges an artifact whose file is already durable; doing so again changes nothing.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the session is unknown or the database fails.
    pub fn record_artifact(&self, session: &str, artifact: &ArtifactRef) -> Result<()> {
        self.write_durably(|t| {
            let sql = "INSERT INTO artifacts (session_id, hash, kind, file, bytes, created_at)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
            let kind = artifact.kind.name();
            t.execute(sql, params![session, artifact.hash, kind, artifact.file, artifact.bytes as i64, now()])
        })?;
        Ok(())
    }

    /// The artifacts of a session in the order they were first stored.
    ///
    /// # Errors
    /// [`crate::error::Error::Registry`] when the database fails.
    pub fn artifacts(&self, session: &str) -> Result<Vec<ArtifactRef>> {
        let sql = "SELECT hash, kind, file, bytes FROM artifacts WHERE session_id = ?1 ORDER BY rowid";
        self.with(|c| c.prepare(sql)?.query_map([session], read)?.collect())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<ArtifactRef> {
    let name: String = row.get(1)?;
    let kinds = [
        ArtifactKind::Weights,
        ArtifactKind::Forge,
        ArtifactKind::Tokenizer,
        ArtifactKind::Calibration,
        ArtifactKind::Report,
    ];
    let kind = kinds.into_iter().find(|kind| kind.name() == name);
    Ok(ArtifactRef {
        hash: row.get(0)?,
        kind: kind.ok_or_else(|| corrupt(format!("unknown artifact kind `{name}`")))?,
        file: row.get(2)?,
        bytes: row.get::<_, i64>(3)? as u64,
    })
}
