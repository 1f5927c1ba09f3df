//! A publisher that keeps its window full, or a pace.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use holdfast_e2e::packet::{Publish, Version};
use tokio::time::{Instant, sleep_until};

use crate::link::{Link, kind};
use crate::run::Tally;

/// At least the largest window.
const SENT_SLOTS: usize = 1024;

/// A PUBLISH that is encoded once; packet id and time are patched.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    id_at: usize,
    time_at: usize,
}

impl Template {
    /// A QoS 1 message for `topic` whose payload begins with the time it was sent.
    pub(crate) fn new(topic: &str, payload_bytes: usize) -> Template {
        let publish = Publish { id: 1, ..Publish::new(topic, vec![b'x'; payload_bytes], 1) };
        let bytes = publish.encode(Version::V5);
        let time_at = bytes.len() - payload_bytes;
        // The id lies before the one byte that says that there are no properties.
        Template { bytes, id_at: time_at - 3, time_at }
    }

    fn write(&self, id: u16, nanos: u64, output: &mut Vec<u8>) {
        let start = output.len();
        output.extend_from_slice(&self.bytes);
        output[start + self.id_at..][..2].copy_from_slice(&id.to_be_bytes());
        output[start + self.time_at..][..8].copy_from_slice(&nanos.to_be_bytes());
    }
}

/// One publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) link: Link,
    pub(crate) template: Template,
    pub(crate) window: u16,
    /// Time between two messages; none to go as fast as the window allows.
    pub(crate) pace: Option<Duration>,
    /// Messages in all; none to go on until stopped.
    pub(crate) count: Option<u64>,
    pub(crate) tally: Rc<Tally>,
}

impl Publisher {
    /// Publishes until it is told to stop or has sent all, and everything is acknowledged.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let mut sent_at = [0_u64; SENT_SLOTS];
        let mut next_id: u16 = 1;
        let mut in_flight: u16 = 0;
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut due = Instant::now();
        loop {
            let wanted = !self.tally.stop.get() && left > 0;
            if !wanted && in_flight == 0 {
                return self.link.disconnect().await;
            }
            while wanted && left > 0 && in_flight < self.window {
                if self.pace.is_some() && Instant::now() < due {
                    break;
                }
                due += self.pace.unwrap_or_default();
                let nanos = self.tally.clock.nanos();
                self.template.write(next_id, nanos, &mut self.link.output);
                sent_at[usize::from(next_id) % SENT_SLOTS] = nanos;
                next_id = next_id.checked_add(1).unwrap_or(1);
                in_flight += 1;
                left -= 1;
            }
            self.link.flush().await?;
            let may_send = wanted && left > 0 && in_flight < self.window;
            tokio::select! {
                read = self.link.fill() => read?,
                () = sleep_until(due), if may_send && self.pace.is_some() => continue,
            }
            let now = self.tally.clock.nanos();
            while let Some((first, body)) = self.link.next() {
                let bytes = self.link.bytes(&body);
                match (first & 0xf0, bytes) {
                    (kind::PUBACK, [high, low, rest @ ..]) => {
                        in_flight = in_flight.saturating_sub(1);
                        let id = usize::from(*high) << 8 | usize::from(*low);
                        let refused = rest.first().is_some_and(|code| *code >= 0x80);
                        self.tally.acknowledge(now - sent_at[id % SENT_SLOTS], refused);
                    }
                    (kind::DISCONNECT, bytes) => {
                        return Err(io::Error::other(format!("DISCONNECT {bytes:x?}")));
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_e2e::packet::{Packet, decode};

    #[test]
    fn a_patched_template_is_a_publish() {
        let mut output = Vec::new();
        Template::new("b/1", 16).write(0x1234, 77, &mut output);
        let Ok(Some(Packet::Publish(publish))) = decode(Version::V5, &mut output) else {
            panic!("no publish");
        };
        assert_eq!((publish.id, publish.qos, publish.topic.as_str()), (0x1234, 1, "b/1"));
        assert_eq!(publish.payload[..8], 77_u64.to_be_bytes());
    }
}
