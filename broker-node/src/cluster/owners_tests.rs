use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

fn client() -> ClientKey {
    ClientKey { namespace: 0, client_id: "c".to_owned() }
}

#[test]
fn the_newest_claim_owns_the_client_single_owner() {
    let (owners, client) = (Owners::default(), client());
    owners.begin(&client);
    owners.begin(&client);
    let newer = owners.settle(&client, 5, 'n', Previous::There);
    assert_eq!(newer, Settled { is_newest: true, replaced: None, tell: Tell::Previous });
    owners.end(&client);
    let late = owners.settle(&client, 4, 'l', Previous::There);
    assert_eq!(late, Settled { is_newest: false, replaced: None, tell: Tell::Previous });
    owners.end(&client);
    assert_eq!(owners.hear(&client, 5), Heard { older: None, found: false });
    let older = Some(Owner { epoch: 5, connection: 'n' });
    assert_eq!(owners.hear(&client, 7), Heard { older, found: true });
    owners.release(&client, 5);
    assert!(owners.0.lock().is_empty());
}

#[test]
fn a_claim_that_was_overtaken_on_its_way_ends_single_owner() {
    let (owners, client) = (Owners::default(), client());
    owners.begin(&client);
    assert_eq!(owners.hear(&client, 9), Heard { older: None, found: false });
    assert!(!owners.settle(&client, 8, 'l', Previous::Nobody).is_newest);
    owners.end(&client);
    assert!(owners.0.lock().is_empty());
}

/// A claim's way: proposed (again and again, if answers get lost), answered, settled.
#[derive(Debug, Clone, Copy)]
enum Step {
    Propose { claim: usize },
    Answer { claim: usize, epoch: u64, previous: Option<(usize, u64)> },
    TakeOver { from: usize, to: usize, epoch: u64, spreads: bool },
    Closed { claim: usize },
}

/// Gateways that race for one client, and its home shard.
struct World {
    random: SmallRng,
    gateways: Vec<Owners<usize>>,
    /// Gateway of every claim.
    claims: Vec<usize>,
    epochs: Vec<u64>,
    ended: Vec<bool>,
    /// The home shard's row: owner and epoch.
    row: Option<(usize, u64)>,
    under_way: Vec<Step>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = SmallRng::seed_from_u64(seed);
        let gateways = random.random_range(2..=3);
        let claims: Vec<usize> = (0..20).map(|_| random.random_range(0..gateways)).collect();
        World {
            gateways: (0..gateways).map(|_| Owners::default()).collect(),
            epochs: vec![0; claims.len()],
            ended: vec![false; claims.len()],
            claims,
            row: None,
            under_way: Vec::new(),
            random,
        }
    }

    fn run(&mut self) {
        let mut next = 0;
        while next < self.claims.len() || !self.under_way.is_empty() {
            let starts = self.under_way.is_empty() || self.random.random_bool(0.2);
            if next < self.claims.len() && starts {
                self.gateways[self.claims[next]].begin(&client());
                self.under_way.push(Step::Propose { claim: next });
                next += 1;
            } else {
                let at = self.random.random_range(0..self.under_way.len());
                let step = self.under_way.swap_remove(at);
                self.step(step);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Propose { claim } => self.propose(claim),
            Step::Answer { claim, epoch, previous } => self.answer(claim, epoch, previous),
            Step::TakeOver { to, epoch, from, spreads } => {
                // Lost on the way: it is sent again.
                if self.random.random_bool(0.3) {
                    return self.under_way.push(step);
                }
                let heard = self.gateways[to].hear(&client(), epoch);
                self.end(heard.older);
                // The answer may be lost.
                if self.random.random_bool(0.2) {
                    self.under_way.push(step);
                } else if spreads && !heard.found {
                    self.tell_all_but(from, to, epoch);
                }
            }
            Step::Closed { claim } => {
                self.gateways[self.claims[claim]].release(&client(), self.epochs[claim]);
            }
        }
    }

    fn propose(&mut self, claim: usize) {
        let epoch = self.row.map_or(1, |(_, epoch)| epoch + 1);
        let previous = self.row.replace((self.claims[claim], epoch));
        self.under_way.push(if self.random.random_bool(0.15) {
            // The answer got lost with its leader.
            Step::Propose { claim }
        } else {
            Step::Answer { claim, epoch, previous }
        });
    }

    fn answer(&mut self, claim: usize, epoch: u64, previous: Option<(usize, u64)>) {
        let me = self.claims[claim];
        let said = match previous {
            None => Previous::Nobody,
            Some((gateway, epoch)) if gateway == me => Previous::Here(epoch),
            Some(_) => Previous::There,
        };
        let settled = self.gateways[me].settle(&client(), epoch, claim, said);
        self.gateways[me].end(&client());
        self.epochs[claim] = epoch;
        self.ended[claim] = !settled.is_newest;
        self.end(settled.replaced);
        match (settled.tell, previous) {
            (Tell::Everyone, _) => self.tell_all_but(me, me, epoch),
            (Tell::Previous, Some((to, _))) => {
                self.under_way.push(Step::TakeOver { from: me, to, epoch, spreads: true });
            }
            _ => {}
        }
    }

    fn tell_all_but(&mut self, from: usize, told: usize, epoch: u64) {
        for to in (0..self.gateways.len()).filter(|to| ![from, told].contains(to)) {
            self.under_way.push(Step::TakeOver { from, to, epoch, spreads: false });
        }
    }

    fn end(&mut self, owner: Option<Owner<usize>>) {
        let Some(Owner { connection: claim, .. }) = owner else { return };
        if !self.ended[claim] {
            self.ended[claim] = true;
            self.under_way.push(Step::Closed { claim });
        }
    }
}

#[test]
fn of_racing_claims_the_one_with_the_highest_epoch_remains_single_owner() {
    for seed in 0..3_000 {
        let mut world = World::new(seed);
        world.run();
        let left: Vec<usize> =
            (0..world.claims.len()).filter(|claim| !world.ended[*claim]).collect();
        let [last] = left[..] else { panic!("seed {seed}: claims {left:?} remain") };
        let owner = (world.claims[last], world.epochs[last]);
        assert_eq!(Some(owner), world.row, "seed {seed}");
        for (at, gateway) in world.gateways.iter().enumerate() {
            let expected = usize::from(at == owner.0);
            assert_eq!(
                gateway.0.lock().len(),
                expected,
                "seed {seed}: gateway {at} remembers too much"
            );
        }
    }
}

/// Namespaces and ids, connected as epoch 1.
fn connected(clients: &[(u32, &str)]) -> Owners<char> {
    let owners = Owners::default();
    for (namespace, client_id) in clients {
        let client = ClientKey { namespace: *namespace, client_id: (*client_id).to_owned() };
        owners.begin(&client);
        owners.settle(&client, 1, 'c', Previous::Nobody);
        owners.end(&client);
    }
    owners
}

/// All pages of a list, from `after` on.
fn pages(
    owners: &Owners<char>,
    mut after: Option<ClientKey>,
    prefix: &str,
    limit: usize,
) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let page = owners.list(after.as_ref(), prefix, limit, |shown| *shown != 'h');
        let name = |(client, _): &(ClientKey, Owner<char>)| {
            format!("{}:{}", client.namespace, client.client_id)
        };
        pages.push(page.clients.iter().map(name).collect());
        if !page.more {
            return pages;
        }
        after = page.clients.last().map(|(client, _)| client.clone());
    }
}

#[test]
fn clients_are_listed_in_order_page_by_page() {
    let owners = connected(&[(1, "b"), (0, "ab"), (0, "b"), (0, "a"), (0, "abc"), (1, "ab")]);
    let client = |client_id: &str| ClientKey { namespace: 0, client_id: client_id.to_owned() };
    owners.begin(&client("aa-claims"));
    owners.begin(&client("aa-hidden"));
    owners.settle(&client("aa-hidden"), 2, 'h', Previous::Nobody);
    let all = [vec!["0:a", "0:ab"], vec!["0:abc", "0:b"], vec!["1:ab", "1:b"]];
    assert_eq!(pages(&owners, None, "", 2), all);
    assert_eq!(pages(&owners, None, "ab", 2), [vec!["0:ab", "0:abc"], vec!["1:ab"]]);
    assert_eq!(pages(&owners, None, "c", 2), [Vec::<String>::new()]);
    // One that is gone by now, before and after those with the prefix.
    let gone = |client_id: &str| Some(client(client_id));
    assert_eq!(pages(&owners, gone("a0"), "ab", 9), [vec!["0:ab", "0:abc", "1:ab"]]);
    assert_eq!(pages(&owners, gone("zz"), "ab", 9), [vec!["1:ab"]]);
    assert_eq!(pages(&owners, gone("ab"), "ab", 9), [vec!["0:abc", "1:ab"]]);
}
