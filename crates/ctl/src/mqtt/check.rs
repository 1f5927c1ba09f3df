//! `holdfast check`: does to a cluster what a device does on a bad day, and tells whether it kept its
//! promises.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::gateway::{Address, MqttArgs};
use super::link::{Link, Session, end_session};
use super::outbox::{Fate, Outbox};
use super::{fresh_id, qos};
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

/// Life of the session, if this command dies.
const EXPIRY_S: u32 = 600;
const WINDOW: usize = 100;
const PAUSE: Duration = Duration::from_millis(250);
/// How long it is waited for messages that must not come.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Where, and how much.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Gateway to come back to [default: the last one of --mqtt or of the cluster]
    #[arg(long, value_name = "HOST:PORT")]
    other: Option<Address>,
    /// How many messages
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    messages: u32,
    /// Seconds until it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    mqtt: MqttArgs,
}

/// What was done and seen. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    first_gateway: String,
    other_gateway: String,
    published: u32,
    received: u32,
    repeated: u32,
    out_of_order: u32,
    milliseconds: u64,
    problem: Option<String>,
}

struct Check<'a> {
    args: &'a CheckArgs,
    first: Vec<Address>,
    other: Vec<Address>,
    client_id: String,
    until: Instant,
    report: Report,
}

/// Does it, and ends the session in any case.
pub(crate) async fn run(args: &CheckArgs) -> Outcome {
    let addresses = args.mqtt.addresses().await?;
    let last = addresses.last().cloned();
    let mut other: Vec<Address> = args.other.clone().or(last).into_iter().collect();
    if args.other.is_none() {
        other.extend(addresses.iter().rev().skip(1).cloned());
    }
    let report = Report {
        ok: false,
        first_gateway: addresses[0].to_string(),
        other_gateway: other[0].to_string(),
        published: 0,
        received: 0,
        repeated: 0,
        out_of_order: 0,
        milliseconds: 0,
        problem: None,
    };
    let started = Instant::now();
    let until = started + Duration::from_secs(args.timeout);
    let client_id = fresh_id("check");
    let mut check = Check { args, first: addresses, other, client_id, until, report };
    let done = tokio::select! {
        done = check.all() => done,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
    };
    let ended = check.end().await;
    let mut report = check.report;
    report.milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.ok = done.is_ok() && ended.is_ok();
    report.problem = done.as_ref().err().or(ended.as_ref().err()).map(|it| it.message.clone());
    match args.mqtt.api.json {
        true => console::json(&report),
        false if report.ok => console::line(format!("ok, in {} ms", report.milliseconds)),
        false => {}
    }
    done.and(ended)
}

impl Check<'_> {
    async fn all(&mut self) -> Outcome {
        self.subscribe().await?;
        self.publish().await?;
        self.receive().await
    }

    fn say(&self, text: String) {
        if !self.args.mqtt.api.json {
            console::line(text);
        }
    }

    fn topic(&self) -> String {
        format!("holdfast/check/{}", self.client_id)
    }

    fn session(&self, clean_start: bool) -> Session {
        Session { client_id: self.client_id.clone(), clean_start, expiry_s: EXPIRY_S }
    }

    /// A gateway may just be on its way.
    async fn connect(&self, addresses: &[Address], session: &Session) -> Outcome<Link> {
        loop {
            match Link::connect_any(addresses, session).await {
                Err(failure) if failure.exit == Exit::NoAnswer && Instant::now() < self.until => {
                    sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn subscribe(&mut self) -> Outcome {
        let mut link = self.connect(&self.first, &self.session(true)).await?;
        self.report.first_gateway = link.address().to_string();
        link.subscribe(&[format!("{}/#", self.topic())], qos(1)).await?;
        self.say(format!("subscribed with a durable session at {}", link.address()));
        link.leave().await;
        self.say("left".to_owned());
        Ok(())
    }

    async fn publish(&mut self) -> Outcome {
        let session = Session::passing(format!("{}-publisher", self.client_id));
        let mut link = self.connect(&self.first, &session).await?;
        let wanted = self.args.messages;
        let topic = format!("{}/{}", self.topic(), "x");
        let (mut sent, mut outbox) = (0, Outbox::default());
        while self.report.published < wanted {
            while sent < wanted && outbox.len() < WINDOW {
                let payload = Bytes::from(sent.to_string());
                if !link.publish(&topic, qos(1), false, payload)? {
                    break;
                }
                outbox.push(());
                sent += 1;
            }
            let late = || Failure::failed("messages are not acknowledged in time");
            let event = timeout_at(self.until, link.next()).await.map_err(|_| late())??;
            match outbox.on(&event) {
                Some(((), Fate::Taken)) => self.report.published += 1,
                Some(((), Fate::Unmatched)) => {
                    return Err(Failure::failed(
                        "a message was acknowledged as wanted by nobody, though a session has subscribed",
                    ));
                }
                Some(((), Fate::Refused(why))) => {
                    return Err(Failure::failed(format!("a message was refused: {why}")));
                }
                None => {}
            }
        }
        link.leave().await;
        self.say(format!("published {wanted} messages, all acknowledged"));
        Ok(())
    }

    async fn receive(&mut self) -> Outcome {
        let mut link = self.connect(&self.other, &self.session(false)).await?;
        self.report.other_gateway = link.address().to_string();
        if !link.session_present {
            return Err(Failure::failed(format!("{} does not know the session", link.address())));
        }
        self.say(format!("came back at {}", link.address()));
        let wanted = self.args.messages;
        while self.report.received < wanted {
            let Ok(message) = timeout_at(self.until, link.message()).await else {
                let lost = wanted - self.report.received;
                return Err(Failure::failed(format!("{lost} of {wanted} messages did not come")));
            };
            self.take(&message?.payload);
        }
        let more = Instant::now() + AFTERWARDS;
        while let Ok(message) = timeout_at(more, link.message()).await {
            self.take(&message?.payload);
        }
        link.leave().await;
        let Report { received, repeated, out_of_order, .. } = self.report;
        if repeated + out_of_order > 0 {
            return Err(Failure::failed(format!(
                "{repeated} messages came twice, {out_of_order} out of order"
            )));
        }
        self.say(format!("received {received} messages, in order and once"));
        Ok(())
    }

    fn take(&mut self, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<u32>().ok());
        match number {
            Some(number) if number == self.report.received => self.report.received += 1,
            Some(number) if number < self.report.received => self.report.repeated += 1,
            _ => {
                self.report.out_of_order += 1;
                self.report.received += 1;
            }
        }
    }

    async fn end(&self) -> Outcome {
        let all: Vec<Address> = self.other.iter().chain(&self.first).cloned().collect();
        end_session(&all, &self.client_id).await?;
        self.say("ended the session".to_owned());
        Ok(())
    }
}
