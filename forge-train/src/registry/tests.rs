use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::pipeline::phase::{ArtifactKind, ArtifactRef, Gate, PhaseId, PhaseOutput};

fn new_session(id: &str) -> NewSession<'_> {
    NewSession { id, preset: "nano", seed: u64::MAX, config: "[run]" }
}

fn artifact(byte: u8) -> ArtifactRef {
    let hash = format!("{byte:02x}").repeat(32);
    ArtifactRef { file: format!("artifacts/{hash}.forge"), hash, kind: ArtifactKind::Forge, bytes: 5 }
}

fn output(artifact: &ArtifactRef, passed: bool) -> PhaseOutput {
    PhaseOutput {
        artifacts: vec![("model".into(), artifact.clone())],
        metrics: BTreeMap::from([("third".into(), 1.0 / 3.0), ("tiny".into(), 5e-324)]),
        summary: "trained".into(),
        gate: Gate { passed, rule: "a ≤ b".into(), measured: "1 ≤ 2".into(), fallback: None },
    }
}

#[test]
fn pragmas_and_version_are_set() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("r.db")).unwrap();
    let number = |name: &str| -> i64 {
        registry.with(|c| c.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))).unwrap()
    };
    let settings = ["foreign_keys", "synchronous", "busy_timeout", "cache_size", "user_version"].map(number);
    assert_eq!(settings, [1, 1, 5000, -10_000, 1]);
    let mode: String = registry.with(|c| c.query_row("PRAGMA journal_mode", [], |row| row.get(0))).unwrap();
    assert_eq!(mode, "wal");
    registry.create_session(&new_session("s")).unwrap();
    assert_eq!(number("synchronous"), 1, "a durable write puts the setting back");
}

#[test]
fn a_session_is_read_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    let registry = Registry::open(&path).unwrap();
    registry.create_session(&new_session("s")).unwrap();
    registry.set_session("s", Status::Failed, Some(PhaseId::Edge), Some("why")).unwrap();
    drop(registry);
    let registry = Registry::open(&path).unwrap();
    let row = registry.session("s").unwrap().unwrap();
    assert_eq!((row.seed, row.status, row.current_phase), (u64::MAX, Status::Failed, Some(PhaseId::Edge)));
    assert_eq!(row.error.as_deref(), Some("why"));
    assert_eq!(registry.session("t").unwrap(), None);
    assert!(registry.create_session(&new_session("s")).is_err(), "ids are unique");
}

#[test]
fn a_phase_is_read_back_as_returned() {
    let registry = Registry::in_memory().unwrap();
    registry.create_session(&new_session("s")).unwrap();
    let a = artifact(7);
    registry.record_artifact("s", &a).unwrap();
    registry.record_artifact("s", &a).unwrap();
    registry.start_phase("s", PhaseId::Cognate, &["p".into()]).unwrap();
    registry.stop_phase("s", PhaseId::Cognate, Status::Paused, None, 1.5).unwrap();
    registry.start_phase("s", PhaseId::Cognate, &["q".into()]).unwrap();
    let returned = registry.finish_phase("s", PhaseId::Cognate, &output(&a, true), 2.0).unwrap();
    let rows = registry.phases("s").unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].status, rows[0].seconds), (Status::Completed, 3.5));
    assert_eq!(rows[0].parents, ["q"]);
    assert_eq!(rows[0].output.as_ref(), Some(&returned));
    assert_eq!(registry.models("s").unwrap()[0].hash, a.hash);
    registry.start_phase("s", PhaseId::EvoMerge, &[]).unwrap();
    registry.finish_phase("s", PhaseId::EvoMerge, &output(&a, false), 0.0).unwrap();
    assert_eq!(registry.phases("s").unwrap()[1].status, Status::Failed, "a closed gate");
}

#[test]
fn forgetting_takes_models_and_handoffs_along() {
    let registry = Registry::in_memory().unwrap();
    registry.create_session(&new_session("s")).unwrap();
    registry.record_artifact("s", &artifact(1)).unwrap();
    for phase in [PhaseId::Cognate, PhaseId::EvoMerge, PhaseId::QuietStar] {
        registry.start_phase("s", phase, &[]).unwrap();
        registry.finish_phase("s", phase, &output(&artifact(1), true), 0.0).unwrap();
        registry.record_handoff("s", phase, true, "[]").unwrap();
    }
    registry.forget_phases("s", PhaseId::EvoMerge).unwrap();
    assert_eq!(registry.phases("s").unwrap().len(), 1);
    assert_eq!(registry.models("s").unwrap().len(), 1);
    assert_eq!(registry.handoffs("s").unwrap().len(), 1);
    registry.check_integrity().unwrap();
}

#[test]
fn rows_without_their_parent_are_refused() {
    let registry = Registry::in_memory().unwrap();
    assert!(registry.record_artifact("nobody", &artifact(1)).is_err(), "artifact without session");
    assert!(registry.start_phase("nobody", PhaseId::Cognate, &[]).is_err(), "phase without session");
    registry.create_session(&new_session("s")).unwrap();
    assert!(registry.record_handoff("s", PhaseId::Cognate, true, "[]").is_err(), "handoff without phase");
    registry.start_phase("s", PhaseId::Cognate, &[]).unwrap();
    let unacknowledged = registry.finish_phase("s", PhaseId::Cognate, &output(&artifact(1), true), 0.0);
    assert!(unacknowledged.is_err(), "model without artifact");
    assert_eq!(registry.phases("s").unwrap()[0].status, Status::Running, "rolled back as a whole");
    registry.check_integrity().unwrap();
}

#[test]
fn a_broken_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    std::fs::write(&path, b"this is not a database, but long enough to be looked at as one......").unwrap();
    assert!(Registry::open(&path).is_err());
    let registry = Registry::in_memory().unwrap();
    registry.with(|c| c.execute_batch("PRAGMA foreign_keys = OFF")).unwrap();
    registry.start_phase("nobody", PhaseId::Cognate, &[]).unwrap();
    assert!(registry.check_integrity().is_err(), "an orphan");
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    Registry::open(&path).unwrap().with(|c| c.pragma_update(None, "user_version", 9)).unwrap();
    let error = Registry::open(&path).unwrap_err();
    assert!(error.to_string().contains("schema version 9"), "{error}");
    assert!(error.hint().is_some());
}

/// Eight connections, as eight processes would have, create the file and write at once.
#[test]
fn many_may_open_a_new_registry_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..100 {
        let path = dir.path().join(format!("{round}.db"));
        let together = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    Registry::open(&path).unwrap();
                });
            }
        });
    }
}

#[test]
fn many_writers_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    let (writers, each) = (8u8, 20u8);
    thread::scope(|scope| {
        for writer in 0..writers {
            let path = &path;
            scope.spawn(move || {
                let registry = Registry::open(path).unwrap();
                let id = format!("s{writer}");
                registry.create_session(&new_session(&id)).unwrap();
                for n in 0..each {
                    registry.record_artifact(&id, &artifact(n)).unwrap();
                }
            });
        }
    });
    let registry = Registry::open(&path).unwrap();
    assert_eq!(registry.sessions().unwrap().len(), usize::from(writers));
    for writer in 0..writers {
        assert_eq!(registry.artifacts(&format!("s{writer}")).unwrap().len(), usize::from(each));
    }
    registry.check_integrity().unwrap();
}
