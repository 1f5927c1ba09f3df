//! Where the elected metadata service is: the configured addresses, and hints of those that are not
//! elected.

use tonic::Status;

/// Metadata of a refusal that names `host:port` of the elected metadata service.
pub const LEADER_METADATA: &str = "holdfast-leader";

/// Which metadata service to ask.
#[derive(Clone, Debug)]
pub struct MetaAddresses {
    configured: Vec<String>,
    at: usize,
    hinted: Option<String>,
}

impl MetaAddresses {
    /// Begins with the first of the configured addresses, of which there is at least one.
    #[must_use]
    pub fn new(configured: Vec<String>) -> MetaAddresses {
        MetaAddresses { configured, at: 0, hinted: None }
    }

    /// The one to ask now.
    #[must_use]
    pub fn current(&self) -> &str {
        match &self.hinted {
            Some(hinted) => hinted,
            None => &self.configured[self.at % self.configured.len()],
        }
    }

    /// The current one did not answer, or ended: another is next.
    pub fn failed(&mut self) {
        if self.hinted.take().is_none() {
            self.at = (self.at + 1) % self.configured.len();
        }
    }

    /// The current one refused. True: it named the elected one, which may be asked at once.
    pub fn refused(&mut self, status: &Status) -> bool {
        let named = status.metadata().get(LEADER_METADATA).and_then(|value| value.to_str().ok());
        match named {
            Some(named) if !named.is_empty() && named != self.current() => {
                self.hinted = Some(named.to_owned());
                true
            }
            _ => {
                self.failed();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> MetaAddresses {
        MetaAddresses::new(vec!["a:1".into(), "b:1".into()])
    }

    fn naming(leader: &str) -> Status {
        let mut status = Status::unavailable("not elected");
        status.metadata_mut().insert(LEADER_METADATA, leader.parse().unwrap());
        status
    }

    #[test]
    fn failures_go_round() {
        let mut addresses = addresses();
        addresses.failed();
        assert_eq!(addresses.current(), "b:1");
        addresses.failed();
        assert_eq!(addresses.current(), "a:1");
    }

    #[test]
    fn a_hint_is_followed_until_it_fails() {
        let mut addresses = addresses();
        assert!(addresses.refused(&naming("c:1")));
        assert_eq!(addresses.current(), "c:1");
        addresses.failed();
        assert_eq!(addresses.current(), "a:1");
    }

    #[test]
    fn one_that_names_itself_is_left() {
        let mut addresses = addresses();
        assert!(!addresses.refused(&naming("a:1")));
        assert_eq!(addresses.current(), "b:1");
    }
}
