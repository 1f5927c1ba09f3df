//! Many sessions at once, a bounded number of connections at a time.

use std::future::Future;
use std::io;

use holdfast_e2e::packet::{Connect, Version};
use tokio::task::JoinSet;

use crate::link::Link;

/// Connections that are being made at the same time unless there is reason for more.
pub(crate) const AT_ONCE: usize = 200;
/// Input of a connection that gets few messages.
const INPUT_BYTES: usize = 256;

/// A durable session.
pub(crate) fn durable(client_id: &str) -> Connect {
    // A large receive maximum: the server's window is not what is measured.
    Connect { receive_max: Some(1000), ..Connect::durable(Version::V5, client_id) }
}

/// A regular session.
pub(crate) fn regular(client_id: &str) -> Connect {
    Connect::regular(Version::V5, client_id)
}

/// Runs `one` for each number below `count`, so many at once.
pub(crate) async fn for_each<F, T>(
    count: usize,
    at_once: usize,
    one: impl Fn(usize) -> F,
) -> io::Result<Vec<T>>
where
    F: Future<Output = io::Result<T>> + 'static,
    T: 'static,
{
    for_each_of((0..count).collect(), at_once, one).await
}

/// Runs `one` for each of these, so many at once.
pub(crate) async fn for_each_of<V, F, T>(
    values: Vec<V>,
    at_once: usize,
    one: impl Fn(V) -> F,
) -> io::Result<Vec<T>>
where
    F: Future<Output = io::Result<T>> + 'static,
    T: 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::with_capacity(values.len());
    for value in values {
        if running.len() >= at_once {
            done.extend(join_one(&mut running).await?);
        }
        running.spawn_local(one(value));
    }
    while !running.is_empty() {
        done.extend(join_one(&mut running).await?);
    }
    Ok(done)
}

async fn join_one<T: 'static>(running: &mut JoinSet<io::Result<T>>) -> io::Result<Option<T>> {
    match running.join_next().await {
        None => Ok(None),
        Some(ended) => ended.map_err(io::Error::other)?.map(Some),
    }
}

/// Makes a durable session with one subscription and leaves.
pub(crate) async fn make_offline(address: String, id: String, filter: String) -> io::Result<()> {
    let (mut link, _) = Link::connect(&address, &durable(&id), INPUT_BYTES).await?;
    link.subscribe(&filter).await?;
    link.disconnect().await
}

/// Connects to a session that is there.
pub(crate) async fn resume(address: String, id: String) -> io::Result<Link> {
    match Link::connect(&address, &durable(&id), INPUT_BYTES).await? {
        (link, true) => Ok(link),
        (_, false) => Err(io::Error::other(format!("the session of {id} is lost"))),
    }
}

/// Connects without a session.
pub(crate) async fn connect_regular(address: String, id: String) -> io::Result<Link> {
    Ok(Link::connect(&address, &regular(&id), INPUT_BYTES).await?.0)
}
