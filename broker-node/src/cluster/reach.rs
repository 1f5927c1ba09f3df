//! Whether this gateway is cut off from a leader that the rest of the cluster reaches. Pure.
//!
//! Such a shard's publishes and sessions stand still here and go on elsewhere, so clients are better off
//! at another gateway. A leader that is silent to all is replaced by its shard within seconds, or taken
//! for down by the metadata service within its lease; what is cut for longer is cut for us alone.

/// What has been seen of the links so far.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    cut_since_ms: Option<u64>,
    is_told: bool,
}

impl Reach {
    /// Takes in whether a leader that others hear has no link now. True once for each time that this
    /// lasts for `after_ms`.
    pub(crate) fn observe(&mut self, is_cut: bool, now_ms: u64, after_ms: u64) -> bool {
        if !is_cut {
            *self = Reach::default();
            return false;
        }
        let since_ms = *self.cut_since_ms.get_or_insert(now_ms);
        let tells = !self.is_told && now_ms >= since_ms + after_ms;
        self.is_told |= tells;
        tells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_that_lasts_is_told_once() {
        let mut reach = Reach::default();
        assert!(!reach.observe(true, 100, 50));
        assert!(!reach.observe(true, 149, 50));
        assert!(reach.observe(true, 150, 50));
        assert!(!reach.observe(true, 500, 50));
        assert!(!reach.observe(false, 501, 50));
        assert!(!reach.observe(true, 510, 50), "another cut");
        assert!(reach.observe(true, 560, 50));
    }

    #[test]
    fn a_short_cut_is_not_told() {
        let mut reach = Reach::default();
        for now_ms in (0..1000).step_by(10) {
            assert!(!reach.observe(now_ms % 50 != 0, now_ms, 50));
        }
    }
}
