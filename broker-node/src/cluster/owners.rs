//! Which connection of this gateway is a client's newest, and whom a claim has to tell that it is over.
//!
//! Every claim tells the owner that it replaced, by epoch: it ends all older connections there. So every
//! connection but the newest is told by its successor, if nothing is lost on the way: a claim whose
//! answer comes late finds here what was heard meanwhile, and one whose predecessor is not found where
//! the home shard says (its answer got lost, so it told nobody) tells all gateways.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use holdfast_proto::shard::ClientKey;

/// The owner that a claim replaced, as the home shard says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Previous {
    /// The session had no owner.
    Nobody,
    /// A claim of this gateway, with its epoch.
    Here(u64),
    /// Another gateway.
    There,
}

/// Whom a claim has to tell, besides connections of its own gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// All that are older know.
    Nobody,
    /// The owner that it replaced; everyone if the older connection is not there.
    Previous,
    /// All gateways.
    Everyone,
}

/// A connection with the epoch of its claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner<C> {
    /// Epoch of its claim.
    pub(crate) epoch: u64,
    /// Reaches the connection.
    pub(crate) connection: C,
}

/// What follows from the answer to a claim.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled<C> {
    /// The claim is the client's newest here. If not, it ends at once.
    pub(crate) is_newest: bool,
    /// The connection that it replaces here: to be ended.
    pub(crate) replaced: Option<Owner<C>>,
    /// Whom to tell, also if the claim is not the newest: nobody else does it.
    pub(crate) tell: Tell,
}

/// What follows from a request to end older connections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard<C> {
    /// To be ended.
    pub(crate) older: Option<Owner<C>>,
    /// The older connection was here, and no other claim whose answer may have got lost.
    pub(crate) found: bool,
}

/// The connections of this gateway by client. A client is known while it has a connection or a claim
/// under way here.
#[derive(Debug)]
pub(crate) struct Owners<C>(DashMap<ClientKey, Known<C>>);

#[derive(Debug)]
struct Known<C> {
    /// Highest epoch heard of. It need be remembered only while claims are under way: one that begins
    /// later gets a higher epoch.
    newest: u64,
    claims: u32,
    owner: Option<Owner<C>>,
}

impl<C> Default for Owners<C> {
    fn default() -> Self {
        Owners(DashMap::new())
    }
}

impl<C: Clone> Owners<C> {
    /// A claim is about to be proposed; [`Owners::end`] follows.
    pub(crate) fn begin(&self, client: &ClientKey) {
        let unknown = || Known { newest: 0, claims: 0, owner: None };
        self.0.entry(client.clone()).or_insert_with(unknown).claims += 1;
    }

    /// A claim was settled or has failed.
    pub(crate) fn end(&self, client: &ClientKey) {
        self.change(client, |known| known.claims = known.claims.saturating_sub(1));
    }

    /// Takes in the answer to a claim that is under way.
    pub(crate) fn settle(
        &self,
        client: &ClientKey,
        epoch: u64,
        connection: C,
        previous: Previous,
    ) -> Settled<C> {
        let mut settled = Settled { is_newest: false, replaced: None, tell: Tell::Nobody };
        if let Some(mut known) = self.0.get_mut(client)
            && known.newest < epoch
        {
            known.newest = epoch;
            settled.is_newest = true;
            settled.replaced = known.owner.replace(Owner { epoch, connection });
        }
        let replaced = settled.replaced.as_ref().map(|owner| owner.epoch);
        settled.tell = match previous {
            Previous::Nobody => Tell::Nobody,
            Previous::Here(epoch) if replaced == Some(epoch) => Tell::Nobody,
            Previous::Here(_) => Tell::Everyone,
            Previous::There => Tell::Previous,
        };
        settled
    }

    /// The session was claimed elsewhere.
    pub(crate) fn hear(&self, client: &ClientKey, epoch: u64) -> Heard<C> {
        let Some(mut known) = self.0.get_mut(client) else {
            return Heard { older: None, found: false };
        };
        known.newest = known.newest.max(epoch);
        let older = known.owner.clone().filter(|owner| owner.epoch < epoch);
        let found = older.is_some() && known.claims == 0;
        Heard { older, found }
    }

    /// The connection of this epoch has ended.
    pub(crate) fn release(&self, client: &ClientKey, epoch: u64) {
        self.change(client, |known| {
            known.owner.take_if(|owner| owner.epoch == epoch);
        });
    }

    fn change(&self, client: &ClientKey, change: impl FnOnce(&mut Known<C>)) {
        if let Entry::Occupied(mut entry) = self.0.entry(client.clone()) {
            change(entry.get_mut());
            if entry.get().claims == 0 && entry.get().owner.is_none() {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
#[path = "owners_tests.rs"]
mod tests;
