//! Lets etcd forget: it keeps every revision until it is told, and takes no writes when its quota is full.
//!
//! Every process does it; whoever comes second finds it done. What is kept is enough for watches that go
//! on after a lost connection; one that comes later begins anew from a range.

use std::{sync::Weak, time::Duration};

use etcd_client::Client;
use tokio::time::sleep;

use super::{Shared, identity::signed, members::Failed};
use crate::store::Revision;

/// Pause between two looks at how far the store is.
const LOOK: Duration = Duration::from_secs(1);

/// Runs as long as the store is used; the newest `keep` revisions stay.
pub(super) async fn run(shared: Weak<Shared>, keep: Revision) {
    let mut compacted = 0;
    loop {
        sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else { return };
        let Ok(newest) = shared.members.identity.mark() else { return };
        // Not for every write: each compaction costs etcd a walk over its index.
        if newest < compacted + 2 * keep {
            continue;
        }
        let upto = newest - keep;
        let ask = |mut client: Client| async move { client.compact(signed(upto), None).await };
        match shared.members.call(ask).await {
            Ok(_) | Err(Failed::Compacted) => compacted = upto,
            Err(failed) => {
                let error = failed.into_store_error();
                tracing::warn!(%error, "etcd was not told to forget old revisions");
            }
        }
    }
}
