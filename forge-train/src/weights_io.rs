//! Weights as safetensors bytes: names `<role>.<layer>`, the model's config as JSON in the metadata.
//!
//! The bytes are a function of the weights alone, so equal weights have equal hashes.

use std::collections::{BTreeMap, HashMap};

use forge_formats::config::ModelConfig;
use forge_formats::role::Role;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Error, Result};
use crate::weights::{Key, Matrix, Weights};

/// Metadata key of the model's config.
const CONFIG: &str = "config";

/// Serialises `weights`.
///
/// # Errors
/// [`Error::Artifact`] when a matrix's length is not its rows times its columns.
pub fn to_bytes(weights: &Weights) -> Result<Vec<u8>> {
    let config = serde_json::to_string(&weights.config).map_err(|e| damaged(&e))?;
    // One entry only: the map's order cannot show in the bytes.
    serialise(&weights.tensors, Some(HashMap::from([(CONFIG.to_owned(), config)])))
}

/// Serialises matrices that are not a whole model.
///
/// # Errors
/// As [`to_bytes`].
pub fn tensors_to_bytes(tensors: &BTreeMap<Key, Matrix>) -> Result<Vec<u8>> {
    serialise(tensors, None)
}

/// Reads what [`tensors_to_bytes`] wrote.
///
/// # Errors
/// [`Error::Artifact`] when the bytes are not safetensors of f32 matrices named by role.
pub fn tensors_from_bytes(bytes: &[u8]) -> Result<BTreeMap<Key, Matrix>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(&e))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let key = key(name).ok_or_else(|| Error::Artifact(format!("tensors: no role is called {name}")))?;
        let [rows, cols] = *view.shape() else {
            return Err(Error::Artifact(format!("tensors: {name} is not a matrix")));
        };
        tensors.insert(key, read(&view, name, rows, cols)?);
    }
    Ok(tensors)
}

fn serialise(tensors: &BTreeMap<Key, Matrix>, metadata: Option<HashMap<String, String>>) -> Result<Vec<u8>> {
    let payloads: Vec<(String, [usize; 2], Vec<u8>)> = tensors
        .iter()
        .map(|(&(role, layer), m)| (name(role, layer), [m.rows, m.cols], little_endian(&m.data)))
        .collect();
    let mut views = Vec::with_capacity(payloads.len());
    for (name, shape, bytes) in &payloads {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes)
            .map_err(|e| Error::Artifact(format!("weights: {name}: {e}")))?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize(views, metadata).map_err(|e| damaged(&e))
}

fn read(view: &TensorView<'_>, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
    if view.dtype() != Dtype::F32 || view.shape() != [rows, cols] {
        let found = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(Error::Artifact(format!("weights: {name} is {found}, expected F32 [{rows}, {cols}]")));
    }
    let data = view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    Ok(Matrix { rows, cols, data })
}

/// Reads what [`to_bytes`] wrote.
///
/// # Errors
/// [`Error::Artifact`] saying what is missing, of the wrong shape or not of this model.
pub fn from_bytes(bytes: &[u8]) -> Result<Weights> {
    let config = read_config(bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(&e))?;
    let mut tensors = BTreeMap::new();
    for (role, layer, shape) in config.tensors() {
        let name = name(role, layer);
        let view = file.tensor(&name).map_err(|_| Error::Artifact(format!("weights: {name} is missing")))?;
        let [rows, cols] = shape.map(|n| n as usize);
        tensors.insert((role, layer), read(&view, &name, rows, cols)?);
    }
    if let Some(extra) = file.names().iter().find(|n| !tensors.keys().any(|&(r, l)| name(r, l) == **n)) {
        return Err(Error::Artifact(format!("weights: {extra} is not part of this model")));
    }
    Ok(Weights { config, tensors })
}

/// Reads only the model's config.
///
/// # Errors
/// [`Error::Artifact`] when the bytes are not safetensors or carry no valid config.
pub fn read_config(bytes: &[u8]) -> Result<ModelConfig> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(&e))?;
    let json = metadata.metadata().as_ref().and_then(|m| m.get(CONFIG));
    let json = json.ok_or_else(|| Error::Artifact("weights: the metadata has no `config`".into()))?;
    let config: ModelConfig = serde_json::from_str(json).map_err(|e| damaged(&e))?;
    config.validate()?;
    Ok(config)
}

fn name(role: Role, layer: u32) -> String {
    format!("{}.{layer}", role.name())
}

fn key(name: &str) -> Option<Key> {
    let (role, layer) = name.split_once('.')?;
    Some((Role::ALL.into_iter().find(|r| r.name() == role)?, layer.parse().ok()?))
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn damaged(why: &dyn std::fmt::Display) -> Error {
    Error::Artifact(format!("weights are damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Preset};

    fn weights() -> Weights {
        let mut config = Config::preset(Preset::Nano).model_config(300);
        config.dim = 16;
        config.ffn = 8;
        Weights::init(&config, 3)
    }

    fn reason(bytes: &[u8]) -> String {
        from_bytes(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_round_trip_is_exact_and_its_bytes_are_reproducible() {
        let mut weights = weights();
        weights.tensors.values_mut().next().unwrap().data[0] = f32::from_bits(1);
        let bytes = to_bytes(&weights).unwrap();
        let again = from_bytes(&bytes).unwrap();
        assert_eq!(again, weights);
        assert_eq!(to_bytes(&again).unwrap(), bytes);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("qkv.1").unwrap().shape(), [256, 16]);
    }

    #[test]
    fn loose_tensors_round_trip() {
        let tensors = BTreeMap::from([
            ((Role::Down, 1), Matrix { rows: 1, cols: 2, data: vec![1.0, -2.0] }),
            ((Role::Qkv, 0), Matrix { rows: 2, cols: 1, data: vec![3.0, f32::MIN_POSITIVE] }),
        ]);
        let bytes = tensors_to_bytes(&tensors).unwrap();
        assert_eq!(tensors_from_bytes(&bytes).unwrap(), tensors);
        let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        for name in ["nothing.0", "down.x", "down.0"] {
            let bytes = safetensors::serialize([(name, &view)], None).unwrap();
            assert!(tensors_from_bytes(&bytes).is_err(), "{name}");
        }
    }

    #[test]
    fn errors_name_the_tensor() {
        let mut missing = weights();
        missing.tensors.remove(&(Role::Down, 1));
        assert!(reason(&to_bytes(&missing).unwrap()).contains("down.1 is missing"));
        let mut wrong = weights();
        wrong.tensors.insert((Role::Down, 0), Matrix::zeros(8, 16));
        assert!(reason(&to_bytes(&wrong).unwrap()).contains("down.0 is F32 [8, 16]"));
        let mut extra = weights();
        extra.tensors.insert((Role::Head, 0), Matrix::zeros(1, 1));
        assert!(reason(&to_bytes(&extra).unwrap()).contains("head.0 is not part"));
        let mut torn = weights();
        torn.tensors.get_mut(&(Role::Down, 0)).unwrap().data.pop();
        assert!(to_bytes(&torn).unwrap_err().to_string().contains("down.0"));
    }

    #[test]
    fn hostile_bytes_give_errors() {
        let bytes = to_bytes(&weights()).unwrap();
        assert!(from_bytes(b"").is_err());
        assert!(from_bytes(&bytes[..bytes.len() / 2]).is_err());
        assert!(from_bytes(&[0xff; 64]).is_err());
        let plain = safetensors::serialize(Vec::<(String, TensorView)>::new(), None).unwrap();
        assert!(reason(&plain).contains("no `config`"));
    }
}
