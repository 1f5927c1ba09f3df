//! What the payload of a measured message carries, and which messages were seen.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a stamp; a payload is not shorter.
pub(super) const STAMP_BYTES: usize = 20;

/// Who sent which message when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) publisher: u32,
    pub(super) number: u64,
    /// Since the beginning of the run.
    pub(super) sent: Duration,
}

impl Stamp {
    /// Of a message that is sent now.
    pub(super) fn now(publisher: u32, number: u64, began: Instant) -> Stamp {
        Stamp { publisher, number, sent: began.elapsed() }
    }

    /// A payload with this stamp.
    pub(super) fn payload(self, size: usize) -> Bytes {
        let mut payload = BytesMut::with_capacity(size.max(STAMP_BYTES));
        payload.put_u32(self.publisher);
        payload.put_u64(self.number);
        payload.put_u64(u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX));
        payload.resize(size.max(STAMP_BYTES), b'.');
        payload.freeze()
    }

    /// Reads it; none if it is not ours.
    pub(super) fn read(payload: &[u8]) -> Option<Stamp> {
        let (publisher, rest) = payload.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (sent, _) = rest.split_first_chunk::<8>()?;
        Some(Stamp {
            publisher: u32::from_be_bytes(*publisher),
            number: u64::from_be_bytes(*number),
            sent: Duration::from_nanos(u64::from_be_bytes(*sent)),
        })
    }
}

/// A set of message numbers of one publisher.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Vec<u64>);

impl Numbers {
    /// Adds a number; false if it was there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = (usize::try_from(number / 64).unwrap_or(0), 1 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// How many of these the other has not.
    pub(super) fn missing_in(&self, other: &Numbers) -> u64 {
        let of_other = other.0.iter().copied().chain(std::iter::repeat(0));
        self.0
            .iter()
            .zip(of_other)
            .map(|(mine, theirs)| u64::from((mine & !theirs).count_ones()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp =
            Stamp { publisher: 7, number: 1 << 40, sent: Duration::from_nanos(123_456_789) };
        assert_eq!(stamp.payload(5).len(), STAMP_BYTES);
        let payload = stamp.payload(256);
        assert_eq!((payload.len(), Stamp::read(&payload)), (256, Some(stamp)));
        assert_eq!(Stamp::read(b"short"), None);
    }

    #[test]
    fn what_is_missing_is_counted() {
        let (mut sent, mut seen) = (Numbers::default(), Numbers::default());
        (0..200).for_each(|number| assert!(sent.insert(number)));
        (0..100).for_each(|number| assert!(seen.insert(number)));
        assert!(!seen.insert(99));
        assert_eq!((sent.missing_in(&seen), seen.missing_in(&sent)), (100, 0));
    }
}
