//! Pages of messages, read at the leaders of shards. Nothing is consumed by that.

use holdfast_proto::{
    placed::Placed,
    storage::{ReadItem, ReadMatchesRequest, storage_client::StorageClient},
};

use super::{
    asking::{Asking, CALL},
    problem::{Kind, Refused},
};

/// Messages at positions of a shard; those that are not kept any more are left out.
pub(crate) async fn at(
    asking: &Asking<'_>,
    shard: u32,
    positions: Vec<u64>,
) -> Result<Page, Refused> {
    page(asking, 0, Vec::new(), ReadItem { shard, from: 0, positions }, 0).await
}

/// A page of a shard's messages.
pub(crate) struct Page {
    pub(crate) placed: Vec<Placed>,
    pub(crate) next: u64,
    pub(crate) head: bool,
    /// Shard time.
    pub(crate) time_ms: u64,
}

/// Reads a page at the shard's leader.
pub(crate) async fn page(
    asking: &Asking<'_>,
    namespace: u32,
    filters: Vec<String>,
    item: ReadItem,
    page_bytes_max: u32,
) -> Result<Page, Refused> {
    let shard = item.shard;
    let request = ReadMatchesRequest {
        cluster_id: asking.cluster_id(),
        namespace,
        filters,
        item: Some(item),
        page_bytes_max,
    };
    let call = |mut client: StorageClient<_>| {
        let request = request.clone();
        async move { client.read_matches(request).await }
    };
    let page = asking.leader(shard, CALL, call).await?;
    let placed = Placed::decode_all(page.records).map_err(|error| {
        Refused::new(
            Kind::Unavailable,
            format!("shard {shard} answers what cannot be read: {error}"),
        )
    })?;
    Ok(Page { placed, next: page.next, head: page.head, time_ms: page.time_ms })
}
