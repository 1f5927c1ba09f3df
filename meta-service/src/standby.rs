//! What a process answers that is not elected: what is in the store.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use holdfast_proto::meta::{GatewayInfo, Topology};
use parking_lot::Mutex;
use tokio::time::sleep;
use tonic::Status;

use crate::{
    rows,
    store::{Range, Revision, Store, StoreError, all},
};

/// After a failure of the store.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads of a process that need no election.
#[derive(Default)]
pub(crate) struct Standby {
    store: OnceLock<Arc<dyn Store>>,
    /// As it is in the store, while that is watched.
    topology: Mutex<Option<Arc<Topology>>>,
}

impl Standby {
    /// From here on there is a store to read from.
    pub(crate) fn open(&self, store: Arc<dyn Store>) {
        // It is opened once.
        let _ = self.store.set(store);
    }

    fn store(&self) -> Result<&dyn Store, Status> {
        let starting = || Status::unavailable("the store is not open yet");
        self.store.get().map(AsRef::as_ref).ok_or_else(starting)
    }

    /// The topology; what it says of who is up may be old.
    pub(crate) async fn describe(&self) -> Result<Arc<Topology>, Status> {
        if let Some(topology) = &*self.topology.lock() {
            return Ok(topology.clone());
        }
        Ok(Arc::new(read(self.store()?).await?))
    }

    /// Keeps the topology as it is in the store, for as long as this is polled.
    pub(crate) async fn follow(&self) {
        let _forget = Forget(self);
        while let Ok(store) = self.store() {
            match self.follow_once(store).await {
                // The past is compacted, or a connection was lost for long.
                Ok(()) | Err(StoreError::Compacted(_)) => {}
                Err(_) => sleep(PAUSE).await,
            }
            *self.topology.lock() = None;
        }
    }

    async fn follow_once(&self, store: &dyn Store) -> Result<(), StoreError> {
        let from = revision(store).await? + 1;
        let mut cluster = store.watch(Bytes::from_static(rows::CLUSTER_KEY), from).await?;
        let mut gateways = store.watch(Bytes::from_static(rows::GATEWAYS), from).await?;
        loop {
            // Nothing is cached while there is no cluster, or a row cannot be read: who asks is told.
            *self.topology.lock() = read(store).await.ok().map(Arc::new);
            let changes = tokio::select! {
                changes = cluster.changes.recv() => changes,
                changes = gateways.changes.recv() => changes,
            };
            if changes.is_none() {
                return Ok(());
            }
            while cluster.changes.try_recv().is_ok() || gateways.changes.try_recv().is_ok() {}
        }
    }
}

struct Forget<'a>(&'a Standby);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        *self.0.topology.lock() = None;
    }
}

async fn revision(store: &dyn Store) -> Result<Revision, StoreError> {
    let prefix = Bytes::from_static(rows::CLUSTER_KEY);
    Ok(store.range(Range { prefix, after: Bytes::new(), limit: 1 }).await?.revision)
}

async fn read(store: &dyn Store) -> Result<Topology, Status> {
    let unavailable = |error: StoreError| Status::unavailable(error.to_string());
    let damaged = |bad: rows::BadRow| Status::data_loss(bad.to_string());
    let cluster = crate::store::get(store, rows::CLUSTER_KEY).await.map_err(unavailable)?;
    let Some(cluster) = cluster else {
        return Err(Status::unavailable("no cluster was founded yet"));
    };
    let mut topology = rows::read_cluster(&cluster.value).map_err(damaged)?.topology;
    let incarnation =
        |info: &GatewayInfo| info.gateway.as_ref().map_or(0, |gateway| gateway.incarnation);
    let mut gateways = BTreeMap::new();
    for entry in all(store, rows::GATEWAYS).await.map_err(unavailable)? {
        let state = rows::read_gateway(&entry.key, &entry.value).map_err(damaged)?;
        gateways.insert(incarnation(&state.info), state.info);
    }
    topology.gateways = gateways.into_values().collect();
    Ok(topology)
}
