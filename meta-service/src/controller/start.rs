//! What a controller starts from: what is durable, or a cluster that is founded now.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use holdfast_control::{
    control::{Control, Limits as ControlLimits, Now},
    membership::{self, Membership, Saved},
    routes::{self, Routes},
};
use holdfast_node_kit::clock;
use holdfast_proto::{meta::Topology, version::Versions};
use parking_lot::Mutex;
use rand::{TryRngCore, rngs::OsRng};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{Controller, ControllerError, ControllerLoop, View, put_filter_version};
use crate::{
    config::Config,
    election::Tenure,
    filters::Filters,
    metrics::ControllerGauges,
    rows,
    store::{Compare, Op, Revision, Store, Txn, all, get},
};

/// Reads what is durable, or founds a cluster.
pub(crate) async fn start(
    config: &Config,
    store: Arc<dyn Store>,
    tenure: Tenure,
) -> Result<(Controller, ControllerLoop), ControllerError> {
    let (saved, cluster_revision) = load_cluster(config, store.as_ref()).await?;
    let mut gateways = Vec::new();
    for entry in all(store.as_ref(), rows::GATEWAYS).await? {
        gateways.push(rows::read_gateway(&entry.key, &entry.value)?);
    }
    let mut filters = Vec::new();
    for entry in all(store.as_ref(), rows::FILTERS).await? {
        filters.push(rows::read_filter(&entry.key)?);
    }
    let version = next_filter_version(store.as_ref()).await?;

    let limits = &config.limits;
    let began = Instant::now();
    let now = Now { mono_ms: 0, wall_ms: clock::now_ms() };
    let membership = Membership::new(
        membership::Limits {
            sites_max: limits.sites_max,
            gateways_max: limits.gateways_max,
            dead_gateways_max: limits.dead_gateways_max,
            dead_gateway_ms: limits.dead_gateway_s * 1000,
            versions: Versions::up_to(config.protocol_version_max),
        },
        saved,
        gateways,
    );
    let routes = Routes::new(route_limits(config), version, filters.iter().cloned());
    let control_limits = ControlLimits {
        duplicate_ms: u64::from(config.lease_ms) / 3,
        covers_max: limits.covers_max,
        replace_after_ms: config.site_replace_after_s * 1000,
        transitions_max: config.transitions_max as usize,
    };
    let cluster_id = membership.cluster_id().into();
    let shards = membership.shards();
    let view = View {
        topology: Arc::new(membership.topology()),
        filter_version: version,
        covered: 0,
        retention: Arc::default(),
    };
    let control = Control::new(control_limits, membership, routes, now);
    let (view, seen) = watch::channel(view);
    let filters = Arc::new(Mutex::new(Filters::new(version, filters)));
    let (sender, messages) = mpsc::channel(limits.events_max);
    let controller = Controller {
        messages: sender,
        next_stream: Arc::default(),
        began,
        view: seen,
        filters: filters.clone(),
        cluster_id,
        shards,
        versions: Versions::up_to(config.protocol_version_max),
    };
    let controller_loop = ControllerLoop {
        store,
        tenure,
        control,
        messages,
        began,
        cluster_revision,
        view,
        filters,
        streams: HashMap::new(),
        covers: HashMap::new(),
        next_cover: 0,
        steered: HashMap::new(),
        next_steer: 0,
        describe: Vec::new(),
        gauges: ControllerGauges::new(),
        set_back_logged: false,
    };
    Ok((controller, controller_loop))
}

/// Bounds of the filter set, as the sweep needs them too.
pub(crate) fn route_limits(config: &Config) -> routes::Limits {
    routes::Limits {
        values_max: config.limits.filter_values_max,
        filters_max: config.limits.filters_max,
        filter_bytes_max: config.limits.filter_bytes_max,
        retire_ms: config.limits.retire_s * 1000,
    }
}

async fn load_cluster(
    config: &Config,
    store: &dyn Store,
) -> Result<(Saved, Revision), ControllerError> {
    if get(store, rows::CLUSTER_KEY).await?.is_none() {
        let saved = found(config)?;
        let key = Bytes::from_static(rows::CLUSTER_KEY);
        let ops = vec![Op::put(key.clone(), rows::write_cluster(saved))];
        store.commit(Txn { compares: vec![Compare::Absent(key)], ops }).await?;
    }
    let Some(entry) = get(store, rows::CLUSTER_KEY).await? else {
        return Err(ControllerError::Superseded);
    };
    let mut saved = rows::read_cluster(&entry.value)?;
    configure(config, &mut saved.topology);
    Ok((saved, entry.modified))
}

fn found(config: &Config) -> Result<Saved, ControllerError> {
    let mut id = [0; 16];
    OsRng.try_fill_bytes(&mut id).map_err(|error| ControllerError::Random(error.to_string()))?;
    let cluster_id = format!("{:032x}", u128::from_be_bytes(id));
    tracing::info!(cluster_id, name = config.name, "founding a cluster");
    let topology = Topology { cluster_id, ..Topology::default() };
    Ok(Saved { topology, next_replica_id: 1, set_back_from: 0 })
}

/// What is configured counts for a formed cluster only where it can still be changed.
fn configure(config: &Config, topology: &mut Topology) {
    let versions = Versions::up_to(config.protocol_version_max);
    (topology.protocol_version, topology.protocol_version_min) = (versions.newest, versions.oldest);
    topology.lease_ms = config.lease_ms;
    let wanted = (u32::from(config.shards), config.replication_factor);
    let formed = (topology.shards, topology.replication_factor);
    if topology.placement.is_empty() {
        (topology.shards, topology.replication_factor) = wanted;
    } else if wanted != formed {
        tracing::warn!(
            shards = formed.0,
            replication_factor = formed.1,
            "the cluster was formed with other numbers than the config has; they stay"
        );
    }
}

/// A version above all that gateways were ever told; durable before anybody is told of it.
async fn next_filter_version(store: &dyn Store) -> Result<u64, ControllerError> {
    let last = match get(store, rows::FILTER_VERSION_KEY).await? {
        None => 0,
        Some(entry) => rows::read_number(&entry.key, &entry.value)?,
    };
    let ops = vec![put_filter_version(last + 1)];
    store.commit(Txn { compares: Vec::new(), ops }).await?;
    Ok(last + 1)
}
