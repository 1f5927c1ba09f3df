//! Whether this process is elected, and what it serves with while it is.

use std::sync::Arc;

use holdfast_node_kit::{meta_addresses::LEADER_METADATA, shutdown::Shutdown};
use tokio::sync::watch;
use tonic::Status;

use crate::{
    admin::{access::Access, problem::Refused},
    controller::Controller,
    election::Place,
    sessions::Sessions,
};

/// What an elected process has, until it is elected no longer.
pub(crate) struct Leading {
    pub(crate) controller: Controller,
    pub(crate) sessions: Arc<Sessions>,
    /// Who may use the admin API; absent if there is none.
    pub(crate) access: Option<Arc<Access>>,
    /// Raised when this process stops or is elected no longer: streams end.
    pub(crate) over: Shutdown,
}

impl Leading {
    /// Who may use the admin API.
    pub(crate) fn access(&self) -> Result<&Access, Refused> {
        self.access.as_deref().ok_or_else(Refused::stopping)
    }
}

/// How this process stands.
#[derive(Clone)]
pub(crate) enum Standing {
    /// Nobody is known to be elected, and why.
    Unknown(String),
    /// Another process is elected.
    Standby(Place),
    /// This process is.
    Leading(Arc<Leading>),
}

/// How this process stands, as its services see it.
#[derive(Clone)]
pub(crate) struct Role(watch::Receiver<Standing>);

impl Role {
    /// A role that nobody has yet, and what changes it.
    pub(crate) fn new() -> (watch::Sender<Standing>, Role) {
        let (sender, standing) = watch::channel(Standing::Unknown("starting".to_owned()));
        (sender, Role(standing))
    }

    /// What to serve with, or the refusal that tells the peer whom to ask.
    pub(crate) fn leading(&self) -> Result<Arc<Leading>, Status> {
        match &*self.0.borrow() {
            Standing::Leading(leading) => Ok(leading.clone()),
            Standing::Unknown(reason) => {
                Err(Status::unavailable(format!("nobody is known to be elected: {reason}")))
            }
            Standing::Standby(Place { address, .. }) => {
                let mut status = Status::unavailable(format!("{address} is elected"));
                if let Ok(leader) = address.parse() {
                    status.metadata_mut().insert(LEADER_METADATA, leader);
                }
                Err(status)
            }
        }
    }

    /// How this process stands now.
    pub(crate) fn standing(&self) -> Standing {
        self.0.borrow().clone()
    }

    /// Waits until it is known who is elected.
    pub(crate) async fn known(&mut self) {
        // The sender lives as long as the process serves.
        let _ = self.0.wait_for(|standing| !matches!(standing, Standing::Unknown(_))).await;
    }
}
