//! The site's identity: minted at first start, kept in the data directory for ever.
//!
//! File `identity`: magic `HFID`, version u32, site id u64, length and bytes of the cluster id,
//! crc32c of all before; little-endian. The cluster id is empty until the first topology names it.

use std::io::{self, IoSlice};

use holdfast_log::{Disk, OpenOptions};
use holdfast_proto::ids::SiteId;
use rand::Rng;
use thiserror::Error;

/// Who this site is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) site: SiteId,
    /// Empty until the site has joined a cluster.
    pub(crate) cluster_id: String,
}

/// Why the identity is not known. Stop.
#[derive(Debug, Error)]
pub(crate) enum IdentityError {
    #[error("identity file: {0}")]
    Io(#[from] io::Error),
    #[error("identity file is damaged or of another version; the site's data belongs to it")]
    Damaged,
}

const FILE: &str = "identity";
const TEMPORARY: &str = "identity.tmp";
const MAGIC: [u8; 8] = *b"HFID\x01\0\0\0";

impl Identity {
    /// Reads the identity, or mints one for an empty data directory.
    pub(crate) fn load_or_mint(disk: &dyn Disk) -> Result<Identity, IdentityError> {
        match disk.open(FILE, OpenOptions::READ) {
            Ok(file) => {
                let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(0)];
                let read = file.read_at(&mut bytes, 0)?;
                bytes.truncate(read);
                Identity::decode(&bytes).ok_or(IdentityError::Damaged)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let site = SiteId(rand::rng().random());
                let identity = Identity { site, cluster_id: String::new() };
                identity.save(disk)?;
                Ok(identity)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the identity; durable when it returns.
    pub(crate) fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        let file = disk.open(TEMPORARY, OpenOptions::CREATE)?;
        file.truncate(0)?;
        file.write_all_at(&mut [IoSlice::new(&self.encode())], 0)?;
        file.sync_data()?;
        disk.rename(TEMPORARY, FILE)?;
        disk.sync_dir("")?;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.site.0.to_le_bytes());
        bytes.extend_from_slice(&(self.cluster_id.len() as u32).to_le_bytes());
        bytes.extend_from_slice(self.cluster_id.as_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Identity> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || !body.starts_with(&MAGIC) {
            return None;
        }
        let (site, rest) = body[MAGIC.len()..].split_first_chunk::<8>()?;
        let (length, text) = rest.split_first_chunk::<4>()?;
        if text.len() != u32::from_le_bytes(*length) as usize {
            return None;
        }
        let cluster_id = String::from_utf8(text.to_vec()).ok()?;
        Some(Identity { site: SiteId(u64::from_le_bytes(*site)), cluster_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_frozen_and_damage_is_found() {
        let identity = Identity { site: SiteId(0x0102), cluster_id: "ab".into() };
        let bytes = identity.encode();
        assert_eq!(bytes[..22], *b"HFID\x01\0\0\0\x02\x01\0\0\0\0\0\0\x02\0\0\0ab");
        assert_eq!(Identity::decode(&bytes), Some(identity));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Identity::decode(&damaged), None);
        }
    }
}
