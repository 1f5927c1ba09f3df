//! Whether this process can do its job now.

use std::sync::{Arc, Mutex, PoisonError};

/// Readiness of the process, shared by the part that knows and the HTTP server that tells.
#[derive(Clone, Debug)]
pub struct Health {
    /// Why the process is not ready; none when it is.
    reason: Arc<Mutex<Option<String>>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Not ready yet: the process is starting.
    pub fn new() -> Health {
        Health { reason: Arc::new(Mutex::new(Some("starting".to_owned()))) }
    }

    /// The process can do its job from now on.
    pub fn set_ready(&self) {
        self.replace(None);
    }

    /// The process cannot do its job, and why.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.replace(Some(reason.into()));
    }

    /// Whether the process can do its job now.
    pub fn is_ready(&self) -> bool {
        self.reason().is_none()
    }

    /// Why the process is not ready; none when it is.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, reason: Option<String>) {
        let mut current = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == reason {
            return;
        }
        match &reason {
            None => tracing::info!("ready"),
            Some(reason) => tracing::warn!(%reason, "not ready"),
        }
        *current = reason;
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
    }
}
