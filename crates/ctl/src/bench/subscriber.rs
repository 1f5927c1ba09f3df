//! One subscriber of a run, and the sessions that stay away.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use rumqttc::v5::mqttbytes::QoS;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Run;
use super::latency::Latencies;
use super::stamp::{Numbers, Stamp};
use crate::failure::Outcome;
use crate::mqtt::gateway::Address;
use crate::mqtt::link::{Link, Session, end_session};

const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Sessions that are made at the same time.
const AT_ONCE: usize = 32;

/// What one subscriber saw.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// By publisher.
    pub(super) numbers: HashMap<u32, Numbers>,
    highest: HashMap<u32, u64>,
    pub(super) latencies: Latencies,
    pub(super) repeated: u64,
    pub(super) out_of_order: u64,
}

impl Received {
    fn take(&mut self, stamp: Stamp, run: &Run) {
        if !self.numbers.entry(stamp.publisher).or_default().insert(stamp.number) {
            self.repeated += 1;
            return;
        }
        let highest = self.highest.entry(stamp.publisher).or_default();
        if stamp.number < *highest {
            self.out_of_order += 1;
        }
        *highest = stamp.number.max(*highest);
        self.latencies.add(run.began.elapsed().saturating_sub(stamp.sent));
        run.meter.delivered.fetch_add(1, Relaxed);
    }
}

/// Receives until it is stopped.
pub(super) async fn receive(mut link: Link, run: Run, mut stop: watch::Receiver<bool>) -> Received {
    let (mut received, mut is_lost) = (Received::default(), false);
    loop {
        let message = tokio::select! {
            message = link.message() => message,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match message {
            Ok(message) => {
                is_lost = false;
                if let Some(stamp) = Stamp::read(&message.payload) {
                    received.take(stamp, &run);
                }
            }
            Err(_) => {
                run.meter.lost_connections.fetch_add(u64::from(!is_lost), Relaxed);
                is_lost = true;
                sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    link.leave().await;
    received
}

/// Makes sessions that subscribe and leave.
pub(super) async fn make_away(
    addresses: &[Address],
    ids: &[String],
    filter: &str,
    qos: QoS,
    expiry_s: u32,
) -> Outcome {
    let made = stream::iter(ids).enumerate().map(async |(at, client_id)| {
        let session = Session { client_id: client_id.clone(), clean_start: true, expiry_s };
        let mut link = Link::connect(&addresses[at % addresses.len()], &session).await?;
        link.subscribe(&[filter.to_owned()], qos).await?;
        link.leave().await;
        Ok(())
    });
    made.buffer_unordered(AT_ONCE).try_collect().await
}

/// Ends the sessions of a run.
pub(super) async fn end_all(addresses: &[Address], ids: &[String]) -> Outcome {
    let ended = stream::iter(ids).map(async |client_id| end_session(addresses, client_id).await);
    ended.buffer_unordered(AT_ONCE).try_collect().await
}
