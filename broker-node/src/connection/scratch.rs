//! Buffers that a connection needs only while it works: one set a thread, never held over an await.

use std::cell::Cell;

use bytes::BytesMut;
use holdfast_proto::ids::Position;
use holdfast_session::Effect;

use crate::inbox::Event;

/// Most that one read takes from a socket, in bytes.
const READ_BYTES: usize = 64 << 10;
/// Output kept allocated, in bytes.
const OUTPUT_KEPT_BYTES: usize = 1 << 20;

/// The buffers.
pub(super) struct Scratch {
    pub(super) input: Box<[u8]>,
    pub(super) output: BytesMut,
    pub(super) effects: Vec<Effect>,
    pub(super) events: Vec<Event>,
    pub(super) heads: Vec<Position>,
}

thread_local! {
    static SPARE: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// This thread's set.
    pub(super) fn take() -> Box<Scratch> {
        SPARE.take().unwrap_or_else(|| {
            Box::new(Scratch {
                input: vec![0; READ_BYTES].into(),
                output: BytesMut::new(),
                effects: Vec::new(),
                events: Vec::new(),
                heads: Vec::new(),
            })
        })
    }

    /// Gives it back, emptied.
    pub(super) fn give_back(mut self: Box<Self>) {
        self.output.clear();
        if self.output.capacity() > OUTPUT_KEPT_BYTES {
            self.output = BytesMut::new();
        }
        self.effects.clear();
        self.events.clear();
        self.heads.clear();
        SPARE.set(Some(self));
    }
}
