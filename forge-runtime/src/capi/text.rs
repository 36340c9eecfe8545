//! Text to tokens and back, and a whole reply at once.

use core::ffi::c_char;
use core::fmt::{self, Write};

use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind};

use super::handle::{ForgeModel, ForgeSession, get, get_mut};
use super::sample::ForgeSampler;
use super::status::ForgeStatus;
use super::{borrow, done};
use crate::call;
use crate::constrain::{Constraint, Mode};
use crate::generate::{Generator, prompt};
use crate::sampler::Sampler;
use crate::think::Thinking;

// As `forge_decode` says.
const _: () = assert!(MAX_TOKEN == 64);

/// Text into a buffer: as much as fits is written, all of it is counted.
struct Text<'o> {
    out: &'o mut [u8],
    len: usize,
}

impl Text<'_> {
    /// Ends the text with a NUL, which must fit too; otherwise the text is made empty.
    fn end(self) -> core::result::Result<(), ForgeStatus> {
        match self.out.get_mut(self.len) {
            Some(place) => {
                *place = 0;
                Ok(())
            }
            None => {
                self.out.iter_mut().take(1).for_each(|place| *place = 0);
                Err(ForgeStatus::Buffer)
            }
        }
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.out.get_mut(self.len..).unwrap_or(&mut []);
        room.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
        self.len = self.len.saturating_add(text.len());
        Ok(())
    }
}

/// Encodes text, any bytes, as token ids. As many places as the text has bytes always suffice.
// SAFETY: the name is this library's; so for every function of this file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_encode(
    model: *const ForgeModel,
    text: *const c_char,
    len: usize,
    tokens: *mut u16,
    capacity: usize,
    count: *mut usize,
) -> ForgeStatus {
    let encode = || {
        // SAFETY: the module's promises, for every pointer.
        let (model, text, out) =
            unsafe { (get(model)?, borrow::slice(text.cast(), len)?, borrow::slice_mut(tokens, capacity)?) };
        // SAFETY: as above.
        unsafe { borrow::give(count, model.tokenizer().encode(text, out)?) }
    };
    done(encode())
}

/// Writes `<bos> [system <sys>] text <sep>` as token ids: what a model is asked with. `system` may be null, for none.
/// As many places as both texts have bytes, and three, always suffice.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_prompt(
    model: *const ForgeModel,
    system: *const c_char,
    system_len: usize,
    text: *const c_char,
    len: usize,
    tokens: *mut u16,
    capacity: usize,
    count: *mut usize,
) -> ForgeStatus {
    let encode = || {
        // SAFETY: the module's promises, for every pointer.
        let (model, text, out) =
            unsafe { (get(model)?, borrow::slice(text.cast(), len)?, borrow::slice_mut(tokens, capacity)?) };
        // SAFETY: as above.
        let before = unsafe { borrow::slice(system.cast(), system_len) }?;
        let before = (!system.is_null()).then_some(before);
        // SAFETY: as above.
        unsafe { borrow::give(count, prompt(&model.tokenizer(), before, text, out)?) }
    };
    done(encode())
}

/// The bytes of a token, at most 64; none for special tokens. They may be part of a character.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_decode(
    model: *const ForgeModel,
    token: u16,
    out: *mut u8,
    capacity: usize,
    len: *mut usize,
) -> ForgeStatus {
    let decode = || {
        // SAFETY: the module's promises, for every pointer.
        let (model, out) = unsafe { (get(model)?, borrow::slice_mut(out, capacity)?) };
        if u32::from(token) >= model.config().vocab {
            return Err(ForgeStatus::Token);
        }
        let mut buffer = [0; MAX_TOKEN];
        let bytes = model.tokenizer().decode(token, &mut buffer);
        let out = out.get_mut(..bytes.len()).ok_or(ForgeStatus::Buffer)?;
        out.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        // SAFETY: as above.
        unsafe { borrow::give(len, bytes.len()) }
    };
    done(decode())
}

/// The id of a control token such as "<eos>", by its name.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_control(
    model: *const ForgeModel,
    name: *const c_char,
    len: usize,
    token: *mut u16,
) -> ForgeStatus {
    let find = || {
        // SAFETY: the module's promises, for every pointer.
        let (model, name) = unsafe { (get(model)?, borrow::slice(name.cast(), len)?) };
        let name = core::str::from_utf8(name).map_err(|_| ForgeStatus::Utf8)?;
        let found = model.tokenizer().special(SpecialKind::Control, name);
        // SAFETY: as above.
        unsafe { borrow::give(token, found.ok_or(ForgeStatus::Control)?) }
    };
    done(find())
}

/// Writes a completion up to its `<eos>` as UTF-8 text with a NUL after it: a tool call as JSON, anything else as its
/// text. `len` is the text's length without the NUL, also when it did not fit and FORGE_STATUS_BUFFER is returned.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_render(
    model: *const ForgeModel,
    tokens: *const u16,
    count: usize,
    out: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> ForgeStatus {
    let render = || {
        // SAFETY: the module's promises, for every pointer.
        let (model, tokens, out) =
            unsafe { (get(model)?, borrow::slice(tokens, count)?, borrow::slice_mut(out.cast(), capacity)?) };
        let mut text = Text { out, len: 0 };
        // `Text` takes everything.
        let _ = call::render(&model.tokenizer(), tokens, &mut text);
        // SAFETY: as above.
        unsafe { borrow::give(len, text.len) }?;
        text.end()
    };
    done(render())
}

/// Resets the session, asks it `text` and writes its reply as forge_render does. `sampler` may be null, to take the most
/// likely tokens. `scratch` holds the prompt's ids (as many places as the text has bytes, and three, always suffice),
/// then the reply's, which are at most `max_tokens` and at most as many as fit.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_reply(
    model: *const ForgeModel,
    session: *mut ForgeSession,
    sampler: *mut ForgeSampler,
    text: *const c_char,
    text_len: usize,
    scratch: *mut u16,
    scratch_len: usize,
    max_tokens: usize,
    out: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> ForgeStatus {
    let asked = Asked { text, text_len, scratch, scratch_len, max_tokens, held: Held::Nothing };
    // SAFETY: the module's promises, for every pointer.
    match unsafe { complete(model, session, sampler, asked) } {
        // SAFETY: as above; the scratch holds the ids just written.
        Ok(count) => unsafe { forge_render(model, scratch, count, out, capacity, len) },
        Err(status) => status,
    }
}

/// As forge_reply, but the reply is always a call of one of the file's tools, with arguments that its slots take.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_call(
    model: *const ForgeModel,
    session: *mut ForgeSession,
    sampler: *mut ForgeSampler,
    text: *const c_char,
    text_len: usize,
    scratch: *mut u16,
    scratch_len: usize,
    max_tokens: usize,
    out: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> ForgeStatus {
    let asked = Asked { text, text_len, scratch, scratch_len, max_tokens, held: Held::Call };
    // SAFETY: the module's promises, for every pointer.
    match unsafe { complete(model, session, sampler, asked) } {
        // SAFETY: as above; the scratch holds the ids just written.
        Ok(count) => unsafe { forge_render(model, scratch, count, out, capacity, len) },
        Err(status) => status,
    }
}

/// As forge_reply, but the reply has at most one thought, of at most `budget` tokens between its marks; 0 answers at
/// once. The thought is left out of what is written unless `show` is other than 0; it counts towards `max_tokens`, so
/// that a reply which these end within its thought is empty. FORGE_STATUS_CONTROL when the model cannot think.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_think(
    model: *const ForgeModel,
    session: *mut ForgeSession,
    sampler: *mut ForgeSampler,
    text: *const c_char,
    text_len: usize,
    budget: u32,
    show: u32,
    scratch: *mut u16,
    scratch_len: usize,
    max_tokens: usize,
    out: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> ForgeStatus {
    let held = Held::Thinking { budget, show: show != 0 };
    let asked = Asked { text, text_len, scratch, scratch_len, max_tokens, held };
    // SAFETY: the module's promises, for every pointer.
    match unsafe { complete(model, session, sampler, asked) } {
        // SAFETY: as above; the scratch holds the ids just written.
        Ok(count) => unsafe { forge_render(model, scratch, count, out, capacity, len) },
        Err(status) => status,
    }
}

/// What a reply is held to.
#[derive(Clone, Copy)]
enum Held {
    Nothing,
    Call,
    Thinking { budget: u32, show: bool },
}

/// What a reply is made of.
struct Asked {
    text: *const c_char,
    text_len: usize,
    scratch: *mut u16,
    scratch_len: usize,
    max_tokens: usize,
    held: Held,
}

/// Writes a reply's ids to the scratch and returns how many.
///
/// # Safety
/// The module's promises, for every pointer.
unsafe fn complete(
    model: *const ForgeModel,
    session: *mut ForgeSession,
    sampler: *mut ForgeSampler,
    asked: Asked,
) -> core::result::Result<usize, ForgeStatus> {
    // SAFETY: passed on from this function's contract.
    let (model, session): (&'static _, _) = unsafe { (get(model)?, get_mut(session)?) };
    // SAFETY: as above.
    let text = unsafe { borrow::slice(asked.text.cast(), asked.text_len) }?;
    // SAFETY: as above.
    let scratch = unsafe { borrow::slice_mut(asked.scratch, asked.scratch_len) }?;
    let sampling = match sampler.is_null() {
        true => Sampler::greedy(),
        // SAFETY: as above; any bits are numbers.
        false => unsafe { borrow::one(sampler) }?.to_sampler(),
    };
    let tokenizer = model.tokenizer();
    let thinking = match asked.held {
        Held::Thinking { budget, .. } => Some(Thinking::new(&tokenizer, budget)?),
        _ => None,
    };
    session.reset();
    let end = tokenizer.control("<eos>")?;
    let prompt_len = prompt(&tokenizer, None, text, scratch)?;
    let limit = asked.max_tokens.min(scratch.len());
    let mut generator = Generator::new(session, sampling, end);
    if matches!(asked.held, Held::Call) {
        let budget = u32::try_from(limit).unwrap_or(u32::MAX);
        generator = generator.constrained(Constraint::new(model, Mode::Call, budget)?);
    }
    if let Some(thinking) = thinking {
        generator = generator.thinking(thinking);
    }
    generator.start(scratch.get(..prompt_len).unwrap_or(&[]))?;
    let hide = matches!(asked.held, Held::Thinking { show: false, .. });
    let mut count = 0;
    for _ in 0..limit {
        let Some(token) = generator.next_token()? else { break };
        if let Some(place) = scratch.get_mut(count).filter(|_| !hide || !generator.is_thought()) {
            *place = token;
            count += 1;
        }
    }
    if !sampler.is_null() {
        // SAFETY: as above.
        unsafe { borrow::give(sampler, generator.sampler().into()) }?;
    }
    Ok(count)
}
