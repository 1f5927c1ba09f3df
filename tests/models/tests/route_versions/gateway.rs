//! A gateway's table of durable filters, with one filter: mirrors `Routes` and `Turns` of
//! `broker-node/src/cluster/routes.rs`, function by function, in ticks.

use crate::controller::{Entry, LEASE_MS, TICK_MS};

/// An update of the stream, as `GatewayUpdate`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Update {
    /// Version of the set, whether it is complete, and what it says of the filter.
    pub(crate) set: Option<(u64, bool, Entry)>,
    /// When the renewal that is echoed was sent, plus 1; 0: none.
    pub(crate) renewed: u8,
    pub(crate) covered: u64,
}

/// A report of the stream, as `GatewayReport`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Report {
    /// Its renewal: when it was sent, plus 1.
    pub(crate) sent: u8,
    pub(crate) acknowledged: u64,
}

/// One turn of publishing: one QoS 1 message that the filter matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Publishing {
    pub(crate) version: u64,
    pub(crate) is_durable: bool,
    pub(crate) began: u8,
}

/// The stream as far as it is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    pub(crate) up: Vec<Report>,
    pub(crate) down: Vec<Update>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Gateway {
    /// The version that brought the filter.
    active: Option<u64>,
    is_retiring: bool,
    version: u64,
    covered_version: u64,
    /// First tick of which the lease says nothing.
    lease_ends: u8,
    granted_ends: u8,
    is_complete: bool,
    pub(crate) publishing: Option<Publishing>,
    pub(crate) stream: Option<Stream>,
    /// What it reported last on this stream.
    pub(crate) reported: Option<Report>,
}

impl Gateway {
    pub(crate) fn new() -> Gateway {
        Gateway {
            active: None,
            is_retiring: false,
            version: 0,
            covered_version: 0,
            lease_ends: 0,
            granted_ends: 0,
            is_complete: false,
            publishing: None,
            stream: None,
            reported: None,
        }
    }

    pub(crate) fn stores_everything(&self, now: u8) -> bool {
        now >= self.lease_ends
    }

    pub(crate) fn is_durable(&self, now: u8) -> bool {
        self.stores_everything(now) || self.active.is_some() || self.is_retiring
    }

    pub(crate) fn covers(&self) -> bool {
        !self.is_retiring && self.active.is_some_and(|version| version <= self.covered_version)
    }

    /// `Turns::acknowledged`.
    pub(crate) fn acknowledged(&self) -> u64 {
        let publishing = self.publishing.as_ref();
        publishing.map_or(self.version, |turn| turn.version.min(self.version))
    }

    pub(crate) fn begin(&mut self, now: u8) {
        let is_durable = self.is_durable(now);
        self.publishing = Some(Publishing { version: self.version, is_durable, began: now });
    }

    pub(crate) fn registering(&mut self) {
        self.stream = Some(Stream::default());
        self.granted_ends = 0;
        self.is_complete = false;
        self.reported = None;
    }

    pub(crate) fn report(&mut self, acknowledged: u64, now: u8) {
        let report = Report { sent: now + 1, acknowledged };
        self.reported = Some(report.clone());
        if let Some(stream) = &mut self.stream {
            stream.up.push(report);
        }
    }

    /// `Control::update`: the set first, then what is covered, then the lease.
    pub(crate) fn update(&mut self, update: &Update, counted_from: impl Fn(u8) -> u8) {
        if let Some((version, is_complete, entry)) = update.set {
            if is_complete {
                (self.active, self.is_retiring, self.is_complete) = (None, false, true);
            }
            match entry {
                Entry::Absent => (self.active, self.is_retiring) = (None, false),
                Entry::Active if self.active.is_none() => {
                    (self.active, self.is_retiring) = (Some(version), false);
                }
                Entry::Active => {}
                Entry::Retiring => (self.active, self.is_retiring) = (None, true),
            }
            self.version = version;
        }
        if update.covered > 0 {
            self.covered_version = update.covered;
        }
        if update.renewed > 0 {
            let lease = (LEASE_MS - LEASE_MS / 10).div_ceil(TICK_MS) as u8;
            let ends = counted_from(update.renewed - 1) + lease;
            self.granted_ends = self.granted_ends.max(ends);
        }
        if self.is_complete {
            self.lease_ends = self.lease_ends.max(self.granted_ends);
        }
    }
}
