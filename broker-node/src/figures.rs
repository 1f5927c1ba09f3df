//! What a connection shows of itself to those who ask: the admin API.
//!
//! Its task alone writes the numbers; others read them whenever they want, without a lock.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::tally;

/// What does not change after CONNECT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) remote: Remote,
    /// 4 for MQTT 3.1.1, 5 for MQTT 5.0.
    pub(crate) protocol_level: u8,
    /// 0: none.
    pub(crate) keep_alive_s: u16,
    pub(crate) expiry_interval_s: u32,
    /// ms since the Unix epoch.
    pub(crate) connected_at_ms: u64,
}

/// The client's end of the connection; smaller than a `SocketAddr`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote {
    ip: Ipv6Addr,
    port: u16,
}

impl From<SocketAddr> for Remote {
    fn from(address: SocketAddr) -> Remote {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Remote { ip, port: address.port() }
    }
}

impl From<Remote> for SocketAddr {
    fn from(remote: Remote) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(remote.ip).to_canonical(), remote.port)
    }
}

/// The numbers of one connection.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    facts: OnceLock<Facts>,
    received: AtomicU64,
    sent: AtomicU64,
    subscriptions: AtomicU32,
    in_flight: AtomicU16,
    is_over: AtomicBool,
}

/// One look at the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// PUBLISH packets from the client.
    pub(crate) received: u64,
    /// PUBLISH packets to the client.
    pub(crate) sent: u64,
    pub(crate) subscriptions: u32,
    /// Sent and not acknowledged.
    pub(crate) in_flight: u16,
}

impl Figures {
    /// The client was understood. What is said a second time does not count.
    pub(crate) fn begin(&self, facts: Facts) {
        let _ = self.facts.set(facts);
    }

    /// What is known since CONNECT.
    pub(crate) fn facts(&self) -> Option<Facts> {
        self.facts.get().copied()
    }

    /// PUBLISH packets came.
    pub(crate) fn received(&self, packets: &tally::ByQos) {
        tally::received(packets);
        grow(&self.received, packets.iter().sum());
    }

    /// PUBLISH packets are sent.
    pub(crate) fn sent(&self, packets: &tally::ByQos) {
        tally::sent(packets);
        grow(&self.sent, packets.iter().sum());
    }

    /// As the session has it now.
    pub(crate) fn now(&self, subscriptions: usize, in_flight: usize) {
        let subscriptions = u32::try_from(subscriptions).unwrap_or(u32::MAX);
        let known = self.subscriptions.load(Ordering::Relaxed);
        if known != subscriptions {
            self.subscriptions.store(subscriptions, Ordering::Relaxed);
            tally::subscriptions(i64::from(subscriptions) - i64::from(known));
        }
        let in_flight = u16::try_from(in_flight).unwrap_or(u16::MAX);
        let known = self.in_flight.load(Ordering::Relaxed);
        if known != in_flight {
            self.in_flight.store(in_flight, Ordering::Relaxed);
            tally::in_flight(i64::from(in_flight) - i64::from(known));
        }
    }

    /// The connection ends: it is shown no more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.now(0, 0);
    }

    /// Whether the client is connected, as far as its end does not wait for a last commit.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The numbers as they are.
    pub(crate) fn numbers(&self) -> Numbers {
        Numbers {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            subscriptions: self.subscriptions.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }
}

/// The connection's task alone writes.
fn grow(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_million_connections_stay_small() {
        assert!(size_of::<Figures>() <= 72, "{} bytes", size_of::<Figures>());
    }

    #[test]
    fn remote_addresses_are_shown_as_they_came() {
        for (told, shown) in [
            ("10.1.2.3:50000", "10.1.2.3:50000"),
            ("[::ffff:10.1.2.3]:50000", "10.1.2.3:50000"),
            ("[fd00::7]:1", "[fd00::7]:1"),
        ] {
            let address: SocketAddr = told.parse().unwrap();
            assert_eq!(SocketAddr::from(Remote::from(address)).to_string(), shown);
        }
    }

    #[test]
    fn numbers_follow_the_session() {
        let figures = Figures::default();
        figures.received(&[1, 2, 0]);
        figures.sent(&[0, 0, 5]);
        figures.now(3, 7);
        figures.now(2, 7);
        let numbers = Numbers { received: 3, sent: 5, subscriptions: 2, in_flight: 7 };
        assert_eq!((figures.numbers(), figures.is_over()), (numbers, false));
        figures.end();
        let numbers = Numbers { subscriptions: 0, in_flight: 0, ..numbers };
        assert_eq!((figures.numbers(), figures.is_over()), (numbers, true));
    }
}
