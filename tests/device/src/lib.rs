//! What the probes share: inputs the compiler knows nothing of, and the uses of the runtime they are made of.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt;
use core::hint::black_box;

use forge_runtime::constrain::{Constraint, Mode};
use forge_runtime::generate::prompt;
use forge_runtime::{Batch, Generator, Model, Options, Result, Sampler, Session, Thinking, call};

/// Words of the memory a probe lends.
const WORDS: usize = 256;

/// Runs `probe` with a file and memory of which the compiler knows neither content nor length.
pub fn with_inputs(probe: impl Fn(&[u8], &mut [u32], &[u16], &mut [u16]) -> Result<()>) {
    let mut memory = [0u32; WORDS];
    let mut out = [0u16; 16];
    let file: &[u8] = black_box(&[]);
    let tokens: &[u16] = black_box(&[]);
    let _ = black_box(probe(file, black_box(&mut memory), tokens, black_box(&mut out)));
}

/// Memory as bytes.
fn bytes(memory: &mut [u32]) -> &mut [u8] {
    bytemuck::must_cast_slice_mut(memory)
}

/// What a device without text needs: open a file, read tokens, take logits.
///
/// # Errors
/// The runtime's.
pub fn session(file: &[u8], memory: &mut [u32], tokens: &[u16]) -> Result<()> {
    let model = Model::parse(file)?;
    let mut session = Session::with(&model, &Options::device(), bytes(memory))?;
    for token in tokens {
        black_box(session.step(*token)?);
    }
    Ok(())
}

/// Everything a session and a batch can do.
///
/// # Errors
/// The runtime's.
pub fn sequences(file: &[u8], memory: &mut [u32], tokens: &[u16]) -> Result<()> {
    let model = Model::parse(file)?;
    model.file().verify()?;
    black_box((model.config(), model.card(), model.workspace(), model.prepared_bytes()));
    let (for_session, rest) = bytes(memory).split_at_mut_checked(black_box(64)).unwrap_or_default();
    let (for_batch, rest) = rest.split_at_mut_checked(black_box(64)).unwrap_or_default();
    let (for_weights, rest) = rest.split_at_mut_checked(black_box(64)).unwrap_or_default();
    let prepared = model.prepare(for_weights)?;
    let options = Options::default().prepared(prepared).block(black_box(4));
    black_box((model.workspace_for(&options), model.batch_workspace(&options, black_box(2))));

    let mut session = Session::with(&model, &options, for_session)?;
    session.prefill(tokens)?;
    black_box(session.extend(tokens)?);
    black_box((session.recursions(), session.position(), session.snapshot_len()));
    let len = session.snapshot(rest)?;
    session.reset();
    session.restore(rest.get(..len).unwrap_or(&[]))?;

    let mut batch = Batch::new(&model, &Options::device(), black_box(2), for_batch)?;
    batch.prefill(black_box(1), tokens)?;
    batch.step(black_box(&[(0, 1), (1, 2)]))?;
    black_box(batch.logits_mut(black_box(1)));
    batch.reset(black_box(0));
    black_box((batch.position(0), batch.sequences()));
    Ok(())
}

/// From text to text: tokenizer, sampler, generator, calls, errors as codes.
///
/// # Errors
/// The runtime's.
pub fn text(file: &[u8], memory: &mut [u32], tokens: &[u16], out: &mut [u16]) -> Result<()> {
    let model = Model::parse(file)?;
    let tokenizer = model.tokenizer();
    let words: &[u8] = black_box(b"dim the lights");
    let len = prompt(&tokenizer, Some(black_box(b"be brief")), words, out)?;
    let mut sampler = Sampler::new(black_box(0.8), black_box(1));
    (sampler.top_k, sampler.top_p) = (black_box(3), black_box(0.9));
    (sampler.min_p, sampler.repetition_penalty) = (black_box(0.1), black_box(1.1));
    let end = tokenizer.control("<eos>")?;
    let session = Session::new(&model, bytes(memory))?;
    let thinking = Thinking::new(&tokenizer, black_box(64))?.always();
    let mut generator = Generator::new(session, sampler, end).thinking(thinking);
    generator.start(out.get(..len).unwrap_or(&[]))?;
    black_box((generator.next_token()?, generator.is_thought()));
    let count = generator.complete(tokens, out)?;
    let constraint = Constraint::new(&model, black_box(Mode::Any), black_box(9))?;
    black_box((constraint.minimum(), constraint.budget(), constraint.ended()));
    let mut constrained = Generator::new(generator.session_mut(), Sampler::greedy(), end)
        .constrained(constraint)
        .thinking(thinking);
    black_box(constrained.complete(tokens, out)?);
    constrained.settle()?;
    let mut constraint = Constraint::new(&model, black_box(Mode::Call), black_box(9))?;
    let mut logits = black_box([0.0; 4]);
    black_box((constraint.allows(black_box(5)), constraint.forced(), constraint.mask(&mut logits)));
    constraint.advance(black_box(3))?;
    let _ = call::render(&tokenizer, out.get(..count).unwrap_or(&[]), &mut Sink);
    for tool in model.file().tools().into_iter().flat_map(|t| t.tools()) {
        for slot in tool.slots() {
            black_box(slot);
        }
    }
    black_box(model.file().tools().and_then(|t| t.tool(black_box(3))).and_then(|t| t.slot(black_box(4))));
    Ok(())
}

/// A writer that keeps nothing.
pub struct Sink;

impl fmt::Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        black_box(text);
        Ok(())
    }
}
