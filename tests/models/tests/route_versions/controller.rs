//! The real filter set and leases of one controller, as a value: the events that made it, told apart by
//! what they made of it. A turn mirrors `holdfast_control::control::Control`.

use std::hash::{Hash, Hasher};

use holdfast_control::liveness::Leases;
use holdfast_control::routes::{Filter, Limits, Routes, Wanted};
use holdfast_models::Interned;
use holdfast_proto::ids::{Incarnation, Namespace};

/// A controller counts a peer as gone when it has heard nothing for longer.
pub(crate) const LEASE_MS: u64 = 1_000;
/// One step of the model's clock. A lease is over for a gateway after two, for a controller after three.
pub(crate) const TICK_MS: u64 = 500;
/// From a retiring filter's last acknowledgement to its removal.
pub(crate) const RETIRE_MS: u64 = 1_000;

const LIMITS: Limits =
    Limits { values_max: 9, filters_max: 9, filter_bytes_max: 99, retire_ms: RETIRE_MS };

/// What happens to a controller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// It starts from the store.
    Start {
        version: u64,
        has_filter: bool,
        gateways: Vec<u64>,
    },
    Nothing,
    Report {
        gateway: u64,
        version: u64,
    },
    Cover,
    Sweep {
        is_wanted: bool,
        read_ms: u64,
    },
}

/// A controller's state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reached {
    way: Vec<(Event, u64)>,
    text: String,
}

impl PartialEq for Reached {
    fn eq(&self, other: &Reached) -> bool {
        self.text == other.text
    }
}

impl Eq for Reached {}

impl Hash for Reached {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.text.hash(hasher);
    }
}

/// The filter as a set has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Absent,
    Active,
    Retiring,
}

/// What a turn made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) controller: u32,
    pub(crate) version: u64,
    pub(crate) entry: Entry,
    pub(crate) covered: u64,
    pub(crate) dead: Vec<u64>,
    /// A filter was removed.
    pub(crate) removed: bool,
    /// A retiring filter came back.
    pub(crate) revived: bool,
}

#[derive(Debug)]
struct Controller {
    routes: Routes,
    leases: Leases<u64>,
}

/// All controllers that were reached.
#[derive(Debug, Default)]
pub(crate) struct Controllers(Interned<Reached, (Event, u64), Turn>);

impl Controllers {
    /// A controller that has not started.
    pub(crate) fn none(&self) -> u32 {
        self.0.id(Reached::default())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// One turn of the controller's loop, with one event.
    pub(crate) fn turn(&self, controller: u32, event: Event, now_ms: u64) -> Turn {
        let turn = self.0.step(controller, (event, now_ms), |reached, (event, now_ms)| {
            let mut replayed = None;
            for (event, at_ms) in &reached.way {
                run(&mut replayed, event, *at_ms);
            }
            let mut turn = run(&mut replayed, event, *now_ms);
            let way = reached.way.iter().cloned().chain([(event.clone(), *now_ms)]).collect();
            turn.controller = self.0.id(Reached { way, text: format!("{replayed:?}") });
            turn
        });
        Turn::clone(&turn)
    }
}

fn filter() -> Filter {
    Filter { namespace: Namespace(0), filter: "f".to_owned() }
}

fn entry(routes: &Routes) -> Entry {
    match routes.filters() {
        (all, _) if all.is_empty() => Entry::Absent,
        (_, retiring) if retiring.is_empty() => Entry::Active,
        _ => Entry::Retiring,
    }
}

fn run(known: &mut Option<Controller>, event: &Event, now_ms: u64) -> Turn {
    if let Event::Start { version, has_filter, gateways } = event {
        let mut routes = Routes::new(LIMITS, *version, has_filter.then(filter));
        for gateway in gateways {
            routes.acknowledge(Incarnation(*gateway), 0);
        }
        let leases = Leases::new(LEASE_MS, gateways.iter().copied(), now_ms);
        *known = Some(Controller { routes, leases });
    }
    let Controller { routes, leases } = known.as_mut().expect("a way begins with a start");
    let before = entry(routes);
    leases.turn(now_ms);
    match event {
        Event::Report { gateway, version } => {
            leases.renew(*gateway, now_ms);
            routes.acknowledge(Incarnation(*gateway), *version);
        }
        Event::Sweep { is_wanted, read_ms } => {
            let mut wanted = Wanted::default();
            if *is_wanted {
                wanted.insert(&filter(), &LIMITS);
            }
            routes.sweep(wanted, *read_ms);
        }
        Event::Start { .. } | Event::Nothing | Event::Cover => {}
    }
    let dead = leases.over(now_ms);
    for gateway in &dead {
        leases.forget(*gateway);
        routes.forget(Incarnation(*gateway));
    }
    if *event == Event::Cover {
        routes.cover([&filter()]);
    }
    let (covered, after) = (routes.covered(now_ms), entry(routes));
    Turn {
        controller: 0,
        version: routes.version(),
        entry: after,
        covered,
        dead,
        removed: before == Entry::Retiring && after == Entry::Absent,
        revived: before == Entry::Retiring && after == Entry::Active,
    }
}
