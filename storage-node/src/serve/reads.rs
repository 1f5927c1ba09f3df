//! Reads of sessions that catch up, and of retained messages.

use std::sync::Arc;

use holdfast_proto::ids::{Namespace, Position, ShardId};
use holdfast_proto::shard::Status;
use holdfast_proto::storage::{
    Read, ReadItem, ReadPage, ReadRetained, RetainedPage, site_frame::Frame,
};

use super::link::GatewayLink;
use crate::metrics::{self, Refused};
use crate::replica::Replica;
use crate::replica::cell::Page;
use crate::site::Site;

/// Retained messages in one answer.
const RETAINED_MAX: usize = 100_000;

/// Bytes of one page: what was asked for, within what this site gives.
pub(super) fn page_bytes_max(site: &Site, asked: u32) -> usize {
    match asked as usize {
        0 => site.config.serving.block_bytes_max,
        asked => asked.min(site.config.serving.block_bytes_max),
    }
}

/// Answers each item of a read by its own page.
pub(crate) fn read(site: &Arc<Site>, link: &Arc<GatewayLink>, read: Read) {
    let bytes_max = page_bytes_max(site, read.page_bytes_max);
    let namespace = Namespace(read.namespace);
    let mut later = Vec::new();
    for item in read.items {
        let Some(replica) = site.replica(ShardId(item.shard as u16)) else {
            link.send(Frame::ReadPage(unserved(read.request_id, item.shard, Status::NotLeader, 0)));
            continue;
        };
        if let Err(status) = replica.serving() {
            let leader = replica.leader_site();
            link.send(Frame::ReadPage(unserved(read.request_id, item.shard, status, leader)));
            continue;
        }
        let from = Position(item.from);
        let by_position = !item.positions.is_empty();
        if by_position || replica.cell.needs_disk(namespace, &read.filters, from) {
            later.push((replica, item));
        } else {
            let found = page(&replica, &item, namespace, &read.filters, bytes_max);
            link.send(Frame::ReadPage(ReadPage { request_id: read.request_id, ..found }));
        }
    }
    if !later.is_empty() {
        let (link, filters, request_id) = (link.clone(), read.filters, read.request_id);
        tokio::task::spawn_blocking(move || {
            for (replica, item) in later {
                let found = page(&replica, &item, namespace, &filters, bytes_max);
                link.send(Frame::ReadPage(ReadPage { request_id, ..found }));
            }
        });
    }
}

/// Reads one page of a shard that is served here. It may read files.
pub(super) fn page(
    replica: &Replica,
    item: &ReadItem,
    namespace: Namespace,
    filters: &[String],
    bytes_max: usize,
) -> ReadPage {
    let found = if item.positions.is_empty() {
        replica.cell.read(namespace, filters, Position(item.from), bytes_max)
    } else {
        replica.cell.at(&item.positions)
    };
    let page = match found {
        Ok(page) => filled(item.shard, page),
        Err(error) => {
            tracing::error!(shard = item.shard, %error, "run cannot be read");
            metrics::refused(Refused::RunUnreadable);
            unserved(0, item.shard, Status::Unavailable, replica.leader_site())
        }
    };
    metrics::read(page.records.len());
    page
}

fn filled(shard: u32, page: Page) -> ReadPage {
    ReadPage {
        request_id: 0,
        shard,
        status: page.status.into(),
        next: page.next.0,
        head: page.head,
        time_ms: page.time_ms,
        records: page.records.freeze(),
        dropped_below: page.dropped_below,
        leader_site: 0,
    }
}

/// A page that only says why there is none.
pub(super) fn unserved(request_id: u64, shard: u32, status: Status, leader_site: u64) -> ReadPage {
    ReadPage { request_id, shard, status: status.into(), leader_site, ..ReadPage::default() }
}

/// Answers with the shard's retained messages that match one of the filters.
pub(crate) fn read_retained(site: &Site, link: &GatewayLink, read: &ReadRetained) {
    let mut page = RetainedPage {
        request_id: read.request_id,
        shard: read.shard,
        status: Status::NotLeader.into(),
        ..RetainedPage::default()
    };
    if let Some(replica) = site.replica(ShardId(read.shard as u16)) {
        page.leader_site = replica.leader_site();
        match replica.serving() {
            Err(status) => page.status = status.into(),
            Ok(_) => {
                let shard = replica.cell.shard.lock();
                page.time_ms = replica.cell.time_ms(&shard);
                match shard.retained(Namespace(read.namespace), &read.filters, RETAINED_MAX) {
                    Ok(rows) => {
                        page.status = Status::Ok.into();
                        page.rows = rows;
                    }
                    Err(error) => {
                        tracing::error!(shard = read.shard, %error, "retained messages unreadable");
                        page.status = Status::Unavailable.into();
                    }
                }
            }
        }
    }
    link.send(Frame::RetainedPage(page));
}
