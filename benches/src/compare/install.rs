//! Builds llama.cpp out of its Python binding's source package, and models for it.
//!
//! That package holds the whole of llama.cpp and comes from PyPI, which reaches where GitHub does not.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::gguf;
use super::peer::Peer;
use super::shape::Shape;

/// The source package.
const PACKAGE: &str = "llama-cpp-python";
/// Its version, one for all machines so that results can be compared.
const VERSION: &str = "0.3.36";
/// The programs built.
const PROGRAMS: [&str; 2] = ["llama-bench", "llama-quantize"];
/// Types of the models made: the best ternary one, and the fastest for prompts. The embedding is int8 as ours is.
const FORMATS: [(&str, &[&str]); 2] =
    [("TQ2_0-emb8", &["--token-embedding-type", "q8_0"]), ("Q4_0-emb8", &["--token-embedding-type", "q8_0"])];
/// What cmake is told: a program without the parts that are not measured.
const OPTIONS: [&str; 8] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
];

/// Where peers are built when no folder is named.
pub(crate) fn default_cache() -> PathBuf {
    let home = |name: &str, below: &str| Some(PathBuf::from(std::env::var_os(name)?).join(below));
    let base = home("XDG_CACHE_HOME", "").or_else(|| home("HOME", ".cache"));
    let base = base.or_else(|| home("LOCALAPPDATA", "")).unwrap_or_else(std::env::temp_dir);
    base.join("forge-benches")
}

/// llama.cpp on each of the shapes in each of the formats, built unless the cache has it.
///
/// # Errors
/// When a tool is missing or a step fails; the message says what to do.
pub(crate) fn llama_cpp(cache: &Path, shapes: &[Shape]) -> Result<Vec<Peer>> {
    let folder = cache.join(format!("{PACKAGE}-{VERSION}"));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let programs = folder.join("build").join("bin");
    if !PROGRAMS.iter().all(|p| programs.join(p).is_file()) {
        eprintln!("building llama.cpp in {} (some minutes, once) …", folder.display());
        build(&folder)?;
    }
    let mut peers = Vec::new();
    for shape in shapes {
        for (format, options) in FORMATS {
            let file = folder.join(format!("{}-{format}.gguf", shape.name));
            if !file.is_file() {
                quantise(&programs.join("llama-quantize"), shape, format, options, &file)?;
            }
            peers.push(Peer::llama_cpp(&programs.join("llama-bench"), &file, *shape));
        }
    }
    Ok(peers)
}

/// Fetches, unpacks, configures and builds.
fn build(folder: &Path) -> Result<()> {
    let found =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    ensure!(
        found("python3"),
        "python3 is missing, with which llama.cpp is fetched\n\nhint: install python3 with its venv module, name a \
         built one (--peer llama.cpp=…/llama-bench:MODEL.gguf) or leave it out (--no-install)"
    );
    let compilers = ["c++", "g++", "clang++"];
    ensure!(
        std::env::var_os("CXX").is_some() || compilers.into_iter().any(found),
        "no C++ compiler is found to build llama.cpp with\n\nhint: install g++ or clang, or set CXX; or name a built \
         one (--peer llama.cpp=…/llama-bench:MODEL.gguf) or leave it out (--no-install)"
    );
    let tools = folder.join("venv");
    let (python, cmake) = (tools.join("bin").join("python"), tools.join("bin").join("cmake"));
    step("make a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&tools))?;
    let pip = || {
        let mut command = Command::new(&python);
        command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
        command
    };
    step("install cmake", pip().args(["install", "cmake", "ninja", "scikit-build-core"]))?;
    let wanted = format!("{PACKAGE}=={VERSION}");
    let only_source = ["download", "--no-deps", "--no-build-isolation", "--no-binary", PACKAGE, "-d"];
    step("fetch the source package", pip().args(only_source).arg(folder).arg(wanted))?;
    let unpacked = format!("{}-{VERSION}", PACKAGE.replace('-', "_"));
    let archive = folder.join(format!("{unpacked}.tar.gz"));
    step("unpack it", Command::new(&python).args(["-m", "tarfile", "-e"]).arg(archive).arg(folder))?;
    let source = folder.join(unpacked).join("vendor").join("llama.cpp");
    let (target, ninja) = (folder.join("build"), tools.join("bin").join("ninja"));
    let mut configure = Command::new(&cmake);
    configure.args(["-G", "Ninja"]).args(OPTIONS).arg("-S").arg(source).arg("-B").arg(&target);
    let mut program = std::ffi::OsString::from("-DCMAKE_MAKE_PROGRAM=");
    program.push(ninja);
    step("configure llama.cpp", configure.arg(program))?;
    step("build llama.cpp", Command::new(&cmake).arg("--build").arg(&target).arg("--target").args(PROGRAMS))
}

/// A random model of a shape in a format, by way of a 16-bit file that is removed again.
fn quantise(program: &Path, shape: &Shape, format: &str, options: &[&str], file: &Path) -> Result<()> {
    let wide = file.with_extension("f16");
    std::fs::write(&wide, gguf::model(shape)).with_context(|| format!("cannot write {}", wide.display()))?;
    let kind = format.split('-').next().unwrap_or(format);
    // A name that begins with a digit would be read as the number of a type: the paths are absolute.
    let wide_path = std::path::absolute(&wide)?;
    let mut command = Command::new(program);
    command.args(options).arg(wide_path).arg(std::path::absolute(file)?).args([kind, "1"]);
    let done = step(&format!("quantise {} to {format}", shape.name), &mut command);
    std::fs::remove_file(&wide).with_context(|| format!("cannot remove {}", wide.display()))?;
    done
}

/// Runs a command to its end, and on failure tells the last it said.
pub(super) fn step(what: &str, command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot {what}: {:?} does not start", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    let last: Vec<&str> = said.lines().rev().take(12).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
    let arguments = command.get_args().collect::<Vec<_>>().join(OsStr::new(" "));
    ensure!(
        output.status.success(),
        "cannot {what} ({}):\n{last}\n\nhint: the command was {:?} {}; --no-install, or --no-peer, goes on without it",
        output.status,
        command.get_program(),
        arguments.display()
    );
    Ok(())
}
