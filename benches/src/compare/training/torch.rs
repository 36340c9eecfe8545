//! PyTorch as the peer: where its Python is found or made, and one run of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::super::install::step;
use super::ours::Run;

/// The version installed, one for all machines so that results can be compared.
const VERSION: &str = "2.11.0";
/// The program that trains the same model in PyTorch.
const PROGRAM: &str = include_str!("peer.py");
/// What helps when it cannot be installed.
const HINT: &str = "hint: name a Python that has PyTorch (--python PATH), or leave the peer out (--no-peer)";

/// A Python with PyTorch: the one named, or that of a virtual environment in `cache`, made unless it is there.
///
/// # Errors
/// When Python, its venv module or the network is missing; the message says what to do.
pub(super) fn python(named: Option<&Path>, cache: &Path) -> Result<PathBuf> {
    if let Some(python) = named {
        ensure!(imports(python), "{} cannot import torch\n\n{HINT}", python.display());
        return Ok(python.to_owned());
    }
    let folder = cache.join(format!("torch-{VERSION}")).join("venv");
    let python = folder.join("bin").join("python");
    if !imports(&python) {
        let found = Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
        ensure!(found, "python3 is missing, with which PyTorch is installed\n\n{HINT}");
        eprintln!(
            "installing PyTorch {VERSION} from PyPI in {} (minutes and gigabytes, once) …",
            folder.display()
        );
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(&folder);
        step("make a Python environment (is the venv module installed?)", &mut venv).context(HINT)?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install"]);
        pip.arg(format!("torch=={VERSION}"));
        step("install PyTorch (is there a network?)", &mut pip).context(HINT)?;
        ensure!(
            imports(&python),
            "PyTorch is installed in {} but does not start\n\n{HINT}",
            folder.display()
        );
    }
    Ok(python)
}

fn imports(python: &Path) -> bool {
    Command::new(python).args(["-c", "import torch"]).output().is_ok_and(|o| o.status.success())
}

/// Trains in a process of its own, on batches and weights that `Task::write` put into `folder`.
///
/// # Errors
/// When the process fails or prints something else than its run.
pub(super) fn run(
    python: &Path,
    folder: &Path,
    shape: &str,
    [steps, threads]: [usize; 2],
    [architecture, mode]: [&str; 2],
) -> Result<Run> {
    let program = folder.join("peer.py");
    std::fs::write(&program, PROGRAM).with_context(|| format!("cannot write {}", program.display()))?;
    let mut command = Command::new(python);
    command.arg(program).arg(folder).arg(shape).args([steps, threads].map(|n| n.to_string()));
    printed(command.args([architecture, mode]).env("OMP_NUM_THREADS", threads.to_string()))
}

/// What a process prints on its last line.
///
/// # Errors
/// When it fails or prints something else than a run.
pub(super) fn printed(command: &mut Command) -> Result<Run> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
    ensure!(output.status.success(), "{:?} failed ({}):\n{last}", command.get_program(), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().context("a run printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("a run printed {line:?}"))
}
