//! A client under full control of the test: it sends what it is told, when it is told.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::packet::{self, Ack, Connect, DISCONNECT, PINGREQ, Packet, Publish, Version};

/// Nothing in these tests takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that does not close after DISCONNECT is left after as long.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// The connection is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Closed or reset by the peer, or never opened.
    Closed(String),
    /// The server sent something that is not MQTT.
    Malformed(String),
    /// The server answered CONNECT with this code.
    Refused(u8),
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    version: Version,
    buffer: Vec<u8>,
    /// Read, but not what was waited for.
    pending: VecDeque<Packet>,
    next_id: u16,
    /// What CONNACK said.
    pub session_present: bool,
}

impl Client {
    /// Opens the socket and sends nothing.
    pub async fn open(address: &str, version: Version) -> Result<Client, Lost> {
        let stream = TcpStream::connect(address).await.map_err(closed)?;
        stream.set_nodelay(true).map_err(closed)?;
        let (buffer, pending) = (Vec::new(), VecDeque::new());
        Ok(Client { stream, version, buffer, pending, next_id: 0, session_present: false })
    }

    /// Connects, and waits for CONNACK.
    pub async fn try_connect(address: &str, connect: &Connect) -> Result<Client, Lost> {
        let mut client = Client::open(address, connect.version).await?;
        client.send(&connect.encode()).await?;
        match client.receive().await? {
            Packet::Connack { session_present, code: 0, .. } => {
                client.session_present = session_present;
                Ok(client)
            }
            Packet::Connack { code, .. } => Err(Lost::Refused(code)),
            other => Err(Lost::Malformed(format!("{other:?} instead of CONNACK"))),
        }
    }

    /// Connects, or fails the test.
    pub async fn connect(address: &str, connect: &Connect) -> Client {
        match Client::try_connect(address, connect).await {
            Ok(client) => client,
            Err(lost) => panic!("{} cannot connect to {address}: {lost:?}", connect.client_id),
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        self.stream.write_all(bytes).await.map_err(closed)
    }

    /// The next packet, whatever it is. Panics when none comes for a minute.
    pub async fn receive(&mut self) -> Result<Packet, Lost> {
        match self.pending.pop_front() {
            Some(packet) => Ok(packet),
            None => self.read().await,
        }
    }

    /// The next packet that `is_wanted`; the others stay for later.
    pub async fn wait_for(
        &mut self,
        what: &str,
        is_wanted: impl Fn(&Packet) -> bool,
    ) -> Result<Packet, Lost> {
        if let Some(at) = self.pending.iter().position(&is_wanted) {
            return Ok(self.pending.remove(at).unwrap());
        }
        loop {
            let read = timeout(PATIENCE, self.read()).await;
            let packet = read.unwrap_or_else(|_| panic!("{what} did not come"))?;
            if is_wanted(&packet) {
                return Ok(packet);
            }
            self.pending.push_back(packet);
        }
    }

    async fn read(&mut self) -> Result<Packet, Lost> {
        loop {
            let decoded = packet::decode(self.version, &mut self.buffer);
            if let Some(packet) = decoded.map_err(Lost::Malformed)? {
                return Ok(packet);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            let length = read.expect("the server sends or closes").map_err(closed)?;
            if length == 0 {
                return Err(Lost::Closed("end of stream".to_owned()));
            }
        }
    }

    /// A packet id that this client has not used lately.
    pub fn fresh_id(&mut self) -> u16 {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id
    }

    /// Subscribes and returns the codes of SUBACK.
    pub async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        let id = self.fresh_id();
        self.send(&packet::subscribe(self.version, id, filters)).await.unwrap();
        let suback = self
            .wait_for(
                "SUBACK",
                |packet| matches!(packet, Packet::Suback { id: of, .. } if *of == id),
            )
            .await;
        match suback.unwrap() {
            Packet::Suback { codes, .. } => codes,
            other => panic!("{other:?}"),
        }
    }

    /// Unsubscribes.
    pub async fn unsubscribe(&mut self, filters: &[&str]) {
        let id = self.fresh_id();
        self.send(&packet::unsubscribe(self.version, id, filters)).await.unwrap();
        self.wait_for(
            "UNSUBACK",
            |packet| matches!(packet, Packet::Unsuback { id: of } if *of == id),
        )
        .await
        .unwrap();
    }

    /// Publishes with the whole handshake of the QoS; returns the reason code.
    pub async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>, qos: u8) -> u8 {
        self.publish_message(Publish::new(topic, payload, qos)).await
    }

    /// Publishes a message with the whole handshake of its QoS; returns the reason code.
    pub async fn publish_message(&mut self, mut publish: Publish) -> u8 {
        if publish.qos > 0 {
            publish.id = self.fresh_id();
        }
        self.send(&publish.encode(self.version)).await.unwrap();
        match publish.qos {
            0 => 0,
            1 => self.acknowledged(Ack::Puback, publish.id).await,
            _ => {
                let code = self.acknowledged(Ack::Pubrec, publish.id).await;
                if code >= 0x80 {
                    return code;
                }
                self.send(&Ack::Pubrel.encode(publish.id)).await.unwrap();
                self.acknowledged(Ack::Pubcomp, publish.id).await
            }
        }
    }

    /// Waits for an acknowledgement and returns its reason code.
    pub async fn acknowledged(&mut self, wanted: Ack, wanted_id: u16) -> u8 {
        let is_wanted = |packet: &Packet| matches!(packet, Packet::Ack { kind, id, .. } if *kind == wanted && *id == wanted_id);
        match self.wait_for("an acknowledgement", is_wanted).await.unwrap() {
            Packet::Ack { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    /// The next PUBLISH, not acknowledged.
    pub async fn next_publish(&mut self) -> Publish {
        let packet = self.wait_for("PUBLISH", |packet| matches!(packet, Packet::Publish(_))).await;
        match packet.unwrap() {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    /// Acknowledges a PUBLISH with the whole handshake of its QoS.
    pub async fn acknowledge(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send(&Ack::Puback.encode(publish.id)).await.unwrap(),
            _ => {
                self.send(&Ack::Pubrec.encode(publish.id)).await.unwrap();
                self.acknowledged(Ack::Pubrel, publish.id).await;
                self.send(&Ack::Pubcomp.encode(publish.id)).await.unwrap();
            }
        }
    }

    /// The next `count` messages, each acknowledged.
    pub async fn collect(&mut self, count: usize) -> Vec<Publish> {
        let mut collected = Vec::with_capacity(count);
        for _ in 0..count {
            let publish = self.next_publish().await;
            self.acknowledge(&publish).await;
            collected.push(publish);
        }
        collected
    }

    /// All messages up to the one with the payload `marker`, which is not returned; each
    /// acknowledged.
    pub async fn collect_until(&mut self, marker: &str) -> Vec<Publish> {
        let mut collected = Vec::new();
        loop {
            let publish = self.next_publish().await;
            self.acknowledge(&publish).await;
            if publish.payload == marker.as_bytes() {
                return collected;
            }
            collected.push(publish);
        }
    }

    /// Returns when the server has handled everything sent before.
    pub async fn ping(&mut self) -> Result<(), Lost> {
        self.send(&PINGREQ).await?;
        self.wait_for("PINGRESP", |packet| *packet == Packet::Pingresp).await.map(|_| ())
    }

    /// Leaves in good order.
    pub async fn disconnect(mut self) {
        self.send(&DISCONNECT).await.unwrap();
        // The server closes: when it has, everything of this connection is over there, too.
        while self.read().await.is_ok() {}
    }

    /// Leaves in good order if the server still listens, and does not wait for long.
    pub async fn leave(mut self) {
        if self.send(&DISCONNECT).await.is_ok() {
            let ended = async { while self.read().await.is_ok() {} };
            // A server that hangs is left alone with it.
            let _ = timeout(LEAVE_PATIENCE, ended).await;
        }
    }

    /// Waits until the server ends the connection. Returns the reason of its DISCONNECT, if it
    /// sent one.
    pub async fn ended(&mut self) -> Option<u8> {
        let mut reason = None;
        loop {
            match self.receive().await {
                Ok(Packet::Disconnect { code }) => reason = Some(code),
                Ok(_) => {}
                Err(_) => return reason,
            }
        }
    }
}

fn closed(error: std::io::Error) -> Lost {
    Lost::Closed(error.to_string())
}
