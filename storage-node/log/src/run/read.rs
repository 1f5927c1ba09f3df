//! Reading a run. Open runs are light: a header, a footer and one number for every 512 records; the
//! dictionary is loaded at the first read.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use fst::{IntoStreamer, Streamer};
use holdfast_proto::ids::{Namespace, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::topic;

use super::filter::FilterAutomaton;
use super::format::{
    FOOTER_BYTES, Footer, HEADER_BYTES, Header, ITEM_PREFIX_BYTES, Item, ORDER_BYTES, ORDER_CHUNK,
    STREAM_BYTES, topic_key, u32_at,
};
use super::{RunError, RunId, RunInfo};
use crate::disk::{Disk, DiskFile, OpenOptions};

/// Records this near to each other in the file are read together.
const GAP_BYTES: u32 = 8 << 10;
/// Most bytes of one read, unless a single record is larger.
const READ_BYTES: u32 = 1 << 20;

/// How far a read came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadEnd {
    /// Every match before it is out; the run's end when nothing is left.
    pub next: Position,
    /// Records put out.
    pub count: usize,
}

/// An open run.
pub struct Run {
    file: Arc<dyn DiskFile>,
    path: String,
    info: RunInfo,
    pub(crate) header: Header,
    pub(crate) footer: Footer,
    /// Position (less the run's first) at the start of every chunk of the order.
    pub(crate) sparse: Vec<u32>,
    topics: OnceLock<fst::Map<Bytes>>,
}

impl Run {
    /// Opens a run and checks its header, footer and sparse index.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if they are not what was written.
    pub fn open(disk: &dyn Disk, dir: &str, id: RunId) -> Result<Run, RunError> {
        Run::open_at(disk, id.path(dir), id)
    }

    /// As [`Run::open`], of a file that does not have its own name yet.
    ///
    /// # Errors
    /// The same.
    pub fn open_at(disk: &dyn Disk, path: String, id: RunId) -> Result<Run, RunError> {
        let damaged = |what| RunError::Damaged { path: path.clone(), what };
        let file = disk.open(&path, OpenOptions::READ).map_err(RunError::disk("open", &path))?;
        let bytes = file.length().map_err(RunError::disk("measure", &path))?;
        if bytes < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return Err(damaged("it is too short"));
        }
        let (mut head, mut foot) = ([0; HEADER_BYTES], [0; FOOTER_BYTES]);
        file.read_exact_at(&mut head, 0).map_err(RunError::disk("read", &path))?;
        let end = bytes - FOOTER_BYTES as u64;
        file.read_exact_at(&mut foot, end).map_err(RunError::disk("read", &path))?;
        let header = Header::decode(&head).ok_or_else(|| damaged("the header"))?;
        let footer = Footer::decode(&foot).ok_or_else(|| damaged("the footer"))?;
        if header.id != id {
            return Err(damaged("it is another run"));
        }
        let (records, streams) = (u64::from(header.records), u64::from(header.streams));
        let chunks = records.div_ceil(ORDER_CHUNK as u64);
        if footer.footer != end
            || footer.lists - footer.order != records * ORDER_BYTES as u64 + chunks * 4
            || footer.topics - footer.streams != streams * STREAM_BYTES as u64
            || footer.footer - footer.sparse != chunks * 4
        {
            return Err(damaged("parts do not fit their counts"));
        }
        let checksum = footer.checksum;
        let (records, streams) = (header.records, header.streams);
        let info = RunInfo { id, checksum, bytes, records, streams };
        let (sparse, topics) = (Vec::new(), OnceLock::new());
        let mut run = Run { file, path, info, header, footer, sparse, topics };
        let sparse = run.read_part(footer.sparse, footer.footer, 0, (chunks * 4) as usize)?;
        if crc32c::crc32c(&sparse) != footer.sparse_crc {
            return Err(run.damaged("the sparse index"));
        }
        run.sparse = sparse.chunks_exact(4).map(|start| u32_at(start, 0)).collect();
        Ok(run)
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> RunInfo {
        self.info
    }

    pub(crate) fn damaged(&self, what: &'static str) -> RunError {
        RunError::Damaged { path: self.path.clone(), what }
    }

    /// Reads within a part of the file.
    pub(crate) fn read_part(
        &self,
        start: u64,
        end: u64,
        at: u64,
        length: usize,
    ) -> Result<Bytes, RunError> {
        if start + at + length as u64 > end {
            return Err(self.damaged("an offset points outside of its part"));
        }
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, start + at);
        read.map_err(RunError::disk("read", &self.path))?;
        Ok(bytes.into())
    }

    pub(super) fn topics(&self) -> Result<&fst::Map<Bytes>, RunError> {
        if let Some(topics) = self.topics.get() {
            return Ok(topics);
        }
        let Footer { topics: start, sparse: end, topics_crc, .. } = self.footer;
        let bytes = self.read_part(start, end, 0, (end - start) as usize)?;
        if crc32c::crc32c(&bytes) != topics_crc {
            return Err(self.damaged("the topic dictionary"));
        }
        let topics = fst::Map::new(bytes).map_err(|_| self.damaged("the topic dictionary"))?;
        Ok(self.topics.get_or_init(|| topics))
    }

    /// Numbers of the streams that any of the filters matches, sorted.
    pub(super) fn matching(
        &self,
        namespace: Namespace,
        filters: &[&str],
    ) -> Result<Vec<u32>, RunError> {
        let topics = self.topics()?;
        let (mut numbers, mut key) = (Vec::new(), Vec::new());
        for filter in filters {
            if topic::has_wildcard(filter) {
                let automaton = FilterAutomaton::new(namespace.0, filter);
                let mut found = topics.search(automaton).into_stream();
                while let Some((_, number)) = found.next() {
                    numbers.push(number as u32);
                }
            } else {
                topic_key(namespace.0, filter, &mut key);
                numbers.extend(topics.get(&key).map(|number| number as u32));
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.last().is_some_and(|last| *last >= self.header.streams) {
            return Err(self.damaged("the topic dictionary names a stream that is not there"));
        }
        Ok(numbers)
    }

    /// Puts the placed records out that match any of the (not shared) filters, from `from` on, in order of
    /// position: at least one if any, then as many as fit `bytes_max`.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if a part that is needed is not what was written; `out` is unchanged then.
    pub fn read(
        &self,
        namespace: Namespace,
        filters: &[&str],
        from: Position,
        bytes_max: usize,
        out: &mut BytesMut,
    ) -> Result<ReadEnd, RunError> {
        let numbers = self.matching(namespace, filters)?;
        self.page(&numbers, from, bytes_max, out)
    }

    fn page(
        &self,
        numbers: &[u32],
        from: Position,
        bytes_max: usize,
        out: &mut BytesMut,
    ) -> Result<ReadEnd, RunError> {
        let page = self.pick(numbers, from, bytes_max)?;
        self.fetch(&page.items, out)?;
        let next = match page.items.last() {
            Some(last) if page.full => last.position.next(),
            _ => self.header.id.end.max(from),
        };
        Ok(ReadEnd { next, count: page.items.len() })
    }

    /// Puts out the placed records at these positions, in order of position; positions that the run has no
    /// record at are left out. Returns how many there were.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn at(&self, positions: &[Position], out: &mut BytesMut) -> Result<usize, RunError> {
        let mut positions = positions.to_vec();
        positions.sort_unstable();
        positions.dedup();
        let (mut items, mut chunk, mut loaded) = (Vec::new(), Vec::new(), None);
        for position in positions {
            let wanted = self.chunk_of(position);
            if loaded != Some(wanted) {
                self.order_chunks(wanted, 1, &mut chunk)?;
                loaded = Some(wanted);
            }
            if let Ok(found) = chunk.binary_search_by_key(&position, |item| item.position) {
                items.push(chunk[found]);
            }
        }
        self.fetch(&items, out)?;
        Ok(items.len())
    }

    /// Reads the items (in order of position) where they are and puts them out in their order.
    fn fetch(&self, items: &[Item], out: &mut BytesMut) -> Result<(), RunError> {
        let mut by_place: Vec<u32> = (0..items.len() as u32).collect();
        by_place.sort_unstable_by_key(|index| items[*index as usize].data);
        let mut found: Vec<Bytes> = vec![Bytes::new(); items.len()];
        let mut rest = &by_place[..];
        while let Some(first) = rest.first() {
            let start = items[*first as usize].data;
            let (mut count, mut end) = (0, start);
            while let Some(next) = rest.get(count).map(|index| &items[*index as usize]) {
                let after = next.data.saturating_add(next.bytes);
                let near =
                    next.data.saturating_sub(end) <= GAP_BYTES && after - start <= READ_BYTES;
                if count > 0 && !near {
                    break;
                }
                (count, end) = (count + 1, after.max(end));
            }
            let length = (end - start) as usize;
            let data = HEADER_BYTES as u64;
            let block = self.read_part(data, self.footer.order, u64::from(start), length)?;
            for index in &rest[..count] {
                let item = &items[*index as usize];
                let at = (item.data - start) as usize;
                let bytes = block.slice(at..at + item.bytes as usize);
                if item.placed(&bytes).is_none() {
                    return Err(self.damaged("a record does not match its checksum"));
                }
                found[*index as usize] = bytes.slice(ITEM_PREFIX_BYTES..);
            }
            rest = &rest[count..];
        }
        out.reserve(found.iter().map(Bytes::len).sum());
        for placed in found {
            out.extend_from_slice(&placed);
        }
        Ok(())
    }

    /// All records in order of position, read page by page. Ends after the first error.
    pub fn scan(&self) -> impl Iterator<Item = Result<Placed, RunError>> {
        let numbers: Vec<u32> = (0..self.header.streams).collect();
        let mut next = self.header.id.first;
        let pages = std::iter::from_fn(move || {
            if next >= self.header.id.end {
                return None;
            }
            let mut out = BytesMut::new();
            let read = self.page(&numbers, next, READ_BYTES as usize, &mut out).and_then(|end| {
                next = end.next;
                Placed::decode_all(out.freeze()).map_err(|_| self.damaged("a record is malformed"))
            });
            Some(match read {
                Ok(placed) => placed.into_iter().map(Ok).collect(),
                Err(error) => {
                    next = self.header.id.end;
                    vec![Err(error)]
                }
            })
        });
        pages.flatten()
    }

    /// Reads and checks the whole file: its checksum, and that every record is where the indexes say.
    ///
    /// # Errors
    /// [`RunError::Damaged`] with the first thing that does not fit.
    pub fn verify(&self) -> Result<(), RunError> {
        let (mut crc, mut at) = (0, 0);
        while at < self.footer.footer {
            let length = u64::from(READ_BYTES).min(self.footer.footer - at) as usize;
            let block = self.read_part(0, self.footer.footer, at, length)?;
            crc = crc32c::crc32c_append(crc, &block);
            at += length as u64;
        }
        if crc != self.footer.checksum {
            return Err(self.damaged("the file does not match its checksum"));
        }
        let topics = self.topics()?.len();
        let mut records = 0;
        for placed in self.scan() {
            placed?;
            records += 1;
        }
        if records != self.header.records || topics != self.header.streams as usize {
            return Err(self.damaged("the indexes do not have all records"));
        }
        Ok(())
    }
}
