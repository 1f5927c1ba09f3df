//! One publisher of a run.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use tokio::time::{sleep, sleep_until};

use super::Run;
use super::latency::Latencies;
use super::stamp::{Numbers, Stamp};
use crate::failure::Outcome;
use crate::mqtt::link::Link;
use crate::mqtt::outbox::{Fate, Outbox};

/// Before the library connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// What a publisher is told.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) number: u32,
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) size: usize,
    /// Messages a second; none: as fast as they are acknowledged.
    pub(super) rate: Option<f64>,
    /// Unacknowledged messages at a time.
    pub(super) window: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) acknowledged: Numbers,
    pub(super) latencies: Latencies,
    /// Sent, with neither acknowledgement nor refusal at the end.
    pub(super) unanswered: u64,
    /// Due by the rate and not sent: the window was full.
    pub(super) late: u64,
    pub(super) refusal: Option<String>,
}

/// Publishes until the run is over and everything is answered, or nobody waits any longer.
pub(super) async fn publish(mut link: Link, plan: Plan, run: Run) -> Outcome<Published> {
    let mut published = Published::default();
    let mut outbox: Outbox<(u64, Instant)> = Outbox::default();
    let (mut next, mut is_lost) = (0, false);
    loop {
        let now = Instant::now();
        let is_over = now >= run.publish_until;
        if now >= run.wait_until || (is_over && outbox.len() == 0) {
            break;
        }
        let due = due(&plan, run.began, next);
        let may_send = !is_over && outbox.len() < plan.window;
        if may_send && now >= due {
            let payload = Stamp::now(plan.number, next, run.began).payload(plan.size);
            if link.publish(&plan.topic, plan.qos, false, payload)? {
                outbox.push((next, now));
                next += 1;
                continue;
            }
        }
        // Look again when the next one is due, or when the time is over.
        let wake = if may_send {
            due.min(run.publish_until)
        } else if is_over {
            run.wait_until
        } else {
            run.publish_until
        };
        let event = tokio::select! {
            event = link.next() => event,
            () = sleep_until(wake.into()) => continue,
        };
        match event {
            Ok(event) => {
                is_lost = false;
                note(outbox.on(&event), &mut published, &run);
            }
            Err(_) => {
                run.meter.lost_connections.fetch_add(u64::from(!is_lost), Relaxed);
                is_lost = true;
                sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    published.unanswered = outbox.len() as u64;
    published.late = plan.rate.map_or(0, |rate| {
        let wanted = run.publish_until.duration_since(run.began).as_secs_f64() * rate;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let wanted = wanted as u64;
        wanted.saturating_sub(next)
    });
    link.leave().await;
    Ok(published)
}

fn due(plan: &Plan, began: Instant, number: u64) -> Instant {
    #[allow(clippy::cast_precision_loss, reason = "times to the microsecond will do")]
    match plan.rate {
        Some(rate) => began + Duration::from_secs_f64((number as f64 / rate).min(1e6)),
        None => began,
    }
}

fn note(decided: Option<((u64, Instant), Fate)>, published: &mut Published, run: &Run) {
    match decided {
        Some(((number, sent), Fate::Taken | Fate::Unmatched)) => {
            published.acknowledged.insert(number);
            published.latencies.add(sent.elapsed());
            run.meter.acknowledged.fetch_add(1, Relaxed);
        }
        Some((_, Fate::Refused(why))) => {
            published.refusal = Some(why);
            run.meter.refused.fetch_add(1, Relaxed);
        }
        None => {}
    }
}
