//! Code generated from the `.proto` files, nested as their packages are.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub(crate) mod holdfast {
    pub mod shard {
        pub mod v1 {
            tonic::include_proto!("holdfast.shard.v1");
        }
    }
    pub mod storage {
        pub mod v1 {
            tonic::include_proto!("holdfast.storage.v1");
        }
    }
    pub mod meta {
        pub mod v1 {
            tonic::include_proto!("holdfast.meta.v1");
        }
    }
    pub mod gateway {
        pub mod v1 {
            tonic::include_proto!("holdfast.gateway.v1");
        }
    }
}
