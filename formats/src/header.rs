//! The 64 bytes every `.forge` file begins with.

use crc::{CRC_32_ISO_HDLC, Crc};

use crate::error::{Error, Result};

/// Begins every file; catches text-mode and 7-bit damage the way PNG's signature does.
pub const MAGIC: [u8; 8] = *b"\x89FORGE\r\n";
/// Version this crate reads: any other major is refused.
pub const MAJOR: u16 = 1;
/// Newest version this crate writes; newer minors are read. A file says the oldest version that has all it uses.
pub const MINOR: u16 = 1;
/// Feature bit: sessions keep keys and values as signed bytes ([`crate::config::CacheKind::Int8`]).
pub const FEATURE_CACHE_INT8: u32 = 1;
/// Feature bit: a tensor is coded as [`crate::Codec::TernaryRans`].
pub const FEATURE_TERNARY_RANS: u32 = 2;
/// Feature bit: a tensor is coded as [`crate::Codec::TernarySparse`].
pub const FEATURE_TERNARY_SPARSE: u32 = 4;
/// Feature bit: the tokenizer has tokens of some bytes only ([`crate::Alphabet`]).
pub const FEATURE_ALPHABET: u32 = 8;
/// Feature bit: memories are matrices ([`crate::config::MemoryKind::Titans`]).
pub const FEATURE_MEMORY_TITANS: u32 = 16;
/// Feature bit: tokens attend to global positions beyond the window ([`crate::config::Globals`]), whose record follows
/// the manifest's first.
pub const FEATURE_GLOBALS: u32 = 32;
/// Feature bits this crate understands; any other set bit is refused.
pub const FEATURES: u32 = FEATURE_CACHE_INT8
    | FEATURE_TERNARY_RANS
    | FEATURE_TERNARY_SPARSE
    | FEATURE_ALPHABET
    | FEATURE_MEMORY_TITANS
    | FEATURE_GLOBALS;
/// Sections begin at multiples of this.
pub const ALIGN: usize = 64;
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Longest manifest.
pub const MANIFEST_MAX: usize = 65_536;

/// 1 KiB of table: fast enough for flash, small enough for a microcontroller.
static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// CRC-32 as in zip, PNG and Ethernet.
pub fn crc32(bytes: &[u8]) -> u32 {
    #[cfg(feature = "std")]
    return crc32fast::hash(bytes);
    #[cfg(not(feature = "std"))]
    crc32_by_table(bytes)
}

/// The same without instructions for it: what devices do.
pub fn crc32_by_table(bytes: &[u8]) -> u32 {
    CRC32.checksum(bytes)
}

/// The fields that vary from file to file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Minor version of the writer.
    pub minor: u16,
    /// Must-understand bits.
    pub features: u32,
    /// Bytes of manifest, which begins right after the header.
    pub manifest_len: u32,
    /// Where the data area begins: the end of the manifest rounded up to [`ALIGN`].
    pub data_offset: u32,
    /// Bytes from there to the end of the file.
    pub data_len: u64,
    /// CRC-32 of the manifest.
    pub manifest_crc: u32,
}

impl Header {
    /// Header of a file of version 1.0 with this manifest and this much data; a file that uses more sets `minor` and
    /// `features`.
    pub fn new(manifest: &[u8], data_len: u64) -> Result<Self> {
        if manifest.len() > MANIFEST_MAX {
            return Err(Error::Manifest);
        }
        let data_offset = align_up(HEADER_LEN + manifest.len()).ok_or(Error::Manifest)? as u32;
        let manifest_len = manifest.len() as u32;
        let manifest_crc = crc32(manifest);
        Ok(Self { minor: 0, features: 0, manifest_len, data_offset, data_len, manifest_crc })
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let fields = MAGIC
            .into_iter()
            .chain(MAJOR.to_le_bytes())
            .chain(self.minor.to_le_bytes())
            .chain(self.features.to_le_bytes())
            .chain(self.manifest_len.to_le_bytes())
            .chain(self.data_offset.to_le_bytes())
            .chain(self.data_len.to_le_bytes())
            .chain(self.manifest_crc.to_le_bytes());
        out.iter_mut().zip(fields).for_each(|(o, b)| *o = b);
        if let Some((covered, crc)) = out.split_last_chunk_mut::<4>() {
            *crc = crc32(covered).to_le_bytes();
        }
        out
    }

    /// Reads and checks the header against itself and the length of the file.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Version`] (also for a feature that the file's own version has not), [`Error::Checksum`], [`Error::Truncated`], [`Error::Trailing`],
    /// [`Error::Manifest`] or [`Error::Layout`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let magic = bytes.first_chunk::<8>().ok_or(Error::Truncated("header"))?;
        if *magic != MAGIC {
            return Err(Error::Magic);
        }
        let raw = bytes.first_chunk::<HEADER_LEN>().ok_or(Error::Truncated("header"))?;
        // The major comes before the checksum: another major may have put its checksum elsewhere.
        if u16::from_le_bytes(field(raw, 8)) != MAJOR {
            return Err(Error::Version);
        }
        if u32::from_le_bytes(field(raw, 60)) != crc32(&field::<60>(raw, 0)) {
            return Err(Error::Checksum("header"));
        }
        let header = Self {
            minor: u16::from_le_bytes(field(raw, 10)),
            features: u32::from_le_bytes(field(raw, 12)),
            manifest_len: u32::from_le_bytes(field(raw, 16)),
            data_offset: u32::from_le_bytes(field(raw, 20)),
            data_len: u64::from_le_bytes(field(raw, 24)),
            manifest_crc: u32::from_le_bytes(field(raw, 32)),
        };
        // Version 1.0 has no features.
        if header.features & !FEATURES != 0 || header.features != 0 && header.minor == 0 {
            return Err(Error::Version);
        }
        if field::<24>(raw, 36) != [0; 24] {
            return Err(Error::Trailing);
        }
        header.check_lengths(bytes.len())?;
        Ok(header)
    }

    /// The header, manifest and data lengths must add up to the file's, to the byte.
    fn check_lengths(&self, file_len: usize) -> Result<()> {
        let manifest_len = self.manifest_len as usize;
        if manifest_len > MANIFEST_MAX {
            return Err(Error::Manifest);
        }
        if align_up(HEADER_LEN + manifest_len) != Some(self.data_offset as usize) {
            return Err(Error::Layout);
        }
        let end = u64::from(self.data_offset).checked_add(self.data_len).ok_or(Error::Layout)?;
        match end.cmp(&(file_len as u64)) {
            core::cmp::Ordering::Greater => Err(Error::Truncated("data")),
            core::cmp::Ordering::Less => Err(Error::Trailing),
            core::cmp::Ordering::Equal => Ok(()),
        }
    }

    /// The manifest and the data area; the gap between them is zero and the manifest's checksum right.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Checksum`] or [`Error::Trailing`].
    pub fn split<'a>(&self, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
        let cut = |b: &'a [u8], at| b.split_at_checked(at).ok_or(Error::Truncated("manifest"));
        let (front, data) = cut(bytes, self.data_offset as usize)?;
        let (_, rest) = cut(front, HEADER_LEN)?;
        let (manifest, gap) = cut(rest, self.manifest_len as usize)?;
        if crc32(manifest) != self.manifest_crc {
            return Err(Error::Checksum("manifest"));
        }
        if gap.iter().any(|b| *b != 0) {
            return Err(Error::Trailing);
        }
        Ok((manifest, data))
    }
}

/// Rounds up to a multiple of [`ALIGN`].
pub(crate) fn align_up(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(ALIGN)
}

/// `N` bytes of the header from `at` on.
fn field<const N: usize>(raw: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    raw.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
}
