//! Token ids in, logits out.

use std::rc::Rc;

use forge_runtime::{Error, Generator, Sampler};
use wasm_bindgen::prelude::*;

use crate::owned::{OwnedGenerator, OwnedModel};

/// A sequence of tokens being read by a model.
#[wasm_bindgen(js_name = Session)]
pub struct RawSession {
    inner: OwnedGenerator,
}

impl RawSession {
    pub(crate) fn new(model: &Rc<OwnedModel>) -> Result<Self, Error> {
        // The sampler is not used: this session is only stepped.
        Ok(Self {
            inner: OwnedGenerator::new(model, |session, _| {
                Ok(Generator::new(session, Sampler::greedy(), 0))
            })?,
        })
    }
}

#[wasm_bindgen(js_class = Session)]
impl RawSession {
    /// Reads a token without computing logits, for all but the last token of a prompt.
    ///
    /// Throws an Error for a token outside the vocabulary.
    pub fn feed(&mut self, token: u16) -> Result<(), JsError> {
        Ok(self.inner.with(|g| g.session_mut().feed(token))?)
    }

    /// Reads tokens without computing logits, several at a time: for all but the last of a prompt.
    ///
    /// Throws an Error, having read none, when one is outside the vocabulary.
    pub fn prefill(&mut self, tokens: Vec<u16>) -> Result<(), JsError> {
        Ok(self.inner.with(|g| g.session_mut().prefill(&tokens))?)
    }

    /// Reads a token and returns the logits of the next, one for every id.
    ///
    /// Throws an Error for a token outside the vocabulary.
    pub fn step(&mut self, token: u16) -> Result<Vec<f32>, JsError> {
        Ok(self.inner.with(|g| g.session_mut().step(token).map(<[f32]>::to_vec))?)
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        self.inner.with(|g| g.session_mut().reset());
    }

    /// Number of tokens read.
    #[wasm_bindgen(getter)]
    pub fn position(&mut self) -> u32 {
        self.inner.with(|g| g.session().position())
    }

    /// How often the last token went through the block stack.
    #[wasm_bindgen(getter)]
    pub fn recursions(&mut self) -> u32 {
        self.inner.with(|g| g.session().recursions())
    }

    /// The ids of a text; text never encodes to a special token.
    pub fn encode(&self, text: &str) -> Result<Vec<u16>, JsError> {
        let mut ids = vec![0; text.len()];
        let len = self.inner.model().tokenizer().encode(text.as_bytes(), &mut ids)?;
        ids.truncate(len);
        Ok(ids)
    }
}
