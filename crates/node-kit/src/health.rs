//! Whether this process can do its job now, and whether it is worth asking.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Readiness of the process, shared by the part that knows and the HTTP server that tells.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// Why the process is not ready; none when it is.
    reason: Option<String>,
    /// It takes work, although it may not be ready for all of it.
    is_accepting: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Not ready yet: the process is starting.
    pub fn new() -> Health {
        let state = State { reason: Some("starting".to_owned()), is_accepting: false };
        Health { state: Arc::new(Mutex::new(state)) }
    }

    /// The process can do its job from now on.
    pub fn set_ready(&self) {
        self.replace(State { reason: None, is_accepting: true });
    }

    /// The process does what it can, but others lack something that a part of its job needs, and what:
    /// to send work to another process instead would not help.
    pub fn set_degraded(&self, reason: impl Into<String>) {
        self.replace(State { reason: Some(reason.into()), is_accepting: true });
    }

    /// The process cannot do its job, and why.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.replace(State { reason: Some(reason.into()), is_accepting: false });
    }

    /// Whether the process can do its job now.
    pub fn is_ready(&self) -> bool {
        self.reason().is_none()
    }

    /// Why the process is not ready; none when it is.
    pub fn reason(&self) -> Option<String> {
        self.lock().reason.clone()
    }

    /// Why the process takes no work; none when it does.
    pub fn refusal(&self) -> Option<String> {
        let state = self.lock();
        if state.is_accepting { None } else { state.reason.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, state: State) {
        let mut current = self.lock();
        if current.reason != state.reason {
            match &state.reason {
                None => tracing::info!("ready"),
                Some(reason) => tracing::warn!(%reason, "not ready"),
            }
        }
        *current = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_not_ready_and_names_the_reason() {
        let health = Health::new();
        assert_eq!(health.reason().as_deref(), Some("starting"));
        health.set_ready();
        assert!(health.is_ready());
        health.clone().set_not_ready("no quorum");
        assert_eq!(health.reason().as_deref(), Some("no quorum"));
        assert_eq!(health.refusal().as_deref(), Some("no quorum"));
    }

    #[test]
    fn a_degraded_process_takes_work() {
        let health = Health::new();
        assert_eq!(health.refusal().as_deref(), Some("starting"));
        health.set_degraded("no leader of shard 3");
        assert!(!health.is_ready());
        assert_eq!(health.refusal(), None);
    }
}
