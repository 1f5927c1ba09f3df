//! Which connection of this gateway is a client's newest, and whom a claim has to tell that it is over.
//!
//! Every claim tells the owner that it replaced, by epoch: it ends all older connections there. So every
//! connection but the newest is told by its successor, if nothing is lost on the way: a claim whose
//! answer comes late finds here what was heard meanwhile, and one whose predecessor is not found where
//! the home shard says (its answer got lost, so it told nobody) tells all gateways.

use std::collections::BTreeMap;
use std::ops::Bound;

use holdfast_proto::shard::ClientKey;
use parking_lot::Mutex;

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

/// The connections of this gateway by client, in the order of namespace and client id. A client is known
/// while it has a connection or a claim under way here.
#[derive(Debug)]
pub(crate) struct Owners<C>(Mutex<Clients<C>>);

type Clients<C> = BTreeMap<u32, BTreeMap<Box<str>, Known<C>>>;

#[derive(Debug)]
struct Known<C> {
    /// Highest epoch heard of. It need be remembered only while claims are under way: one that begins
    /// later gets a higher epoch.
    newest: u64,
    claims: u32,
    owner: Option<Owner<C>>,
}

/// Clients of a list, and whether there are more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed<C> {
    pub(crate) clients: Vec<(ClientKey, Owner<C>)>,
    pub(crate) more: bool,
}

impl<C> Default for Owners<C> {
    fn default() -> Self {
        Owners(Mutex::default())
    }
}

fn known<'a, C>(clients: &'a mut Clients<C>, client: &ClientKey) -> Option<&'a mut Known<C>> {
    clients.get_mut(&client.namespace)?.get_mut(client.client_id.as_str())
}

impl<C: Clone> Owners<C> {
    /// A claim is about to be proposed; [`Owners::end`] follows.
    pub(crate) fn begin(&self, client: &ClientKey) {
        let mut clients = self.0.lock();
        if let Some(known) = known(&mut clients, client) {
            known.claims += 1;
            return;
        }
        let first = Known { newest: 0, claims: 1, owner: None };
        let of_namespace = clients.entry(client.namespace).or_default();
        of_namespace.insert(client.client_id.as_str().into(), first);
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
        if let Some(known) = known(&mut self.0.lock(), client)
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
        let mut clients = self.0.lock();
        let Some(known) = known(&mut clients, client) else {
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
        let mut clients = self.0.lock();
        let Some(known) = known(&mut clients, client) else { return };
        change(known);
        if known.claims > 0 || known.owner.is_some() {
            return;
        }
        if let Some(of_namespace) = clients.get_mut(&client.namespace) {
            of_namespace.remove(client.client_id.as_str());
            if of_namespace.is_empty() {
                clients.remove(&client.namespace);
            }
        }
    }

    /// The client's newest connection.
    pub(crate) fn find(&self, client: &ClientKey) -> Option<Owner<C>> {
        known(&mut self.0.lock(), client)?.owner.clone()
    }

    /// Clients after `after` whose id begins with `prefix` and whose connection `is_shown`, at most
    /// `limit`. It costs what it returns, however many others there are.
    pub(crate) fn list(
        &self,
        after: Option<&ClientKey>,
        prefix: &str,
        limit: usize,
        is_shown: impl Fn(&C) -> bool,
    ) -> Listed<C> {
        let mut listed = Listed { clients: Vec::new(), more: false };
        let clients = self.0.lock();
        for (&namespace, of_namespace) in clients.range(after.map_or(0, |after| after.namespace)..)
        {
            let after = after.filter(|after| after.namespace == namespace);
            let from = match after.map(|after| after.client_id.as_str()) {
                Some(after) if after >= prefix => Bound::Excluded(after),
                _ => Bound::Included(prefix),
            };
            let with_prefix = of_namespace
                .range::<str, _>((from, Bound::Unbounded))
                .take_while(|(client_id, _)| client_id.starts_with(prefix));
            for (client_id, known) in with_prefix {
                let owner = known.owner.as_ref().filter(|owner| is_shown(&owner.connection));
                let Some(owner) = owner else { continue };
                if listed.clients.len() == limit {
                    listed.more = true;
                    return listed;
                }
                let client = ClientKey { namespace, client_id: client_id.to_string() };
                listed.clients.push((client, owner.clone()));
            }
        }
        listed
    }
}

#[cfg(test)]
#[path = "owners_tests.rs"]
mod tests;
