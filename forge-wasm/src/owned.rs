//! Models and generations that own what they read, because JavaScript knows no lifetimes.

use std::rc::Rc;

use forge_runtime::{Error, Generator, Model, Result, Session};
use self_cell::{MutBorrow, self_cell};

self_cell!(
    struct ModelCell {
        owner: Vec<u8>,
        #[covariant]
        dependent: Model,
    }
);

/// A model and the bytes of its file.
pub(crate) struct OwnedModel(ModelCell);

impl OwnedModel {
    /// Checks a file, checksums included.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Rc<Self>> {
        let cell = ModelCell::try_new(bytes, |bytes| {
            let model = Model::parse(bytes)?;
            model.file().verify()?;
            Ok::<_, Error>(model)
        })?;
        Ok(Rc::new(Self(cell)))
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model<'_> {
        self.0.borrow_dependent()
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> usize {
        self.0.borrow_owner().len()
    }
}

/// What a session borrows. Words, so that the memory is aligned to 4.
struct Parts {
    model: Rc<OwnedModel>,
    memory: MutBorrow<Vec<u32>>,
}

type Owning<'m> = Generator<'m, Session<'m>>;

self_cell!(
    struct GeneratorCell {
        owner: Parts,
        #[not_covariant]
        dependent: Owning,
    }
);

/// A generator with its session, the session's memory and a share of the model.
pub(crate) struct OwnedGenerator(GeneratorCell);

impl OwnedGenerator {
    /// The generator that `make` makes of a new session and the model.
    pub(crate) fn new(
        model: &Rc<OwnedModel>,
        make: impl for<'m> FnOnce(Session<'m>, &'m Model<'m>) -> Result<Generator<'m>>,
    ) -> Result<Self> {
        let words = model.model().workspace().div_ceil(4);
        let mut memory = Vec::new();
        memory.try_reserve_exact(words).map_err(|_| Error::Buffer)?;
        memory.resize(words, 0);
        let parts = Parts { model: Rc::clone(model), memory: MutBorrow::new(memory) };
        let cell = GeneratorCell::try_new(parts, |parts| {
            let memory = bytemuck::cast_slice_mut(parts.memory.borrow_mut().as_mut_slice());
            let session = Session::new(parts.model.model(), memory)?;
            make(session, parts.model.model())
        })?;
        Ok(Self(cell))
    }

    /// Works with the generator.
    pub(crate) fn with<T>(
        &mut self,
        work: impl for<'g, 'm> FnOnce(&'g mut Generator<'m, Session<'m>>) -> T,
    ) -> T {
        self.0.with_dependent_mut(|_, generator| work(generator))
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model<'_> {
        self.0.borrow_owner().model.model()
    }
}
