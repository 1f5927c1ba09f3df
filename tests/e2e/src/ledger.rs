//! What publishers were acknowledged against what subscribers got.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A message of a publisher: its name and the number of the message, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Number of the publisher.
    pub publisher: u32,
    /// Number of the message.
    pub number: u64,
}

impl Entry {
    /// As payload.
    pub fn payload(self) -> Vec<u8> {
        format!("{}:{}", self.publisher, self.number).into_bytes()
    }

    /// From a payload.
    pub fn parse(payload: &[u8]) -> Option<Entry> {
        let (publisher, number) = std::str::from_utf8(payload).ok()?.split_once(':')?;
        Some(Entry { publisher: publisher.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Shared by all publishers and subscribers of a test.
#[derive(Debug, Default)]
pub struct Ledger {
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    acknowledged: BTreeSet<Entry>,
    /// In the order of arrival, by subscriber.
    received: BTreeMap<String, Vec<Entry>>,
    /// With the time of the first arrival.
    distinct: BTreeMap<String, HashMap<Entry, Instant>>,
    repeats: BTreeMap<String, Vec<Repeat>>,
    /// Arrivals by subscriber and publisher.
    arrivals: BTreeMap<String, BTreeMap<u32, Progress>>,
    /// By publisher.
    progress: BTreeMap<u32, Progress>,
    refused: u64,
    errors: Vec<String>,
}

/// How one publisher goes on, or what one subscriber gets of it.
#[derive(Debug)]
struct Progress {
    count: usize,
    last: Instant,
    longest_pause: Duration,
}

impl Progress {
    fn begin() -> Progress {
        Progress { count: 0, last: Instant::now(), longest_pause: Duration::ZERO }
    }

    fn step(&mut self) {
        let now = Instant::now();
        self.count += 1;
        self.longest_pause = self.longest_pause.max(now - self.last);
        self.last = now;
    }
}

/// A message that a subscriber got again.
#[derive(Debug, Clone, Copy)]
pub struct Repeat {
    /// Which one.
    pub entry: Entry,
    /// When it had arrived first.
    pub first: Instant,
    /// When it came again.
    pub again: Instant,
}

/// How one subscriber fared.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged and not received.
    pub lost: Vec<Entry>,
    /// Received more often than once.
    pub repeated: usize,
    /// Whose first arrival came after that of a later one of the same publisher.
    pub disordered: Vec<Entry>,
    /// Received, each counted once.
    pub received: usize,
}

impl Ledger {
    /// A publisher was acknowledged.
    pub fn acknowledged(&self, entry: Entry) {
        let mut books = self.books.lock().unwrap();
        books.acknowledged.insert(entry);
        books.progress.entry(entry.publisher).or_insert_with(Progress::begin).step();
    }

    /// A publisher got a reason code that is an error: the message may or may not be stored.
    pub fn refused(&self) {
        self.books.lock().unwrap().refused += 1;
    }

    /// A subscriber got a message.
    pub fn received(&self, subscriber: &str, entry: Entry) {
        let mut books = self.books.lock().unwrap();
        books.received.entry(subscriber.to_owned()).or_default().push(entry);
        let arrivals = books.arrivals.entry(subscriber.to_owned()).or_default();
        arrivals.entry(entry.publisher).or_insert_with(Progress::begin).step();
        let again = Instant::now();
        let distinct = books.distinct.entry(subscriber.to_owned()).or_default();
        let first = *distinct.entry(entry).or_insert(again);
        if first != again {
            let repeats = books.repeats.entry(subscriber.to_owned()).or_default();
            repeats.push(Repeat { entry, first, again });
        }
    }

    /// Something happened that must not.
    pub fn error(&self, text: String) {
        self.books.lock().unwrap().errors.push(text);
    }

    /// Number of acknowledged messages.
    pub fn acknowledged_count(&self) -> usize {
        self.books.lock().unwrap().acknowledged.len()
    }

    /// Number of messages that a subscriber has got, each counted once.
    pub fn distinct_count(&self, subscriber: &str) -> usize {
        self.books.lock().unwrap().distinct.get(subscriber).map_or(0, HashMap::len)
    }

    /// Whether a subscriber has got everything that was acknowledged.
    pub fn is_complete(&self, subscriber: &str) -> bool {
        let books = self.books.lock().unwrap();
        let Some(distinct) = books.distinct.get(subscriber) else {
            return books.acknowledged.is_empty();
        };
        books.acknowledged.iter().all(|entry| distinct.contains_key(entry))
    }

    /// Number of acknowledged messages of each publisher.
    pub fn acknowledged_by_publisher(&self) -> BTreeMap<u32, usize> {
        let books = self.books.lock().unwrap();
        books.progress.iter().map(|(name, progress)| (*name, progress.count)).collect()
    }

    /// Forgets the longest pauses between two acknowledgements and begins anew.
    pub fn restart_clock(&self) {
        let mut books = self.books.lock().unwrap();
        let now = Instant::now();
        let books = &mut *books;
        let arrivals = books.arrivals.values_mut().flat_map(BTreeMap::values_mut);
        for progress in books.progress.values_mut().chain(arrivals) {
            (progress.last, progress.longest_pause) = (now, Duration::ZERO);
        }
    }

    /// The longest pause between two acknowledgements that any publisher had.
    pub fn longest_pause(&self) -> Duration {
        let books = self.books.lock().unwrap();
        books.progress.values().map(|progress| progress.longest_pause).max().unwrap_or_default()
    }

    /// The longest pause between two arrivals from the same publisher that one of these subscribers
    /// had.
    pub fn longest_silence(&self, subscribers: &[String]) -> Duration {
        let books = self.books.lock().unwrap();
        let of_these = subscribers.iter().filter_map(|name| books.arrivals.get(name));
        let pauses = of_these.flat_map(BTreeMap::values).map(|progress| progress.longest_pause);
        pauses.max().unwrap_or_default()
    }

    /// What a subscriber got again.
    pub fn repeats(&self, subscriber: &str) -> Vec<Repeat> {
        self.books.lock().unwrap().repeats.get(subscriber).cloned().unwrap_or_default()
    }

    /// What happened that must not.
    pub fn errors(&self) -> Vec<String> {
        self.books.lock().unwrap().errors.clone()
    }

    /// How many messages were answered with an error.
    pub fn refused_count(&self) -> u64 {
        self.books.lock().unwrap().refused
    }

    /// How a subscriber fared.
    pub fn verdict(&self, subscriber: &str) -> Verdict {
        let books = self.books.lock().unwrap();
        let received = books.received.get(subscriber).cloned().unwrap_or_default();
        let mut verdict = Verdict::default();
        let mut seen = HashSet::new();
        let mut highest: BTreeMap<u32, u64> = BTreeMap::new();
        for entry in received {
            if !seen.insert(entry) {
                verdict.repeated += 1;
                continue;
            }
            let last = highest.entry(entry.publisher).or_insert(entry.number);
            if entry.number < *last {
                verdict.disordered.push(entry);
            }
            *last = entry.number.max(*last);
        }
        verdict.lost =
            books.acknowledged.iter().filter(|entry| !seen.contains(entry)).copied().collect();
        verdict.received = seen.len();
        verdict
    }

    /// Fails the test unless all subscribers got everything in order, and, if `exactly_once`,
    /// nothing twice.
    pub fn check(&self, subscribers: &[String], exactly_once: bool) {
        let (errors, refused) = {
            let books = self.books.lock().unwrap();
            (books.errors.clone(), books.refused)
        };
        let mut faults = errors;
        for subscriber in subscribers {
            let verdict = self.verdict(subscriber);
            println!(
                "{subscriber}: {} of {} acknowledged, {} repeated, {refused} refused",
                verdict.received,
                self.acknowledged_count(),
                verdict.repeated
            );
            if !verdict.lost.is_empty() {
                faults.push(format!("{subscriber} lost {}", sample(&verdict.lost)));
            }
            if !verdict.disordered.is_empty() {
                faults.push(format!("{subscriber} out of order {}", sample(&verdict.disordered)));
            }
            if exactly_once && verdict.repeated > 0 {
                faults.push(format!("{subscriber} got {} repeated", verdict.repeated));
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

fn sample(entries: &[Entry]) -> String {
    let first: Vec<String> =
        entries.iter().take(5).map(|e| format!("{}:{}", e.publisher, e.number)).collect();
    format!("{}, first {}", entries.len(), first.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry { publisher: 1, number }
    }

    #[test]
    fn a_repeated_run_is_no_disorder_but_a_late_message_is() {
        let ledger = Ledger::default();
        for number in [0, 1, 2, 1, 2, 4, 3] {
            ledger.received("s", entry(number));
        }
        for number in [0, 1, 5] {
            ledger.acknowledged(entry(number));
        }
        let verdict = ledger.verdict("s");
        assert_eq!(verdict.disordered, [entry(3)]);
        assert_eq!(verdict.lost, [entry(5)]);
        assert_eq!(verdict.repeated, 2);
    }
}
