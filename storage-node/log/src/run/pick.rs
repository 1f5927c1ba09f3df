//! Which records a read takes: from the position lists of its streams when these are few, else from the
//! order of the whole run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use holdfast_proto::ids::Position;

use super::RunError;
use super::format::{Item, ORDER_BYTES, ORDER_CHUNK, Stream, take_varint, u32_at};
use super::read::Run;

// Rough costs in ns, measured on a warm file.
pub(super) const COST_OF_LIST: u64 = 1_000;
pub(super) const COST_OF_LISTED: u64 = 6;
pub(super) const COST_OF_ORDERED: u64 = 4;
/// Chunks of the order that are read together.
const CHUNKS_READ: usize = 8;
/// Table entries and lists this near to each other are read together.
const GAP_BYTES: u32 = 4 << 10;

/// What a page may still take.
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    bytes_left: usize,
    pub(crate) full: bool,
}

impl Page {
    pub(crate) fn new(bytes_max: usize) -> Page {
        Page { items: Vec::new(), bytes_left: bytes_max, full: false }
    }

    /// Takes the item, unless the page is full then.
    fn take(&mut self, item: Item) -> bool {
        let bytes = item.bytes as usize;
        if bytes > self.bytes_left && !self.items.is_empty() {
            self.full = true;
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.items.push(item);
        true
    }
}

struct Cursor<'a> {
    list: &'a [u8],
    item: Item,
}

impl Cursor<'_> {
    /// Moves to the next record; `Ok(false)` at the end.
    fn advance(&mut self) -> Option<bool> {
        if self.list.is_empty() {
            return Some(false);
        }
        let gap = take_varint(&mut self.list)?;
        let bytes = u32::try_from(take_varint(&mut self.list)?).ok()?;
        self.item.position = Position(self.item.position.0.checked_add(gap)?);
        self.item.data = self.item.data.checked_add(self.item.bytes)?;
        self.item.bytes = bytes;
        Some(true)
    }
}

impl Run {
    /// Picks the records of these streams from `from` on, in order of position.
    pub(crate) fn pick(
        &self,
        numbers: &[u32],
        from: Position,
        bytes_max: usize,
    ) -> Result<Page, RunError> {
        let mut page = Page::new(bytes_max);
        if numbers.is_empty() {
            return Ok(page);
        }
        if numbers.len() == self.header.streams as usize {
            self.pick_ordered(&[(0, u32::MAX)], from, &mut page)?;
            return Ok(page);
        }
        let streams = self.streams(numbers)?;
        let matched: u64 = streams.iter().map(|stream| u64::from(stream.records)).sum();
        let records = u64::from(self.header.records);
        let left = records.saturating_sub((self.chunk_of(from) * ORDER_CHUNK) as u64);
        let item_bytes = (self.footer.order / records.max(1)).max(1);
        let page_records = bytes_max as u64 / item_bytes + 1;
        let scanned = left.min(page_records.saturating_mul(records) / matched.max(1));
        let by_lists = COST_OF_LIST * streams.len() as u64 + COST_OF_LISTED * matched;
        if by_lists < COST_OF_ORDERED * scanned {
            self.pick_listed(&streams, from, &mut page)?;
        } else {
            self.pick_ordered(&ranges(&streams), from, &mut page)?;
        }
        Ok(page)
    }

    /// The table's entries of these streams (sorted numbers).
    pub(super) fn streams(&self, numbers: &[u32]) -> Result<Vec<Stream>, RunError> {
        let bytes = super::format::STREAM_BYTES as u32;
        let spans: Vec<(u32, u32)> = numbers.iter().map(|number| (number * bytes, bytes)).collect();
        let mut streams = Vec::with_capacity(numbers.len());
        self.read_spans(self.footer.streams, self.footer.topics, &spans, |entry| {
            streams.push(Stream::decode(&entry)?);
            Some(())
        })?;
        Ok(streams)
    }

    /// Reads spans (offset, length) of a part of the file, sorted; neighbours together.
    fn read_spans(
        &self,
        start: u64,
        end: u64,
        spans: &[(u32, u32)],
        mut each: impl FnMut(Bytes) -> Option<()>,
    ) -> Result<(), RunError> {
        let mut rest = spans;
        while let Some((at, length)) = rest.first().copied() {
            let (mut count, mut until) = (1, at.saturating_add(length));
            while let Some((next, length)) = rest.get(count)
                && next.saturating_sub(until) <= GAP_BYTES
                && next - at < 1 << 20
            {
                (count, until) = (count + 1, next.saturating_add(*length));
            }
            let block = self.read_part(start, end, u64::from(at), (until - at) as usize)?;
            for (next, length) in &rest[..count] {
                let from = (next - at) as usize;
                each(block.slice(from..from + *length as usize))
                    .ok_or_else(|| self.damaged("an index entry does not match its checksum"))?;
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    fn pick_listed(
        &self,
        streams: &[Stream],
        from: Position,
        page: &mut Page,
    ) -> Result<(), RunError> {
        let spans: Vec<(u32, u32)> = streams.iter().map(|s| (s.list, s.list_bytes)).collect();
        let mut lists = Vec::with_capacity(streams.len());
        self.read_spans(self.footer.lists, self.footer.streams, &spans, |list| {
            checked_list(&list)?;
            lists.push(list);
            Some(())
        })?;
        let broken = || self.damaged("a position list is malformed");
        let mut cursors: Vec<Cursor<'_>> = Vec::with_capacity(lists.len());
        let mut heap = BinaryHeap::new();
        for (stream, list) in streams.iter().zip(&lists) {
            let item = Item { position: self.header.id.first, data: stream.data, bytes: 0 };
            let mut cursor = Cursor { list: &list[4..], item };
            let mut there = cursor.advance().ok_or_else(broken)?;
            while there && cursor.item.position < from {
                there = cursor.advance().ok_or_else(broken)?;
            }
            if there {
                heap.push(Reverse((cursor.item.position, cursors.len())));
                cursors.push(cursor);
            }
        }
        while let Some(Reverse((_, index))) = heap.pop() {
            let cursor = &mut cursors[index];
            if !page.take(cursor.item) {
                return Ok(());
            }
            if cursor.advance().ok_or_else(broken)? {
                heap.push(Reverse((cursor.item.position, index)));
            }
        }
        Ok(())
    }

    /// Reads position lists (offset and length of each, sorted) and checks them.
    pub(super) fn read_lists(
        &self,
        spans: &[(u32, u32)],
        mut each: impl FnMut(&[u8]) -> Option<()>,
    ) -> Result<(), RunError> {
        self.read_spans(self.footer.lists, self.footer.streams, spans, |list| {
            each(checked_list(&list)?)
        })
    }

    /// The chunk of the order in which a position is or would be.
    pub(crate) fn chunk_of(&self, position: Position) -> usize {
        let relative = position.0.saturating_sub(self.header.id.first.0);
        let after = self.sparse.partition_point(|start| u64::from(*start) <= relative);
        after.saturating_sub(1)
    }

    /// Chunks of the order, checked; how many were read.
    pub(crate) fn order_chunks(
        &self,
        chunk: usize,
        count: usize,
        items: &mut Vec<Item>,
    ) -> Result<usize, RunError> {
        items.clear();
        let records = self.header.records as usize;
        let count = count.min(self.sparse.len().saturating_sub(chunk));
        if count == 0 {
            return Ok(0);
        }
        let whole = ORDER_CHUNK * ORDER_BYTES + 4;
        let last = (records - (chunk + count - 1) * ORDER_CHUNK).min(ORDER_CHUNK);
        let length = (count - 1) * whole + last * ORDER_BYTES + 4;
        let block =
            self.read_part(self.footer.order, self.footer.lists, (chunk * whole) as u64, length)?;
        for bytes in block.chunks(whole) {
            let (entries, crc) = bytes.split_at(bytes.len() - 4);
            if u32_at(crc, 0) != crc32c::crc32c(entries) {
                return Err(self.damaged("a part of the order does not match its checksum"));
            }
            let first = self.header.id.first;
            items.extend(entries.chunks_exact(ORDER_BYTES).map(|entry| Item::decode(first, entry)));
        }
        Ok(count)
    }

    fn pick_ordered(
        &self,
        ranges: &[(u32, u32)],
        from: Position,
        page: &mut Page,
    ) -> Result<(), RunError> {
        self.scan_order(from, |item| !is_in(ranges, item.data) || page.take(*item))
    }

    /// Visits the records from `from` on in order of position, until `visit` returns false.
    pub(super) fn scan_order(
        &self,
        from: Position,
        mut visit: impl FnMut(&Item) -> bool,
    ) -> Result<(), RunError> {
        let mut chunk = self.chunk_of(from);
        let mut items = Vec::new();
        loop {
            let count = self.order_chunks(chunk, CHUNKS_READ, &mut items)?;
            if count == 0 {
                return Ok(());
            }
            for item in items.iter().filter(|item| item.position >= from) {
                if !visit(item) {
                    return Ok(());
                }
            }
            chunk += count;
        }
    }
}

/// A position list without its checksum, if that fits.
fn checked_list(list: &[u8]) -> Option<&[u8]> {
    (list.len() >= 4 && u32_at(list, 0) == crc32c::crc32c(&list[4..])).then(|| &list[4..])
}

/// Where in data the streams are, neighbours joined.
pub(super) fn ranges(streams: &[Stream]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for stream in streams {
        let end = stream.data.saturating_add(stream.data_bytes);
        match ranges.last_mut() {
            Some((_, before)) if *before == stream.data => *before = end,
            _ => ranges.push((stream.data, end)),
        }
    }
    ranges
}

pub(super) fn is_in(ranges: &[(u32, u32)], data: u32) -> bool {
    let after = ranges.partition_point(|(start, _)| *start <= data);
    after > 0 && data < ranges[after - 1].1
}
