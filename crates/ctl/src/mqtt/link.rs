//! One connection to a gateway. It is not made again by itself: who uses it decides what a loss means.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, SubscribeReasonCode};
use rumqttc::v5::mqttbytes::{QoS, valid_topic};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio::time::timeout;

use super::gateway::Address;
use super::reason::{failure, words};
use crate::failure::{Failure, Outcome};

/// Requests that wait for the socket.
const QUEUE: usize = 1_024;
const CONNECT_TIMEOUT_S: u64 = 5;
/// A gateway that does not close after DISCONNECT is left.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
const SUBACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Larger packets are refused by the client library otherwise.
const PACKET_BYTES_MAX: u32 = 256 << 20;

/// How to connect.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) client_id: String,
    pub(crate) clean_start: bool,
    /// Seconds that the session outlives the connection.
    pub(crate) expiry_s: u32,
}

/// A connection that was accepted.
pub(crate) struct Link {
    address: Address,
    client: AsyncClient,
    events: EventLoop,
    /// Messages that came before they were asked for.
    early: VecDeque<Publish>,
    /// The gateway knew the session.
    pub(crate) session_present: bool,
}

impl Session {
    /// One that ends with its connection.
    pub(crate) fn passing(client_id: String) -> Session {
        Session { client_id, clean_start: true, expiry_s: 0 }
    }
}

impl Link {
    /// Connects, and waits until the gateway has accepted the client.
    pub(crate) async fn connect(address: &Address, session: &Session) -> Outcome<Link> {
        let mut options = MqttOptions::new(&session.client_id, &address.host, address.port);
        options.set_clean_start(session.clean_start);
        options.set_session_expiry_interval(Some(session.expiry_s));
        options.set_max_packet_size(Some(PACKET_BYTES_MAX));
        options.set_connection_timeout(CONNECT_TIMEOUT_S);
        options.set_keep_alive(Duration::from_secs(30));
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let (client, mut events) = AsyncClient::new(options, QUEUE);
        events.options.set_network_options(network);
        let (address, early) = (address.clone(), VecDeque::new());
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    let session_present = ack.session_present;
                    // Should it be used after a loss, it goes on with this session.
                    events.options.set_clean_start(session.clean_start && session.expiry_s == 0);
                    return Ok(Link { address, client, events, early, session_present });
                }
                Ok(_) => {}
                Err(error) => return Err(failure(&address.to_string(), &error)),
            }
        }
    }

    /// Connects to the first that takes the client.
    pub(crate) async fn connect_any(addresses: &[Address], session: &Session) -> Outcome<Link> {
        let mut last = Failure::failed("there is no gateway to connect to");
        for address in addresses {
            match Link::connect(address, session).await {
                Ok(link) => return Ok(link),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Where it is connected to.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The next thing that happens.
    pub(crate) async fn next(&mut self) -> Outcome<Event> {
        self.events.poll().await.map_err(|error| self.lost(&error))
    }

    fn lost(&self, error: &ConnectionError) -> Failure {
        failure(&self.address.to_string(), error)
    }

    /// Hands a message to the connection; false if too many wait.
    pub(crate) fn publish(
        &self,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: Bytes,
    ) -> Outcome<bool> {
        if topic.is_empty() || !valid_topic(topic) {
            return Err(Failure::usage(format!("{topic:?} is no topic"))
                .hint("a topic is not empty and has no + and no #"));
        }
        // What else is refused is a queue that is full.
        Ok(self.client.try_publish(topic, qos, retain, payload).is_ok())
    }

    /// Subscribes, and waits until all filters are granted.
    pub(crate) async fn subscribe(&mut self, filters: &[String], qos: QoS) -> Outcome {
        let list: Vec<Filter> = filters.iter().map(|filter| Filter::new(filter, qos)).collect();
        self.client.try_subscribe_many(list).map_err(|_| {
            Failure::usage(format!("{:?} has what is no topic filter", filters.join(" ")))
                .hint("+ stands for one whole level, # for all that follow, at the end")
        })?;
        let address = self.address.to_string();
        let codes = timeout(SUBACK_TIMEOUT, self.suback()).await.map_err(|_| {
            Failure::failed(format!("{address} does not confirm the subscription"))
        })??;
        for (filter, code) in filters.iter().zip(codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                return Err(Failure::failed(format!(
                    "filter {filter:?} is refused: {}",
                    words(code)
                )));
            }
        }
        Ok(())
    }

    async fn suback(&mut self) -> Outcome<Vec<SubscribeReasonCode>> {
        loop {
            match self.next().await? {
                Event::Incoming(Packet::SubAck(ack)) => return Ok(ack.return_codes),
                Event::Incoming(Packet::Publish(message)) => self.early.push_back(message),
                _ => {}
            }
        }
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Outcome<Publish> {
        if let Some(message) = self.early.pop_front() {
            return Ok(message);
        }
        loop {
            if let Event::Incoming(Packet::Publish(message)) = self.next().await? {
                return Ok(message);
            }
        }
    }

    /// Says good-bye, so that what was acknowledged is known.
    pub(crate) async fn leave(mut self) {
        if self.client.try_disconnect().is_ok() {
            // It ends with the gateway's closing, which the library takes for a loss.
            let closed = async { while self.events.poll().await.is_ok() {} };
            let _ = timeout(LEAVE_TIMEOUT, closed).await;
        }
    }
}

/// Removes a session and what waits for it.
pub(crate) async fn end_session(addresses: &[Address], client_id: &str) -> Outcome {
    let link = Link::connect_any(addresses, &Session::passing(client_id.to_owned())).await?;
    link.leave().await;
    Ok(())
}
