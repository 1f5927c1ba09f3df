//! From the first byte to CONNACK.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use holdfast_proto::ids::{Epoch, Namespace, home_shard};
use holdfast_proto::record::RecordDraft;
use holdfast_proto::shard::{self, Claim, ClientKey, SessionRow};
use holdfast_session::{Effect, Limits, Opening, Protocol, Session, reason};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::closing::linger;
use super::live::{Live, Measured};
use super::{Shared, Transport};
use crate::cluster::Claimed;
use crate::codec::{
    self, Connack, Connect, ConnectError, connack_refused_v3, connack_refused_v5, encode_connack,
};
use crate::figures::{Facts, Remote};
use crate::inbox::Inbox;
use crate::{metrics, tally};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 512;
/// First byte of a CONNECT.
const CONNECT: u8 = 0x10;
/// Return code of MQTT 3.1.1: server unavailable.
const UNAVAILABLE_V3: u8 = 0x03;
/// The tenant of everybody, until there is authentication.
const NAMESPACE: Namespace = Namespace(0);

/// How a first packet is refused.
enum Refusal {
    /// Close without a word.
    Silent(&'static str),
    /// CONNACK with this code (MQTT 3.1.1 has few).
    Code(Protocol, u8, &'static str),
    /// The gateway stops: another one serves the client.
    Elsewhere(Protocol),
}

/// Reads CONNECT, claims the session and accepts the client. `None`: it was refused or gave up.
pub(super) async fn open<T: Transport>(
    mut io: T,
    remote: Remote,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
) -> Option<Box<Live<T>>> {
    let mut input = BytesMut::new();
    let time = Duration::from_millis(shared.config.connect_timeout_ms);
    let read = tokio::select! {
        read = timeout(time, read_connect(&mut io, &mut input, &shared)) => {
            read.unwrap_or(Err(Refusal::Silent("connect_timeout")))
        }
        () = drained(&inbox, &shared) => Err(Refusal::Silent("stopping")),
    };
    let accepted = match read.and_then(|connect| check(connect, &shared)) {
        Ok(connect) => claim(connect, remote, &shared, &inbox).await,
        Err(refusal) => Err(refusal),
    };
    match accepted {
        Ok((accepted, claimed)) => Some(live(io, input, shared, inbox, accepted, claimed)),
        Err(refusal) => {
            refuse(io, refusal, &shared).await;
            None
        }
    }
}

/// The gateway stops, and the client had some time to finish its CONNECT.
async fn drained(inbox: &Inbox, shared: &Shared) {
    // Before the claim nothing else is posted.
    inbox.ready().await;
    sleep(Duration::from_millis(shared.config.drain_settle_ms)).await;
}

async fn read_connect<T: Transport>(
    io: &mut T,
    input: &mut BytesMut,
    shared: &Shared,
) -> Result<Connect, Refusal> {
    loop {
        if input.first().is_some_and(|first| *first != CONNECT) {
            return Err(Refusal::Silent("not_connect"));
        }
        match codec::next_frame(input, shared.config.connect_bytes_max) {
            Ok(None) => {}
            Ok(Some(frame)) => {
                let connect = codec::decode_connect(frame.body).map_err(refusal_of);
                let bytes = frame.bytes;
                input.advance(bytes);
                return connect;
            }
            Err(_) => return Err(Refusal::Silent("malformed")),
        }
        input.reserve(READ_BYTES);
        match io.read_buf(input).await {
            Ok(bytes) if bytes > 0 => tally::received_bytes(bytes),
            Ok(_) | Err(_) => return Err(Refusal::Silent("gone")),
        }
    }
}

fn refusal_of(error: ConnectError) -> Refusal {
    match error {
        ConnectError::NotMqtt => Refusal::Silent("not_mqtt"),
        ConnectError::LevelTooOld => Refusal::Code(Protocol::V3, 0x01, "protocol_level"),
        ConnectError::LevelUnknown => {
            Refusal::Code(Protocol::V5, reason::UNSUPPORTED_VERSION, "protocol_level")
        }
        ConnectError::Refused(Protocol::V3, _) => Refusal::Silent("malformed"),
        ConnectError::Refused(Protocol::V5, error) => {
            Refusal::Code(Protocol::V5, error.reason(), "malformed")
        }
    }
}

fn check(connect: Connect, shared: &Shared) -> Result<Connect, Refusal> {
    if shared.registry.is_draining() {
        return Err(Refusal::Elsewhere(connect.protocol));
    }
    if connect.has_auth_method {
        let code = reason::BAD_AUTHENTICATION;
        return Err(Refusal::Code(Protocol::V5, code, "authentication_method"));
    }
    let must_have_id = connect.protocol == Protocol::V3 && !connect.clean_start;
    if connect.client_id.is_empty() && must_have_id {
        return Err(Refusal::Code(Protocol::V3, 0x02, "client_id"));
    }
    Ok(connect)
}

/// What was agreed on.
struct Accepted {
    connect: Connect,
    client: ClientKey,
    has_assigned_id: bool,
    session_expiry_s: u32,
}

async fn claim(
    connect: Connect,
    remote: Remote,
    shared: &Shared,
    inbox: &Arc<Inbox>,
) -> Result<(Accepted, Claimed), Refusal> {
    let has_assigned_id = connect.client_id.is_empty();
    let client_id = if has_assigned_id {
        format!("{:032x}", SmallRng::from_os_rng().random::<u128>())
    } else {
        connect.client_id.clone()
    };
    let client = ClientKey { namespace: NAMESPACE.0, client_id };
    let config = &shared.config;
    let asked_s = match connect.session_expiry_s {
        Some(expiry_s) => expiry_s,
        None if connect.clean_start => 0,
        None => config.session_expiry_default_s,
    };
    let session_expiry_s = asked_s.min(config.session_expiry_max_s);
    let protocol_level = if connect.protocol == Protocol::V3 { 4 } else { 5 };
    inbox.figures.begin(Facts {
        remote,
        protocol_level,
        keep_alive_s: keep_alive(&connect, config.keep_alive_max_s).0,
        expiry_interval_s: session_expiry_s,
        connected_at_ms: shared.clock.now_ms(),
    });
    let claim = Claim {
        client: Some(client.clone()),
        gateway: Some(shared.cluster.gateway()),
        clean_start: connect.clean_start,
        expiry_interval_s: session_expiry_s,
        will: connect.will.as_ref().map(|will| encode_will(will, &client)),
        protocol_level: u32::from(protocol_level),
        attempt: SmallRng::from_os_rng().random_range(1..=u64::MAX),
    };
    match shared.cluster.claim(claim, inbox).await {
        Ok(claimed) => {
            Ok((Accepted { connect, client, has_assigned_id, session_expiry_s }, claimed))
        }
        Err(error) => {
            tracing::warn!(%error, "session cannot be claimed");
            let code = match connect.protocol {
                Protocol::V3 => UNAVAILABLE_V3,
                Protocol::V5 => reason::UNAVAILABLE,
            };
            Err(Refusal::Code(connect.protocol, code, "claim"))
        }
    }
}

fn encode_will(will: &codec::Will, client: &ClientKey) -> shard::Will {
    let mut record = BytesMut::new();
    RecordDraft {
        namespace: NAMESPACE,
        topic: &will.topic,
        client_id: &client.client_id,
        epoch: Epoch(0),
        qos: will.qos,
        retain: will.retain,
        will: true,
        packet_id: 0,
        expiry_interval_s: will.expiry_interval_s,
        properties: &will.properties,
        payload: &will.payload,
    }
    .encode(&mut record);
    shard::Will { record: record.freeze(), delay_s: will.delay_s }
}

fn live<T: Transport>(
    io: T,
    mut input: BytesMut,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    accepted: Accepted,
    claimed: Claimed,
) -> Box<Live<T>> {
    let Accepted { connect, client, has_assigned_id, session_expiry_s } = accepted;
    let row = claimed.outcome.row.unwrap_or_default();
    let session_present = claimed.outcome.session_present;
    // A session that was durable until now still has to be fed from the log.
    let durable = session_expiry_s > 0 || (session_present && has_state(&row));
    let protocol = connect.protocol;
    let (keep_alive_s, told_keep_alive_s) = keep_alive(&connect, shared.config.keep_alive_max_s);
    let mut output = BytesMut::new();
    let connack = Connack {
        session_present,
        receive_maximum: shared.config.receive_maximum,
        packet_bytes_max: shared.config.packet_bytes_max as u32,
        topic_alias_maximum: shared.config.topic_alias_maximum,
        session_expiry_s: (connect.session_expiry_s != Some(session_expiry_s))
            .then_some(session_expiry_s),
        assigned_client_id: has_assigned_id.then_some(client.client_id.as_str()),
        server_keep_alive_s: told_keep_alive_s,
    };
    encode_connack(&mut output, &connack, protocol);
    let mut effects = Vec::new();
    let session = Session::open(
        &Opening {
            namespace: NAMESPACE,
            client_id: &client.client_id,
            protocol,
            durable,
            shards: shared.cluster.shards(),
            limits: limits(&connect, &shared),
            row: &row,
        },
        &mut effects,
    );
    metrics::accepted(protocol);
    metrics::sessions(durable, 1);
    if input.is_empty() {
        input = BytesMut::new();
    }
    let mut live = Box::new(Live {
        home: home_shard(NAMESPACE, &client.client_id, shared.cluster.shards()),
        last_received_ms: shared.clock.now_ms(),
        silence_ms_max: u64::from(keep_alive_s) * 1500,
        session_expires: connect.session_expiry_s.is_some_and(|asked_s| asked_s > 0),
        epoch: Epoch(row.epoch),
        io,
        inbox,
        session,
        protocol,
        client,
        attachment: None,
        _ownership: claimed.ownership,
        input,
        output,
        turn_end: None,
        congestion: None,
        timer: None,
        armed_ms: None,
        drain_until_ms: None,
        taken_over: None,
        kicked: None,
        measured: Measured::default(),
        shared,
    });
    start(&mut live, &mut effects);
    live
}

/// Runs the session's first effects: resent releases follow CONNACK.
fn start<T: Transport>(live: &mut Live<T>, effects: &mut Vec<Effect>) {
    let mut output = std::mem::take(&mut live.output);
    let now_ms = live.last_received_ms;
    // Opening a session ends no connection.
    let _ = live.run_effects(effects, &mut output, now_ms);
    live.output = output;
}

fn has_state(row: &SessionRow) -> bool {
    !row.subscriptions.is_empty() || !row.in_flight.is_empty() || !row.received.is_empty()
}

/// Keep alive in force, and what to tell the client if it is not its own.
fn keep_alive(connect: &Connect, max_s: u16) -> (u16, Option<u16>) {
    let asked_s = connect.keep_alive_s;
    let is_capped = max_s > 0 && (asked_s == 0 || asked_s > max_s);
    if connect.protocol == Protocol::V5 && is_capped {
        (max_s, Some(max_s))
    } else {
        (asked_s, None)
    }
}

fn limits(connect: &Connect, shared: &Shared) -> Limits {
    let config = &shared.config;
    Limits {
        receive_maximum: match connect.protocol {
            Protocol::V5 => config.receive_maximum,
            // MQTT 3.1.1 cannot be told: its bound is what the home shard's queue takes.
            Protocol::V3 => u16::MAX,
        },
        topic_alias_maximum: config.topic_alias_maximum,
        window: config.in_flight_max.min(connect.receive_maximum),
        client_packet_bytes_max: connect.packet_bytes_max,
        buffer_bytes_max: config.session_buffer_bytes_max,
        buffer_records_max: config.session_buffer_records_max,
        page_bytes: shared.page_bytes,
        operations_max: config.operations_max,
        commit_interval_ms: config.commit_interval_ms,
        retry_ms: config.retry_ms,
    }
}

async fn refuse<T: Transport>(mut io: T, refusal: Refusal, shared: &Shared) {
    let mut out = BytesMut::new();
    let (cause, protocol, code, other) = match refusal {
        Refusal::Silent(cause) => return metrics::refused(cause, None),
        Refusal::Code(protocol, code, cause) => (cause, protocol, code, None),
        Refusal::Elsewhere(Protocol::V3) => ("stopping", Protocol::V3, UNAVAILABLE_V3, None),
        Refusal::Elsewhere(Protocol::V5) => match shared.cluster.another_gateway() {
            None => ("stopping", Protocol::V5, reason::UNAVAILABLE, None),
            other => ("stopping", Protocol::V5, reason::USE_ANOTHER_SERVER, other),
        },
    };
    metrics::refused(cause, Some(code));
    match protocol {
        Protocol::V3 => connack_refused_v3(&mut out, code),
        Protocol::V5 => connack_refused_v5(&mut out, code, other.as_deref()),
    }
    let goodbye = async {
        let written: io::Result<()> = io.write_all(&out).await;
        if written.is_ok() {
            linger(&mut io).await;
        }
    };
    // A client that does not read is not waited for.
    let _ = timeout(Duration::from_millis(shared.config.linger_ms), goodbye).await;
}
