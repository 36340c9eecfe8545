//! A `.forge` file, read where it lies.

use core::fmt;

use crate::codec::{Codec, Matrix};
use crate::config::{CacheKind, Globals, MemoryKind, ModelConfig};
use crate::error::{Error, Result};
use crate::header::{
    ALIGN, FEATURE_CACHE_INT8, FEATURE_GLOBALS, FEATURE_MEMORY_TITANS, Header, align_up, crc32,
};
use crate::manifest::{Content, Head, Section, take};
use crate::role::Role;
use crate::tokenizer::TokenizerTable;
use crate::tools::{self, ToolTable};

/// A view of a whole file whose structure and content have been checked. See `docs/format.md`.
#[derive(Clone)]
pub struct File<'a> {
    header: Header,
    config: ModelConfig,
    sections: Sections<'a>,
    data: &'a [u8],
    tokenizer: TokenizerTable<'a>,
    card: &'a str,
    tools: Option<ToolTable<'a>>,
}

impl<'a> File<'a> {
    /// Checks everything but the sections' checksums: header, manifest, layout, tensor shapes, the content of
    /// every payload and the tokenizer table. Takes time linear in the file and no memory; any bytes give `Ok`
    /// or an error. After it, no accessor can fail. For damage in transit see [`File::verify`].
    ///
    /// # Errors
    /// The [`Error`] of the first check that fails.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        Self::read(bytes, false)
    }

    /// [`File::parse`] and [`File::verify`] in one walk, in which each section is checked while it lies in the
    /// processor's cache.
    ///
    /// # Errors
    /// The [`Error`] of the first check that fails, which is a section's checksum before its content.
    pub fn parse_verified(bytes: &'a [u8]) -> Result<Self> {
        Self::read(bytes, true)
    }

    fn read(bytes: &'a [u8], verify: bool) -> Result<Self> {
        let header = Header::parse(bytes)?;
        let (manifest, data) = header.split(bytes)?;
        let (mut head, mut records) = take::<Head>(manifest)?;
        if header.features & FEATURE_CACHE_INT8 != 0 {
            head.config.cache = CacheKind::Int8;
        }
        if header.features & FEATURE_MEMORY_TITANS != 0 {
            head.config.memory = MemoryKind::Titans;
            if !head.config.memory.is_linked() {
                return Err(Error::Feature("titans"));
            }
        }
        if header.features & FEATURE_GLOBALS != 0 {
            if !Globals::LINKED {
                return Err(Error::Feature("globals"));
            }
            (head.config.globals, records) = take::<Globals>(records)?;
        }
        head.config.validate()?;
        let sections = Sections { records, left: head.sections };
        let shape = head.config.memory_feature() | head.config.globals.feature();
        let mut features = header.features & FEATURE_CACHE_INT8 | shape;
        let mut layout = Layout { sections: sections.clone(), data, end: 0, ahead: None, verify };
        for (role, layer, shape) in head.config.tensors() {
            let (section, payload) = layout.next()?.ok_or(Error::Tensor(role.name()))?;
            features |= check_tensor(&section.content, payload, role, layer, shape)?.feature();
        }
        let tokenizer = layout.take(|c| matches!(c, Content::Tokenizer))?;
        let tokenizer = TokenizerTable::parse(tokenizer.ok_or(Error::Tokenizer("missing"))?)?;
        features |= tokenizer.feature();
        if features != header.features {
            return Err(Error::Manifest);
        }
        if tokenizer.vocab() != head.config.vocab {
            return Err(Error::Tokenizer("vocabulary differs from the model's"));
        }
        let card = match layout.take(|c| matches!(c, Content::Card))? {
            Some([]) => return Err(Error::Layout),
            Some(card) => core::str::from_utf8(card).map_err(|_| Error::Card)?,
            None => "",
        };
        // Before version 1.1 no tag had a meaning.
        let tools = layout.finish(if header.minor >= 1 { Some(tools::TAG) } else { None })?;
        let tools = tools.map(|bytes| ToolTable::parse(bytes, &tokenizer)).transpose()?;
        Ok(Self { header, config: head.config, sections, data, tokenizer, card, tools })
    }

    /// Checks the CRC-32 of every section.
    ///
    /// # Errors
    /// [`Error::Checksum`] with what the section holds.
    pub fn verify(&self) -> Result<()> {
        for section in self.sections() {
            if crc32(self.section_bytes(&section)) != section.crc {
                return Err(Error::Checksum(section.content.name()));
            }
        }
        Ok(())
    }

    /// Shape and hyper-parameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Version and lengths.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The tensor of a role and block, or `None` when this model has none. Walks the manifest: look a tensor up
    /// once, not once a token.
    pub fn tensor(&self, role: Role, layer: u32) -> Option<Matrix<'a>> {
        self.sections().find_map(|s| match s.content {
            Content::Tensor { role: r, layer: l, shape, codec } if (r, l) == (role, layer) => {
                Some(Matrix::validated(codec, shape, self.section_bytes(&s)))
            }
            _ => None,
        })
    }

    /// The tokenizer table.
    pub fn tokenizer(&self) -> TokenizerTable<'a> {
        self.tokenizer
    }

    /// The model card, JSON by convention; empty when there is none.
    pub fn card(&self) -> &'a str {
        self.card
    }

    /// What the tools take, if the file says so.
    pub fn tools(&self) -> Option<ToolTable<'a>> {
        self.tools
    }

    /// The sections in file order.
    pub fn sections(&self) -> Sections<'a> {
        self.sections.clone()
    }

    /// The bytes of one of this file's sections, without padding.
    pub fn section_bytes(&self, section: &Section) -> &'a [u8] {
        self.data_at(section.offset64, section.len)
    }

    /// `len` bytes at `offset64 * 64` of the data area; empty when they are not all there.
    #[inline]
    pub fn data_at(&self, offset64: u32, len: u32) -> &'a [u8] {
        let start = (offset64 as usize).checked_mul(ALIGN);
        let bytes = start.and_then(|at| self.data.get(at..)).and_then(|b| b.get(..len as usize));
        bytes.unwrap_or(&[])
    }
}

impl fmt::Debug for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("header", &self.header)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Decodes section records one at a time.
#[derive(Clone, Debug)]
pub struct Sections<'a> {
    records: &'a [u8],
    left: u16,
}

impl Sections<'_> {
    /// The next record, `None` after the last.
    fn read(&mut self) -> Result<Option<Section>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        let (section, rest) = take::<Section>(self.records)?;
        (self.records, self.left) = (rest, left);
        Ok(Some(section))
    }
}

impl Iterator for Sections<'_> {
    type Item = Section;

    fn next(&mut self) -> Option<Section> {
        // `File::parse` has decoded every record before.
        self.read().ok().flatten()
    }
}

/// Walks the sections while checking that they tile the data area.
struct Layout<'a> {
    sections: Sections<'a>,
    data: &'a [u8],
    /// End of the previous section.
    end: usize,
    /// A section read but not wanted by the last [`Layout::take`].
    ahead: Option<(Section, &'a [u8])>,
    /// Whether to check the sections' checksums.
    verify: bool,
}

impl<'a> Layout<'a> {
    /// The next section and its bytes. It must begin at the first aligned place after the previous one, with
    /// zeros between.
    fn next(&mut self) -> Result<Option<(Section, &'a [u8])>> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        let Some(section) = self.sections.read()? else {
            return Ok(None);
        };
        let start = align_up(self.end).ok_or(Error::Layout)?;
        if (section.offset64 as usize).checked_mul(ALIGN) != Some(start) {
            return Err(Error::Layout);
        }
        let end = start.checked_add(section.len as usize).ok_or(Error::Layout)?;
        let payload = self.data.get(start..end).ok_or(Error::Layout)?;
        if self.data.get(self.end..start).ok_or(Error::Layout)?.iter().any(|b| *b != 0) {
            return Err(Error::Trailing);
        }
        if self.verify && crc32(payload) != section.crc {
            return Err(Error::Checksum(section.content.name()));
        }
        self.end = end;
        Ok(Some((section, payload)))
    }

    /// The bytes of the next section if it is `wanted`; otherwise it stays next.
    fn take(&mut self, wanted: impl Fn(&Content) -> bool) -> Result<Option<&'a [u8]>> {
        self.ahead = self.next()?;
        match self.ahead {
            Some((section, bytes)) if wanted(&section.content) => {
                self.ahead = None;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }

    /// What is left may only be extras with rising tags; then manifest and data must both be used up. Returns the
    /// bytes of the extra with the `wanted` tag.
    fn finish(mut self, wanted: Option<u32>) -> Result<Option<&'a [u8]>> {
        let (mut last, mut found) = (None, None);
        while let Some((section, bytes)) = self.next()? {
            match section.content {
                Content::Extra { tag } if last < Some(tag) => {
                    last = Some(tag);
                    found = if last == wanted { Some(bytes) } else { found };
                }
                Content::Tensor { role, .. } => return Err(Error::Tensor(role.name())),
                _ => return Err(Error::Manifest),
            }
        }
        if !self.sections.records.is_empty() {
            return Err(Error::Manifest);
        }
        if self.end != self.data.len() {
            return Err(Error::Trailing);
        }
        Ok(found)
    }
}

/// The section must hold exactly this tensor, in a codec its role allows, with a valid payload. Returns the codec.
fn check_tensor(content: &Content, payload: &[u8], role: Role, layer: u32, shape: [u32; 2]) -> Result<Codec> {
    match content {
        Content::Tensor { role: r, layer: l, shape: s, codec }
            if (*r, *l, *s) == (role, layer, shape) && codec.allowed(role.kind()) =>
        {
            Matrix::new(*codec, shape, payload).map(|_| *codec)
        }
        _ => Err(Error::Tensor(role.name())),
    }
}
