//! Sessions: one run of the pipeline with everything it made.
//!
//! ```text
//! forge-runs/
//!   registry.db                sessions, phases, artifacts, models and handoffs of all sessions
//!   20261122-170512-3f9a/
//!     config.toml              the resolved configuration
//!     inputs.json              where the data comes from, with hashes
//!     lock                     held while a process works on the session
//!     artifacts/<hash>.<ext>   what the phases handed on
//!     checkpoints/<phase>/     state inside a phase, gone once it is done
//!     model.forge              the newest phase's model
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::config_load;
use crate::data::Dataset;
use crate::data::export::held_out_calls;
use crate::error::{Error, Result};
use crate::pipeline::artifact::ArtifactStore;
use crate::pipeline::checkpoint::CheckpointDir;
use crate::pipeline::durable;
use crate::pipeline::lock::SessionLock;
use crate::pipeline::phase::{PhaseId, PhaseOutput};
use crate::pipeline::prepare::DataSource;
use crate::registry::{NewSession, Registry, SessionRow};

const REGISTRY: &str = "registry.db";
const CONFIG: &str = "config.toml";
const INPUTS: &str = "inputs.json";
const LOCK: &str = "lock";
const MODEL: &str = "model.forge";
const CHECKPOINTS: &str = "checkpoints";

/// A session this process holds the lock of.
#[derive(Debug)]
pub struct Session {
    id: String,
    directory: PathBuf,
    registry: Arc<Registry>,
    store: ArtifactStore,
    config: Config,
    source: DataSource,
    _lock: SessionLock,
}

impl Session {
    /// Starts a session under `root`.
    ///
    /// # Errors
    /// [`Error::Io`] when its directory cannot be made, [`Error::Registry`] when it cannot be recorded.
    pub fn create(root: &Path, config: &Config, source: &DataSource) -> Result<Self> {
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let registry = Arc::new(Registry::open(&root.join(REGISTRY))?);
        let (id, directory) = claim_directory(root)?;
        let lock = SessionLock::acquire(&directory.join(LOCK))?;
        let text = config_load::to_toml(config)?;
        durable::write(&directory.join(INPUTS), &[source.to_json()?.as_bytes()])?;
        durable::write(&directory.join(CONFIG), &[text.as_bytes()])?;
        let preset = config_load::preset_name(config.run.preset);
        registry.create_session(&NewSession { id: &id, preset, seed: config.run.seed, config: &text })?;
        let store = ArtifactStore::open(&directory, &id, Arc::clone(&registry))?;
        let (config, source) = (config.clone(), source.clone());
        Ok(Self { id, directory, registry, store, config, source, _lock: lock })
    }

    /// Opens a session again: `name` is its id, the beginning of only one id, or `latest`.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such session or another process works on it.
    pub fn resume(root: &Path, name: &str) -> Result<Self> {
        let registry = Arc::new(open_registry(root)?);
        let id = find(&registry, name)?.id;
        let directory = root.join(&id);
        let lock = SessionLock::acquire(&directory.join(LOCK))?;
        durable::clean(&directory)?;
        let config = config_load::read(&directory.join(CONFIG))?;
        let path = directory.join(INPUTS);
        let source = DataSource::from_json(&fs::read(&path).map_err(Error::io("read", &path))?)?;
        let store = ArtifactStore::open(&directory, &id, Arc::clone(&registry))?;
        Ok(Self { id, directory, registry, store, config, source, _lock: lock })
    }

    /// Its identifier, such as `20261122-170512-3f9a`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The registry it is recorded in.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Its artifacts.
    pub fn store(&self) -> &ArtifactStore {
        &self.store
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where its data comes from.
    pub fn source(&self) -> &DataSource {
        &self.source
    }

    /// The checkpoints of a phase.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub fn checkpoints(&self, phase: PhaseId) -> Result<CheckpointDir> {
        CheckpointDir::open(&self.directory.join(CHECKPOINTS).join(phase.name()))
    }

    /// Writes the held-out commands beside the model, for `forge-train eval`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn keep_held_out(&self, dataset: &Dataset) -> Result<()> {
        let calls = held_out_calls(dataset);
        if calls.is_empty() {
            return Ok(());
        }
        durable::write(&self.directory.join("test.jsonl"), &[calls.as_bytes()])
    }

    /// Where the newest phase's model is, once there is one.
    pub fn model_path(&self) -> PathBuf {
        self.directory.join(MODEL)
    }

    /// Makes `config` the session's configuration from phase `first` on.
    ///
    /// # Errors
    /// [`Error::Usage`] when it changes what an earlier phase depended on.
    pub fn reconfigure(&mut self, config: &Config, first: PhaseId) -> Result<()> {
        let changed = config_load::changed_sections(&self.config, config)?;
        let late = |section: &String| {
            let number = section.strip_prefix("phase").and_then(|n| n.parse::<u8>().ok());
            number.is_some_and(|n| n >= first.number())
        };
        if let Some(section) = changed.iter().find(|section| first > PhaseId::Cognate && !late(section)) {
            return Err(Error::Usage {
                what: format!("changing [{section}] would not reach the phases before {first}"),
                hint: format!("start at an earlier phase with `--from`, or leave [{section}] as it is"),
            });
        }
        let text = config_load::to_toml(config)?;
        let preset = config_load::preset_name(config.run.preset);
        self.registry.set_session_config(&self.id, preset, config.run.seed, &text)?;
        durable::write(&self.directory.join(CONFIG), &[text.as_bytes()])?;
        self.config = config.clone();
        Ok(())
    }

    /// Forgets `first` and all later phases: rows, checkpoints and the emitted model.
    ///
    /// # Errors
    /// [`Error::Registry`] or [`Error::Io`].
    pub fn forget_from(&self, first: PhaseId) -> Result<()> {
        for phase in PhaseId::ALL.into_iter().filter(|phase| *phase >= first) {
            self.checkpoints(phase)?.clear()?;
        }
        self.registry.forget_phases(&self.id, first)
    }

    /// Copies the model a phase handed on to [`Session::model_path`].
    ///
    /// # Errors
    /// [`Error::Artifact`] when it is missing or damaged.
    pub fn publish(&self, output: &PhaseOutput) -> Result<()> {
        match output.artifact("model") {
            Some(artifact) => durable::write(&self.model_path(), &[&self.store.bytes(artifact)?]),
            None => Ok(()),
        }
    }
}

/// Opens the registry under `root` for reading what happened.
///
/// # Errors
/// [`Error::Usage`] when nothing ever ran there.
pub fn open_registry(root: &Path) -> Result<Registry> {
    let path = root.join(REGISTRY);
    if !path.exists() {
        return Err(Error::Usage {
            what: format!("`{}` holds no sessions", root.display()),
            hint: "start one with `forge-train pipeline`, or name the directory with `--out`".into(),
        });
    }
    Registry::open(&path)
}

/// The session called `name`: an id, the beginning of only one id, or `latest`.
///
/// # Errors
/// [`Error::Usage`] naming what there is instead.
pub fn find(registry: &Registry, name: &str) -> Result<SessionRow> {
    let mut sessions = registry.sessions()?;
    if name == "latest" && !sessions.is_empty() {
        return Ok(sessions.remove(0));
    }
    let ids: Vec<String> = sessions.iter().take(5).map(|s| s.id.clone()).collect();
    let mut matching: Vec<SessionRow> =
        sessions.into_iter().filter(|s| !name.is_empty() && s.id.starts_with(name)).collect();
    if matching.len() == 1 {
        return Ok(matching.remove(0));
    }
    let what = match matching.is_empty() {
        true => format!("there is no session `{name}`"),
        false => format!("`{name}` is the beginning of {} sessions", matching.len()),
    };
    Err(Error::Usage { what, hint: format!("the newest sessions are {}", ids.join(", ")) })
}

/// Makes a directory nobody else has, named after the time and four random digits.
fn claim_directory(root: &Path) -> Result<(String, PathBuf)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut salt = now.subsec_nanos() ^ std::process::id().wrapping_mul(0x9e37_79b9);
    loop {
        let id = format!("{}-{:04x}", timestamp(now.as_secs()), (salt ^ salt >> 16) & 0xffff);
        let directory = root.join(&id);
        match fs::create_dir(&directory) {
            Ok(()) => return Ok((id, directory)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => salt = salt.wrapping_add(1),
            Err(e) => return Err(Error::io("create", directory)(e)),
        }
    }
}

/// UTC as `YYYYMMDD-HHMMSS` of Unix seconds (days to civil date after Hinnant, "chrono-compatible date algorithms").
pub fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::registry::Status;

    fn nano() -> Config {
        Config::preset(Preset::Nano)
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(timestamp(0), "19700101-000000");
        assert_eq!(timestamp(951_827_696), "20000229-123456");
        assert_eq!(timestamp(1_795_367_112), "20261122-170512");
    }

    #[test]
    fn a_session_is_resumed_with_what_it_started_with() {
        let root = tempfile::tempdir().unwrap();
        let mut config = nano();
        config.run.seed = 7;
        let session = Session::create(root.path(), &config, &DataSource::Builtin).unwrap();
        let id = session.id().to_owned();
        assert!(Session::resume(root.path(), &id).is_err(), "it is in use");
        drop(session);
        for name in [&id[..], &id[..17], "latest"] {
            let again = Session::resume(root.path(), name).unwrap();
            assert_eq!((again.id(), again.config(), again.source()), (&*id, &config, &DataSource::Builtin));
        }
        let error = Session::resume(root.path(), "1999").unwrap_err();
        assert!(error.hint().unwrap().contains(&id), "{error}");
        let row = open_registry(root.path()).unwrap().session(&id).unwrap().unwrap();
        assert_eq!((row.seed, row.status), (7, Status::Running));
    }

    #[test]
    fn sessions_started_together_do_not_collide() {
        let root = tempfile::tempdir().unwrap();
        let ids: std::collections::BTreeSet<String> =
            (0..20).map(|_| claim_directory(root.path()).unwrap().0).collect();
        assert_eq!(ids.len(), 20);
    }

    #[test]
    fn a_new_configuration_may_only_touch_what_runs_again() {
        let root = tempfile::tempdir().unwrap();
        let mut session = Session::create(root.path(), &nano(), &DataSource::Builtin).unwrap();
        let mut config = nano();
        config.phase5.train.steps = 3;
        assert!(session.reconfigure(&config, PhaseId::Baking).is_err());
        session.reconfigure(&config, PhaseId::Forge).unwrap();
        assert_eq!(config_load::read::<Config>(&session.directory().join(CONFIG)).unwrap(), config);
        config.run.seed = 9;
        assert!(session.reconfigure(&config, PhaseId::Forge).is_err());
        session.reconfigure(&config, PhaseId::Cognate).unwrap();
    }

    #[test]
    fn no_sessions_is_said_so() {
        let root = tempfile::tempdir().unwrap();
        let error = Session::resume(root.path(), "latest").unwrap_err();
        assert!(error.to_string().contains("holds no sessions"), "{error}");
        assert!(!root.path().join(REGISTRY).exists(), "looking does not make files");
    }
}
