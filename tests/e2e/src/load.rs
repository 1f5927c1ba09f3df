//! Publishers, connected subscribers and offline subscribers around one ledger.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::ledger::Ledger;
use crate::packet::Version;
use crate::traffic::{
    Habits, PublisherPlan, Stop, SubscriberPlan, spawn_publisher_with, spawn_subscriber,
};

/// Longer than any outage that a test makes.
const PATIENCE: Duration = Duration::from_secs(90);
const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

/// How much, and how.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// Of its topics and subscribers; two loads on one cluster need two.
    pub name: &'static str,
    /// Number of the first publisher, likewise.
    pub first_publisher: u32,
    /// On as many shards, so that every storage node probably leads one of them.
    pub publishers: u32,
    /// Half of them stay away until the end.
    pub subscribers: usize,
    /// 1 or 2.
    pub qos: u8,
    /// A publisher begins no message sooner after the one before.
    pub publish_interval: Duration,
}

impl Default for LoadPlan {
    fn default() -> LoadPlan {
        let publish_interval = Duration::from_millis(5);
        let (name, first_publisher) = ("load", 0);
        LoadPlan { name, first_publisher, publishers: 8, subscribers: 2, qos: 1, publish_interval }
    }
}

/// Under way.
#[derive(Debug)]
pub struct Load {
    /// What was acknowledged and received.
    pub ledger: Arc<Ledger>,
    plan: LoadPlan,
    /// Ends the publishers.
    stop: Stop,
    /// Ends the subscribers, when nothing is acknowledged any more.
    end: Stop,
    publishers: Vec<JoinHandle<()>>,
    connected: Vec<JoinHandle<()>>,
    offline: Vec<SubscriberPlan>,
    names: Vec<String>,
}

/// Addresses beginning with the n-th.
fn rotated(addresses: &[String], by: usize) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    let length = addresses.len();
    addresses.rotate_left(by % length);
    addresses
}

impl Load {
    /// Subscribes, then begins to publish, at these gateways and no others.
    pub async fn start(addresses: &[String], plan: LoadPlan) -> Load {
        let (ledger, stop, end) = (Arc::new(Ledger::default()), Stop::default(), Stop::default());
        let (mut connected, mut offline, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..plan.subscribers {
            let subscriber = SubscriberPlan {
                addresses: rotated(addresses, number),
                name: format!("{}-{number}", plan.name),
                filter: format!("{}/#", plan.name),
                qos: plan.qos,
                version: VERSIONS[(number + number / 2) % 2],
            };
            names.push(subscriber.name.clone());
            let client = subscriber.subscribe().await;
            if number % 2 == 0 {
                let (ledger, end) = (ledger.clone(), end.clone());
                connected.push(spawn_subscriber(subscriber, Some(client), ledger, end));
            } else {
                client.disconnect().await;
                offline.push(subscriber);
            }
        }
        let habits = Habits { publish_interval: plan.publish_interval, ..Habits::default() };
        let publishers = (plan.first_publisher..plan.first_publisher + plan.publishers)
            .map(|number| {
                let publisher = PublisherPlan {
                    addresses: rotated(addresses, number as usize),
                    publisher: number,
                    topic: format!("{}/{number}", plan.name),
                    qos: plan.qos,
                    window: 10,
                    count: None,
                    version: VERSIONS[number as usize % 2],
                };
                spawn_publisher_with(habits, publisher, ledger.clone(), stop.clone())
            })
            .collect();
        Load { ledger, plan, stop, end, publishers, connected, offline, names }
    }

    /// Waits until every publisher has been acknowledged as many more messages.
    pub async fn await_more(&self, count: usize) {
        let before = self.ledger.acknowledged_by_publisher();
        let progressed = async {
            loop {
                let now = self.ledger.acknowledged_by_publisher();
                let has_progressed = |(publisher, acknowledged): (&u32, &usize)| {
                    *acknowledged >= before.get(publisher).copied().unwrap_or(0) + count
                };
                if now.len() == self.plan.publishers as usize && now.iter().all(has_progressed) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(PATIENCE, progressed).await;
        let now = self.ledger.acknowledged_by_publisher();
        assert!(waited.is_ok(), "a publisher is stuck: {before:?} then, {now:?} now");
    }

    async fn all_end(ledger: &Ledger, tasks: Vec<JoinHandle<()>>) {
        for task in tasks {
            match timeout(PATIENCE, task).await {
                Ok(ended) => ended.unwrap(),
                // The verdict tells what is missing.
                Err(_) => ledger.error("a client never finished".to_owned()),
            }
        }
    }

    /// Lets everything drain and compares: nothing is lost or out of order and nobody lost a session;
    /// if `exactly_once`, nothing came twice; if not `refusals`, no publisher saw an error.
    pub async fn finish(self, exactly_once: bool, refusals: bool) {
        self.stop.set();
        // A subscriber that has got everything ends: what is acknowledged later would seem lost to it.
        Load::all_end(&self.ledger, self.publishers).await;
        self.end.set();
        let rest = self.offline.iter().cloned();
        let rest =
            rest.map(|plan| spawn_subscriber(plan, None, self.ledger.clone(), self.end.clone()));
        let subscribers = rest.chain(self.connected).collect();
        Load::all_end(&self.ledger, subscribers).await;
        if !refusals && self.ledger.refused_count() > 0 {
            self.ledger.error(format!("{} publishes were refused", self.ledger.refused_count()));
        }
        self.ledger.check(&self.names, exactly_once);
    }
}
