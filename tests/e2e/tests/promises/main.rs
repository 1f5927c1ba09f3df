//! One file for each promise of the design; the name of each test ends in the promise's.

#![allow(clippy::unwrap_used)]

mod bounded_redelivery;
mod exactly_once_q2;
mod no_acked_loss;
mod no_early_cursor;
mod no_silent_drop;
mod publisher_order;
mod single_owner;
mod static_stability;
mod stored_once;
mod suback_contract;

use holdfast_e2e::packet::Publish;

/// Payloads as text.
fn texts(publishes: &[Publish]) -> Vec<String> {
    publishes.iter().map(Publish::text).collect()
}

/// The texts of the numbers in a range.
fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}
