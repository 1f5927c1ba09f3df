//! What a session has not acknowledged, message by message. Nothing is consumed by looking.
//!
//! First what is in flight, in the order of shards and positions; then what is unread: one source per shard, merged by
//! time. The next page goes on at a position in every shard, or behind where the session is by then.

use std::{cmp::Ordering, collections::VecDeque, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, stream};
use holdfast_admin_api::{Backlog, BacklogMessage, BacklogQuery, Problem};
use holdfast_proto::{
    placed::Placed,
    shard::{ClientKey, InFlight, SessionRow, Subscription},
    storage::ReadItem,
    topic,
};
use prost::Message;
use tokio::time::Instant;

use super::{
    Api,
    asking::{AT_ONCE, Asking},
    cluster, cursor,
    extract::{Asked, Lead, Named, limit},
    lag::{self, wanted_from},
    messages,
    problem::Refused,
    sessions::{client, unknown},
};

/// Larger payloads are not shown.
const PAYLOAD_SHOWN_MAX: usize = 64 << 10;
/// Payload bytes after which a page ends.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Of one read of one shard.
const READ_BYTES: std::ops::RangeInclusive<usize> = (16 << 10)..=(256 << 10);
/// Positions of one read: its page is not cut short, and messages may be large.
const POSITIONS_AT_ONCE: usize = 16;
/// How long is looked for messages where few match; the page then has what was found.
const LOOKED_FOR: Duration = Duration::from_secs(10);

/// Where the next page begins.
#[derive(Clone, PartialEq, Message)]
struct Next {
    /// In flight: after this one.
    #[prost(uint32, tag = "1")]
    shard: u32,
    #[prost(uint64, tag = "2")]
    position: u64,
    /// Unread: from this position of each shard on; empty while there is more in flight.
    #[prost(uint64, repeated, tag = "3")]
    from: Vec<u64>,
}

/// Messages that a session has not acknowledged: those in flight first, then by time. Nothing is consumed.
#[utoipa::path(
    get, path = "/sessions/{client_id}/backlog", tag = "sessions",
    params(("client_id" = String, Path, description = "Percent-encoded"), BacklogQuery),
    responses((status = OK, body = Backlog), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Named(client_id): Named<String>,
    Asked(query): Asked<BacklogQuery>,
) -> Result<Json<Backlog>, Refused> {
    let limit = limit(query.limit)?;
    let next = cursor::read::<Next>(query.after.as_deref())?.unwrap_or_default();
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let client = client(client_id);
    let row = lag::row(&asking, &client).await?.ok_or_else(|| unknown(&client))?;
    let until = Instant::now() + LOOKED_FOR;
    let page = Shown { limit, until, bytes: 0, messages: Vec::new() };
    let looked = Looked { asking, client: &client, row: &row, page };
    Ok(Json(looked.look(next).await?))
}

/// What a page has so far.
struct Shown {
    limit: usize,
    until: Instant,
    bytes: usize,
    messages: Vec<BacklogMessage>,
}

impl Shown {
    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit
            || self.bytes >= PAGE_BYTES_MAX
            || Instant::now() >= self.until
    }

    fn add(&mut self, shard: u32, now_ms: u64, placed: &Placed, packet_id: Option<u16>) {
        let record = &placed.record;
        let payload = record.payload();
        let shown = (payload.len() <= PAYLOAD_SHOWN_MAX).then_some(&payload);
        let text = shown.and_then(|payload| std::str::from_utf8(payload).ok()).map(str::to_owned);
        let encoded = shown.filter(|_| text.is_none()).map(|payload| STANDARD.encode(payload));
        self.bytes += shown.map_or(0, |payload| payload.len());
        self.messages.push(BacklogMessage {
            topic: record.topic().to_owned(),
            qos: record.qos(),
            shard,
            position: placed.position.0,
            time_ms: placed.time_ms,
            packet_id,
            publisher: record.client_id().to_owned(),
            payload_bytes: payload.len() as u64,
            payload: text,
            payload_base64: encoded,
            expired: record.expiry_left_s(placed.time_ms, now_ms) == Some(0),
        });
    }
}

/// A session that is looked at.
struct Looked<'a> {
    asking: Asking<'a>,
    client: &'a ClientKey,
    row: &'a SessionRow,
    page: Shown,
}

impl Looked<'_> {
    async fn look(mut self, next: Next) -> Result<Backlog, Refused> {
        let mut next = next;
        if next.from.is_empty()
            && let Some(more) = self.in_flight(&next).await?
        {
            return Ok(Backlog { messages: self.page.messages, next: Some(cursor::write(&more)) });
        }
        let mut sources = self.sources(std::mem::take(&mut next.from));
        let whole = self.unread(&mut sources).await?;
        let from = sources.iter().map(Source::resumes_at).collect();
        let next = (!whole).then(|| cursor::write(&Next { from, ..Next::default() }));
        Ok(Backlog { messages: self.page.messages, next })
    }

    /// Where the next page begins, if there is more in flight.
    async fn in_flight(&mut self, after: &Next) -> Result<Option<Next>, Refused> {
        let place = |sent: &InFlight| (sent.shard, sent.position);
        let mut sent: Vec<&InFlight> = self.row.in_flight.iter().collect();
        sent.retain(|sent| place(sent) > (after.shard, after.position));
        sent.sort_unstable_by_key(|sent| place(sent));
        let (mut rest, mut last) = (sent.as_slice(), (after.shard, after.position));
        while let Some(first) = rest.first() {
            if self.page.is_full() {
                let (shard, position) = last;
                return Ok(Some(Next { shard, position, from: Vec::new() }));
            }
            let room = POSITIONS_AT_ONCE.min(self.page.limit - self.page.messages.len());
            let same = rest.iter().take(room).take_while(|sent| sent.shard == first.shard).count();
            let (part, others) = rest.split_at(same);
            let positions = part.iter().map(|sent| sent.position).collect();
            let found = messages::at(&self.asking, first.shard, positions).await?;
            for sent in part {
                // What retention has removed is not there.
                if let Some(placed) =
                    found.placed.iter().find(|one| one.position.0 == sent.position)
                {
                    let packet_id = u16::try_from(sent.packet_id).ok();
                    self.page.add(sent.shard, found.time_ms, placed, packet_id);
                }
            }
            last = part.last().map_or(last, |sent| place(sent));
            rest = others;
        }
        Ok(None)
    }

    fn sources(&self, from: Vec<u64>) -> Vec<Source> {
        let source = |shard: u32| {
            let subscriptions = self.subscriptions();
            let least = subscriptions.map(|one| wanted_from(self.row, one, shard)).min();
            let asked = from.get(shard as usize).copied().unwrap_or(0);
            Source {
                shard,
                from: least.unwrap_or(u64::MAX).max(asked),
                head: least.is_none(),
                time_ms: 0,
                read: VecDeque::new(),
            }
        };
        (0..u32::from(self.asking.shards())).map(source).collect()
    }

    fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        let durable = self.row.expiry_interval_s > 0;
        let all = self.row.subscriptions.iter();
        all.filter(move |one| durable && !topic::is_shared(&one.filter))
    }

    /// Whether all that is unread was shown.
    async fn unread(&mut self, sources: &mut [Source]) -> Result<bool, Refused> {
        let bytes = PAGE_BYTES_MAX / sources.len().max(1);
        let bytes = bytes.clamp(*READ_BYTES.start(), *READ_BYTES.end());
        let filters: Vec<String> = self.subscriptions().map(|one| one.filter.clone()).collect();
        loop {
            if self.page.is_full() {
                return Ok(false);
            }
            if self.fill(sources, &filters, bytes).await? {
                continue;
            }
            let there = sources.iter_mut().filter(|source| !source.read.is_empty());
            let Some(oldest) = there.min_by(|one, other| one.compare(other)) else {
                return Ok(true);
            };
            if let Some(placed) = oldest.read.pop_front()
                && self.is_wanted(oldest.shard, &placed)
            {
                self.page.add(oldest.shard, oldest.time_ms, &placed, None);
            }
        }
    }

    /// Reads on where nothing is left and the head is not reached; false: nowhere.
    async fn fill(
        &self,
        sources: &mut [Source],
        filters: &[String],
        bytes: usize,
    ) -> Result<bool, Refused> {
        let (asking, namespace) = (self.asking, self.client.namespace);
        let empty = sources.iter_mut().filter(|source| source.read.is_empty() && !source.head);
        let reads: Vec<_> =
            empty.map(|source| source.fill(asking, namespace, filters, bytes)).collect();
        let any = !reads.is_empty();
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        while let Some(read) = reads.next().await {
            read?;
        }
        Ok(any)
    }

    /// Whether the session would be sent it (if it has not expired).
    fn is_wanted(&self, shard: u32, placed: &Placed) -> bool {
        let record = &placed.record;
        let own = record.client_id() == self.client.client_id;
        self.subscriptions().any(|one| {
            let no_local = one.options & 0b100 != 0;
            placed.position.0 >= wanted_from(self.row, one, shard)
                && !(no_local && own)
                && topic::matches(&one.filter, record.topic())
        })
    }
}

/// What is unread of one shard.
struct Source {
    shard: u32,
    /// From here on nothing was read.
    from: u64,
    head: bool,
    time_ms: u64,
    read: VecDeque<Placed>,
}

impl Source {
    async fn fill(
        &mut self,
        asking: Asking<'_>,
        namespace: u32,
        filters: &[String],
        bytes: usize,
    ) -> Result<(), Refused> {
        let item = ReadItem { shard: self.shard, from: self.from, positions: Vec::new() };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let page = messages::page(&asking, namespace, filters.to_vec(), item, bytes).await?;
        (self.from, self.head, self.time_ms) = (page.next.max(self.from), page.head, page.time_ms);
        self.read = page.placed.into();
        Ok(())
    }

    fn compare(&self, other: &Source) -> Ordering {
        let place = |source: &Source| {
            let first = source.read.front().map(|placed| (placed.time_ms, placed.position));
            (first.map(|(time_ms, _)| time_ms), source.shard, first.map(|(_, position)| position))
        };
        place(self).cmp(&place(other))
    }

    /// Position at which the next page goes on.
    fn resumes_at(&self) -> u64 {
        self.read.front().map_or(self.from, |placed| placed.position.0)
    }
}
