//! Free ports on loopback.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which Linux takes the ports of outgoing connections, so that none of those
/// sits on a port of ours while its process restarts.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// Hands out free ports, each once. Two clusters that start at the same time begin at different
/// places.
#[derive(Debug)]
pub(crate) struct Ports {
    next: u16,
    given: BTreeSet<u16>,
}

impl Ports {
    /// Begins at a place that `seed` decides.
    pub(crate) fn new(seed: u64) -> Ports {
        let span = u64::from(LAST - FIRST) + 1;
        // The remainder fits: it is less than span.
        Ports { next: FIRST + u16::try_from(seed % span).unwrap_or(0), given: BTreeSet::new() }
    }

    /// Takes `port` if it is free.
    pub(crate) fn take(&mut self, port: u16) -> bool {
        is_free(port) && self.given.insert(port)
    }

    /// Takes `port`, which a process of ours uses.
    pub(crate) fn reserve(&mut self, port: u16) {
        self.given.insert(port);
    }

    /// Takes the next free port; none if all are taken.
    pub(crate) fn take_any(&mut self) -> Option<u16> {
        for _ in FIRST..=LAST {
            let port = self.next;
            self.next = if port == LAST { FIRST } else { port + 1 };
            if self.take(port) {
                return Some(port);
            }
        }
        None
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_not_given_and_none_twice() {
        let mut ports = Ports::new(7);
        let first = ports.take_any().expect("free");
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).expect("free");
        let mut others = Ports::new(7);
        assert!(!others.take(first));
        let second = others.take_any().expect("free");
        assert_ne!(first, second);
        assert!(!others.take(second));
    }
}
