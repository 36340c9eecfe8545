//! Merges of any set of .safetensors files of the same shape: the operators of phase 2 on named tensors.
//!
//! A [`Recipe`] names the files, the method and its numbers; [`merge`] reads tensor by tensor and writes as it
//! goes, so that memory holds one tensor of each model whatever the size of the files. Every check that needs no
//! values comes before the first byte is written, and the output appears whole or not at all. docs/merging.md
//! compares each method with mergekit's.

mod method;
mod recipe;
mod source;
#[cfg(test)]
mod tests;

use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, Result};
use crate::pipeline::durable;
use method::Plan;
pub use recipe::{DtypeName, Method, ModelEntry, Override, Recipe};
use source::{Source, encode};

/// What a merge wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Models merged, without the base.
    pub models: usize,
    /// Tensors written.
    pub tensors: usize,
    /// Values written.
    pub parameters: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Carries out `recipe`; relative paths in it start from `directory`.
///
/// # Errors
/// [`Error::Usage`] or [`Error::Config`] when a file is no safetensors file of floats, the models differ in their
/// tensors, the recipe does not fit them, or a merged value is not finite; [`Error::Io`] when a file cannot be read
/// or written. Nothing is written then.
pub fn merge(recipe: &Recipe, directory: &Path) -> Result<Summary> {
    recipe.validate()?;
    let models = recipe
        .models
        .iter()
        .map(|m| Source::open(&directory.join(&m.path)))
        .collect::<Result<Vec<Source>>>()?;
    let base = recipe.base.as_ref().map(|path| Source::open(&directory.join(path))).transpose()?;
    let output = directory.join(&recipe.output);
    let first = models.first().ok_or_else(|| Error::Config("a merge needs at least one model".into()))?;
    for other in models.iter().skip(1).chain(&base) {
        first.same_shape(other)?;
    }
    refuse_input_as_output(&output, models.iter().chain(&base))?;
    let plan = Plan::new(recipe, &first.names())?;
    let tensors = layout(first, recipe.dtype)?;
    let header = header(first, &tensors)?;
    let mut summary = Summary { models: models.len(), tensors: tensors.len(), parameters: 0, bytes: 0 };
    durable::write_with(&output, |file| {
        let mut out = BufWriter::new(file);
        let write =
            |out: &mut BufWriter<_>, bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write", &output));
        write(&mut out, &header)?;
        summary.bytes = header.len() as u64;
        for (name, info) in &tensors {
            let merged = plan.tensor(name, base.as_ref(), &models)?;
            if let Some(at) = merged.iter().position(|v| !v.is_finite()) {
                return Err(Error::Config(format!("value {at} of merged tensor `{name}` is not finite")));
            }
            let bytes = encode(&merged, info.dtype, name)?;
            write(&mut out, &bytes)?;
            summary.parameters += merged.len() as u64;
            summary.bytes += bytes.len() as u64;
        }
        out.flush().map_err(Error::io("write", &output))
    })?;
    Ok(summary)
}

/// An output that is one of the inputs would replace what it was made from.
fn refuse_input_as_output<'a>(output: &Path, inputs: impl Iterator<Item = &'a Source>) -> Result<()> {
    let Ok(real) = output.canonicalize() else {
        return Ok(());
    };
    match inputs.map(Source::path).find(|input| input.canonicalize().is_ok_and(|path| path == real)) {
        Some(input) => Err(Error::Usage {
            what: format!("the output `{}` is also an input", input.display()),
            hint: "give `output` another name".into(),
        }),
        None => Ok(()),
    }
}

/// The tensors of the output with their places: widest type first, then by name, as the safetensors crate writes.
fn layout(first: &Source, dtype: Option<DtypeName>) -> Result<Vec<(String, TensorInfo)>> {
    let mut tensors = Vec::new();
    for name in first.names() {
        let (shape, own) = first.shape(&name)?;
        tensors.push((name, shape.to_vec(), dtype.map_or(own, DtypeName::dtype)));
    }
    tensors.sort_by(|a, b| b.2.bitsize().cmp(&a.2.bitsize()).then_with(|| a.0.cmp(&b.0)));
    let mut start = 0;
    let mut place = |(name, shape, dtype): (String, Vec<usize>, Dtype)| {
        let data_offsets = (start, start + shape.iter().product::<usize>() * dtype.bitsize() / 8);
        start = data_offsets.1;
        (name, TensorInfo { dtype, shape, data_offsets })
    };
    Ok(tensors.into_iter().map(&mut place).collect())
}

/// Length and header of the output, with the first model's metadata: its config, where Forge wrote it.
fn header(first: &Source, tensors: &[(String, TensorInfo)]) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| Error::Config(format!("cannot lay out the merged file: {e}"));
    let metadata = Metadata::new(first.metadata(), tensors.to_vec()).map_err(|e| failed(&e))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| failed(&e))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
