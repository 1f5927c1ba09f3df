//! A round: what one write and one sync make durable.

use std::io::{self, IoSlice};

use bytes::Bytes;

use super::frame::{
    FLAG_COPY, HEADER_BYTES, Header, Kind, Place, ROUND_ALIGN, ROUND_HEADER_BYTES, RoundHeader,
    Seed, frame_bytes, member_bit, padded,
};
use super::spot::Spot;
use super::table::Item;
use super::{Done, ReplicaKey};
use crate::disk::DiskFile;

const ZEROS: [u8; ROUND_ALIGN as usize] = [0; ROUND_ALIGN as usize];

/// A frame on its way to the disk.
pub(crate) struct Frame {
    pub(crate) key: ReplicaKey,
    pub(crate) kind: Kind,
    pub(crate) index: u64,
    pub(crate) payload: Bytes,
    /// What it was sent as: a pending spot, or the place that it is a copy of.
    pub(crate) sent: Spot,
    pub(crate) done: Option<Done>,
}

impl Frame {
    pub(crate) fn bytes(&self) -> usize {
        frame_bytes(self.payload.len())
    }

    /// What it makes live, if anything.
    pub(crate) fn item(&self) -> Option<Item> {
        match self.kind {
            Kind::Entry => Some(Item::Entry(self.index)),
            Kind::Truncate | Kind::Removed | Kind::Round | Kind::Roster => None,
            kind => Some(Item::Mark(kind)),
        }
    }

    fn encode(&self, seed: Seed) -> [u8; HEADER_BYTES] {
        let flags = if self.sent.place().is_some() { FLAG_COPY } else { 0 };
        Header::new(self.kind, flags, self.key, self.index).encode(seed, &self.payload)
    }
}

/// Where the frames of a round go and what the round says of the log before it.
pub(crate) struct Frames<'a> {
    pub(crate) frames: &'a [Frame],
    pub(crate) seed: Seed,
    pub(crate) start: Place,
    pub(crate) synced: Place,
    pub(crate) previous: Place,
    pub(crate) oldest: u32,
}

impl Frames<'_> {
    /// Bytes of the round, padded.
    pub(crate) fn bytes(&self) -> u64 {
        let frames: usize = self.frames.iter().map(Frame::bytes).sum();
        ((ROUND_HEADER_BYTES + frames) as u64).next_multiple_of(ROUND_ALIGN)
    }

    /// The place of every frame, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        let mut offset = self.start.offset as usize + ROUND_HEADER_BYTES;
        self.frames.iter().map(move |frame| {
            let place = Place { sequence: self.start.sequence, offset: offset as u32 };
            offset += frame.bytes();
            place
        })
    }

    /// Writes the round: payloads straight from where they are.
    pub(crate) fn write(&self, file: &dyn DiskFile) -> io::Result<()> {
        let content: usize = self.frames.iter().map(Frame::bytes).sum();
        let end = ROUND_HEADER_BYTES + content;
        let head = RoundHeader {
            synced: self.synced,
            previous: self.previous,
            oldest: self.oldest,
            bytes: self.bytes() as u32,
            frames: self.frames.len() as u32,
            members: self
                .frames
                .iter()
                .filter(|frame| frame.kind != Kind::Roster)
                .fold(0, |bits, frame| bits | member_bit(frame.key)),
            end: end as u32,
        }
        .encode(self.seed, self.start.offset);
        let headers: Vec<[u8; HEADER_BYTES]> =
            self.frames.iter().map(|frame| frame.encode(self.seed)).collect();
        let mut buffers = Vec::with_capacity(3 * self.frames.len() + 2);
        buffers.push(IoSlice::new(&head));
        for (frame, header) in self.frames.iter().zip(&headers) {
            buffers.push(IoSlice::new(header));
            let payload = frame.payload.len();
            if payload > 0 {
                buffers.push(IoSlice::new(&frame.payload));
            }
            if padded(payload) > payload {
                buffers.push(IoSlice::new(&ZEROS[..padded(payload) - payload]));
            }
        }
        let padding = self.bytes() as usize - end;
        buffers.push(IoSlice::new(&ZEROS[..padding]));
        file.write_all_at(&mut buffers, u64::from(self.start.offset))
    }
}
