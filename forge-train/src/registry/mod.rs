//! The SQLite registry of sessions, phases, artifacts, models and handoffs.
//!
//! One file serves every session of an output directory, and several processes may use it at once: WAL lets readers
//! and one writer work side by side, and writers wait for each other up to [`BUSY`].

mod artifacts;
mod handoffs;
mod phases;
mod sessions;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::error::{Error, Result};

pub use handoffs::HandoffRow;
pub use phases::{ModelRow, PhaseRow};
pub use sessions::{NewSession, SessionRow, Status};

/// How long a writer waits for another process's transaction.
pub const BUSY: Duration = Duration::from_millis(5000);

/// One script for each schema version, in order; `user_version` counts those applied.
const MIGRATIONS: [&str; 1] = [include_str!("schema.sql")];

/// A connection to the registry.
#[derive(Debug)]
pub struct Registry {
    connection: Mutex<Connection>,
}

impl Registry {
    /// Opens the registry at `path`, making or migrating it as needed.
    ///
    /// # Errors
    /// [`Error::Registry`] when it is not a database or another process blocks it, [`Error::Usage`] when a newer
    /// version of this program wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::set_up(Connection::open(path)?)
    }

    /// A registry that lives as long as this value.
    ///
    /// # Errors
    /// [`Error::Registry`] when memory runs out.
    pub fn in_memory() -> Result<Self> {
        Self::set_up(Connection::open_in_memory()?)
    }

    fn set_up(mut connection: Connection) -> Result<Self> {
        connection.busy_timeout(BUSY)?;
        enter_wal(&connection)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        // Negative: KiB. A positive number would count pages.
        connection.pragma_update(None, "cache_size", -10_000)?;
        migrate(&mut connection)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// SQLite's own check of the whole file.
    ///
    /// # Errors
    /// [`Error::Artifact`] with SQLite's first complaint.
    pub fn check_integrity(&self) -> Result<()> {
        let verdict: String =
            self.with(|c| c.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        let orphans: i64 = self
            .with(|c| c.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)))?;
        if verdict != "ok" || orphans != 0 {
            return Err(Error::Artifact(format!(
                "the registry is damaged: {verdict}, {orphans} orphaned rows"
            )));
        }
        Ok(())
    }

    /// Runs `f` on the connection.
    fn with<T>(&self, f: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        // A panic inside `f` rolled its transaction back, so the connection is still good.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(f(&mut connection)?)
    }

    /// Runs `f` in a transaction that takes the write lock at once, so that waiting for it can succeed.
    fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| commit(connection, f))
    }

    /// As [`Registry::write`], and the rows survive a loss of power once it returns.
    fn write_durably<T>(&self, f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            let result = commit(connection, f);
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            result
        })
    }
}

fn commit<T>(
    connection: &mut Connection,
    f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = f(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

/// Puts a new file into WAL mode, waiting up to [`BUSY`] for others that do the same.
///
/// SQLite does not call the busy handler where waiting could deadlock, and the switch from a rollback journal is such a
/// case: of several processes opening a new registry at once all but one are told "database is locked" at once.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let give_up = Instant::now() + BUSY;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < give_up =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let newest = MIGRATIONS.len() as i64;
    let version = |c: &Connection| c.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    if version(connection)? == newest {
        return Ok(());
    }
    // The version is read again under the write lock: another process may have migrated meanwhile.
    let found = commit(connection, |transaction| {
        let found = version(transaction)?;
        for script in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
            transaction.execute_batch(script)?;
        }
        transaction.pragma_update(None, "user_version", found.max(newest))?;
        Ok(found)
    })?;
    if found > newest {
        return Err(Error::Usage {
            what: format!("the registry has schema version {found}, this program knows {newest}"),
            hint: "use the newer forge-train, or another `--out` directory".into(),
        });
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// A column that holds something else than it should.
fn corrupt(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, why.into())
}

#[cfg(test)]
mod tests;
