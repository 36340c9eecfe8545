//! Vectors of f32 that lie where their parameter does: gradients, moments, averages.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::gradients::CHUNK;
use crate::error::{Error, Result};

/// A vector of f32 on the host or in a device's memory.
///
/// Optimisers hold their state in it and are written once: what differs between host and device is only the loop over
/// the elements.
#[derive(Clone, Debug)]
pub enum Array {
    /// On the host.
    Host(Vec<f32>),
    /// On a GPU: contiguous, and updated in place by kernels, so its memory is nobody else's.
    #[cfg(feature = "cuda")]
    Device(Tensor),
}

/// Equal values, wherever they are.
impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        matches!((self.to_host(), other.to_host()), (Ok(a), Ok(b)) if a == b)
    }
}

impl From<Vec<f32>> for Array {
    fn from(values: Vec<f32>) -> Self {
        Self::Host(values)
    }
}

impl Array {
    /// The values of a tensor that nothing else refers to, left where they are if that is a GPU.
    ///
    /// # Errors
    /// If it is not of f32 or cannot be read.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.flatten_all()?;
        if flat.dtype() != DType::F32 {
            return Err(Error::Config(format!("an optimiser's values must be f32, not {:?}", flat.dtype())));
        }
        #[cfg(feature = "cuda")]
        if flat.device().is_cuda() {
            return Ok(Self::Device(flat.contiguous()?));
        }
        Ok(Self::Host(flat.to_vec1()?))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            #[cfg(feature = "cuda")]
            Self::Device(values) => values.elem_count(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As many zeros in the same place.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn zeros_like(&self) -> Result<Self> {
        match self {
            Self::Host(values) => Ok(Self::Host(vec![0.0; values.len()])),
            #[cfg(feature = "cuda")]
            Self::Device(values) => Ok(Self::Device(values.zeros_like()?)),
        }
    }

    /// A copy in the same place.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn duplicate(&self) -> Result<Self> {
        match self {
            Self::Host(values) => Ok(Self::Host(values.clone())),
            #[cfg(feature = "cuda")]
            Self::Device(values) => Ok(Self::Device(values.copy()?)),
        }
    }

    /// A copy of the values on the host.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn to_host(&self) -> Result<Vec<f32>> {
        match self {
            Self::Host(values) => Ok(values.clone()),
            #[cfg(feature = "cuda")]
            Self::Device(values) => Ok(values.to_vec1()?),
        }
    }

    /// Moves the values to where `other` is; a restored state comes from the host.
    ///
    /// # Errors
    /// If they cannot be copied.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, unused_variables))]
    pub fn move_beside(&mut self, other: &Self) -> Result<()> {
        #[cfg(feature = "cuda")]
        match (&*self, other) {
            (Self::Host(values), Self::Device(other)) => {
                *self = Self::Device(Tensor::from_slice(values, values.len(), other.device())?);
            }
            (Self::Device(_), Self::Host(_)) => *self = Self::Host(self.to_host()?),
            _ => {}
        }
        Ok(())
    }

    /// The values on the host.
    ///
    /// # Errors
    /// If they are elsewhere.
    pub fn host(&self) -> Result<&[f32]> {
        match self {
            Self::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Self::Device(_) => Err(elsewhere()),
        }
    }

    /// The values on the host, to be changed.
    ///
    /// # Errors
    /// If they are elsewhere.
    pub fn host_mut(&mut self) -> Result<&mut [f32]> {
        match self {
            Self::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Self::Device(_) => Err(elsewhere()),
        }
    }

    /// The values on a device, none if they are on the host.
    #[cfg(feature = "cuda")]
    pub(super) fn device(&self) -> Option<&Tensor> {
        match self {
            Self::Host(_) => None,
            Self::Device(values) => Some(values),
        }
    }

    /// The values on a device.
    #[cfg(feature = "cuda")]
    pub(super) fn on_device(&self) -> Result<&Tensor> {
        self.device().ok_or_else(elsewhere)
    }

    /// Multiplies every value.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn scale(&mut self, factor: f32) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(x) = self.device() {
            return super::cuda::scale(x, factor);
        }
        self.host_mut()?.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
        Ok(())
    }

    /// Adds the values of `other`, which must be as many and in the same place.
    ///
    /// # Errors
    /// If they are not.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        if self.len() != other.len() {
            return Err(Error::Config("gradients of different models cannot be added".into()));
        }
        #[cfg(feature = "cuda")]
        if let Some(x) = self.device() {
            return super::cuda::add(x, other.on_device()?);
        }
        self.host_mut()?.iter_mut().zip(other.host()?).for_each(|(x, y)| *x += y);
        Ok(())
    }
}

#[cfg(feature = "cuda")]
fn elsewhere() -> Error {
    Error::Config("an optimiser's values lie partly on the host and partly on a device".into())
}
