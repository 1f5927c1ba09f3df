//! Whether this gateway is cut off from a leader that the rest of the cluster reaches. Pure.
//!
//! Such a shard's publishes and sessions stand still here and go on elsewhere, so clients are better off
//! at another gateway. A leader that is silent to all is replaced by its shard within seconds: where most
//! of its replicas still name it after that, they hear it, and what is cut is cut for us. Where too few of
//! them can be asked, the metadata service knows after its lease.
//!
//! The same is seen by every gateway when it is the site that is cut off from all of them; moving clients
//! around then mends nothing. So each time that clients were sent away makes the pause before the next
//! longer.

/// First pause after clients were sent elsewhere, in ms; it doubles with every further time.
const PAUSE_MS: u64 = 60_000;
/// The longest.
const PAUSE_MS_MAX: u64 = 16 * PAUSE_MS;

/// What is known of a leader to which there is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// Nobody is known to reach it, or there is none such.
    No,
    /// The metadata service hears its site.
    Believed,
    /// The shard's other replicas hear it, too.
    Seen,
}

/// How long a cut lasts before clients are better off elsewhere, in ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For one that is seen: longer than an election takes.
    pub(crate) seen_ms: u64,
    /// For one that is believed: longer than the metadata service's lease.
    pub(crate) believed_ms: u64,
}

/// What has been seen of the links so far.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    believed_since_ms: Option<u64>,
    seen_since_ms: Option<u64>,
    /// When clients were sent elsewhere last, and the pause that began then.
    told: Option<(u64, u64)>,
}

impl Reach {
    /// Takes in what is known now. True when it has lasted long enough, and again after ever longer pauses
    /// while it lasts or comes back.
    pub(crate) fn observe(&mut self, cut: Cut, now_ms: u64, patience: Patience) -> bool {
        let long = |since: &mut Option<u64>, is_cut: bool, after_ms: u64| {
            *since = is_cut.then(|| since.unwrap_or(now_ms));
            since.is_some_and(|since_ms| now_ms >= since_ms + after_ms)
        };
        let seen = long(&mut self.seen_since_ms, cut >= Cut::Seen, patience.seen_ms);
        let believed =
            long(&mut self.believed_since_ms, cut >= Cut::Believed, patience.believed_ms);
        if !(seen || believed) {
            return false;
        }
        let pause_ms = match self.told {
            Some((told_ms, pause_ms)) if now_ms < told_ms + pause_ms => return false,
            // As long again without a word: this is another story.
            Some((told_ms, pause_ms)) if now_ms < told_ms + 2 * pause_ms => {
                (2 * pause_ms).min(PAUSE_MS_MAX)
            }
            _ => PAUSE_MS,
        };
        self.told = Some((now_ms, pause_ms));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { seen_ms: 40, believed_ms: 150 };

    /// When clients are sent elsewhere, of all these ms.
    fn told(
        reach: &mut Reach,
        times: impl Iterator<Item = u64>,
        cut: impl Fn(u64) -> Cut,
    ) -> Vec<u64> {
        times.filter(|&now_ms| reach.observe(cut(now_ms), now_ms, PATIENCE)).collect()
    }

    #[test]
    fn what_replicas_see_counts_sooner_than_what_is_believed() {
        assert_eq!(told(&mut Reach::default(), 0..1_000, |_| Cut::Seen), [40]);
        assert_eq!(told(&mut Reach::default(), 0..1_000, |_| Cut::Believed), [150]);
        // The other replicas are not always heard.
        let mixed = |now_ms| if now_ms % 30 == 0 { Cut::Believed } else { Cut::Seen };
        assert_eq!(told(&mut Reach::default(), 0..1_000, mixed), [150]);
    }

    #[test]
    fn a_short_cut_is_not_told() {
        let cut = |now_ms| if now_ms % 40 == 0 { Cut::No } else { Cut::Seen };
        assert_eq!(told(&mut Reach::default(), 0..1_000, cut), Vec::<u64>::new());
    }

    #[test]
    fn pauses_grow_while_it_lasts_and_end_when_it_is_over() {
        let (mut reach, minutes) = (Reach::default(), |count| count * PAUSE_MS);
        let every_second = |from: u64, to: u64| (from..to).step_by(1_000);
        let times = told(&mut reach, every_second(0, minutes(60)), |_| Cut::Seen);
        let pauses: Vec<u64> = times.windows(2).map(|two| (two[1] - two[0]) / PAUSE_MS).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16]);
        told(&mut reach, every_second(minutes(60), minutes(120)), |_| Cut::No);
        let times = told(&mut reach, every_second(minutes(120), minutes(122)), |_| Cut::Seen);
        let pauses: Vec<u64> = times.windows(2).map(|two| (two[1] - two[0]) / PAUSE_MS).collect();
        assert_eq!(pauses, [1]);
    }

    #[test]
    fn a_link_that_flaps_sends_clients_away_once_in_a_pause() {
        let flapping = |now_ms: u64| if now_ms % 1_000 < 500 { Cut::Seen } else { Cut::No };
        let times = told(&mut Reach::default(), 0..PAUSE_MS, flapping);
        assert_eq!(times, [40]);
    }
}
