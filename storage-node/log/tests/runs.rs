//! Runs against a naive filter of what went into them.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bytes::BytesMut;
use holdfast_log::{Disk, Run, RunError, RunId, SimDisk, SimRng, remove_run, write_run};
use holdfast_proto::ids::{Epoch, Generation, Namespace, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{Record, RecordDraft};
use holdfast_proto::topic;

fn placed(position: u64, namespace: u32, topic: &str, payload: &[u8]) -> Placed {
    let mut out = BytesMut::new();
    let draft = RecordDraft {
        namespace: Namespace(namespace),
        topic,
        client_id: "client",
        epoch: Epoch(1),
        qos: 1,
        retain: false,
        will: false,
        packet_id: 0,
        expiry_interval_s: u32::MAX,
        properties: &[],
        payload,
    };
    draft.encode(&mut out);
    let record = Record::split_from(&mut out.freeze()).unwrap();
    Placed { position: Position(position), time_ms: 1_000 + position, record }
}

/// Records with gaps between positions, on `topics` topics in two namespaces.
fn records(rng: &mut SimRng, count: u64, topics: u64) -> Vec<Placed> {
    let mut position = 10 + rng.below(5);
    let mut all = Vec::new();
    for _ in 0..count {
        position += 1 + if rng.one_in(10) { rng.below(4) } else { 0 };
        // Some topics are much busier than others.
        let number = rng.below(topics).min(rng.below(topics));
        let name = match number % 4 {
            0 => format!("a/{number}"),
            1 => format!("a/{number}/x"),
            2 => format!("$b/{number}"),
            _ => format!("c{number}/x"),
        };
        let payload = vec![position as u8; rng.below(120) as usize];
        all.push(placed(position, u32::from(rng.one_in(20)), &name, &payload));
    }
    all
}

fn id_of(records: &[Placed]) -> RunId {
    let first = records.first().map_or(10, |placed| placed.position.0);
    let end = records.last().map_or(20, |placed| placed.position.0 + 3);
    RunId {
        shard: ShardId(3),
        generation: Generation(7),
        first: Position(first),
        end: Position(end),
    }
}

fn written(disk: &SimDisk, records: &[Placed]) -> Run {
    let id = id_of(records);
    let info = write_run(disk, "runs/3", id, records).unwrap();
    let run = Run::open(disk, "runs/3", id).unwrap();
    assert_eq!(run.info(), info);
    run
}

fn read_all(
    run: &Run,
    namespace: u32,
    filters: &[&str],
    from: u64,
    bytes_max: usize,
) -> Vec<Placed> {
    let (mut next, mut all) = (Position(from), Vec::new());
    loop {
        let mut out = BytesMut::new();
        let end = run.read(Namespace(namespace), filters, next, bytes_max, &mut out).unwrap();
        let page = Placed::decode_all(out.freeze()).unwrap();
        assert_eq!(page.len(), end.count);
        assert!(page.iter().all(|placed| placed.position >= next && placed.position < end.next));
        all.extend(page);
        if end.next >= run.info().id.end {
            return all;
        }
        assert!(end.count > 0 && end.next > next);
        next = end.next;
    }
}

#[test]
fn every_filter_reads_what_it_matches_in_order() {
    for seed in 0..24 {
        let mut rng = SimRng::new(seed);
        let (count, topics) =
            ([0, 1, 700, 2_500][(seed % 4) as usize], [1, 5, 40, 400][(seed / 4 % 4) as usize]);
        let records = records(&mut rng, count, topics);
        let disk = SimDisk::new();
        let run = written(&disk, &records);
        run.verify().unwrap();
        let scanned: Vec<Placed> = run.scan().map(Result::unwrap).collect();
        assert_eq!(scanned, records);
        let filters: [&[&str]; 10] = [
            &["#"],
            &["a/0"],
            &["a/+"],
            &["+/+/x"],
            &["a/#"],
            &["$b/#"],
            &["c3/x", "a/4", "a/0"],
            &["+/x", "a/4"],
            &["nothing"],
            &["a/+", "a/0", "#"],
        ];
        for filters in filters {
            let namespace = u32::from(rng.one_in(4));
            let from = rng.below(records.last().map_or(30, |last| last.position.0) + 5);
            let bytes_max = [1, 300, 5_000, 1 << 20][rng.below(4) as usize];
            let matches = |placed: &&Placed| {
                let name = placed.record.topic();
                placed.position.0 >= from
                    && placed.record.namespace().0 == namespace
                    && filters.iter().any(|filter| topic::matches(filter, name))
            };
            let expected: Vec<Placed> = records.iter().filter(matches).cloned().collect();
            let read = read_all(&run, namespace, filters, from, bytes_max);
            assert_eq!(read.len(), expected.len(), "seed {seed} {filters:?} {from} {bytes_max}");
            assert!(read == expected, "seed {seed} {filters:?} {from} {bytes_max}");
        }
        check_positions(&run, &records, &mut rng);
        check_counts(&run, &records, &filters, &mut rng);
    }
}

fn check_counts(run: &Run, records: &[Placed], filters: &[&[&str]], rng: &mut SimRng) {
    let last = records.last().map_or(30, |last| last.position.0) + 8;
    for filters in filters.iter().cycle().take(60) {
        let namespace = Namespace(u32::from(rng.one_in(4)));
        let range = match rng.below(4) {
            0 => Position(0)..Position(last),
            _ => Position(rng.below(last))..Position(rng.below(last)),
        };
        let mut expected = holdfast_log::Matches::default();
        for placed in records {
            let name = placed.record.topic();
            if range.contains(&placed.position)
                && placed.record.namespace() == namespace
                && filters.iter().any(|filter| topic::matches(filter, name))
            {
                expected.note(placed.position);
            }
        }
        let counted = run.count(namespace, filters, range.clone()).unwrap();
        assert_eq!(counted, expected, "{filters:?} {range:?}");
    }
    let mut topics = Vec::new();
    run.for_each_topic(|namespace, name| topics.push((namespace, name.to_owned()))).unwrap();
    let mut expected: Vec<_> =
        records.iter().map(|p| (p.record.namespace(), p.record.topic().to_owned())).collect();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(topics, expected);
}

fn check_positions(run: &Run, records: &[Placed], rng: &mut SimRng) {
    let end = records.last().map_or(20, |placed| placed.position.0 + 10);
    let positions: Vec<Position> = (0..30).map(|_| Position(rng.below(end))).collect();
    let mut out = BytesMut::new();
    let count = run.at(&positions, &mut out).unwrap();
    let expected: Vec<Placed> =
        records.iter().filter(|placed| positions.contains(&placed.position)).cloned().collect();
    assert_eq!((count, Placed::decode_all(out.freeze()).unwrap()), (expected.len(), expected));
}

#[test]
fn replicas_write_identical_bytes_and_survive_power_loss() {
    let records = records(&mut SimRng::new(5), 900, 60);
    let id = id_of(&records);
    let (one, two) = (SimDisk::new(), SimDisk::new());
    let info = write_run(&one, "runs", id, &records).unwrap();
    assert_eq!(write_run(&two, "runs", id, &records).unwrap(), info);
    let bytes = one.content(&id.path("runs")).unwrap();
    assert_eq!(two.content(&id.path("runs")).unwrap(), bytes);
    assert_eq!(bytes.len() as u64, info.bytes);
    one.crash(&mut SimRng::new(1));
    Run::open(&one, "runs", id).unwrap().verify().unwrap();
    // Written again over itself, as after a crash between the run and the checkpoint.
    assert_eq!(write_run(&one, "runs", id, &records).unwrap(), info);
    assert_eq!(one.list("runs").unwrap(), [id.file_name()]);
    assert_eq!(RunId::from_file_name(&id.file_name()), Some(id));
    assert_eq!(RunId::from_file_name("x.run"), None);
    remove_run(&one, "runs", id).unwrap();
    remove_run(&one, "runs", id).unwrap();
    assert!(Run::open(&one, "runs", id).err().unwrap().is_damage());
}

#[test]
fn a_flipped_bit_is_found_and_never_read() {
    let records = records(&mut SimRng::new(8), 300, 20);
    let mut found_by_reading = 0;
    for seed in 0..400 {
        let mut rng = SimRng::new(seed);
        let disk = SimDisk::new();
        let id = id_of(&records);
        let info = write_run(&disk, "r", id, &records).unwrap();
        disk.flip_bit(&id.path("r"), rng.below(info.bytes), rng.next_u64() as u8).unwrap();
        let run = match Run::open(&disk, "r", id) {
            Ok(run) => run,
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                continue;
            }
        };
        assert!(run.verify().is_err_and(|error| error.is_damage()), "seed {seed}");
        for filter in ["#", "a/0"] {
            let mut out = BytesMut::new();
            match run.read(Namespace(0), &[filter], Position(0), usize::MAX, &mut out) {
                Err(error) => {
                    assert!(error.is_damage(), "{error}");
                    found_by_reading += 1;
                }
                Ok(_) => {
                    let expected: Vec<&Placed> = records
                        .iter()
                        .filter(|p| p.record.namespace().0 == 0)
                        .filter(|p| topic::matches(filter, p.record.topic()))
                        .collect();
                    let read = Placed::decode_all(out.freeze()).unwrap();
                    assert!(read.iter().collect::<Vec<_>>() == expected, "seed {seed}");
                }
            }
        }
    }
    assert!(found_by_reading > 100);
}

#[test]
fn records_that_do_not_fit_the_id_are_refused() {
    let disk = SimDisk::new();
    let all = [placed(5, 0, "t", b""), placed(6, 0, "t", b"")];
    let id = RunId { first: Position(6), end: Position(9), ..id_of(&all) };
    let refused = |records: &[Placed]| {
        matches!(write_run(&disk, "r", id, records), Err(RunError::Input { .. }))
    };
    assert!(refused(&all));
    assert!(refused(&[all[1].clone(), all[1].clone()]));
    assert!(!refused(&all[1..]));
}
