//! Makes a damaged file's checksums and lengths right again, so that the damage reaches the code behind them. The
//! parser under test is the released one: no check is switched off.

use forge_formats::header::{ALIGN, HEADER_LEN, crc32};
use forge_formats::manifest::{Head, Section};

/// Makes the checksums of manifest and header right, as far as the file has them.
pub(crate) fn checksums(bytes: &mut [u8]) {
    let Some((header, after)) = bytes.split_first_chunk_mut::<HEADER_LEN>() else { return };
    let manifest_len = u32::from_le_bytes(header[16..20].try_into().expect("four bytes")) as usize;
    let manifest = &after[..manifest_len.min(after.len())];
    header[32..36].copy_from_slice(&crc32(manifest).to_le_bytes());
    let crc = crc32(&header[..HEADER_LEN - 4]);
    header[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the header's lengths those of the records that are there and of the file, and the checksums right.
pub(crate) fn lengths(bytes: &mut Vec<u8>) {
    if bytes.len() < HEADER_LEN {
        return;
    }
    let Some(manifest_len) = records(&bytes[HEADER_LEN..]) else { return };
    let data_offset = (HEADER_LEN + manifest_len).next_multiple_of(ALIGN);
    if bytes.len() < data_offset {
        bytes.resize(data_offset, 0);
    }
    let data_len = (bytes.len() - data_offset) as u64;
    bytes[16..20].copy_from_slice(&(manifest_len as u32).to_le_bytes());
    bytes[20..24].copy_from_slice(&(data_offset as u32).to_le_bytes());
    bytes[24..32].copy_from_slice(&data_len.to_le_bytes());
    checksums(bytes);
}

/// Bytes of the head and as many section records as it counts.
fn records(bytes: &[u8]) -> Option<usize> {
    let (head, mut rest) = postcard::take_from_bytes::<Head>(bytes).ok()?;
    for _ in 0..head.sections {
        (_, rest) = postcard::take_from_bytes::<Section>(rest).ok()?;
    }
    Some(bytes.len() - rest.len())
}
