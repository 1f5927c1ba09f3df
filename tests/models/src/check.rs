//! Running a model to its end.

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

/// Visits every state and asserts all properties: what must always hold does, and what must be possible
/// happens.
///
/// # Panics
/// A property does not hold; the way there is printed.
pub fn explore<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let checker =
        model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} states, {} unique, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
}

/// Asserts that the checker finds a way in which `property` does not hold: the model can fail.
///
/// # Panics
/// No such way is found.
pub fn refute<M>(name: &str, property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let wanted = [property].into_iter().collect();
    let checker =
        model.checker().threads(2).finish_when(HasDiscoveries::AnyOf(wanted)).spawn_bfs().join();
    println!("{name}: {} states until it is found", checker.state_count());
    let way = checker.assert_any_discovery(property);
    println!("{:?}", way.into_actions());
}
