//! Values on the host that an operation reads beside its operands: token ids, targets, weights, masks.

use std::ops::Deref;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

/// Host values, uploaded to the device when it first asks for them and shared by all operations that hold them.
#[derive(Debug)]
pub(crate) struct HostData<T> {
    values: Vec<T>,
    #[cfg(feature = "cuda")]
    uploaded: OnceLock<super::cuda::Uploaded<T>>,
}

impl<T> From<Vec<T>> for HostData<T> {
    fn from(values: Vec<T>) -> Self {
        Self {
            values,
            #[cfg(feature = "cuda")]
            uploaded: OnceLock::new(),
        }
    }
}

impl<T> Deref for HostData<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

#[cfg(feature = "cuda")]
impl<T: candle_core::cuda::cudarc::driver::DeviceRepr + Clone + 'static> HostData<T> {
    /// The device's copy.
    ///
    /// # Errors
    /// If it cannot be uploaded, or lies on another device.
    pub(crate) fn on(
        &self,
        device: &candle_core::CudaDevice,
    ) -> candle_core::Result<&super::cuda::Uploaded<T>> {
        let uploaded = match self.uploaded.get() {
            Some(uploaded) => uploaded,
            None => {
                let copy = device.clone_htod(self.values.as_slice())?;
                self.uploaded.get_or_init(|| copy)
            }
        };
        if uploaded.ordinal() != device.cuda_stream().context().ordinal() {
            candle_core::bail!("values of one device used on another");
        }
        Ok(uploaded)
    }
}
