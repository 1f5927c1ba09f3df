//! Who a target is at the moment.

use crate::cluster::Cluster;
use crate::fault::Target;
use crate::member::Role;
use crate::roles::{Placement, ShardSites};
use crate::trouble::Trouble;

impl Cluster {
    /// Names of the processes that a target stands for.
    pub(crate) async fn resolve(
        &self,
        target: Target,
        placement: &Placement,
    ) -> Result<Vec<String>, Trouble> {
        let none = || Trouble::Impossible(format!("there is no {target:?}"));
        let storage = self.names(Role::Storage);
        let leader = placement.leader().ok_or_else(none)?;
        let one = match target {
            Target::Gateway => self.names(Role::Gateway).into_iter().next(),
            Target::StorageLeader => Some(leader),
            Target::StorageFollower => placement.follower_of(&leader),
            Target::StorageWithDisk => match &self.disk {
                Ok(_) => storage.last().cloned(),
                Err(why) => return Err(Trouble::Impossible(why.clone())),
            },
            Target::StorageMajority => return Ok(storage[1.min(storage.len())..].to_vec()),
            Target::AllStorage => return Ok(storage),
            Target::MetaElected => Some(self.elected_meta().await?),
            Target::MetaStandby => {
                let elected = self.elected_meta().await?;
                self.names(Role::Meta).into_iter().find(|name| *name != elected)
            }
            Target::AllMeta => return Ok(self.names(Role::Meta)),
            Target::EtcdLeader => Some(self.etcd_leader().await?),
            Target::AllEtcd => return Ok(self.names(Role::Etcd)),
            Target::MetasAndEtcdLeader => {
                let mut names = self.names(Role::Meta);
                names.push(self.etcd_leader().await?);
                return Ok(names);
            }
            Target::Everything => return Ok(self.all_names()),
        };
        Ok(vec![one.ok_or_else(none)?])
    }
}

/// Whether the n-th client may live on a shard, so that the fault concerns it.
pub(crate) fn is_concerned(
    target: Target,
    victims: &[String],
    at: usize,
    shard: &ShardSites,
) -> bool {
    let Some(victim) = victims.first() else { return true };
    match target {
        // The other half shows that the rest goes on.
        Target::StorageLeader | Target::StorageWithDisk => at % 2 == 1 || shard.leader == *victim,
        Target::StorageFollower => shard.is_follower(victim),
        _ => true,
    }
}
