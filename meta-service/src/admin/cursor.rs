//! Where the next page begins, as text that only this module reads: protobuf in base64url.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use super::problem::{Kind, Refused};

/// Longest cursor that is looked at: a client id, or a position for each of 1024 shards.
const BYTES_MAX: usize = 128 << 10;

/// A cursor's text.
pub(crate) fn write(cursor: &impl Message) -> String {
    URL_SAFE_NO_PAD.encode(cursor.encode_to_vec())
}

/// The cursor of a request, if it has one.
pub(crate) fn read<M: Message + Default>(after: Option<&str>) -> Result<Option<M>, Refused> {
    let Some(text) = after else { return Ok(None) };
    let bytes = (text.len() <= BYTES_MAX).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
    let cursor = bytes.filter(|bytes| !bytes.is_empty()).and_then(|bytes| M::decode(&*bytes).ok());
    cursor.map(Some).ok_or_else(|| {
        let detail = "`after` must be `next` of the page before, as it was: begin without it";
        Refused::new(Kind::Cursor, detail)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

    use holdfast_proto::shard::ClientKey;

    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_fits_into_a_url() {
        let key = ClientKey { namespace: 7, client_id: "a/ü?&".into() };
        let text = write(&key);
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{text}");
        assert_eq!(read::<ClientKey>(Some(&text)).unwrap(), Some(key));
        assert_eq!(read::<ClientKey>(None).unwrap(), None);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let long = "A".repeat(BYTES_MAX + 4);
        for text in ["", "a b", "====", "_____w", &long] {
            assert_eq!(read::<ClientKey>(Some(text)).unwrap_err().kind, Kind::Cursor, "{text:.20}");
        }
    }
}
