//! What the storage nodes' sites were as of the last look, in `sites.json`: a node may be left away at
//! a start only if its site was drained.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use holdfast_admin_api::{Site, SiteState};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::local::data_dir::DataDir;
use crate::sites::state_name;

/// State of a site from which nothing is missed.
const DRAINED: &str = "drained";

/// By name of the storage node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sites(BTreeMap<String, KnownSite>);

/// One site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownSite {
    /// In hexadecimal.
    pub(crate) site_id: String,
    /// As in `sites list`.
    pub(crate) state: String,
}

/// The file cannot be read or written.
#[derive(Debug, Error)]
#[error("{}: {source}", path.display())]
pub(crate) struct SitesError {
    path: PathBuf,
    source: io::Error,
}

impl Sites {
    /// As the service describes them. Of several sites with one name, the last that holds something
    /// counts: a node whose disk was wiped has left one behind.
    pub(crate) fn of(told: &[Site]) -> Sites {
        let mut sites = BTreeMap::new();
        for site in told {
            let state = state_name(site.state).to_owned();
            let known = KnownSite { site_id: site.site_id.clone(), state };
            let holds = site.replicas + site.holding > 0 || site.state != SiteState::Drained;
            let is_lost = site.state == SiteState::Lost && sites.contains_key(&site.name);
            if !is_lost && (holds || !sites.contains_key(&site.name)) {
                sites.insert(site.name.clone(), known);
            }
        }
        Sites(sites)
    }

    /// The remembered ones; none if there is no file.
    pub(crate) fn load(dir: &DataDir) -> Result<Sites, SitesError> {
        let path = dir.sites();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| SitesError { path, source: error.into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Sites::default()),
            Err(source) => Err(SitesError { path, source }),
        }
    }

    /// Remembers them; a crash leaves the old file or the new one.
    pub(crate) fn save(&self, dir: &DataDir) -> Result<(), SitesError> {
        let path = dir.sites();
        let fresh = path.with_extension("json.new");
        serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&fresh, text))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| SitesError { path, source })
    }

    /// Names of the storage nodes on which nothing is left.
    pub(crate) fn drained(&self) -> BTreeSet<String> {
        let drained = self.0.iter().filter(|(_, site)| site.state == DRAINED);
        drained.map(|(name, _)| name.clone()).collect()
    }

    /// The site of a storage node.
    pub(crate) fn get(&self, name: &str) -> Option<&KnownSite> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_admin_api::Liveness;

    use super::*;

    fn site(name: &str, id: &str, state: SiteState) -> Site {
        Site {
            site_id: id.to_owned(),
            name: name.to_owned(),
            address: String::new(),
            zone: String::new(),
            labels: BTreeMap::new(),
            state,
            liveness: Liveness::Up,
            replicas: 0,
            leading: 0,
            holding: 0,
            used_bytes: 0,
            capacity_bytes: 0,
            missing_bytes: 0,
        }
    }

    #[test]
    fn a_wiped_nodes_old_site_does_not_speak_for_it_and_the_file_is_read_back() {
        let sites = Sites::of(&[
            site("storage-1", "1", SiteState::Lost),
            site("storage-1", "2", SiteState::Active),
            site("storage-2", "3", SiteState::Active),
            site("storage-2", "4", SiteState::Drained),
            site("storage-3", "5", SiteState::Drained),
        ]);
        assert_eq!(sites.drained(), BTreeSet::from(["storage-3".to_owned()]));
        assert_eq!(sites.get("storage-1").map(|site| site.state.as_str()), Some("active"));
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        assert_eq!(Sites::load(&dir).expect("loaded"), Sites::default());
        sites.save(&dir).expect("saved");
        assert_eq!(Sites::load(&dir).expect("loaded"), sites);
    }
}
