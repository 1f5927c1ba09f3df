//! Random requests of gateways to one shard.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use holdfast_log::SimRng;
use holdfast_proto::batch::{Batch, BatchBuilder};
use holdfast_proto::ids::{
    Epoch, Generation, Incarnation, Namespace, ShardId, home_shard, retained_shard,
};
use holdfast_proto::record::{NEVER_EXPIRES, RecordDraft};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Abandon, Claim, ClientKey, Command, CommitCursor, Disconnect, GatewayRef, InFlight,
    ReleaseReceived, SetRetained, ShardPosition, Status, Subscribe, Subscription, Unsubscribe,
    Will,
};
use holdfast_shard::{LAYOUT_TOPIC, Request, Shard};

use crate::base::DiskBase;

/// How many shards the simulated cluster has.
pub(crate) const SHARDS: u16 = 2;
const GATEWAYS: u64 = 3;
const BATCHES_KEPT: usize = 4;

/// The gateways of one shard.
pub(crate) struct Gateways {
    shard: ShardId,
    clients: Vec<String>,
    retained: Vec<String>,
    /// Next sequence by incarnation.
    sequences: BTreeMap<u64, u64>,
    /// The batch with that sequence, once it was sent: the same bytes are sent until it is answered.
    unanswered: BTreeMap<u64, Batch>,
    /// May be sent again, the same bytes.
    sent: VecDeque<Batch>,
    payloads: u64,
}

fn names(
    prefix: &str,
    count: usize,
    shard_of: impl Fn(&str) -> ShardId,
    shard: ShardId,
) -> Vec<String> {
    let all = (0..).map(|n| format!("{prefix}{n}"));
    all.filter(|name| shard_of(name) == shard).take(count).collect()
}

impl Gateways {
    pub(crate) fn new(shard: ShardId) -> Gateways {
        let home = |name: &str| home_shard(Namespace(0), name, SHARDS);
        let kept = |name: &str| retained_shard(Namespace(0), name, SHARDS);
        Gateways {
            shard,
            clients: names("c", 5, home, shard),
            retained: names("r/", 4, kept, shard),
            sequences: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            sent: VecDeque::new(),
            payloads: 0,
        }
    }

    /// What is queued for the next entry.
    pub(crate) fn requests(
        &mut self,
        rng: &mut SimRng,
        shard: &Shard<DiskBase>,
        now_ms: u64,
    ) -> Vec<Request> {
        if rng.one_in(12) {
            let mut due = shard.due(now_ms, 5).unwrap();
            if rng.one_in(6) {
                let dead = Incarnation(1 + rng.below(GATEWAYS));
                due.extend(shard.owned_by(dead, 3).unwrap());
            }
            return due.into_iter().map(Request::Command).collect();
        }
        (0..1 + rng.below(4)).map(|_| self.request(rng, shard, now_ms)).collect()
    }

    fn request(&mut self, rng: &mut SimRng, shard: &Shard<DiskBase>, now_ms: u64) -> Request {
        let id = self.clients[rng.below(self.clients.len() as u64) as usize].clone();
        let (epoch, instance) = belief(rng, shard, &id);
        let client = Some(client(&id));
        let kind = match rng.below(100) {
            0..45 => return self.append(rng, shard, now_ms),
            45..50 => match self.sent.front() {
                Some(batch) => return Request::Append(batch.clone()),
                None => return Request::Cut,
            },
            50..60 => Kind::Claim(self.claim(rng, &id)),
            60..70 => Kind::CommitCursor(self.commit(rng, &id, epoch, instance)),
            70..76 => {
                let filter = format!("t/{}", rng.below(9));
                let wanted = Subscription { filter, options: 1, ..Subscription::default() };
                Kind::Subscribe(Subscribe { client, epoch, instance, subscriptions: vec![wanted] })
            }
            76..78 => {
                let filters = vec![format!("t/{}", rng.below(9))];
                Kind::Unsubscribe(Unsubscribe { client, epoch, instance, filters })
            }
            78..82 => {
                let packet_ids = (0..4).map(|_| 1 + rng.below(12) as u32).collect();
                Kind::ReleaseReceived(ReleaseReceived { client, epoch, packet_ids })
            }
            82..87 => Kind::Disconnect(Disconnect {
                client,
                epoch,
                instance,
                discard_will: rng.one_in(2),
                expiry_interval_s: rng.one_in(4).then(|| rng.below(3) as u32),
                commit: None,
                will_grace_s: 0,
            }),
            87..89 => Kind::Abandon(Abandon { client, epoch }),
            89..93 => Kind::SetRetained(self.set_retained(rng, &id, now_ms)),
            93..97 => return Request::Cut,
            97..98 => return Request::Roll { layout: LAYOUT_TOPIC.into() },
            _ => return Request::DropGeneration(Generation(shard.generations()[0].generation)),
        };
        Request::Command(Command { command: Some(kind) })
    }

    /// A payload that no other message has.
    fn payload(&mut self, rng: &mut SimRng) -> String {
        self.payloads += 1;
        format!("{}-{}-{}", self.shard.0, self.payloads, "x".repeat(rng.below(400) as usize))
    }

    fn append(&mut self, rng: &mut SimRng, shard: &Shard<DiskBase>, now_ms: u64) -> Request {
        let incarnation = 1 + rng.below(GATEWAYS);
        let gap = rng.one_in(25);
        if let Some(batch) = self.unanswered.get(&incarnation).filter(|_| !gap) {
            return Request::Append(batch.clone());
        }
        let next = *self.sequences.entry(incarnation).or_insert(1);
        let sequence = if gap { next + 3 } else { next };
        let mut builder = BatchBuilder::default();
        for _ in 0..rng.below(6) {
            let id = self.clients[rng.below(self.clients.len() as u64) as usize].clone();
            let epoch = if rng.one_in(10) { 0 } else { belief(rng, shard, &id).0 };
            let topic = format!("t/{}", rng.below(9));
            let payload = self.payload(rng);
            let packet_id = if rng.one_in(2) { 0 } else { 1 + rng.below(12) as u16 };
            builder.push(&draft(&topic, &id, epoch, packet_id, &payload));
        }
        let deadline_ms = if rng.one_in(25) { now_ms - 1 } else { now_ms + 30_000 };
        let batch = builder.seal(Incarnation(incarnation), sequence, deadline_ms);
        if !gap {
            self.unanswered.insert(incarnation, batch.clone());
            self.sent.push_back(batch.clone());
            if self.sent.len() > BATCHES_KEPT {
                self.sent.pop_front();
            }
        }
        Request::Append(batch)
    }

    /// A batch was answered.
    pub(crate) fn answered(&mut self, batch: &Batch, status: Status, expected_sequence: u64) {
        let incarnation = batch.header().incarnation.0;
        let next = self.sequences.entry(incarnation).or_insert(1);
        let after = match status {
            Status::Gap => expected_sequence,
            Status::Ok | Status::Expired => (*next).max(batch.header().sequence + 1),
            _ => return,
        };
        if after != *next {
            *next = after;
            self.unanswered.remove(&incarnation);
        }
    }

    fn claim(&mut self, rng: &mut SimRng, id: &str) -> Claim {
        let incarnation = 1 + rng.below(GATEWAYS);
        let record = |gateways: &mut Gateways, rng: &mut SimRng| {
            let payload = gateways.payload(rng);
            let mut out = BytesMut::new();
            RecordDraft { will: true, ..draft("will", id, 0, 0, &payload) }.encode(&mut out);
            out.freeze()
        };
        let will = rng
            .one_in(2)
            .then(|| Will { record: record(self, rng), delay_s: rng.below(3) as u32 * 2 });
        Claim {
            client: Some(client(id)),
            gateway: Some(GatewayRef {
                incarnation,
                name: format!("g{incarnation}"),
                address: "h:1".into(),
            }),
            clean_start: rng.one_in(5),
            expiry_interval_s: [0, 1, 60, 3600, u32::MAX][rng.below(5) as usize],
            will,
            protocol_level: 5,
            attempt: rng.next_u64(),
        }
    }

    fn commit(&self, rng: &mut SimRng, id: &str, epoch: u64, instance: u64) -> CommitCursor {
        let position = rng.below(2_000);
        let shard = u32::from(self.shard.0);
        let message = InFlight {
            packet_id: 1 + rng.below(4) as u32,
            shard,
            position,
            qos: 1,
            ..InFlight::default()
        };
        CommitCursor {
            client: Some(client(id)),
            epoch,
            instance,
            cursor: vec![ShardPosition { shard, position }],
            in_flight: vec![message],
            completed: vec![1 + rng.below(4) as u32],
        }
    }

    fn set_retained(&mut self, rng: &mut SimRng, id: &str, now_ms: u64) -> SetRetained {
        let topic = self.retained[rng.below(self.retained.len() as u64) as usize].clone();
        let payload = if rng.one_in(3) { String::new() } else { self.payload(rng) };
        let epoch = 1 + rng.below(3);
        let mut record = BytesMut::new();
        draft(&topic, id, epoch, 0, &payload).encode(&mut record);
        SetRetained {
            namespace: 0,
            topic,
            record: record.freeze(),
            client: Some(client(id)),
            epoch,
            home_shard: 0,
            home_position: 1 + rng.below(9),
            time_ms: now_ms,
        }
    }
}

/// The epoch and instance that somebody believes in: mostly the right ones.
fn belief(rng: &mut SimRng, shard: &Shard<DiskBase>, id: &str) -> (u64, u64) {
    let row = shard.session(&client(id)).unwrap();
    let (epoch, instance) = row.map_or((1, 1), |row| (row.epoch, row.instance));
    match rng.below(16) {
        0 => (epoch.saturating_sub(1).max(1), instance),
        1 => (epoch, instance.saturating_sub(1).max(1)),
        _ => (epoch, instance),
    }
}

fn client(id: &str) -> ClientKey {
    ClientKey { namespace: 0, client_id: id.to_owned() }
}

fn draft<'a>(
    topic: &'a str,
    client_id: &'a str,
    epoch: u64,
    packet_id: u16,
    payload: &'a str,
) -> RecordDraft<'a> {
    RecordDraft {
        namespace: Namespace(0),
        topic,
        client_id,
        epoch: Epoch(epoch),
        qos: if packet_id == 0 { 1 } else { 2 },
        retain: false,
        will: false,
        packet_id,
        expiry_interval_s: NEVER_EXPIRES,
        properties: &[],
        payload: payload.as_bytes(),
    }
}
