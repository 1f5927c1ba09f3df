//! Reads the data types of MQTT (§1.5) from a packet.

use super::DecodeError;

const SHORT: DecodeError = DecodeError::Malformed("packet ends early");

/// What is left of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Reader { rest }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::Malformed("bytes after the end")) }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A packet id: never 0.
    pub(super) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::Malformed("packet id 0")),
            id => Ok(id),
        }
    }

    /// 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Protocol("flag is neither 0 nor 1")),
        }
    }

    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        match varint(self.rest)? {
            Some((value, bytes)) => {
                self.rest = &self.rest[bytes..];
                Ok(value)
            }
            None => Err(SHORT),
        }
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| DecodeError::Malformed("text is not UTF-8"))?;
        if bytes.contains(&0) {
            return Err(DecodeError::Malformed("U+0000 in text"));
        }
        Ok(text)
    }

    /// The properties at this place.
    pub(super) fn properties(&mut self) -> Result<Reader<'a>, DecodeError> {
        let bytes = self.varint()?;
        Ok(Reader::new(self.take(bytes as usize)?))
    }
}

/// The variable byte integer at the start, and its length; `None` if it is cut short.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if *byte == 0 && at > 0 {
                return Err(DecodeError::Malformed("over-long integer"));
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(DecodeError::Malformed("integer above the maximum"));
    }
    Ok(None)
}

/// Notes that a property that may come once has come.
pub(super) fn once(seen: &mut u64, id: u8) -> Result<(), DecodeError> {
    let bit = 1u64 << (id & 63);
    if *seen & bit != 0 {
        return Err(DecodeError::Protocol("property comes twice"));
    }
    *seen |= bit;
    Ok(())
}
