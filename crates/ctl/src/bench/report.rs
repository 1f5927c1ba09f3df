//! What a run showed.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::latency::Latencies;
use super::publisher::Published;
use super::stamp::Numbers;
use super::subscriber::Received;
use super::{BenchArgs, Run};
use crate::console::{self, Tone};
use crate::table::{self, Cell, Row};

/// Everything that was measured. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Nothing that was acknowledged is missing, and nothing came twice at QoS 2.
    pub(super) ok: bool,
    pub(super) qos: u8,
    pub(super) size_bytes: u64,
    pub(super) publishers: u32,
    pub(super) subscribers: u32,
    pub(super) sessions_offline: u32,
    pub(super) seconds: f64,
    pub(super) published: Line,
    pub(super) delivered: Line,
    /// Acknowledged, and not delivered to a subscriber of the topic.
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) out_of_order: u64,
    pub(super) refused: u64,
    /// Reason of the last one that was refused.
    pub(super) refusal: Option<String>,
    /// Sent, and neither acknowledged nor refused at the end.
    pub(super) unanswered: u64,
    /// Due by --rate and not sent, because too many were unacknowledged.
    pub(super) late: u64,
    pub(super) connections_lost: u64,
    /// Cores that this command itself used.
    pub(super) own_cores: f64,
    /// Cores of this machine.
    pub(super) cores: u64,
}

/// Messages of one kind with their latencies.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    what: &'static str,
    count: u64,
    per_second: f64,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    max_us: Option<u64>,
}

impl Line {
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    pub(super) fn new(what: &'static str, count: u64, seconds: f64, latencies: &Latencies) -> Line {
        Line {
            what,
            count,
            per_second: (count as f64 / seconds.max(1e-9)).round(),
            p50_us: latencies.per_mille(500),
            p99_us: latencies.per_mille(990),
            max_us: latencies.max(),
        }
    }
}

impl Row for &Line {
    const TITLES: &'static [&'static str] =
        &["messages", ">count", ">per second", ">p50", ">p99", ">max"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.what.into(),
            self.count.into(),
            format!("{:.0}", self.per_second).into(),
            Cell::or_dash(self.p50_us.map(milliseconds)),
            Cell::or_dash(self.p99_us.map(milliseconds)),
            Cell::or_dash(self.max_us.map(milliseconds)),
        ]
    }
}

/// Microseconds as milliseconds with as many digits as matter.
pub(super) fn milliseconds(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

impl Report {
    /// Of all that was counted, with the seconds of publishing and those until all was delivered.
    pub(super) fn of(
        args: &BenchArgs,
        run: &Run,
        (seconds, delivered_s): (f64, f64),
        own_cores: f64,
        published: &[Published],
        received: &[Received],
    ) -> Report {
        let (mut acks, mut deliveries) = (Latencies::default(), Latencies::default());
        published.iter().for_each(|one| acks.merge(&one.latencies));
        received.iter().for_each(|one| deliveries.merge(&one.latencies));
        let groups = args.groups() as usize;
        let lost = received.iter().enumerate().flat_map(|(s, seen)| {
            let of_group =
                published.iter().enumerate().filter(move |(p, _)| p % groups == s % groups);
            of_group.map(move |(p, sent)| {
                let none = Numbers::default();
                let number = u32::try_from(p).unwrap_or(u32::MAX);
                sent.acknowledged.missing_in(seen.numbers.get(&number).unwrap_or(&none))
            })
        });
        let lost: u64 = lost.sum();
        let repeated = received.iter().map(|one| one.repeated).sum();
        let acknowledged = run.meter.acknowledged.load(Relaxed);
        let delivered = run.meter.delivered.load(Relaxed);
        let taken = if args.qos == 0 { "published, written" } else { "published, acknowledged" };
        Report {
            ok: (args.qos == 0 || lost == 0) && (args.qos < 2 || repeated == 0),
            qos: args.qos,
            size_bytes: args.size.0,
            publishers: args.publishers,
            subscribers: args.subscribers,
            sessions_offline: args.sessions_offline,
            seconds,
            published: Line::new(taken, acknowledged, seconds, &acks),
            delivered: Line::new("delivered, from end to end", delivered, delivered_s, &deliveries),
            lost,
            repeated,
            out_of_order: received.iter().map(|one| one.out_of_order).sum(),
            refused: run.meter.refused.load(Relaxed),
            refusal: published.iter().find_map(|one| one.refusal.clone()),
            unanswered: published.iter().map(|one| one.unanswered).sum(),
            late: published.iter().map(|one| one.late).sum(),
            connections_lost: run.meter.lost_connections.load(Relaxed),
            own_cores: (own_cores * 100.0).round() / 100.0,
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
        }
    }

    /// Prints it.
    pub(super) fn show(&self, json: bool) {
        if json {
            console::json(self);
            return;
        }
        console::line(table::render(&[&self.published, &self.delivered]));
        console::line("");
        let zero = |count: u64, bad: Tone| match count {
            0 => Tone::Good.paint("0"),
            count => bad.paint(&count.to_string()),
        };
        console::line(format!(
            "lost {}, repeated {}, out of order {}, refused {}, unanswered {}, connections lost {}",
            zero(self.lost, Tone::Bad),
            zero(self.repeated, if self.qos == 2 { Tone::Bad } else { Tone::Warn }),
            zero(self.out_of_order, Tone::Bad),
            zero(self.refused, Tone::Warn),
            zero(self.unanswered, Tone::Warn),
            zero(self.connections_lost, Tone::Warn),
        ));
        if self.late > 0 {
            console::line(format!(
                "{} messages were due by --rate and not sent: the cluster was slower, or --in-flight too low",
                self.late
            ));
        }
        console::line(self.limits());
    }

    /// How far the figures are those of the cluster.
    fn limits(&self) -> String {
        let (own, cores) = (self.own_cores, self.cores);
        #[allow(clippy::cast_precision_loss, reason = "a few cores")]
        let is_much = own > cores as f64 * 0.4;
        match is_much {
            true => format!(
                "this command itself used {own:.1} of this machine's {cores} cores: the rates are a lower \
                 bound, run it on more machines or with --rate for the cluster's own"
            ),
            false => format!("this command itself used {own:.1} of this machine's {cores} cores"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_as_many_digits_as_matter() {
        let texts = [0, 850, 1_234, 45_678, 1_250_000].map(milliseconds);
        assert_eq!(texts, ["0.00 ms", "0.85 ms", "1.23 ms", "45 ms", "1.2 s"]);
    }
}
