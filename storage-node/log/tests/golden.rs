//! Format 1 of runs and of the site log as files: what is on disks today must be readable for ever.
//!
//! `HOLDFAST_WRITE_GOLDEN=1` writes the files anew; do that only for a new format version, under a new
//! name.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::disallowed_methods, reason = "the golden files are real ones")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use holdfast_log::{
    Disk, LogCore, LogEntry, LogOptions, RealDisk, RecoveredReplica, ReplicaKey, Run, RunId,
    write_run,
};
use holdfast_proto::ids::{Epoch, Generation, Namespace, Position, ReplicaId, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{Record, RecordDraft};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn is_writing() -> bool {
    std::env::var_os("HOLDFAST_WRITE_GOLDEN").is_some()
}

/// The golden folder's files in a folder that a test may change.
fn copy_of(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join(name);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    folder
}

fn disk(root: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(root).unwrap())
}

fn placed(position: u64, topic: &str, payload: &[u8]) -> Placed {
    let mut out = BytesMut::new();
    let draft = RecordDraft {
        namespace: Namespace(2),
        topic,
        client_id: "emqx_c",
        epoch: Epoch(7),
        qos: 1,
        retain: false,
        will: false,
        packet_id: 0,
        expiry_interval_s: 60,
        properties: b"\x01\x01",
        payload,
    };
    draft.encode(&mut out);
    let record = Record::split_from(&mut out.freeze()).unwrap();
    Placed { position: Position(position), time_ms: 1_700_000_000_000 + position, record }
}

#[test]
fn a_run_of_format_1_is_read_and_written_the_same() {
    let id = RunId {
        shard: ShardId(3),
        generation: Generation(2),
        first: Position(10),
        end: Position(15),
    };
    let records =
        [placed(10, "t/1", b"hello"), placed(12, "a/\u{e4}", b""), placed(14, "t/1", b"x")];
    if is_writing() {
        write_run(&*disk(&golden("")), "run-1", id, &records).unwrap();
    }
    let folder = copy_of("run-1");
    let run = Run::open(&*disk(folder.path()), "run-1", id).unwrap();
    run.verify().unwrap();
    let read: Vec<Placed> = run.scan().map(Result::unwrap).collect();
    assert_eq!(read, records);
    let mut page = BytesMut::new();
    run.read(Namespace(2), &["t/+"], Position(11), 1 << 20, &mut page).unwrap();
    assert_eq!(Placed::decode_all(page.freeze()).unwrap(), records[2..]);

    let again = tempfile::tempdir().unwrap();
    let info = write_run(&*disk(again.path()), "run-1", id, &records).unwrap();
    assert_eq!(info, run.info());
    let path = id.path("run-1");
    assert_eq!(fs::read(again.path().join(&path)).unwrap(), fs::read(golden(&path)).unwrap());
}

const A: ReplicaKey = ReplicaKey { shard: ShardId(0), replica: ReplicaId(1) };
const B: ReplicaKey = ReplicaKey { shard: ShardId(15), replica: ReplicaId(900) };

fn open(root: &Path) -> (LogCore, Vec<RecoveredReplica>) {
    let options = LogOptions {
        segment_bytes: 8 << 10,
        bytes_max: 96 << 10,
        log_id_if_new: 77,
        ..LogOptions::default()
    };
    let failed = Box::new(|error| panic!("{error}"));
    LogCore::open(disk(root), "log-1", options, failed).unwrap()
}

fn write_log(root: &Path) {
    let (log, _) = open(root);
    let entry = |index, payload: &'static [u8]| LogEntry { index, bytes: Bytes::from(payload) };
    log.add_replica(A);
    log.add_replica(B);
    log.save_vote(A, Bytes::from_static(b"vote"), Box::new(|_| {}));
    log.append(A, (1..=4).map(|index| entry(index, b"first")).collect(), Box::new(|_| {}));
    while log.commit() {}
    log.truncate(A, 4, Box::new(|_| {}));
    log.append(A, vec![entry(4, b"other")], Box::new(|_| {}));
    log.append(B, vec![entry(7, b"elsewhere")], Box::new(|_| {}));
    log.save_committed(A, Bytes::from_static(b"committed"));
    log.purge(A, 1, Bytes::from_static(b"purged"), Box::new(|_| {}));
    while log.commit() {}
}

#[test]
fn a_site_log_of_format_1_is_recovered() {
    if is_writing() {
        write_log(&golden(""));
    }
    let folder = copy_of("log-1");
    let (log, mut recovered) = open(folder.path());
    recovered.sort_by_key(|replica| replica.key);
    let [a, b] = recovered.as_slice() else { panic!("{recovered:?}") };
    assert_eq!((a.key, b.key), (A, B));
    assert_eq!(a.vote.as_deref(), Some(b"vote".as_slice()));
    assert_eq!(a.committed.as_deref(), Some(b"committed".as_slice()));
    assert_eq!(a.purged, Some((1, Bytes::from_static(b"purged"))));
    assert_eq!((a.first_index, a.last_index), (Some(2), Some(4)));
    assert_eq!((b.first_index, b.last_index), (Some(7), Some(7)));
    assert!(recovered.iter().all(|replica| replica.damaged.is_none()));
    let read = |key, from, to| -> Vec<Bytes> {
        let entries = log.read(key, from, to, usize::MAX).unwrap();
        entries.into_iter().map(|entry| entry.bytes).collect()
    };
    assert_eq!(read(A, 2, 5), ["first", "first", "other"]);
    assert_eq!(read(B, 7, 8), ["elsewhere"]);
}
