use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use super::*;
use crate::pipeline::phase::{Gate, Silent};
use crate::pipeline::prepare::DataSource;
use crate::pipeline::testing;

/// What a fake phase does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Work,
    /// Saves a checkpoint and stops as if asked to.
    Interrupt,
    CloseGate,
    FallBack,
    /// Hands on what its contract forbids.
    BreakContract,
    NotFinite,
    Crash,
}

/// Phases that do as they are told and write down that they ran.
struct Fake {
    id: PhaseId,
    act: Rc<RefCell<BTreeMap<PhaseId, Act>>>,
    ran: Rc<RefCell<Vec<u8>>>,
}

impl Phase for Fake {
    fn id(&self) -> PhaseId {
        self.id
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let act = self.act.borrow().get(&self.id).copied().unwrap_or(Act::Work);
        let resumed = ctx.checkpoints.latest("work")?.map(|checkpoint| checkpoint.step);
        self.ran.borrow_mut().push(self.id.number());
        let weights = testing::weights(ctx.config, self.id, ctx.seed + u64::from(self.id.number()));
        let card = testing::card(ctx.inputs, self.id);
        let table = ctx.data.tokenizer.table();
        let mut output = testing::output(self.id, ctx.config, ctx.store, table, &weights, &card);
        match act {
            Act::Work => {}
            Act::Interrupt if resumed == Some(3) => {}
            Act::Interrupt => {
                ctx.checkpoints.save("work", 3, &BTreeMap::new())?;
                return Err(Error::Interrupted);
            }
            Act::CloseGate => output.gate.passed = false,
            Act::FallBack => output.gate = Gate::fell_back("works", "it does not; the input is kept"),
            Act::BreakContract => drop(output.metrics.insert("bits_per_byte".into(), 9.0)),
            Act::NotFinite => drop(output.metrics.insert("loss".into(), f64::NAN)),
            Act::Crash => return Err(Error::Config("out of paper".into())),
        }
        Ok(output)
    }
}

struct Bench {
    root: tempfile::TempDir,
    id: String,
    data: PreparedData,
    phases: Vec<Box<dyn Phase>>,
    act: Rc<RefCell<BTreeMap<PhaseId, Act>>>,
    ran: Rc<RefCell<Vec<u8>>>,
    stop: StopFlag,
}

impl Bench {
    fn new(acts: &[(PhaseId, Act)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let session = Session::create(root.path(), &testing::config(), &DataSource::Builtin).unwrap();
        let (act, ran) = (Rc::new(RefCell::new(acts.iter().copied().collect())), Rc::default());
        let fake = |id| Box::new(Fake { id, act: Rc::clone(&act), ran: Rc::clone(&ran) }) as Box<dyn Phase>;
        let phases = PhaseId::ALL.into_iter().map(fake).collect();
        let (id, data) = (session.id().to_owned(), testing::data());
        Self { root, id, data, phases, act, ran, stop: StopFlag::new() }
    }

    fn session(&self) -> Session {
        Session::resume(self.root.path(), &self.id).unwrap()
    }

    /// Runs `range` as a fresh process would; gives the result and the phases that were entered.
    fn run(&self, range: Range) -> (Result<BTreeMap<PhaseId, PhaseOutput>>, Vec<u8>) {
        let session = self.session();
        self.ran.borrow_mut().clear();
        let result = Orchestrator {
            session: &session,
            data: &self.data,
            phases: &self.phases,
            progress: &Silent,
            stop: &self.stop,
            device: &candle_core::Device::Cpu,
        }
        .run(range);
        (result, self.ran.borrow().clone())
    }

    fn status(&self) -> (Status, Option<u8>) {
        let row = self.session().registry().session(&self.id).unwrap().unwrap();
        (row.status, row.current_phase.map(PhaseId::number))
    }

    fn model(&self) -> Option<Vec<u8>> {
        fs::read(self.root.path().join(&self.id).join("model.forge")).ok()
    }
}

fn range(first: u8, last: u8, restart: bool) -> Range {
    let phase = |n| PhaseId::from_number(n).unwrap();
    Range { first: phase(first), last: phase(last), restart }
}

#[test]
fn a_whole_run_completes_and_publishes_the_last_model() {
    let bench = Bench::new(&[]);
    let (result, ran) = bench.run(Range::ALL);
    let done = result.unwrap();
    assert_eq!(ran, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bench.status(), (Status::Completed, None));
    let session = bench.session();
    let last = done[&PhaseId::Compression].expect("model").unwrap();
    assert_eq!(bench.model().unwrap(), session.store().bytes(last).unwrap());
    let handoffs = session.registry().handoffs(&bench.id).unwrap();
    assert_eq!(handoffs.iter().filter(|h| h.passed).count(), 7);
    let rows = session.registry().phases(&bench.id).unwrap();
    assert!(rows[0].parents.is_empty());
    assert!(rows[1].parents.contains(&done[&PhaseId::Cognate].expect("reasoning").unwrap().hash));
    session.registry().check_integrity().unwrap();
    drop(session);
    let (again, ran) = bench.run(Range::ALL);
    assert_eq!((again.unwrap(), ran), (done, vec![]), "nothing is done twice");
}

#[test]
fn a_run_stopped_after_any_phase_ends_with_the_same_outputs() {
    let whole = Bench::new(&[]).run(Range::ALL).0.unwrap();
    for stop in 1..=8 {
        let phase = PhaseId::from_number(stop).unwrap();
        let bench = Bench::new(&[(phase, Act::Interrupt)]);
        let (result, ran) = bench.run(Range::ALL);
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(ran.last(), Some(&stop));
        assert_eq!(bench.status(), (Status::Paused, Some(stop)));
        let (result, ran) = bench.run(Range::ALL);
        assert_eq!(ran, (stop..=8).collect::<Vec<_>>(), "from the interrupted phase's checkpoint on");
        assert_eq!(result.unwrap(), whole);
    }
}

#[test]
fn a_stop_request_ends_the_run_before_the_next_phase() {
    let bench = Bench::new(&[]);
    assert!(!bench.stop.request());
    let (result, ran) = bench.run(Range::ALL);
    assert_eq!(result.unwrap_err().exit_code(), 130);
    assert!(ran.is_empty());
}

#[test]
fn a_closed_gate_stops_the_run_and_is_tried_again() {
    let bench = Bench::new(&[(PhaseId::BitNet, Act::CloseGate)]);
    let (result, ran) = bench.run(Range::ALL);
    let error = result.unwrap_err();
    assert_eq!((error.exit_code(), ran), (1, vec![1, 2, 3, 4]));
    assert!(error.to_string().contains("bitnet: works (measured: it does)"), "{error}");
    assert_eq!(bench.status(), (Status::Failed, Some(4)));
    let before = bench.model();
    bench.act.borrow_mut().clear();
    let (result, ran) = bench.run(Range::ALL);
    assert_eq!((result.unwrap().len(), ran), (8, vec![4, 5, 6, 7, 8]));
    assert_ne!(bench.model(), before, "a model behind a closed gate is not published");
}

#[test]
fn a_fallback_lets_the_run_go_on() {
    let bench = Bench::new(&[(PhaseId::QuietStar, Act::FallBack)]);
    let (result, ran) = bench.run(Range::ALL);
    let done = result.unwrap();
    assert_eq!(ran.len(), 8);
    let gate = &done[&PhaseId::QuietStar].gate;
    assert_eq!((gate.passed, gate.fallback.as_deref()), (false, Some("the input is kept")));
}

#[test]
fn a_broken_contract_stops_before_the_next_phase() {
    let bench = Bench::new(&[(PhaseId::EvoMerge, Act::BreakContract)]);
    let (result, ran) = bench.run(Range::ALL);
    let error = result.unwrap_err();
    assert_eq!((error.exit_code(), ran), (1, vec![1, 2]));
    assert!(
        error.to_string().contains("handoff from evomerge to quietstar: 0 ≤ `bits_per_byte` ≤ 8, found 9")
    );
    let handoffs = bench.session().registry().handoffs(&bench.id).unwrap();
    assert_eq!(handoffs.iter().map(|h| h.passed).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn results_that_are_not_finite_are_never_recorded() {
    let bench = Bench::new(&[(PhaseId::Cognate, Act::NotFinite)]);
    let error = bench.run(Range::ALL).0.unwrap_err();
    assert!(error.to_string().contains("`loss` is NaN"), "{error}");
    let rows = bench.session().registry().phases(&bench.id).unwrap();
    assert_eq!((rows[0].status, rows[0].output.is_none()), (Status::Failed, true));
}

#[test]
fn a_crash_is_recorded_with_its_reason() {
    let bench = Bench::new(&[(PhaseId::EvoMerge, Act::Crash)]);
    assert_eq!(bench.run(Range::ALL).0.unwrap_err().exit_code(), 2);
    let rows = bench.session().registry().phases(&bench.id).unwrap();
    assert_eq!((rows[1].status, rows[1].error.as_deref()), (Status::Failed, Some("out of paper")));
    assert_eq!(
        bench.session().registry().session(&bench.id).unwrap().unwrap().error.as_deref(),
        Some("out of paper")
    );
}

#[test]
fn ranges_run_what_they_say() {
    let bench = Bench::new(&[]);
    let (result, ran) = bench.run(range(3, 4, true));
    assert!(result.unwrap_err().to_string().contains("phase quietstar needs phase cognate"));
    assert!(ran.is_empty());
    let (result, ran) = bench.run(range(1, 3, false));
    assert_eq!((result.unwrap().len(), ran), (3, vec![1, 2, 3]));
    assert_eq!(bench.status(), (Status::Paused, Some(3)));
    assert_eq!(bench.run(range(2, 2, false)).1, [0; 0], "it is done");
    let (result, ran) = bench.run(range(2, 2, true));
    assert_eq!((result.unwrap().len(), ran), (2, vec![2]), "what descended from it is forgotten");
    assert_eq!(bench.run(Range::ALL).1, [3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_damaged_artifact_of_a_done_phase_is_noticed() {
    let bench = Bench::new(&[(PhaseId::BitNet, Act::Interrupt)]);
    assert!(bench.run(Range::ALL).0.is_err());
    let session = bench.session();
    let rows = session.registry().phases(&bench.id).unwrap();
    let latent = rows[2].output.as_ref().unwrap().expect("latent").unwrap().clone();
    fs::write(session.store().path(&latent), b"damaged").unwrap();
    drop(session);
    let (result, ran) = bench.run(Range::ALL);
    assert!(matches!(result, Err(Error::Artifact(_))) && ran.is_empty());
    bench.act.borrow_mut().clear();
    assert_eq!(bench.run(range(3, 8, true)).0.unwrap().len(), 8, "running that phase again mends it");
}

#[test]
fn a_kill_before_the_model_was_published_is_mended() {
    let bench = Bench::new(&[]);
    bench.run(Range::ALL).0.unwrap();
    let path = bench.root.path().join(&bench.id);
    let whole = bench.model().unwrap();
    fs::remove_file(path.join("model.forge")).unwrap();
    fs::create_dir_all(path.join("checkpoints/edge")).unwrap();
    fs::write(path.join("checkpoints/edge/work-0000000001.ckpt"), b"left over").unwrap();
    bench.run(Range::ALL).0.unwrap();
    assert_eq!(bench.model().unwrap(), whole);
    assert!(!path.join("checkpoints/edge").exists());
}
