//! Faults on a cluster of real processes, one after the other, with a ledger of every message.

fn main() {}
