//! The head and the cross entropy of its logits.

use candle_core::{CudaStorage, Result, Shape, bail};

use super::super::head::HeadCrossEntropy;
use super::block::DeviceRows;
use super::{DeviceOp, Gradient, Operand};

impl DeviceOp<1> for HeadCrossEntropy {
    fn device_forward(&self, [y]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let logits = self.head.device_forward(y)?;
        let loss = self.loss.device_forward([logits.operand()?])?;
        *self.logits.lock().unwrap_or_else(|e| e.into_inner()) = Some(logits);
        Ok(loss)
    }

    fn device_backward(
        &self,
        [y]: [Operand<'_>; 1],
        result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let kept = self.logits.lock().unwrap_or_else(|e| e.into_inner()).take();
        let logits = match kept {
            Some(logits) => logits,
            None => self.head.device_forward(y)?,
        };
        let [dlogits] = self.loss.device_backward([logits.operand()?], result, grad, [true])?;
        let Gradient::Values(dlogits) = dlogits else { bail!("logits without gradient") };
        let dlogits = DeviceRows::from((dlogits, Shape::from(logits.operand()?.dims())));
        drop(logits);
        let dy = self.head.device_backward(y, dlogits.operand()?, None, &self.sink)?;
        Ok([Gradient::Values(dy.into_storage())])
    }
}
