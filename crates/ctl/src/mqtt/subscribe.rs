//! `holdfast subscribe`: shows what arrives.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use rumqttc::v5::mqttbytes::v5::Publish;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::gateway::{Address, MqttArgs};
use super::link::{Link, Session};
use super::{fresh_id, qos};
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

/// How long gateways are asked again after a connection was lost.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// What to receive, and how.
#[derive(Debug, Args)]
pub(crate) struct SubscribeArgs {
    /// Topic filters
    #[arg(required = true)]
    filters: Vec<String>,
    /// Highest QoS to receive with
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Who subscribes [default: a fresh id]
    #[arg(long, short = 'i', value_name = "ID")]
    client_id: Option<String>,
    /// How long the session outlives this command
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "client_id")]
    session_expiry: u32,
    /// Begin a new session; what waits in an older one is gone
    #[arg(long)]
    clean: bool,
    /// End after as many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after as many seconds; exit code 1 if fewer messages came than --count
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    mqtt: MqttArgs,
}

/// One message for scripts: fields are added, none is changed.
#[derive(Debug, Serialize)]
struct Line<'a> {
    topic: &'a str,
    qos: u8,
    retain: bool,
    /// It may have come before.
    dup: bool,
    /// As text; absent if it is none.
    payload: Option<&'a str>,
    /// In Base64, if it is no text.
    payload_base64: Option<String>,
}

/// Shows messages until there are enough, or Ctrl-C.
pub(crate) async fn run(args: &SubscribeArgs) -> Outcome {
    let addresses = args.mqtt.addresses().await?;
    let mut session = Session {
        client_id: args.client_id.clone().unwrap_or_else(|| fresh_id("subscribe")),
        clean_start: args.clean || args.session_expiry == 0,
        expiry_s: args.session_expiry,
    };
    let far = Instant::now() + Duration::from_secs(args.timeout.unwrap_or(u64::from(u32::MAX)));
    let mut came = 0;
    loop {
        let link = connect(&addresses, &session, far).await?;
        // What waits must not go with the next connection.
        session.clean_start &= args.session_expiry == 0;
        let wanted = args.count.unwrap_or(u64::MAX);
        match receive(link, args, wanted, far, &mut came).await {
            Ok(()) => return Ok(()),
            Err(lost) if lost.exit == Exit::NoAnswer => {
                console::note(format!("{}; connecting again", lost.message));
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Tries all gateways for a while.
async fn connect(addresses: &[Address], session: &Session, far: Instant) -> Outcome<Link> {
    let until = far.min(Instant::now() + PATIENCE);
    loop {
        match Link::connect_any(addresses, session).await {
            Err(failure) if failure.exit == Exit::NoAnswer && Instant::now() < until => {
                sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn receive(
    mut link: Link,
    args: &SubscribeArgs,
    wanted: u64,
    far: Instant,
    came: &mut u64,
) -> Outcome {
    link.subscribe(&args.filters, qos(args.qos)).await?;
    if !args.mqtt.api.json {
        let known = if link.session_present { ", the session was there" } else { "" };
        console::note(format!("subscribed at {}{known}; Ctrl-C ends", link.address()));
    }
    while *came < wanted {
        let next = tokio::select! {
            next = timeout_at(far, link.message()) => next,
            Ok(()) = tokio::signal::ctrl_c() => break,
        };
        let Ok(message) = next else {
            link.leave().await;
            let Some(wanted) = args.count else { return Ok(()) };
            return Err(Failure::failed(format!("{came} of {wanted} messages came in time")));
        };
        show(&message?, args.mqtt.api.json);
        *came += 1;
    }
    link.leave().await;
    Ok(())
}

fn show(message: &Publish, json: bool) {
    let topic = String::from_utf8_lossy(&message.topic);
    let text = std::str::from_utf8(&message.payload).ok();
    if json {
        let payload_base64 = text.is_none().then(|| STANDARD.encode(&message.payload));
        let (retain, dup) = (message.retain, message.dup);
        let qos = message.qos as u8;
        console::json(&Line { topic: &topic, qos, retain, dup, payload: text, payload_base64 });
        return;
    }
    let mut line = format!("{topic} ").into_bytes();
    line.extend_from_slice(&message.payload);
    console::bytes(&line);
}
