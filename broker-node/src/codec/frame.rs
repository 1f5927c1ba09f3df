//! The fixed header (§2.1): where a packet ends.

use super::DecodeError;
use super::reader::varint;

/// One whole packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Type and flags.
    pub(crate) first: u8,
    /// Variable header and payload.
    pub(crate) body: &'a [u8],
    /// Length of all of it.
    pub(crate) bytes: usize,
}

/// The packet at the start of `bytes`, if all of it is there. Type, flags and size are checked as soon
/// as they are known.
pub(crate) fn next_frame(bytes: &[u8], bytes_max: usize) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    check_flags(first)?;
    let Some((remaining, header)) = varint(&bytes[1..])? else { return Ok(None) };
    let total = 1 + header + remaining as usize;
    if total > bytes_max {
        return Err(DecodeError::TooLarge);
    }
    let body = bytes.get(1 + header..total);
    Ok(body.map(|body| Frame { first, body, bytes: total }))
}

fn check_flags(first: u8) -> Result<(), DecodeError> {
    let (kind, flags) = (first >> 4, first & 0x0F);
    let fits = match kind {
        1 | 4 | 5 | 7 | 12 | 14 | 15 => flags == 0,
        3 => flags & 0b0110 != 0b0110 && (flags & 0b0110 != 0 || flags & 0b1000 == 0),
        6 | 8 | 10 => flags == 0b0010,
        _ => return Err(DecodeError::Protocol("packet type is not for a server")),
    };
    if fits { Ok(()) } else { Err(DecodeError::Malformed("reserved flags")) }
}
