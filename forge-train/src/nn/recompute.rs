//! Activation recomputation (Chen et al. 2016, arXiv 1604.06174): the graph keeps what goes into a part of a block and
//! what comes out of it; what is between is computed again when the part's gradient is due.
//!
//! candle has no hook for this, but a custom operation's backward pass may run a graph of its own. Gradients of
//! the part's inputs go back into the outer graph, those of its parameters are added up beside it, in the order in
//! which the outer backward pass reaches the parts. That is also the order in which it would have added them without
//! recomputation, and inputs with several uses are shared through nodes of their own (`forward::shared`), so the
//! gradients are the same to the last bit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor,
    Var, bail,
};
use forge_formats::role::Role;

use super::forward::{BlockCall, Part, Pass, Stack};
use super::network::Network;
use crate::weights::Key;

/// Gradients of the parameters of recomputed parts, of one backward pass.
#[derive(Clone, Default)]
pub(super) struct Recomputation(Arc<Mutex<Sums>>);

#[derive(Default)]
struct Sums {
    totals: BTreeMap<Key, Tensor>,
    /// Gradients that are added to another one before they are added to the total.
    waiting: BTreeMap<Key, Tensor>,
}

impl Recomputation {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the gradients of block `layer` out of `grads`; the one called `paired` waits for its second part.
    fn add(
        &self,
        vars: &BTreeMap<Key, Var>,
        layer: u32,
        paired: Option<Key>,
        grads: &mut GradStore,
    ) -> Result<()> {
        let mut sums = self.sums();
        for (key, var) in vars.iter().filter(|(key, _)| key.1 == layer) {
            let Some(mut grad) = grads.remove(var) else { continue };
            if Some(*key) == paired {
                match sums.waiting.remove(key) {
                    Some(other) => grad = (other + grad)?,
                    None => {
                        sums.waiting.insert(*key, grad);
                        continue;
                    }
                }
            }
            let total = match sums.totals.remove(key) {
                Some(total) => (total + grad)?,
                None => grad,
            };
            sums.totals.insert(*key, total);
        }
        Ok(())
    }

    /// Moves the gradients into what the outer backward pass returned.
    pub(super) fn drain(&self, vars: &BTreeMap<Key, Var>, grads: &mut GradStore) -> Result<()> {
        let Sums { totals, waiting } = std::mem::take(&mut *self.sums());
        if !waiting.is_empty() {
            bail!("a block's memory was recomputed without the block");
        }
        for (key, total) in totals {
            if let Some(var) = vars.get(&key) {
                let total = match grads.remove(var) {
                    Some(outer) => (outer + total)?,
                    None => total,
                };
                grads.insert(var, total);
            }
        }
        Ok(())
    }
}

/// Puts part `part` of `call`'s block into the graph of `args` without keeping what it computes.
pub(super) fn apply(
    pass: &Pass<'_>,
    sums: &Recomputation,
    part: Part,
    call: &BlockCall,
    args: &[Tensor],
) -> crate::error::Result<Tensor> {
    let inputs: Vec<Tensor> = args.iter().map(Tensor::detach).collect();
    let result = pass.frozen().part(part, call, None, &inputs)?;
    let op = Recomputed {
        network: pass.network().plain(),
        stack: pass.stack(),
        sums: sums.clone(),
        part,
        call: call.clone(),
        result: Mutex::new(Some(result)),
    };
    Ok(match args {
        [a] => a.apply_op1(op)?,
        [a, b] => a.apply_op2(b, op)?,
        [a, b, c] => a.apply_op3(b, c, op)?,
        _ => bail_inputs(args.len())?,
    })
}

fn bail_inputs(count: usize) -> Result<Tensor> {
    bail!("a part of a block with {count} inputs")
}

/// A part of a block, computed before it is put into the graph.
struct Recomputed {
    network: Network,
    stack: Arc<Stack>,
    sums: Recomputation,
    part: Part,
    call: BlockCall,
    /// The result until the graph takes it over.
    result: Mutex<Option<Tensor>>,
}

impl Recomputed {
    /// The storage of the result, which belongs to the graph from now on.
    fn take<S>(&self, of: impl Fn(&Storage, &Layout) -> Result<S>) -> Result<(S, Shape)> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(result) = result else { bail!("a recomputed part was put into the graph twice") };
        let result = result.contiguous()?;
        let (storage, layout) = result.storage_and_layout();
        Ok((of(&storage, layout)?, result.shape().clone()))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        self.take(|storage, layout| match storage {
            Storage::Cpu(CpuStorage::F32(values)) => {
                let from = layout.start_offset();
                Ok(CpuStorage::F32(values[from..from + layout.shape().elem_count()].to_vec()))
            }
            _ => bail!("recomputation on the CPU is in f32"),
        })
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        self.take(|storage, layout| match storage {
            Storage::Cuda(values) if layout.start_offset() == 0 => values.try_clone(layout),
            _ => bail!("recomputation away from where the inputs are"),
        })
    }

    /// Runs the part again and returns the gradients of its inputs.
    fn backward(&self, args: &[&Tensor], grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let inputs = args.iter().map(|arg| Var::from_tensor(&arg.detach())).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
        let pass = Pass::over(&self.network, self.stack.clone());
        let result =
            pass.part(self.part, &self.call, None, &tensors).map_err(|e| Error::Msg(e.to_string()))?;
        let mut grads = (result * grad)?.sum_all()?.backward()?;
        let of_inputs = inputs.iter().map(|input| grads.remove(input)).collect();
        let layer = self.call.layer as u32;
        let paired = self.call.writes_memory.then_some((Role::AttnNorm, layer));
        self.sums.add(self.network.vars(), layer, paired, &mut grads)?;
        Ok(of_inputs)
    }
}

/// The first `N` gradients.
fn exactly<const N: usize>(grads: Vec<Option<Tensor>>) -> Result<[Option<Tensor>; N]> {
    grads.try_into().map_err(|_| Error::Msg("gradients of another number of inputs".into()))
}

impl CustomOp1 for Recomputed {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a] = exactly(self.backward(&[a], grad)?)?;
        Ok(a)
    }
}

impl CustomOp2 for Recomputed {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(exactly::<2>(self.backward(&[a, b], grad)?)?.into())
    }
}

impl CustomOp3 for Recomputed {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(exactly::<3>(self.backward(&[a, b, c], grad)?)?.into())
    }
}
