//! The end of a connection: the session's last commit, and a close that the client can read.

use std::time::Duration;

use holdfast_proto::shard::{CommitCursor, command};
use holdfast_session::{Close, Effect, Protocol, Session, reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Transport;
use super::live::{End, Live};
use crate::codec::encode_disconnect;
use crate::inbox::{Event, Inbox};
use crate::{metrics, tally};

/// Token of the session's last command.
const LAST_TOKEN: u64 = u64::MAX;
/// Bytes of a closing client that are read and thrown away.
const LINGER_BYTES_MAX: usize = 64 << 10;

/// Ends the session as far as this connection goes, and closes the socket.
pub(super) async fn close<T: Transport>(mut live: Box<Live<T>>, end: End) {
    metrics::sessions(live.session.is_durable(), -1);
    live.inbox.figures.end();
    if let Some(close) = end.close {
        metrics::closed(close);
        tracing::debug!(reason = close.reason, cause = close.cause, "closing a connection");
    }
    settle(&mut live);
    wait_for_commit(&mut live).await;
    count_unsent(&live.session);
    let is_fenced = live.taken_over.is_some()
        || end.close.is_some_and(|close| close.reason == reason::TAKEN_OVER);
    let mut last = None;
    if is_fenced {
        let uncommitted = live.session.uncommitted();
        if let Some(reply) = live.taken_over.take() {
            // The new owner may have given up waiting.
            let _ = reply.send(uncommitted);
        }
    } else {
        let command = live.session.leave(end.leave);
        if let Some(command::Command::Disconnect(disconnect)) = &command.command {
            last = Some(disconnect.commit.clone());
        }
        live.shared.cluster.propose(live.home, command, LAST_TOKEN, &live.inbox);
    }
    let is_drained = end.close.is_some_and(|close| close.reason == reason::USE_ANOTHER_SERVER);
    let (inbox, kicked) = (live.inbox.clone(), live.kicked.take());
    let mut left = Box::pin(async move {
        if let Some(commit) = last {
            wait_until_left(&inbox, commit).await;
        }
        // Who asked for it hears that the session is given up.
        drop(kicked);
    });
    // A client that is sent elsewhere claims its session there at once: it is to find all that it has
    // acknowledged.
    let settle_time = Duration::from_millis(live.shared.config.drain_settle_ms);
    let has_left = is_drained && timeout(settle_time, &mut left).await.is_ok();
    if let Some(close) = end.close {
        say_why(&mut live, close);
    }
    let linger_time = Duration::from_millis(live.shared.config.linger_ms);
    let wait_time = Duration::from_millis(live.shared.leave_timeout_ms);
    let Live { io, output, .. } = &mut *live;
    let goodbye = timeout(linger_time, async {
        if io.write_all(output).await.is_ok() {
            tally::sent_bytes(output.len());
            linger(io).await;
        }
    });
    let left = async { has_left || timeout(wait_time, left).await.is_ok() };
    let (_, has_left) = tokio::join!(goodbye, left);
    if !has_left {
        tracing::warn!("a session's last commit was not confirmed");
    }
}

/// Tells an MQTT 5 client why it is closed, and where to go if this gateway stops.
fn say_why<T: Transport>(live: &mut Live<T>, close: Close) {
    if live.protocol != Protocol::V5 || close.reason == reason::SUCCESS {
        return;
    }
    let is_drained = close.reason == reason::USE_ANOTHER_SERVER;
    let other = is_drained.then(|| live.shared.cluster.another_gateway()).flatten();
    let code = match is_drained && other.is_none() {
        true => reason::SHUTTING_DOWN,
        false => close.reason,
    };
    let bytes_max = live.session.client_packet_bytes_max();
    encode_disconnect(&mut live.output, code, other.as_deref(), bytes_max);
}

/// Takes what has come so far, sending nothing more.
fn settle<T: Transport>(live: &mut Live<T>) {
    let mut heads = Vec::new();
    // Before the inbox is drained: see Cluster::dispatched.
    live.shared.cluster.dispatched(&mut heads);
    let (mut events, mut effects) = (Vec::new(), Vec::new());
    live.inbox.drain(&mut events);
    let now_ms = live.shared.clock.now_ms();
    // Whatever else would end the session now: it ends already.
    let _ = live.apply_events(&mut events, now_ms, &mut effects);
    live.session.heads(&heads);
    for effect in effects {
        if let Effect::Count(kind, count) = effect {
            metrics::dropped(kind, count);
        }
    }
}

fn count_unsent(session: &Session) {
    let unsent = session.unsent();
    if unsent > 0 {
        metrics::ended_unsent(unsent);
        tracing::debug!(unsent, "messages end with their connection");
    }
}

/// Until the commit on its way is answered: the last command may not overtake it.
async fn wait_for_commit<T: Transport>(live: &mut Live<T>) {
    let time = Duration::from_millis(live.shared.config.linger_ms);
    let answered = async {
        while live.session.is_committing() && live.taken_over.is_none() {
            live.inbox.ready().await;
            settle(live);
        }
    };
    if timeout(time, answered).await.is_err() {
        tracing::debug!("a session ends with a commit on its way");
    }
}

/// Until the last command is applied; an owner that claims the session meanwhile gets what it carries.
async fn wait_until_left(inbox: &Inbox, commit: Option<CommitCursor>) {
    let mut events = Vec::new();
    loop {
        inbox.ready().await;
        inbox.drain(&mut events);
        let mut is_applied = false;
        for event in events.drain(..) {
            match event {
                Event::Outcome { token: LAST_TOKEN, .. } => is_applied = true,
                Event::TakenOver { reply } => hand_over(reply, commit.clone()),
                _ => {}
            }
        }
        if is_applied {
            return;
        }
    }
}

fn hand_over(reply: oneshot::Sender<Option<CommitCursor>>, commit: Option<CommitCursor>) {
    // The new owner may have given up waiting.
    let _ = reply.send(commit);
}

/// Closes our direction and reads until the client closes its own: a reset would take what we wrote
/// from it.
pub(super) async fn linger<T: Transport>(io: &mut T) {
    if io.shutdown().await.is_err() {
        return;
    }
    let mut buffer = vec![0; 4096];
    let mut read = 0;
    while read < LINGER_BYTES_MAX {
        match io.read(&mut buffer).await {
            Ok(bytes) if bytes > 0 => read += bytes,
            Ok(_) | Err(_) => return,
        }
    }
}
