//! Models and generations that own what they read, because JavaScript knows no lifetimes.

use std::rc::Rc;

use forge_runtime::{Error, Generator, Kernels, Model, Options, Prepared, Result, Session, Workspace};
use self_cell::{MutBorrow, self_cell};

/// Tokens of a prompt read at a time, from memory the size of a few hundred kilobytes: more hardly pay.
pub(crate) const BLOCK: usize = 16;

self_cell!(
    struct ModelCell {
        owner: Vec<u8>,
        #[covariant]
        dependent: Model,
    }
);

self_cell!(
    struct PreparedCell {
        owner: MutBorrow<Workspace>,
        #[covariant]
        dependent: Prepared,
    }
);

/// A model, the bytes of its file, and its weights as the kernels of this module like them.
pub(crate) struct OwnedModel {
    file: ModelCell,
    prepared: Option<PreparedCell>,
}

impl OwnedModel {
    /// Checks a file, checksums included, and lays its weights out unless `compact` asks for little memory.
    pub(crate) fn parse(bytes: Vec<u8>, compact: bool) -> Result<Rc<Self>> {
        let file = ModelCell::try_new(bytes, |bytes| Model::parse_verified(bytes))?;
        let model = file.borrow_dependent();
        // Portable kernels multiply the weights as they lie in the file.
        let useful = !compact && Kernels::best().want_prepared();
        // Without the memory for them the model runs all the same, only slower.
        let memory = if useful { Workspace::try_of(model.prepared_bytes()) } else { None };
        let prepare = |m| PreparedCell::try_new(MutBorrow::new(m), |m| model.prepare(m.borrow_mut().bytes()));
        let prepared = memory.map(prepare).transpose()?;
        Ok(Rc::new(Self { file, prepared }))
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model<'_> {
        self.file.borrow_dependent()
    }

    /// How its sessions run.
    pub(crate) fn options(&self) -> Options<'_> {
        match &self.prepared {
            Some(prepared) => Options::default().prepared(*prepared.borrow_dependent()).block(BLOCK),
            None => Options::default(),
        }
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> usize {
        self.file.borrow_owner().len()
    }

    /// Bytes of the weights laid out, 0 when they are not.
    pub(crate) fn prepared_bytes(&self) -> usize {
        self.prepared.as_ref().map_or(0, |_| self.model().prepared_bytes())
    }
}

/// What a session borrows.
struct Parts {
    model: Rc<OwnedModel>,
    memory: MutBorrow<Workspace>,
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
        let bytes = model.model().workspace_for(&model.options());
        let memory = MutBorrow::new(Workspace::try_of(bytes).ok_or(Error::Buffer)?);
        let parts = Parts { model: Rc::clone(model), memory };
        let cell = GeneratorCell::try_new(parts, |parts| {
            let model = &parts.model;
            let session = Session::with(model.model(), &model.options(), parts.memory.borrow_mut().bytes())?;
            make(session, model.model())
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
