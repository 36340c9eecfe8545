//! `.forge` models in JavaScript: thin classes over `forge-runtime`. `forge.js` beside this crate wraps them in
//! promises, async iterators and abort signals; the arithmetic, and so every token, is the runtime's.

mod generation;
mod info;
mod owned;
mod session;

use std::rc::Rc;

use wasm_bindgen::prelude::*;

pub use generation::{Constrained, Generation, Options, Thoughts};
pub use session::RawSession;

use owned::OwnedModel;

/// A loaded model.
#[wasm_bindgen]
pub struct Forge {
    model: Rc<OwnedModel>,
}

#[wasm_bindgen]
impl Forge {
    /// Loads a `.forge` file and checks all of it, checksums included.
    ///
    /// Weights are laid out a second time for fast kernels where this module has some; `compact` does without.
    ///
    /// Throws an Error that says what is wrong with the bytes.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: Vec<u8>, compact: bool) -> Result<Forge, JsError> {
        Ok(Self { model: OwnedModel::parse(bytes, compact)? })
    }

    /// Sizes, tools, slots and card as JSON.
    pub fn info(&self) -> String {
        info::json(&self.model)
    }

    /// A session at position 0: token ids in, logits out.
    pub fn session(&self) -> Result<RawSession, JsError> {
        Ok(RawSession::new(&self.model)?)
    }

    /// Begins the answer to a prompt, with an optional text before it, such as a persona.
    pub fn start(
        &self,
        prompt: &str,
        system: Option<String>,
        options: &Options,
    ) -> Result<Generation, JsError> {
        Ok(Generation::new(&self.model, prompt, system.as_deref(), options)?)
    }
}
