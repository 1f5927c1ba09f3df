//! An open connection: waiting and working.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use holdfast_proto::ids::{Epoch, ShardId};
use holdfast_proto::shard::{ClientKey, CommitCursor};
use holdfast_session::{Close, Leave, Protocol, Session, Turn, reason};
use tokio::io::ReadBuf;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::scratch::Scratch;
use super::{Shared, Transport};
use crate::cluster::{Attachment, Ownership, TurnEnd};
use crate::inbox::Inbox;
use crate::{metrics, tally};

/// Rounds of work at one wake-up before other tasks get their turn.
const ROUNDS_MAX: usize = 8;
/// Unwritten output kept allocated while there is none, in bytes.
const OUTPUT_KEPT_BYTES: usize = 1 << 10;

/// An open connection.
pub(super) struct Live<T> {
    pub(super) io: T,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) session: Session,
    pub(super) protocol: Protocol,
    pub(super) client: ClientKey,
    pub(super) home: ShardId,
    pub(super) epoch: Epoch,
    /// The expiry interval of CONNECT was not 0.
    pub(super) session_expires: bool,
    pub(super) attachment: Option<Attachment>,
    pub(super) _ownership: Ownership,
    /// The start of a packet whose rest has not come.
    pub(super) input: BytesMut,
    /// What the socket did not take yet.
    pub(super) output: BytesMut,
    /// Of the newest turn of publishing, until its acknowledgements were written.
    pub(super) turn_end: Option<TurnEnd>,
    /// Waits until the home shard takes publishes again; until then nothing is read.
    pub(super) congestion: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// One and a half keep-alive intervals; 0: none.
    pub(super) silence_ms_max: u64,
    pub(super) last_received_ms: u64,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    pub(super) armed_ms: Option<u64>,
    /// The gateway stops: when the connection ends at the latest.
    pub(super) drain_until_ms: Option<u64>,
    pub(super) taken_over: Option<oneshot::Sender<Option<CommitCursor>>>,
    /// The operator ended the connection; dropped once the session is given up.
    pub(super) kicked: Option<oneshot::Sender<()>>,
    pub(super) measured: Measured,
}

/// A publish whose way from the socket to its acknowledgement is measured: one at a time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    /// 0: none.
    pub(super) token: u64,
    /// Of the connection's clock: the wake-up that read it, or the newest if there is none.
    read_us: u64,
}

/// How a connection ends.
#[derive(Debug)]
pub(super) struct End {
    /// Why the server ends it; `None`: the client did.
    pub(super) close: Option<Close>,
    /// What becomes of the session.
    pub(super) leave: Leave,
}

impl End {
    /// The socket is gone.
    pub(super) fn broken() -> End {
        End {
            close: None,
            leave: Leave { will_grace_s: 0, discard_will: false, expiry_interval_s: None },
        }
    }
}

impl From<Close> for End {
    fn from(close: Close) -> End {
        End { close: Some(close), ..End::broken() }
    }
}

/// What woke the connection.
#[derive(Default)]
pub(super) struct Wake {
    inbox: bool,
    timer: bool,
    /// The connection is new: there may be packets that came with CONNECT.
    is_first: bool,
    /// Bytes read into the scratch input; 0 is the end of the stream.
    read: Option<(Box<Scratch>, io::Result<usize>)>,
    written: Option<io::Result<()>>,
    uncongested: bool,
}

impl Wake {
    fn is_any(&self) -> bool {
        let socket = self.read.is_some() || self.written.is_some();
        socket || self.inbox || self.timer || self.uncongested
    }
}

impl<T: Transport> Live<T> {
    /// Works until the connection ends.
    pub(super) async fn run(&mut self) -> End {
        let mut wake = Wake { inbox: true, is_first: true, ..Wake::default() };
        loop {
            match self.on_wake(wake) {
                Err(end) => return end,
                Ok(true) => {
                    tokio::task::yield_now().await;
                    wake = Wake { inbox: true, ..Wake::default() };
                }
                Ok(false) => wake = poll_fn(|context| self.poll_wake(context)).await,
            }
        }
    }

    /// Works off what woke the connection. Returns whether there is more to do.
    fn on_wake(&mut self, mut wake: Wake) -> Result<bool, End> {
        if let Some(Err(_)) = wake.written {
            return Err(End::broken());
        }
        let (mut scratch, bytes) = match wake.read.take() {
            None => (Scratch::take(), 0),
            Some((scratch, Ok(bytes))) if bytes > 0 => (scratch, bytes),
            Some((scratch, _)) => {
                scratch.give_back();
                return Err(End::broken());
            }
        };
        let worked = self.work(&wake, bytes, &mut scratch);
        self.inbox.figures.now(self.session.subscription_count(), self.session.in_flight());
        if worked.is_err() {
            self.output.extend_from_slice(&scratch.output);
        }
        scratch.give_back();
        worked
    }

    fn work(&mut self, wake: &Wake, bytes: usize, scratch: &mut Scratch) -> Result<bool, End> {
        let now = Instant::now();
        let now_ms = self.shared.clock.ms_at(now);
        if self.measured.token == 0 {
            self.measured.read_us = self.shared.clock.us_at(now);
        }
        if wake.uncongested {
            self.congestion = None;
        }
        if wake.timer {
            self.check_silence(now_ms)?;
            // Before the inbox is drained: see Cluster::dispatched.
            self.shared.cluster.dispatched(&mut scratch.heads);
        }
        if wake.inbox || wake.timer {
            self.inbox.drain(&mut scratch.events);
            self.apply_events(&mut scratch.events, now_ms, &mut scratch.effects)?;
        }
        if wake.timer {
            self.session.heads(&scratch.heads);
        }
        if bytes > 0 {
            tally::received_bytes(bytes);
            self.last_received_ms = now_ms;
        }
        if bytes > 0 || wake.is_first {
            let fed = self.feed(&scratch.input[..bytes], &mut scratch.effects);
            if fed.is_err() {
                // What was accepted before is answered, as far as it can be.
                self.run_effects(&mut scratch.effects, &mut scratch.output, now_ms)?;
                fed?;
            }
        }
        for _ in 0..ROUNDS_MAX {
            if !self.round(now_ms, scratch)? {
                self.check_drained(now_ms)?;
                return Ok(false);
            }
        }
        self.check_drained(now_ms)?;
        Ok(true)
    }

    /// Ends a connection that is to be ended once the client has nothing to expect from it, or in the end.
    fn check_drained(&self, now_ms: u64) -> Result<(), End> {
        let Some(until_ms) = self.drain_until_ms else { return Ok(()) };
        let all_sent = self.session.is_durable() || self.session.unsent() == 0;
        let is_settled = all_sent && self.output.is_empty() && self.session.is_settled();
        if now_ms < until_ms && !is_settled {
            return Ok(());
        }
        let close = Close { reason: reason::USE_ANOTHER_SERVER, cause: "gateway stops" };
        let mut end = End::from(close);
        end.leave.will_grace_s = self.shared.config.drain_will_grace_s;
        Err(end)
    }

    /// Nothing more of the log is sent: the session goes on elsewhere.
    fn is_handed_over(&self) -> bool {
        self.drain_until_ms.is_some() && self.session.is_durable()
    }

    /// Lets the session work, runs its effects and writes. Returns whether there is more to do.
    fn round(&mut self, now_ms: u64, scratch: &mut Scratch) -> Result<bool, End> {
        let room = match self.is_handed_over() {
            true => 0,
            false => self.shared.config.write_buffer_bytes_max.saturating_sub(self.output.len()),
        };
        let cluster = &self.shared.cluster;
        let mut turn =
            Turn { now_ms, shard_time_ms: &|shard| cluster.shard_time_ms(shard), room_bytes: room };
        let turned = self.session.turn(&mut turn, &mut scratch.effects);
        let again = self.run_effects(&mut scratch.effects, &mut scratch.output, now_ms)?;
        turned?;
        self.write(&mut scratch.output)?;
        self.measure_publish();
        if !self.output.is_empty() {
            return Ok(again);
        }
        let moved = self.session.flushed();
        let waits_for_room = self.session.is_short_of_room() && !self.is_handed_over();
        Ok(again || moved || waits_for_room)
    }

    /// The clock is read once more only when the publish that is measured was answered.
    fn measure_publish(&mut self) {
        let Measured { token, read_us } = self.measured;
        if token == 0 || !self.session.is_answered(token) {
            return;
        }
        self.measured.token = 0;
        let took_us = self.shared.clock.us_at(Instant::now()).saturating_sub(read_us);
        metrics::published(took_us as f64 / 1e6);
    }

    /// Takes the packets that are whole; keeps the rest for later.
    fn feed(
        &mut self,
        bytes: &[u8],
        effects: &mut Vec<holdfast_session::Effect>,
    ) -> Result<(), End> {
        if self.input.is_empty() {
            let used = self.packets(bytes, effects)?;
            self.input.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        self.input.extend_from_slice(bytes);
        let mut input = std::mem::take(&mut self.input);
        let used = self.packets(&input, effects)?;
        input.advance(used);
        if !input.is_empty() {
            self.input = input;
        }
        Ok(())
    }

    /// Tries to write `out`; what the socket does not take now waits.
    fn write(&mut self, out: &mut BytesMut) -> Result<(), End> {
        if self.output.is_empty() {
            let mut context = Context::from_waker(Waker::noop());
            while !out.is_empty() {
                match Pin::new(&mut self.io).poll_write(&mut context, out) {
                    Poll::Ready(Ok(written)) if written > 0 => {
                        tally::sent_bytes(written);
                        out.advance(written);
                    }
                    Poll::Ready(_) => return Err(End::broken()),
                    Poll::Pending => break,
                }
            }
        }
        self.output.extend_from_slice(out);
        out.clear();
        // The acknowledgements of this turn were handed to the socket, or wait behind it.
        self.turn_end = None;
        Ok(())
    }

    fn check_silence(&self, now_ms: u64) -> Result<(), End> {
        if self.silence_ms_max > 0 && now_ms >= self.last_received_ms + self.silence_ms_max {
            return Err(Close { reason: reason::KEEP_ALIVE, cause: "keep alive timeout" }.into());
        }
        Ok(())
    }

    /// Waits for the socket, the inbox, the timer and the home shard at once.
    fn poll_wake(&mut self, context: &mut Context<'_>) -> Poll<Wake> {
        let inbox = pin!(self.inbox.ready()).poll(context).is_ready();
        let mut wake = Wake {
            inbox,
            timer: self.poll_timer(context),
            written: self.poll_output(context),
            ..Wake::default()
        };
        if let Some(congestion) = &mut self.congestion {
            wake.uncongested = congestion.as_mut().poll(context).is_ready();
        } else if self.output.len() <= 2 * self.shared.config.write_buffer_bytes_max {
            wake.read = self.poll_input(context);
        }
        if wake.is_any() { Poll::Ready(wake) } else { Poll::Pending }
    }

    fn poll_input(
        &mut self,
        context: &mut Context<'_>,
    ) -> Option<(Box<Scratch>, io::Result<usize>)> {
        let mut scratch = Scratch::take();
        let mut buffer = ReadBuf::new(&mut scratch.input);
        match Pin::new(&mut self.io).poll_read(context, &mut buffer) {
            Poll::Pending => {
                scratch.give_back();
                None
            }
            Poll::Ready(read) => {
                let bytes = buffer.filled().len();
                Some((scratch, read.map(|()| bytes)))
            }
        }
    }

    fn poll_output(&mut self, context: &mut Context<'_>) -> Option<io::Result<()>> {
        let mut written = None;
        while !self.output.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, &self.output) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Some(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => {
                    tally::sent_bytes(bytes);
                    self.output.advance(bytes);
                    written = Some(Ok(()));
                }
                Poll::Ready(Err(error)) => return Some(Err(error)),
            }
        }
        if self.output.is_empty() && self.output.capacity() > OUTPUT_KEPT_BYTES {
            self.output = BytesMut::new();
        }
        written
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> bool {
        let silence =
            (self.silence_ms_max > 0).then(|| self.last_received_ms + self.silence_ms_max);
        let deadlines = [silence, self.session.deadline_ms(), self.drain_until_ms];
        let Some(wanted) = deadlines.into_iter().flatten().min() else { return false };
        let at = self.shared.clock.at(wanted);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        // A timer that is armed for earlier fires early and is armed again: cheaper than moving it.
        if self.armed_ms.is_none_or(|armed| armed > wanted) {
            timer.as_mut().reset(at);
            self.armed_ms = Some(wanted);
        }
        let fired = timer.as_mut().poll(context).is_ready();
        if fired {
            self.armed_ms = None;
        }
        fired
    }
}
