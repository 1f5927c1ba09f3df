//! Publishers and subscribers that live through faults: they reconnect at the next gateway, keep
//! what the protocol asks a client to keep, and write everything down in the ledger.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::client::{Client, Lost};
use crate::ledger::{Entry, Ledger};
use crate::packet::{Ack, Connect, PINGREQ, Packet, Publish, Version};

/// Pause before the next gateway is tried, as a client would make.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// A gateway that does not answer CONNECT for as long is given up.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// When nothing has arrived for as long, a subscriber looks whether it has everything.
const QUIET: Duration = Duration::from_millis(200);

/// Tells the tasks of a test to end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Publishers begin no message any more.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What clients differ in that do the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habits {
    /// A gateway that says nothing for half as long is pinged, and left after all of it.
    pub answer_within: Option<Duration>,
    /// A publisher begins no message sooner after the one before.
    pub publish_interval: Duration,
    /// A subscriber stays this long, leaves in good order for this long, and comes back at the next
    /// gateway, until it is told to end.
    pub away: Option<(Duration, Duration)>,
}

/// How long a server has been silent.
#[derive(Debug)]
struct Silence {
    answer_within: Option<Duration>,
    since: Instant,
    is_pinged: bool,
}

impl Silence {
    fn new(habits: Habits) -> Silence {
        Silence { answer_within: habits.answer_within, since: Instant::now(), is_pinged: false }
    }

    /// The next packet, or none after a while.
    async fn receive(
        &mut self,
        client: &mut Client,
        wait: Duration,
    ) -> Result<Option<Packet>, Lost> {
        if let Ok(packet) = timeout(wait, client.receive()).await {
            (self.since, self.is_pinged) = (Instant::now(), false);
            return packet.map(Some);
        }
        let Some(answer_within) = self.answer_within else { return Ok(None) };
        let silent = self.since.elapsed();
        if silent >= answer_within {
            return Err(Lost::Closed("no answer".to_owned()));
        }
        if silent >= answer_within / 2 && !self.is_pinged {
            self.is_pinged = true;
            client.send(&PINGREQ).await?;
        }
        Ok(None)
    }
}

/// What a publisher does.
#[derive(Debug, Clone)]
pub struct PublisherPlan {
    /// Gateways, tried in turn beginning with the first.
    pub addresses: Vec<String>,
    /// Number in the ledger.
    pub publisher: u32,
    /// Where it publishes.
    pub topic: String,
    /// 1 or 2.
    pub qos: u8,
    /// Messages on their way at once.
    pub window: usize,
    /// Messages in all; none to go on until stopped.
    pub count: Option<u64>,
    /// Protocol version.
    pub version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent,
    Released,
}

struct Publisher {
    plan: PublisherPlan,
    habits: Habits,
    ledger: Arc<Ledger>,
    stop: Stop,
    /// By number of the message, so in the order they were sent.
    in_flight: BTreeMap<u64, (u16, Stage)>,
    next: u64,
    next_at: Instant,
    connected_before: bool,
}

/// Starts a publisher. It ends when it was told to and everything is acknowledged.
pub fn spawn_publisher(plan: PublisherPlan, ledger: Arc<Ledger>, stop: Stop) -> JoinHandle<()> {
    spawn_publisher_with(Habits::default(), plan, ledger, stop)
}

/// The same with habits.
pub fn spawn_publisher_with(
    habits: Habits,
    plan: PublisherPlan,
    ledger: Arc<Ledger>,
    stop: Stop,
) -> JoinHandle<()> {
    let mut publisher = Publisher {
        plan,
        habits,
        ledger,
        stop,
        in_flight: BTreeMap::new(),
        next: 0,
        next_at: Instant::now(),
        connected_before: false,
    };
    tokio::spawn(async move {
        let client_id = format!("publisher-{}", publisher.plan.publisher);
        let connect = Connect::durable(publisher.plan.version, &client_id);
        let mut addresses = publisher.plan.addresses.clone().into_iter().cycle();
        while !publisher.is_done() {
            let address = addresses.next().unwrap();
            let opened = timeout(CONNECT_PATIENCE, Client::try_connect(&address, &connect)).await;
            if let Ok(Ok(client)) = opened {
                // The loss is what the test makes; the next round reconnects.
                let _ = publisher.run(client).await;
            }
            sleep(RECONNECT_PAUSE).await;
        }
    })
}

impl Publisher {
    fn is_done(&self) -> bool {
        self.has_no_more() && self.in_flight.is_empty()
    }

    fn has_no_more(&self) -> bool {
        self.stop.is_set() || self.plan.count.is_some_and(|count| self.next >= count)
    }

    async fn run(&mut self, mut client: Client) -> Result<(), Lost> {
        self.resend(&mut client).await?;
        let mut silence = Silence::new(self.habits);
        while !self.is_done() {
            while self.may_send() {
                self.send_next(&mut client).await?;
            }
            if let Some(packet) = silence.receive(&mut client, self.until_next()).await? {
                self.take(&mut client, packet).await?;
            }
        }
        client.leave().await;
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.has_no_more() && self.in_flight.len() < self.plan.window
    }

    fn may_send(&self) -> bool {
        self.has_room() && self.next_at <= Instant::now()
    }

    /// How long to listen before something else may be to do.
    fn until_next(&self) -> Duration {
        let wait = if self.has_room() {
            self.next_at.saturating_duration_since(Instant::now())
        } else {
            QUIET
        };
        wait.min(QUIET)
    }

    async fn resend(&mut self, client: &mut Client) -> Result<(), Lost> {
        if self.connected_before && !client.session_present {
            self.ledger.error(format!("session of publisher {} is lost", self.plan.publisher));
        }
        self.connected_before = true;
        for (number, (id, stage)) in self.in_flight.clone() {
            match stage {
                Stage::Sent => self.send(client, number, id, true).await?,
                Stage::Released => client.send(&Ack::Pubrel.encode(id)).await?,
            }
        }
        Ok(())
    }

    async fn send_next(&mut self, client: &mut Client) -> Result<(), Lost> {
        let number = self.next;
        self.next += 1;
        self.next_at = Instant::now() + self.habits.publish_interval;
        let used: HashSet<u16> = self.in_flight.values().map(|(id, _)| *id).collect();
        let id =
            std::iter::repeat_with(|| client.fresh_id()).find(|id| !used.contains(id)).unwrap();
        self.in_flight.insert(number, (id, Stage::Sent));
        self.send(client, number, id, false).await
    }

    async fn send(&self, client: &mut Client, number: u64, id: u16, dup: bool) -> Result<(), Lost> {
        let payload = Entry { publisher: self.plan.publisher, number }.payload();
        let mut publish = Publish::new(&self.plan.topic, payload, self.plan.qos);
        (publish.id, publish.dup) = (id, dup);
        client.send(&publish.encode(self.plan.version)).await
    }

    async fn take(&mut self, client: &mut Client, packet: Packet) -> Result<(), Lost> {
        let Packet::Ack { kind, id, code } = packet else { return Ok(()) };
        let Some((number, stage)) = self.of_id(id) else { return Ok(()) };
        let entry = Entry { publisher: self.plan.publisher, number };
        if code >= 0x80 && kind != Ack::Pubcomp {
            self.ledger.refused();
            self.in_flight.remove(&number);
            return Ok(());
        }
        match kind {
            Ack::Puback => {
                self.ledger.acknowledged(entry);
                self.in_flight.remove(&number);
            }
            Ack::Pubrec => {
                if stage == Stage::Sent {
                    self.ledger.acknowledged(entry);
                    self.in_flight.insert(number, (id, Stage::Released));
                }
                client.send(&Ack::Pubrel.encode(id)).await?;
            }
            Ack::Pubcomp => {
                self.in_flight.remove(&number);
            }
            Ack::Pubrel => {}
        }
        Ok(())
    }

    fn of_id(&self, wanted: u16) -> Option<(u64, Stage)> {
        let found = self.in_flight.iter().find(|(_, (id, _))| *id == wanted);
        found.map(|(number, (_, stage))| (*number, *stage))
    }
}

/// What a subscriber does.
#[derive(Debug, Clone)]
pub struct SubscriberPlan {
    /// Gateways, tried in turn beginning with the first.
    pub addresses: Vec<String>,
    /// Client id and name in the ledger.
    pub name: String,
    /// What it subscribes to.
    pub filter: String,
    /// At most this QoS.
    pub qos: u8,
    /// Protocol version.
    pub version: Version,
}

impl SubscriberPlan {
    /// Connects at the first gateway, subscribes, and returns the connection.
    pub async fn subscribe(&self) -> Client {
        let connect = Connect::durable(self.version, &self.name);
        let mut client = Client::connect(&self.addresses[0], &connect).await;
        let codes = client.subscribe(&[(&self.filter, self.qos)]).await;
        assert_eq!(codes, [self.qos], "{} is not subscribed", self.name);
        client
    }
}

/// Starts a subscriber whose session exists, and which goes on with `client` if it has a
/// connection. It ends when `stop` is set and it has got everything that was acknowledged.
pub fn spawn_subscriber(
    plan: SubscriberPlan,
    client: Option<Client>,
    ledger: Arc<Ledger>,
    stop: Stop,
) -> JoinHandle<()> {
    spawn_subscriber_with(Habits::default(), plan, client, ledger, stop)
}

/// The same with habits.
pub fn spawn_subscriber_with(
    habits: Habits,
    plan: SubscriberPlan,
    client: Option<Client>,
    ledger: Arc<Ledger>,
    stop: Stop,
) -> JoinHandle<()> {
    let mut subscriber = Subscriber { plan, habits, ledger, stop, unreleased: HashSet::new() };
    tokio::spawn(async move {
        let connect = Connect::durable(subscriber.plan.version, &subscriber.plan.name);
        let mut addresses = subscriber.plan.addresses.clone().into_iter().cycle();
        let mut connected = client;
        while !subscriber.is_done() {
            let client = match connected.take() {
                Some(client) => Ok(Ok(client)),
                None => {
                    let address = addresses.next().unwrap();
                    let opened = timeout(CONNECT_PATIENCE, Client::try_connect(&address, &connect));
                    let opened = opened.await;
                    if matches!(&opened, Ok(Ok(client)) if !client.session_present) {
                        let name = &subscriber.plan.name;
                        subscriber.ledger.error(format!("session of {name} is lost"));
                    }
                    opened
                }
            };
            let mut pause = RECONNECT_PAUSE;
            if let Ok(Ok(client)) = client {
                // The loss is what the test makes; the next round reconnects.
                if let (Ok(()), Some((_, away))) = (subscriber.run(client).await, habits.away) {
                    pause = away;
                }
            }
            let waited = Instant::now();
            while waited.elapsed() < pause && !subscriber.stop.is_set() {
                sleep(RECONNECT_PAUSE).await;
            }
        }
    })
}

struct Subscriber {
    plan: SubscriberPlan,
    habits: Habits,
    ledger: Arc<Ledger>,
    stop: Stop,
    /// QoS 2 ids that were received and not released: a client keeps them over connections.
    unreleased: HashSet<u16>,
}

impl Subscriber {
    fn is_done(&self) -> bool {
        self.stop.is_set() && self.ledger.is_complete(&self.plan.name)
    }

    async fn run(&mut self, mut client: Client) -> Result<(), Lost> {
        let started = Instant::now();
        let mut silence = Silence::new(self.habits);
        while !self.leaves(started) {
            match silence.receive(&mut client, QUIET).await? {
                Some(packet) => self.take(&mut client, packet).await?,
                // Comparing takes a while: only when nothing arrives any more.
                None if self.is_done() => break,
                None => {}
            }
        }
        client.leave().await;
        Ok(())
    }

    /// Whether it is time to be away.
    fn leaves(&self, started: Instant) -> bool {
        let staying = self.habits.away.map(|(stay, _)| stay);
        !self.stop.is_set() && staying.is_some_and(|stay| started.elapsed() >= stay)
    }

    async fn take(&mut self, client: &mut Client, packet: Packet) -> Result<(), Lost> {
        match packet {
            Packet::Publish(publish) => {
                if publish.qos < 2 || self.unreleased.insert(publish.id) {
                    match Entry::parse(&publish.payload) {
                        Some(entry) => self.ledger.received(&self.plan.name, entry),
                        None => self.ledger.error(format!("foreign payload {:?}", publish.text())),
                    }
                }
                match publish.qos {
                    0 => Ok(()),
                    1 => client.send(&Ack::Puback.encode(publish.id)).await,
                    _ => client.send(&Ack::Pubrec.encode(publish.id)).await,
                }
            }
            Packet::Ack { kind: Ack::Pubrel, id, .. } => {
                self.unreleased.remove(&id);
                client.send(&Ack::Pubcomp.encode(id)).await
            }
            _ => Ok(()),
        }
    }
}
