//! Exhaustive models of protocols between processes; see `tests/`.
//!
//! A model's state names the states of the real cores by number: what a core becomes by an input is
//! computed once ([`Interned`]), however many interleavings lead there.

mod check;
mod interned;

pub use check::{explore, refute};
pub use interned::{Id, Interned};
