//! The stores behind [`crate::store::Store`].

pub mod conformance;
pub mod sled;
