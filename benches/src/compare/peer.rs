//! Other runtimes, as programs that report their own speed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::contestant::{Contestant, Speeds, TOKENS};
use super::shape::Shape;

/// What a program expects on its command line and prints.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Protocol {
    /// `llama-bench` of llama.cpp and its descendants: JSON on stdout.
    LlamaBench,
    /// `run` and `runq` of llama2.c, with its tokenizer: "achieved tok/s: N" on stderr, decode alone.
    Llama2c(PathBuf),
    /// `bitnet` of bitnet.c: "tok/s=N" on stderr, decode alone.
    BitnetC,
}

/// A peer of one shape, as `--peer` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    label: String,
    protocol: Protocol,
    program: PathBuf,
    model: PathBuf,
    shape: Shape,
}

impl Peer {
    /// llama.cpp with a model file.
    pub(crate) fn llama_cpp(program: &Path, model: &Path, shape: Shape) -> Self {
        let (program, model) = (program.to_owned(), model.to_owned());
        let label = format!("llama.cpp {}", format_of(&model));
        Self { label, protocol: Protocol::LlamaBench, program, model, shape }
    }

    /// The shape of its model.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether it is llama.cpp itself.
    pub(crate) fn is_llama_cpp(&self) -> bool {
        self.label.split(' ').next() == Some("llama.cpp")
    }

    /// Where its model is.
    pub(crate) fn model(&self) -> &Path {
        &self.model
    }

    /// The command that loads the model and reads one token, for measuring how long loading takes.
    pub(crate) fn first_token(&self) -> Option<Command> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.model);
        match self.protocol {
            Protocol::LlamaBench => command.args(["-p", "0", "-n", "1", "-r", "1", "-t", "1", "-o", "json"]),
            Protocol::Llama2c(_) | Protocol::BitnetC => return None,
        };
        Some(command)
    }

    /// What a run of its program prints.
    fn run(&self, command: &mut Command) -> Result<Output> {
        let output = command.output().with_context(|| format!("cannot start {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        ensure!(output.status.success(), "{} failed ({}): {last}", self.label, output.status);
        Ok(output)
    }

    fn llama_bench(&self, threads: usize, repetitions: usize) -> Result<Speeds> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.model).args(["-o", "json"]);
        for (option, value) in [("-p", TOKENS), ("-n", TOKENS), ("-t", threads), ("-r", repetitions)] {
            command.arg(option).arg(value.to_string());
        }
        let output = self.run(&mut command)?;
        llama_bench_speeds(&output.stdout).with_context(|| format!("of {}", self.label))
    }

    /// Decodes in a process of its own for each repetition.
    fn decode(&self, repetitions: usize, mut command: impl FnMut() -> Command) -> Result<Speeds> {
        let one = |_| {
            let output = self.run(&mut command())?;
            let said = String::from_utf8_lossy(&output.stderr);
            tokens_a_second(&said).with_context(|| format!("{} does not report its speed", self.label))
        };
        Ok(Speeds { decode: (0..repetitions).map(one).collect::<Result<_>>()?, ..Speeds::default() })
    }
}

impl Contestant for Peer {
    fn label(&self) -> &str {
        &self.label
    }

    fn measure(&mut self, threads: usize, repetitions: usize) -> Result<Speeds> {
        let tokens = TOKENS.to_string();
        match &self.protocol {
            Protocol::LlamaBench => self.llama_bench(threads, repetitions),
            Protocol::Llama2c(tokenizer) => self.decode(repetitions, || {
                let mut command = Command::new(&self.program);
                command.arg(&self.model).args(["-t", "0", "-n", &tokens, "-i", "", "-z"]).arg(tokenizer);
                command.env("OMP_NUM_THREADS", threads.to_string());
                command
            }),
            Protocol::BitnetC => self.decode(repetitions, || {
                let mut command = Command::new(&self.program);
                command.arg(&self.model).args(["-n", &tokens, "--temp", "0", "-p", "e"]);
                command.args(["-t", &threads.to_string()]).env("BN_DISABLE_LOOP_ABORT", "1");
                command
            }),
        }
    }
}

/// The weight format a model file's name ends in: what follows the shape.
fn format_of(model: &Path) -> String {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy();
    stem.split_once(['-', '_']).map_or("", |(_, format)| format).to_owned()
}

/// `NAME[@SHAPE]=PROGRAM:MODEL[:TOKENIZER]`.
impl FromStr for Peer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, paths) =
            text.split_once('=').context("a peer is NAME[@SHAPE]=PROGRAM:MODEL[:TOKENIZER]")?;
        let mut paths = paths.split(':').map(PathBuf::from);
        let program = paths.next().unwrap_or_default();
        let model = paths.next().context("the path of the model is missing after the program's")?;
        let tokenizer = paths.next();
        let (name, shape) = match name.split_once('@') {
            Some((name, shape)) => (name, Shape::named(shape)?),
            None => {
                let file = model.file_name().unwrap_or_default().to_string_lossy();
                let unknown = || format!("the name of {file} begins with no shape; write {name}@SHAPE=…");
                (name, Shape::of_file(&file).with_context(unknown)?)
            }
        };
        let protocol = match (name, tokenizer) {
            (n, Some(tokenizer)) if n.starts_with("llama2.c") => Protocol::Llama2c(tokenizer),
            (n, None) if n.starts_with("llama2.c") => {
                bail!("llama2.c needs its tokenizer: …:MODEL:TOKENIZER")
            }
            ("bitnet.c", None) => Protocol::BitnetC,
            (_, None) => Protocol::LlamaBench,
            (n, Some(_)) => bail!("{n} takes no tokenizer"),
        };
        for path in [&program, &model] {
            ensure!(path.is_file(), "there is no file {}", path.display());
        }
        let label = format!("{name} {}", format_of(&model)).trim_end().to_owned();
        Ok(Self { label, protocol, program, model, shape })
    }
}

/// The part of a record of `llama-bench -o json` that matters here.
#[derive(Deserialize)]
struct Record {
    n_prompt: usize,
    n_gen: usize,
    samples_ts: Vec<f64>,
}

/// The speeds in what `llama-bench -o json` prints.
fn llama_bench_speeds(json: &[u8]) -> Result<Speeds> {
    let records: Vec<Record> =
        serde_json::from_slice(json).context("cannot read the report of llama-bench")?;
    let of = |prompt, generated| {
        let record = records.iter().find(|r| r.n_prompt == prompt && r.n_gen == generated);
        record.map(|r| r.samples_ts.clone()).context("llama-bench left a run out")
    };
    Ok(Speeds { prefill: of(TOKENS, 0)?, decode: of(0, TOKENS)?, threads: None })
}

/// The number after the last `tok/s` and its `:` or `=` in what a program says.
fn tokens_a_second(said: &str) -> Option<f64> {
    let (_, after) = said.rsplit_once("tok/s")?;
    after.strip_prefix([':', '='])?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_from_what_programs_print() {
        assert_eq!(tokens_a_second("x\nachieved tok/s: 321.500000\n"), Some(321.5));
        assert_eq!(tokens_a_second("Complete | tokens=128 tok/s=1234.5 prompt_ms=1.2\nbye"), Some(1234.5));
        assert_eq!(tokens_a_second("no speed"), None);
        let json = br#"[{"n_prompt":128,"n_gen":0,"samples_ts":[9.0,8.0]},{"n_prompt":0,"n_gen":128,"samples_ts":[2.5]}]"#;
        let speeds = llama_bench_speeds(json).expect("both runs are there");
        assert_eq!(speeds, Speeds { prefill: vec![9.0, 8.0], decode: vec![2.5], threads: None });
        assert!(llama_bench_speeds(br#"[{"n_prompt":128,"n_gen":0,"samples_ts":[9.0]}]"#).is_err());
    }

    #[test]
    fn a_peer_is_named_with_its_shape() {
        let directory = tempfile::tempdir().expect("there is room");
        let file = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, b"").expect("there is room");
            path.display().to_string()
        };
        let (program, model, other) = (file("llama-bench"), file("2M-TQ2_0-emb8.gguf"), file("model.gguf"));
        let peer: Peer = format!("llama.cpp={program}:{model}").parse().expect("it is well formed");
        assert_eq!((peer.label(), peer.shape().name), ("llama.cpp TQ2_0-emb8", "2M"));
        let error = format!("x={program}:{other}").parse::<Peer>().expect_err("the shape is unknown");
        assert!(error.to_string().contains("@SHAPE"), "{error}");
        let peer: Peer = format!("x@25Mq={program}:{other}").parse().expect("it is well formed");
        assert_eq!((peer.label(), peer.shape().name), ("x", "25Mq"));
        assert!(format!("llama2.c={program}:{model}").parse::<Peer>().is_err());
        assert!(format!("x={program}:{model}.missing").parse::<Peer>().is_err());
    }
}
