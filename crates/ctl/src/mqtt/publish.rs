//! `holdfast publish`: sends messages and says what became of them.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::gateway::MqttArgs;
use super::link::{Link, Session};
use super::outbox::{Fate, Outbox};
use super::{fresh_id, qos};
use crate::console::{self, Progress};
use crate::failure::{Exit, Failure, Outcome};

/// Unacknowledged messages at a time.
const WINDOW: usize = 100;

/// What to send, and how.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// Topic to publish to
    topic: String,
    /// The message; {i} stands for its number
    #[arg(long, short, conflicts_with = "file")]
    message: Option<String>,
    /// File with the message [default: stdin]
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// 0: no answer, 1: at least once, 2: exactly once
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Keep it for those who subscribe later
    #[arg(long, short)]
    retain: bool,
    /// Publish it as often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// At most as many a second
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<crate::amount::Count>,
    /// Who publishes [default: a fresh id]
    #[arg(long, short = 'i', value_name = "ID")]
    client_id: Option<String>,
    #[command(flatten)]
    mqtt: MqttArgs,
}

/// What became of all. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Default, Serialize)]
struct Sum {
    published: u64,
    acknowledged: u64,
    /// Of them: nobody wants them.
    unmatched: u64,
    refused: u64,
    /// Reason of the last one that was refused.
    reason: Option<String>,
}

impl Sum {
    fn add(&mut self, fate: Fate) {
        match fate {
            Fate::Taken => self.acknowledged += 1,
            Fate::Unmatched => {
                self.acknowledged += 1;
                self.unmatched += 1;
            }
            Fate::Refused(why) => {
                self.refused += 1;
                self.reason = Some(why);
            }
        }
    }
}

fn payload(args: &PublishArgs) -> Outcome<Vec<u8>> {
    match (&args.message, &args.file) {
        (Some(message), _) => Ok(message.clone().into_bytes()),
        (None, Some(file)) => std::fs::read(file)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display()))),
        (None, None) => {
            let mut payload = Vec::new();
            std::io::stdin()
                .read_to_end(&mut payload)
                .map_err(|error| Failure::usage(format!("stdin: {error}")))?;
            Ok(payload)
        }
    }
}

/// Sends all, and waits for all acknowledgements.
pub(crate) async fn run(args: &PublishArgs) -> Outcome {
    let rate = args.rate.map(|rate| rate.0);
    if rate.is_some_and(|rate| rate <= 0.0) {
        return Err(Failure::usage("--rate: more than 0 is wanted"));
    }
    let addresses = args.mqtt.addresses().await?;
    let payload = payload(args)?;
    let client_id = args.client_id.clone().unwrap_or_else(|| fresh_id("publish"));
    let mut link = Link::connect_any(&addresses, &Session::passing(client_id)).await?;
    let mut sum = Sum::default();
    let sent = tokio::select! {
        sent = send(&mut link, args, rate, &payload, &mut sum) => sent,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
    };
    let address = link.address().to_string();
    if sent.is_ok() {
        link.leave().await;
    }
    if sum.published > 0 {
        tell(args, &sum, &address);
    }
    sent?;
    match &sum.reason {
        None => Ok(()),
        Some(why) => Err(Failure::new(
            Exit::Failed,
            format!("{} of {} messages were refused: {why}", sum.refused, sum.published),
        )),
    }
}

async fn send(
    link: &mut Link,
    args: &PublishArgs,
    rate: Option<f64>,
    payload: &[u8],
    sum: &mut Sum,
) -> Outcome {
    let started = Instant::now();
    let mut outbox = Outbox::default();
    let mut progress = Progress::default();
    let fixed = Bytes::copy_from_slice(payload);
    // When the n-th may go.
    let due = |n: u64| match rate {
        #[allow(clippy::cast_precision_loss, reason = "times to the microsecond will do")]
        Some(rate) => started + Duration::from_secs_f64((n as f64 / rate).min(1e9)),
        None => started,
    };
    while sum.published < args.count || outbox.len() > 0 {
        let may_send = sum.published < args.count && outbox.len() < WINDOW;
        if may_send && due(sum.published) <= Instant::now() {
            let numbered = args.message.as_ref().filter(|message| message.contains("{i}"));
            let payload = match numbered {
                Some(text) => text.replace("{i}", &(sum.published + 1).to_string()).into(),
                None => fixed.clone(),
            };
            if link.publish(&args.topic, qos(args.qos), args.retain, payload)? {
                sum.published += 1;
                outbox.push(());
                continue;
            }
        }
        tokio::select! {
            event = link.next() => {
                if let Some(((), fate)) = outbox.on(&event?) {
                    sum.add(fate);
                }
            }
            () = sleep_until(due(sum.published)), if may_send => {}
        }
        if args.count > 1 {
            let done = sum.acknowledged + sum.refused;
            if done.is_multiple_of(100) || rate.is_some_and(|rate| rate < 100.0) {
                progress.show(format!("{done} of {} messages", args.count));
            }
        }
    }
    Ok(())
}

fn tell(args: &PublishArgs, sum: &Sum, address: &str) {
    if args.mqtt.api.json {
        console::json(sum);
        return;
    }
    let what = if args.qos == 0 { "written" } else { "acknowledged" };
    let many = if sum.acknowledged == 1 { "message" } else { "messages" };
    let mut text = format!("{} {many} {what} by {address}", sum.acknowledged);
    if sum.unmatched > 0 {
        text.push_str(&format!("; nobody subscribes to {} of them", sum.unmatched));
    }
    console::line(text);
}
