//! Models, the memory they need, and weights laid out for a machine.

use core::ffi::c_void;

use super::handle::{ForgeModel, ForgePrepared, ForgeSession, get, open};
use super::status::ForgeStatus;
use super::{borrow, done};
use crate::kernels::PORTABLE;
use crate::model::Model;
use crate::options::Options;

/// What a model is.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ForgeInfo {
    /// Number of token ids, and of logits.
    pub vocab: u32,
    /// Positions a token attends to.
    pub window: u32,
    /// Width of the residual stream.
    pub dim: u32,
    /// Blocks in the stack.
    pub layers: u32,
    /// Times the stack is applied to each token.
    pub recursion: u32,
}

/// How a session runs. No choice changes a bit of any result. All zero, or a null pointer where options are asked for,
/// is the default.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ForgeOptions {
    /// Tokens of a prompt read at a time; 0 is 1.
    pub block: u32,
    /// Not 0: the portable kernels, whatever the machine has.
    pub portable: u32,
    /// Weights that forge_prepare has laid out from the same model, or null.
    pub prepared: *const ForgePrepared,
}

/// The options behind a pointer.
///
/// # Safety
/// The module's promises, for `options` and the handle in it.
pub(super) unsafe fn options(
    options: *const ForgeOptions,
) -> core::result::Result<Options<'static>, ForgeStatus> {
    if options.is_null() {
        return Ok(Options::default());
    }
    // SAFETY: passed on from this function's contract; every bit pattern is a `ForgeOptions`.
    let given = unsafe { borrow::one(options) }?;
    let mut options = Options::default().block(given.block as usize);
    if given.portable != 0 {
        options = options.kernels(&PORTABLE);
    }
    if !given.prepared.is_null() {
        // SAFETY: passed on from this function's contract.
        options = options.prepared(*unsafe { get(given.prepared) }?);
    }
    Ok(options)
}

/// Opens a .forge file that lies in memory (flash will do), after checking all of it: structure, content, checksums.
/// Takes time linear in its length and no memory. The file must stay where it is while the model is used.
// SAFETY: the name is this library's; so for every function of this file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_model_open(
    model: *mut ForgeModel,
    file: *const c_void,
    len: usize,
) -> ForgeStatus {
    let parse = || {
        // SAFETY: the first promise; the second lets the bytes live as long as the model.
        let bytes: &'static [u8] = unsafe { borrow::slice(file.cast(), len) }?;
        let model = Model::parse(bytes)?;
        model.file().verify()?;
        Ok(model)
    };
    // SAFETY: the first promise.
    done(unsafe { open(model, parse) })
}

/// Tells what a model is.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_model_info(model: *const ForgeModel, info: *mut ForgeInfo) -> ForgeStatus {
    // SAFETY: the module's promises, for both pointers.
    done(unsafe { get(model) }.and_then(|model| {
        let c = model.config();
        let (vocab, window, dim, layers, recursion) = (c.vocab, c.window, c.dim, c.layers, c.recursion);
        // SAFETY: as above.
        unsafe { borrow::give(info, ForgeInfo { vocab, window, dim, layers, recursion }) }
    }))
}

/// Bytes of memory a session with these options needs, exactly.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_workspace_size(
    model: *const ForgeModel,
    options: *const ForgeOptions,
    bytes: *mut usize,
) -> ForgeStatus {
    let size = || {
        // SAFETY: the module's promises, for every pointer.
        let (model, options) = unsafe { (get(model)?, self::options(options)?) };
        // SAFETY: as above.
        unsafe { borrow::give(bytes, model.workspace_for(&options)) }
    };
    done(size())
}

/// Bytes of memory forge_prepare needs.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_prepared_size(model: *const ForgeModel, bytes: *mut usize) -> ForgeStatus {
    // SAFETY: the module's promises, for both pointers.
    done(unsafe { get(model) }.and_then(|model| unsafe { borrow::give(bytes, model.prepared_bytes()) }))
}

/// Lays a model's weights out for this machine in lent memory, best aligned to 64 bytes: sessions that use them run
/// several times as fast on machines with vector registers. The memory must stay while the weights are used.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_prepare(
    prepared: *mut ForgePrepared,
    model: *const ForgeModel,
    memory: *mut c_void,
    len: usize,
) -> ForgeStatus {
    let prepare = || {
        // SAFETY: the module's promises; the second lends the memory for as long as the weights are used.
        let (model, memory) = unsafe { (get(model)?, borrow::slice_mut::<'static, u8>(memory.cast(), len)?) };
        Ok(model.prepare(memory)?)
    };
    // SAFETY: the first promise.
    done(unsafe { open(prepared, prepare) })
}

// What the header's readers may rely on.
const _: () = assert!(size_of::<ForgeModel>() == 384 && size_of::<ForgeSession>() == 832);
