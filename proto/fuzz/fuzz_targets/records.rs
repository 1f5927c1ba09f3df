//! Any bytes are a batch, records or placed records, or are refused; nothing panics, and what is
//! accepted is re-encoded to the same bytes.
//!
//! `cargo fuzz run records` in the folder of `holdfast-proto` (needs cargo-fuzz and nightly features).
#![no_main]

use bytes::{Bytes, BytesMut};
use holdfast_proto::batch::Batch;
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{Record, RecordDraft};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let input = Bytes::copy_from_slice(input);
    if let Ok(batch) = Batch::check(input.clone()) {
        assert_eq!(batch.records().count(), batch.header().count as usize);
    }
    if let Ok(placed) = Placed::decode_all(input.clone()) {
        let mut again = BytesMut::new();
        for one in &placed {
            Placed::encode(&mut again, one.position, one.time_ms, &one.record);
        }
        assert_eq!(again, input);
    }
    if let Ok(record) = Record::split_checked_from(&mut input.clone()) {
        let mut again = BytesMut::new();
        RecordDraft {
            namespace: record.namespace(),
            topic: record.topic(),
            client_id: record.client_id(),
            epoch: record.epoch(),
            qos: record.qos(),
            retain: record.retain(),
            will: record.is_will(),
            packet_id: record.packet_id(),
            expiry_interval_s: record.expiry_interval_s(),
            properties: &record.properties(),
            payload: &record.payload(),
        }
        .encode(&mut again);
        let (own, known) = (&again[10..], &record.as_bytes()[10..]);
        assert_eq!(own, known);
    }
});
