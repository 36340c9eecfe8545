//! The trainable parameters of a model and the precision they are used in.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use forge_formats::config::ModelConfig;
use forge_formats::role::{Role, RoleKind};

use super::forward::{Forward, ForwardOptions, Observer, Pass};
#[cfg(feature = "cuda")]
use super::ops::DeviceWeight;
use super::ops::gemm::{Multiplier, Products};
use super::ops::quant::{Blend, Grid, QuantWeight};
use super::ops::sink::Sink;
use super::ops::{Arg, Form, host};
use super::peaks::LogitPeaks;
use super::recompute::Recomputation;
use crate::error::{Error, Result};
use crate::optim::Gradients;
use crate::weights::{Key, Matrix, Weights};

/// How projections are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Projections {
    /// In f32.
    Float,
    /// Ternary weights and int8 activations, blended in as `x + lambda (Q(x) − x)`; `lambda = 1` is what the
    /// runtime computes for ternary codecs.
    Ternary {
        /// Share of the quantised value, 0 to 1.
        lambda: f32,
    },
}

/// How the embedding table and the head are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// In f32.
    Float,
    /// As the `Int8Row` codec stores them.
    Int8,
}

/// Precision of the forward pass; the parameters themselves are always f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Precision {
    /// Of all projections.
    pub projections: Projections,
    /// Of embedding and head.
    pub tables: Tables,
}

impl Precision {
    /// Everything in f32.
    pub const FLOAT: Self = Self { projections: Projections::Float, tables: Tables::Float };
    /// Ternary projections and int8 tables, as shipped.
    pub const TERNARY: Self =
        Self { projections: Projections::Ternary { lambda: 1.0 }, tables: Tables::Int8 };
}

/// A model whose parameters are candle variables.
#[derive(Clone)]
pub struct Network {
    config: ModelConfig,
    vars: BTreeMap<Key, Var>,
    device: Device,
    precision: Precision,
    straight_through: bool,
    tracked: bool,
    products: Multiplier,
    sink: Option<Arc<Sink>>,
    recompute: Option<Recomputation>,
    peaks: Option<Arc<LogitPeaks>>,
    /// The forms of all matrices, where passes share them.
    forms: Option<Arc<BTreeMap<Key, Form>>>,
}

impl Network {
    /// Copies `weights` into variables.
    ///
    /// # Errors
    /// If the configuration is invalid, a tensor is missing or of the wrong shape, or the device has no room.
    pub fn new(weights: &Weights, precision: Precision, device: &Device) -> Result<Self> {
        let config = weights.config.clone();
        config.validate()?;
        let mut vars = BTreeMap::new();
        for (role, layer, [rows, cols]) in config.tensors() {
            let (rows, cols) = (rows as usize, cols as usize);
            let matrix = weights
                .tensors
                .get(&(role, layer))
                .filter(|m| m.rows == rows && m.cols == cols && m.data.len() == rows * cols)
                .ok_or(forge_formats::error::Error::Tensor(role.name()))?;
            let tensor = Tensor::from_slice(&matrix.data, (rows, cols), device)?;
            vars.insert((role, layer), Var::from_tensor(&tensor)?);
        }
        let device = device.clone();
        let products = Multiplier::default();
        Ok(Self {
            config,
            vars,
            device,
            precision,
            straight_through: true,
            tracked: true,
            products,
            sink: None,
            recompute: None,
            peaks: None,
            forms: None,
        })
    }

    /// Where the parameters are and the computation happens.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The variables, ordered by key.
    pub fn vars(&self) -> &BTreeMap<Key, Var> {
        &self.vars
    }

    /// The precision of the next forward pass.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Changes the precision of the following forward passes.
    pub fn set_precision(&mut self, precision: Precision) {
        self.forms = None;
        self.precision = precision;
    }

    /// Whether gradients pass straight through the rounding (the default), or rounding has gradient zero: the
    /// control that shows what the straight-through estimator contributes.
    pub fn set_straight_through(&mut self, on: bool) {
        self.forms = None;
        self.straight_through = on;
    }

    /// What the CPU's products multiply from now on; a device has its own way.
    ///
    /// # Errors
    /// If the processor does not have them.
    pub fn set_products(&mut self, products: Products) -> Result<()> {
        self.forms = None;
        self.products = if self.device.is_cpu() { products.here()? } else { Multiplier::default() };
        Ok(())
    }

    /// Products of the CPU in the emulated instruction's order, which any processor can do.
    #[cfg(test)]
    pub(super) fn emulate_bf16(&mut self) {
        self.products = Multiplier::emulated();
    }

    /// A view of the same parameters, later updates included, whose forward passes record no graph.
    pub fn detached(&self) -> Self {
        Self { tracked: false, sink: None, recompute: None, ..self.clone() }
    }

    /// Whether backward passes recompute what blocks computed, instead of the graph keeping it: less memory, the same
    /// gradients to the last bit. It applies to views of [`Network::for_backward`].
    pub fn set_recompute(&mut self, on: bool) {
        self.recompute = on.then(Recomputation::default);
    }

    /// A view of the same parameters for one loss and its backward pass, by [`Network::gradients`]: whole
    /// blocks run as one operation, and what they give as gradients of parameters bypasses candle's graph.
    pub fn for_backward(&self) -> Self {
        let recompute = self.recompute.as_ref().map(|_| Recomputation::default());
        Self { sink: Some(Arc::default()), recompute, ..self.clone() }
    }

    /// A view of the parameters as they are now, whose passes share one quantised form of each matrix instead of making
    /// their own: the values are the same, memory and time are those of one pass. Later updates of the parameters are
    /// not seen in what is quantised, so it is for one step, or for parameters that stay as they are.
    ///
    /// # Errors
    /// If a matrix cannot be read.
    pub fn prepared(&self) -> Result<Self> {
        let forms = self.vars.keys().map(|&(role, layer)| Ok(((role, layer), self.make_form(role, layer)?)));
        let forms = forms.collect::<Result<BTreeMap<Key, Form>>>()?;
        Ok(Self { forms: Some(Arc::new(forms)), ..self.clone() })
    }

    /// Gradients of `loss` with respect to all parameters.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn gradients(&self, loss: &Tensor) -> Result<Gradients> {
        let mut store = loss.backward()?;
        if let Some(recomputed) = &self.recompute {
            recomputed.drain(&self.vars, &mut store)?;
        }
        let mut grads = Gradients::collect(&self.vars, &mut store)?;
        if let Some(sink) = &self.sink {
            grads.add(Gradients::from_map(sink.take()))?;
            #[cfg(feature = "cuda")]
            grads.add(Gradients::from_map(sink.take_from_device()))?;
        }
        Ok(grads)
    }

    /// Where gradients of parameters bypass the graph, none when all take part in it.
    pub(super) fn sink(&self) -> Option<&Arc<Sink>> {
        self.sink.as_ref().filter(|_| self.tracked)
    }

    /// Where recomputed gradients go, none when the graph keeps everything.
    pub(super) fn recomputation(&self) -> Option<&Recomputation> {
        self.recompute.as_ref().filter(|_| self.tracked)
    }

    /// A view for the inside of a recomputed block: all parameters take part in the graph, nothing is measured.
    pub(super) fn plain(&self) -> Self {
        Self { sink: None, recompute: None, peaks: None, ..self.clone() }
    }

    /// Whether forward passes from now on, those of views made later included, note the largest attention logits.
    pub fn measure_logits(&mut self, on: bool) {
        let heads = (self.config.layers * self.config.heads) as usize;
        self.peaks = on.then(|| Arc::new(LogitPeaks::new(heads)));
    }

    /// The largest logit of each head, `[layers · heads]`, since [`Network::measure_logits`] switched measuring on.
    pub fn logit_peaks(&self) -> Option<Vec<f32>> {
        self.peaks.as_ref().map(|peaks| peaks.values())
    }

    /// Where largest logits are noted.
    pub(super) fn peaks(&self) -> Option<&LogitPeaks> {
        self.peaks.as_deref()
    }

    /// Weighted mean cross entropy of the next token after each of `answer`'s rows `[n, dim]`, in nats; 0 without
    /// gradient when all weights are 0.
    ///
    /// # Errors
    /// If the numbers of rows, targets and weights differ, or a target is outside the vocabulary.
    pub fn cross_entropy(&self, answer: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
        match self.sink() {
            Some(sink) => super::fused::cross_entropy(self, sink, answer, targets, weights),
            None => super::loss::weighted_cross_entropy(&self.logits(answer)?, targets, weights),
        }
    }

    /// A copy of the parameters on the host.
    ///
    /// # Errors
    /// If a variable cannot be read.
    pub fn weights(&self) -> Result<Weights> {
        let mut tensors = BTreeMap::new();
        for (key, var) in &self.vars {
            let (rows, cols) = var.dims2()?;
            let data = var.flatten_all()?.to_vec1::<f32>()?;
            tensors.insert(*key, Matrix { rows, cols, data });
        }
        Ok(Weights { config: self.config.clone(), tensors })
    }

    /// Overwrites the parameters; views made by [`Network::detached`] see it too.
    ///
    /// # Errors
    /// If `weights` is of another configuration.
    pub fn load(&self, weights: &Weights) -> Result<()> {
        if weights.config != self.config {
            return Err(Error::Config("weights of another model cannot be loaded into this network".into()));
        }
        for (key, var) in &self.vars {
            let matrix = weights.tensors.get(key).ok_or(forge_formats::error::Error::Tensor(key.0.name()))?;
            var.set(&Tensor::from_slice(&matrix.data, var.shape(), var.device())?)?;
        }
        Ok(())
    }

    /// Runs the model on `ids [b, t]` (u32): every sequence from an empty state.
    ///
    /// # Errors
    /// If `ids` is not a non-empty u32 matrix of ids inside the vocabulary.
    pub fn forward(&self, ids: &Tensor, options: ForwardOptions) -> Result<Forward> {
        Pass::new(self, ids)?.run(options)
    }

    /// As [`Network::forward`] with every recursion run, showing each projection's input to `observer`.
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn forward_observed<'o>(&'o self, ids: &Tensor, observer: &'o mut Observer<'o>) -> Result<Forward> {
        Pass::new(self, ids)?.observed(observer).run(ForwardOptions::default())
    }

    /// Logits `[n, vocab]` of answers `[n, dim]`.
    ///
    /// # Errors
    /// If the answer is not `dim` wide.
    pub fn logits(&self, answer: &Tensor) -> Result<Tensor> {
        super::forward::head(self, answer)
    }

    /// The tensor of a role and block as the graph sees it.
    pub(super) fn tensor(&self, role: Role, layer: u32) -> Result<Tensor> {
        let var = self.vars.get(&(role, layer)).ok_or(forge_formats::error::Error::Tensor(role.name()))?;
        Ok(if self.tracked { var.as_tensor().clone() } else { var.as_tensor().detach() })
    }

    /// The form in which a matrix is multiplied under the current precision.
    pub(super) fn form(&self, role: Role, layer: u32) -> Result<Form> {
        match self.forms.as_ref().and_then(|forms| forms.get(&(role, layer))) {
            Some(form) => Ok(form.clone()),
            None => self.make_form(role, layer),
        }
    }

    fn make_form(&self, role: Role, layer: u32) -> Result<Form> {
        let grid = match (role.kind(), self.precision) {
            (RoleKind::Projection, Precision { projections: Projections::Ternary { lambda }, .. }) => {
                Some((Grid::Ternary, lambda))
            }
            (RoleKind::Table, Precision { tables: Tables::Int8, .. }) => Some((Grid::Int8, 1.0)),
            (RoleKind::Vector, _) => return Ok(Form::default()),
            _ => None,
        };
        let straight_through = self.straight_through;
        let grid = grid.map(|(grid, lambda)| (grid, Blend { lambda, straight_through }));
        let tensor = self.tensor(role, layer)?;
        #[cfg(feature = "cuda")]
        if tensor.device().is_cuda() {
            return Ok(Form {
                quant: None,
                device: Some(Arc::new(DeviceWeight::new(&tensor, grid)?)),
                ..Form::default()
            });
        }
        let Some((grid, blend)) = grid else {
            return Ok(Form { products: self.products, ..Form::default() });
        };
        let (storage, layout) = tensor.storage_and_layout();
        let Arg { data, dims } = host(&storage, layout)?;
        let quant = Arc::new(QuantWeight::new(data, dims[1], grid, blend));
        Ok(Form { quant: Some(quant), device: None, products: self.products })
    }
}
