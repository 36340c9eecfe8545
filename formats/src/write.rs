//! Writes a `.forge` file.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use crate::codec::Codec;
use crate::config::{CacheKind, ModelConfig};
use crate::error::{Error, Result};
use crate::file::File;
use crate::header::{ALIGN, FEATURE_CACHE_INT8, Header, MINOR, align_up, crc32};
use crate::manifest::{Content, Head, RECORD_MAX, Section};
use crate::role::Role;
use crate::tokenizer::TokenizerTable;
use crate::tools;

/// Collects the parts of a file, in any order.
#[derive(Clone, Debug)]
pub struct Writer {
    config: ModelConfig,
    tensors: BTreeMap<(Role, u32), (Codec, Vec<u8>)>,
    repeated: Option<Role>,
    tokenizer: Vec<u8>,
    card: String,
    extras: BTreeMap<u32, Vec<u8>>,
    tools: bool,
}

impl Writer {
    /// A file for a model of this shape.
    pub fn new(config: ModelConfig) -> Self {
        Self {
            config,
            tensors: BTreeMap::new(),
            repeated: None,
            tokenizer: Vec::new(),
            card: String::new(),
            extras: BTreeMap::new(),
            tools: false,
        }
    }

    /// Everything in a file, to change some of it and write it again.
    pub fn from_file(file: &File<'_>) -> Self {
        let mut writer = Self::new(file.config().clone());
        for section in file.sections() {
            let bytes = file.section_bytes(&section);
            writer = match section.content {
                Content::Tensor { role, layer, codec, .. } => {
                    writer.tensor(role, layer, codec, Vec::from(bytes))
                }
                Content::Tokenizer => writer.tokenizer(bytes),
                Content::Card => writer.card(file.card()),
                Content::Extra { tag: tools::TAG } if file.tools().is_some() => writer.tools(bytes),
                Content::Extra { tag } => writer.extra(tag, bytes),
            };
        }
        writer
    }

    /// Like [`Writer::tensor`], but takes the place of the tensor that is there already.
    #[must_use]
    pub fn replace(mut self, role: Role, layer: u32, codec: Codec, payload: Vec<u8>) -> Self {
        self.tensors.insert((role, layer), (codec, payload));
        self
    }

    /// Adds a coded tensor; its shape follows from role and config.
    #[must_use]
    pub fn tensor(mut self, role: Role, layer: u32, codec: Codec, payload: Vec<u8>) -> Self {
        if self.tensors.insert((role, layer), (codec, payload)).is_some() {
            self.repeated = Some(role);
        }
        self
    }

    /// Sets the probability above which a token halts: 1 and more never, below 0 always after the first recursion.
    #[must_use]
    pub fn halt_threshold(mut self, threshold: f32) -> Self {
        self.config.halt_threshold = threshold;
        self
    }

    /// Sets the tokenizer table.
    #[must_use]
    pub fn tokenizer(mut self, table: impl Into<Vec<u8>>) -> Self {
        self.tokenizer = table.into();
        self
    }

    /// Sets the model card, JSON by convention; an empty one is left out of the file.
    #[must_use]
    pub fn card(mut self, card: impl Into<String>) -> Self {
        self.card = card.into();
        self
    }

    /// Adds data that readers may skip. From version 1.1 on they take tag 1 for the tool table: see [`Writer::tools`].
    #[must_use]
    pub fn extra(mut self, tag: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.extras.insert(tag, bytes.into());
        self
    }

    /// Sets the tool table (see [`crate::tools::to_bytes`]), which makes the file one of version 1.1.
    #[must_use]
    pub fn tools(mut self, table: impl Into<Vec<u8>>) -> Self {
        self.tools = true;
        self.extra(tools::TAG, table)
    }

    /// The file. The same parts give the same bytes, in whatever order they were added.
    ///
    /// # Errors
    /// The [`Error`] with which [`File::parse`] would refuse the result.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.config.validate()?;
        if let Some(role) = self.repeated {
            return Err(Error::Tensor(role.name()));
        }
        let (sections, data) = self.lay_out()?;
        let count = u16::try_from(sections.len()).map_err(|_| Error::Layout)?;
        let mut manifest = Vec::new();
        put(&mut manifest, &Head { config: self.config.clone(), sections: count })?;
        if self.config.globals.any() {
            put(&mut manifest, &self.config.globals)?;
        }
        for section in &sections {
            put(&mut manifest, section)?;
        }
        let features = self.features();
        let minor = if self.tools || features != 0 { MINOR } else { 0 };
        let header = Header { minor, features, ..Header::new(&manifest, data.len() as u64)? };
        let mut out = Vec::with_capacity(header.data_offset as usize + data.len());
        out.extend(header.to_bytes());
        out.extend(manifest);
        out.resize(header.data_offset as usize, 0);
        out.extend(data);
        File::parse(&out)?;
        Ok(out)
    }

    /// What a reader must understand.
    fn features(&self) -> u32 {
        let cache = match self.config.cache {
            CacheKind::F32 => 0,
            CacheKind::Int8 => FEATURE_CACHE_INT8,
        };
        let shape = cache | self.config.memory_feature() | self.config.globals.feature();
        // A table that cannot be parsed is refused with the file.
        let tokenizer = TokenizerTable::parse(&self.tokenizer).map_or(0, |table| table.feature());
        self.tensors.values().fold(shape | tokenizer, |features, (codec, _)| features | codec.feature())
    }

    /// Places the sections in file order.
    fn lay_out(&self) -> Result<(Vec<Section>, Vec<u8>)> {
        let mut area = Area { sections: Vec::new(), data: Vec::new() };
        let mut left = self.tensors.len();
        for (role, layer, shape) in self.config.tensors() {
            let missing = Error::Tensor(role.name());
            let (codec, payload) = self.tensors.get(&(role, layer)).ok_or(missing)?;
            area.push(Content::Tensor { role, layer, shape, codec: *codec }, payload)?;
            left = left.saturating_sub(1);
        }
        if left > 0 {
            let stray = |(role, layer): &&(Role, u32)| role.shape(&self.config, *layer).is_none();
            let role = self.tensors.keys().find(stray).map_or("", |(role, _)| role.name());
            return Err(Error::Tensor(role));
        }
        area.push(Content::Tokenizer, &self.tokenizer)?;
        if !self.card.is_empty() {
            area.push(Content::Card, self.card.as_bytes())?;
        }
        for (tag, bytes) in &self.extras {
            area.push(Content::Extra { tag: *tag }, bytes)?;
        }
        Ok((area.sections, area.data))
    }
}

/// The data area under construction.
struct Area {
    sections: Vec<Section>,
    data: Vec<u8>,
}

impl Area {
    fn push(&mut self, content: Content, bytes: &[u8]) -> Result<()> {
        let start = align_up(self.data.len()).ok_or(Error::Layout)?;
        let offset64 = u32::try_from(start / ALIGN).map_err(|_| Error::Layout)?;
        let len = u32::try_from(bytes.len()).map_err(|_| Error::Layout)?;
        self.data.resize(start, 0);
        self.data.extend(bytes);
        self.sections.push(Section { content, offset64, len, crc: crc32(bytes) });
        Ok(())
    }
}

/// Appends a record to the manifest.
fn put<T: Serialize>(manifest: &mut Vec<u8>, record: &T) -> Result<()> {
    let mut buffer = [0; RECORD_MAX];
    let bytes = postcard::to_slice(record, &mut buffer).map_err(|_| Error::Manifest)?;
    manifest.extend_from_slice(bytes);
    Ok(())
}
