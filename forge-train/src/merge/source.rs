//! One safetensors file, read tensor by tensor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, Result};

/// Longest header accepted, that of the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;

/// An open file and what its header says.
pub(super) struct Source {
    path: PathBuf,
    /// Where the values begin.
    start: u64,
    header: Metadata,
}

impl Source {
    /// Reads and checks the header.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let not = |why: String| Error::Usage {
            what: format!("`{}` is not a usable safetensors file: {why}", path.display()),
            hint: "copy the file again, or write it with `safetensors.torch.save_file`".into(),
        };
        let read = || Error::io("read", path);
        let mut file = File::open(path).map_err(read())?;
        let length = file.metadata().map_err(read())?.len();
        let mut size = [0; 8];
        if length < 8 {
            return Err(not(format!("it has {length} bytes and no header")));
        }
        file.read_exact(&mut size).map_err(read())?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER || size > length - 8 {
            return Err(not(format!("its header would have {size} bytes, the file has {length}")));
        }
        let mut json = Vec::new();
        file.take(size).read_to_end(&mut json).map_err(read())?;
        let header: Metadata = serde_json::from_slice(&json).map_err(|e| not(format!("header: {e}")))?;
        let start = 8 + size;
        let end = start.saturating_add(header.data_len() as u64);
        if end != length {
            return Err(not(format!("its tensors end at byte {end}, the file at {length}")));
        }
        let source = Self { path: path.to_path_buf(), start, header };
        for name in source.names() {
            let dtype = source.shape(&name)?.1;
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(not(format!("tensor `{name}` is {dtype}; only F32, F16 and BF16 can be merged")));
            }
        }
        Ok(source)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_unstable();
        names
    }

    pub(super) fn metadata(&self) -> Option<HashMap<String, String>> {
        // One entry only, so that the map's order cannot show in the bytes.
        let config = self.header.metadata().as_ref()?.get_key_value("config")?;
        Some(HashMap::from([(config.0.clone(), config.1.clone())]))
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| Error::Usage {
            what: format!("`{}` has no tensor `{name}`", self.path.display()),
            hint: "all models of a merge must have the same tensors".into(),
        })
    }

    pub(super) fn shape(&self, name: &str) -> Result<(&[usize], Dtype)> {
        self.info(name).map(|info| (info.shape.as_slice(), info.dtype))
    }

    /// Checks that `other` has the same tensors in the same shapes; types may differ.
    pub(super) fn same_shape(&self, other: &Source) -> Result<()> {
        let (here, there) = (self.path.display(), other.path.display());
        for name in self.names() {
            let (mine, theirs) = (self.shape(&name)?.0, other.shape(&name)?.0);
            if mine != theirs {
                return Err(Error::Usage {
                    what: format!("tensor `{name}` is {mine:?} in `{here}` and {theirs:?} in `{there}`"),
                    hint: "only models of one shape can be merged".into(),
                });
            }
        }
        other.names().iter().try_for_each(|name| self.info(name).map(|_| ()))
    }

    /// The values of a tensor.
    pub(super) fn read(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let mut file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        file.seek(SeekFrom::Start(self.start + from as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::io("read", &self.path))?;
        let half = |decode: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|c| decode(*c)).collect();
        Ok(match info.dtype {
            Dtype::F16 => half(|c| f16::from_le_bytes(c).to_f32()),
            Dtype::BF16 => half(|c| bf16::from_le_bytes(c).to_f32()),
            _ => bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
        })
    }
}

/// The bytes of `values` in the file.
pub(super) fn encode(values: &[f32], dtype: Dtype, name: &str) -> Result<Vec<u8>> {
    let overflow = || {
        Error::Config(format!(
            "merged tensor `{name}` has values beyond the range of {dtype}; set `dtype = \"f32\"`"
        ))
    };
    match dtype {
        Dtype::F16 => {
            let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            if halves.iter().any(|h| !h.is_finite()) {
                return Err(overflow());
            }
            Ok(halves.iter().flat_map(|h| h.to_le_bytes()).collect())
        }
        Dtype::BF16 => {
            let halves: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
            if halves.iter().any(|h| !h.is_finite()) {
                return Err(overflow());
            }
            Ok(halves.iter().flat_map(|h| h.to_le_bytes()).collect())
        }
        _ => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}
