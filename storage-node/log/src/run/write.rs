//! Writing a run: temporary name, sync, rename, sync of the directory.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

use holdfast_proto::placed::Placed;

use super::format::{
    Footer, HEADER_BYTES, Header, ITEM_PREFIX_BYTES, Item, ORDER_CHUNK, Stream, item_crc,
    put_varint, topic_key,
};
use super::{RunError, RunId, RunInfo};
use crate::disk::{Disk, DiskFile, OpenOptions};

const BUFFER_BYTES: usize = 1 << 20;
/// What is not synced yet stays below this, so that the last sync (and the site log's syncs beside it) do
/// not wait for the whole file.
const UNSYNCED_BYTES: u64 = 8 << 20;

/// Writes the run of these records, which must be in order of position. It is durable when this returns.
///
/// # Errors
/// [`RunError::Input`] if the records do not fit the id, else what the disk says.
pub fn write_run(
    disk: &dyn Disk,
    dir: &str,
    id: RunId,
    records: &[Placed],
) -> Result<RunInfo, RunError> {
    let path = id.path(dir);
    check(id, records).map_err(|what| RunError::Input { path: path.clone(), what })?;
    let streams = streams_of(records);
    let temporary = format!("{path}.tmp");
    let write = || {
        disk.create_dir(dir)?;
        if let Err(error) = disk.remove(&temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let file = disk.open(&temporary, OpenOptions::CREATE_NEW)?;
        let mut out = Out::new(file);
        let header = Header { id, records: records.len() as u32, streams: streams.len() as u32 };
        let checksum = write_parts(&mut out, header, records, &streams)?;
        out.file.sync_data()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)?;
        let (records, streams) = (header.records, header.streams);
        Ok(RunInfo { id, checksum, bytes: out.offset, records, streams })
    };
    write().map_err(RunError::disk("write", &path))
}

fn check(id: RunId, records: &[Placed]) -> Result<(), &'static str> {
    let inside = |p: &Placed| (id.first..id.end).contains(&p.position);
    let bytes: u64 = records.iter().map(|placed| u64::from(item_bytes(placed))).sum();
    if !records.iter().all(inside) {
        Err("a position is outside of the run")
    } else if records.windows(2).any(|pair| pair[0].position >= pair[1].position) {
        Err("positions are not in order")
    } else if bytes > u64::from(u32::MAX)
        || id.end.0.saturating_sub(id.first.0) > u64::from(u32::MAX)
    {
        Err("too large for one run")
    } else {
        Ok(())
    }
}

fn item_bytes(placed: &Placed) -> u32 {
    (ITEM_PREFIX_BYTES + Placed::PREFIX_BYTES + placed.record.as_bytes().len()) as u32
}

/// The streams in order, each with the indexes of its records.
fn streams_of(records: &[Placed]) -> Vec<((u32, &str), Vec<u32>)> {
    let mut streams: HashMap<(u32, &str), Vec<u32>> = HashMap::new();
    for (index, placed) in records.iter().enumerate() {
        let stream = (placed.record.namespace().0, placed.record.topic());
        streams.entry(stream).or_default().push(index as u32);
    }
    let mut streams: Vec<_> = streams.into_iter().collect();
    streams.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    streams
}

/// The file, written from start to end.
struct Out {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    offset: u64,
    synced: u64,
    crc: u32,
}

impl Out {
    fn new(file: Arc<dyn DiskFile>) -> Out {
        Out { file, buffer: Vec::with_capacity(BUFFER_BYTES), offset: 0, synced: 0, crc: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn at(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.file.write_all_at(&mut [IoSlice::new(&self.buffer)], self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        if self.offset - self.synced > UNSYNCED_BYTES {
            self.file.sync_data()?;
            self.synced = self.offset;
        }
        Ok(())
    }
}

fn write_parts(
    out: &mut Out,
    header: Header,
    records: &[Placed],
    streams: &[((u32, &str), Vec<u32>)],
) -> io::Result<u32> {
    let first = header.id.first;
    out.put(&header.encode())?;
    let mut order = vec![0u32; records.len()];
    for (_, members) in streams {
        for index in members {
            let placed = &records[*index as usize];
            order[*index as usize] = (out.at() - HEADER_BYTES as u64) as u32;
            put_item(out, placed)?;
        }
    }
    let mut footer = Footer { order: out.at(), ..Footer::default() };
    put_order(out, header, records, &order)?;
    footer.lists = out.at();
    let (mut table, mut key) = (Vec::new(), Vec::new());
    let mut topics = fst::MapBuilder::memory();
    for (number, ((namespace, topic), members)) in streams.iter().enumerate() {
        let list_at = out.at();
        let (data_bytes, list) = list_of(first.0, records, members);
        out.put(&crc32c::crc32c(&list).to_le_bytes())?;
        out.put(&list)?;
        let data = members.first().map_or(0, |index| order[*index as usize]);
        let stream = Stream {
            data,
            data_bytes,
            records: members.len() as u32,
            list: (list_at - footer.lists) as u32,
            list_bytes: (list.len() + 4) as u32,
        };
        table.extend_from_slice(&stream.encode());
        topic_key(*namespace, topic, &mut key);
        topics.insert(&key, number as u64).map_err(io::Error::other)?;
    }
    footer.streams = out.at();
    out.put(&table)?;
    footer.topics = out.at();
    let topics = topics.into_inner().map_err(io::Error::other)?;
    footer.topics_crc = crc32c::crc32c(&topics);
    out.put(&topics)?;
    footer.sparse = out.at();
    let starts = records.iter().step_by(ORDER_CHUNK);
    let sparse: Vec<u8> =
        starts.flat_map(|p| ((p.position.0 - first.0) as u32).to_le_bytes()).collect();
    footer.sparse_crc = crc32c::crc32c(&sparse);
    out.put(&sparse)?;
    out.flush()?;
    footer.footer = out.offset;
    footer.checksum = out.crc;
    out.put(&footer.encode())?;
    out.flush()?;
    Ok(footer.checksum)
}

fn put_item(out: &mut Out, placed: &Placed) -> io::Result<()> {
    let mut prefix = [0; Placed::PREFIX_BYTES];
    prefix[..8].copy_from_slice(&placed.position.0.to_le_bytes());
    prefix[8..].copy_from_slice(&placed.time_ms.to_le_bytes());
    let record = placed.record.as_bytes();
    out.put(&item_crc(&prefix, &record[4..8]).to_le_bytes())?;
    out.put(&prefix)?;
    out.put(record)
}

fn put_order(out: &mut Out, header: Header, records: &[Placed], order: &[u32]) -> io::Result<()> {
    let mut chunk = Vec::new();
    for (records, order) in records.chunks(ORDER_CHUNK).zip(order.chunks(ORDER_CHUNK)) {
        chunk.clear();
        for (placed, data) in records.iter().zip(order) {
            let item = Item { position: placed.position, data: *data, bytes: item_bytes(placed) };
            chunk.extend_from_slice(&item.encode(header.id.first));
        }
        out.put(&chunk)?;
        out.put(&crc32c::crc32c(&chunk).to_le_bytes())?;
    }
    Ok(())
}

/// A stream's bytes in data and its position list.
fn list_of(first: u64, records: &[Placed], members: &[u32]) -> (u32, Vec<u8>) {
    let (mut bytes, mut list, mut before) = (0, Vec::new(), first);
    for index in members {
        let placed = &records[*index as usize];
        put_varint(&mut list, placed.position.0 - before);
        put_varint(&mut list, u64::from(item_bytes(placed)));
        before = placed.position.0;
        bytes += item_bytes(placed);
    }
    (bytes, list)
}
