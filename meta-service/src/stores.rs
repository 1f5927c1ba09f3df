//! The stores behind [`crate::store::Store`].

pub mod conformance;
pub mod etcd;
pub mod sled;
