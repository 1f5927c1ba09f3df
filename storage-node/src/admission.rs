//! Bounds the bytes that this site works on at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A budget of bytes.
pub(crate) struct Admission {
    used: AtomicUsize,
    bytes_max: usize,
}

/// A part of the budget, given back when dropped.
pub(crate) struct Admitted<'a> {
    admission: &'a Admission,
    bytes: usize,
}

impl Admission {
    pub(crate) fn new(bytes_max: usize) -> Admission {
        Admission { used: AtomicUsize::new(0), bytes_max }
    }

    /// Takes `bytes`; `None` if something is under way and they do not fit beside it.
    pub(crate) fn enter(&self, bytes: usize) -> Option<Admitted<'_>> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let admitted = Admitted { admission: self, bytes };
        (before == 0 || before + bytes <= self.bytes_max).then_some(admitted)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.admission.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_kept_and_given_back() {
        let admission = Admission::new(10);
        let large = admission.enter(50);
        assert!(large.is_some());
        assert!(admission.enter(1).is_none());
        drop(large);
        let first = admission.enter(6);
        assert!(first.is_some() && admission.enter(5).is_none());
        assert!(admission.enter(4).is_some());
    }
}
