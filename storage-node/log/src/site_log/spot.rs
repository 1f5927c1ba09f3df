//! Where a thing that the log keeps is: still on its way to the disk, or at a place.

use super::frame::Place;

const PENDING: u64 = 1 << 63;

/// Either a stamp that is unique to one submission, or a place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot(u64);

impl Spot {
    /// On its way; stamps grow with every submission.
    pub(crate) fn pending(stamp: u64) -> Spot {
        Spot(PENDING | stamp)
    }

    /// On the disk.
    pub(crate) fn at(place: Place) -> Spot {
        Spot(u64::from(place.sequence) << 32 | u64::from(place.offset))
    }

    /// Its place, once it is on the disk.
    pub(crate) fn place(self) -> Option<Place> {
        (self.0 & PENDING == 0)
            .then_some(Place { sequence: (self.0 >> 32) as u32, offset: self.0 as u32 })
    }

    /// Its stamp, while it is on its way.
    pub(crate) fn stamp(self) -> Option<u64> {
        (self.0 & PENDING != 0).then_some(self.0 & !PENDING)
    }
}
