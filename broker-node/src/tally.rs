//! What is counted for every packet.
//!
//! Each thread counts in a cell of its own, which nobody else writes: no shared cache line, no locked
//! instruction. The cells are added up from time to time and told as metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};
use parking_lot::Mutex;

use crate::metrics as names;

/// How old what is told may be.
const TOLD_EVERY: Duration = Duration::from_millis(500);
const QOS: [&str; 3] = ["0", "1", "2"];

/// One thread's counts.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell {
    received: [AtomicU64; 3],
    sent: [AtomicU64; 3],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    /// Those that began on this thread, less those that ended on it.
    in_flight: AtomicI64,
    subscriptions: AtomicI64,
}

/// Those of all threads that ever counted.
static CELLS: Mutex<Vec<Arc<Cell>>> = Mutex::new(Vec::new());

thread_local! {
    static CELL: Arc<Cell> = {
        let cell = Arc::new(Cell::default());
        CELLS.lock().push(cell.clone());
        cell
    };
}

/// PUBLISH packets by QoS.
pub(crate) type ByQos = [u64; 3];

/// PUBLISH packets came.
pub(crate) fn received(packets: &ByQos) {
    CELL.with(|cell| add_all(&cell.received, packets));
}

/// PUBLISH packets are sent.
pub(crate) fn sent(packets: &ByQos) {
    CELL.with(|cell| add_all(&cell.sent, packets));
}

/// Bytes were read from a client.
pub(crate) fn received_bytes(bytes: usize) {
    CELL.with(|cell| add(&cell.received_bytes, bytes as u64));
}

/// Bytes were written to a client.
pub(crate) fn sent_bytes(bytes: usize) {
    CELL.with(|cell| add(&cell.sent_bytes, bytes as u64));
}

/// A client's unacknowledged messages became more or less.
pub(crate) fn in_flight(change: i64) {
    CELL.with(|cell| change_by(&cell.in_flight, change));
}

/// A client's subscriptions became more or less.
pub(crate) fn subscriptions(change: i64) {
    CELL.with(|cell| change_by(&cell.subscriptions, change));
}

fn add_all(counts: &[AtomicU64; 3], more: &ByQos) {
    for (count, more) in counts.iter().zip(more) {
        if *more > 0 {
            add(count, *more);
        }
    }
}

/// This thread alone writes.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

fn change_by(count: &AtomicI64, change: i64) {
    count.store(count.load(Ordering::Relaxed) + change, Ordering::Relaxed);
}

/// Tells the sums as metrics, for as long as the process lives.
pub(crate) async fn keep_telling() {
    let mut ticks = tokio::time::interval(TOLD_EVERY);
    loop {
        ticks.tick().await;
        tell();
    }
}

fn tell() {
    let cells = CELLS.lock().clone();
    let sum = |of: fn(&Cell) -> &AtomicU64| -> u64 {
        cells.iter().map(|cell| of(cell).load(Ordering::Relaxed)).sum()
    };
    let balance = |of: fn(&Cell) -> &AtomicI64| -> f64 {
        cells.iter().map(|cell| of(cell).load(Ordering::Relaxed)).sum::<i64>() as f64
    };
    for (qos, name) in QOS.into_iter().enumerate() {
        let of = |counts: fn(&Cell) -> &[AtomicU64; 3]| -> u64 {
            cells.iter().map(|cell| counts(cell)[qos].load(Ordering::Relaxed)).sum()
        };
        counter!(names::RECEIVED, "qos" => name).absolute(of(|cell| &cell.received));
        counter!(names::SENT, "qos" => name).absolute(of(|cell| &cell.sent));
    }
    counter!(names::RECEIVED_BYTES).absolute(sum(|cell| &cell.received_bytes));
    counter!(names::SENT_BYTES).absolute(sum(|cell| &cell.sent_bytes));
    gauge!(names::IN_FLIGHT).set(balance(|cell| &cell.in_flight));
    gauge!(names::SUBSCRIPTIONS).set(balance(|cell| &cell.subscriptions));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> (u64, i64) {
        let cells = CELLS.lock();
        let sent = cells.iter().map(|cell| cell.sent[2].load(Ordering::Relaxed)).sum();
        let in_flight = cells.iter().map(|cell| cell.in_flight.load(Ordering::Relaxed)).sum();
        (sent, in_flight)
    }

    #[test]
    fn threads_count_for_themselves_and_nothing_is_lost_when_they_end() {
        let before = counted();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..1000 {
                        sent(&[0, 0, 3]);
                        in_flight(2);
                        in_flight(-1);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let after = counted();
        assert_eq!((after.0 - before.0, after.1 - before.1), (12_000, 4_000));
    }
}
