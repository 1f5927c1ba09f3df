//! What can be measured.

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// CPU and memory of a cluster that does nothing.
    Idle,
    /// Eight publishers, each with a subscriber of its own.
    Pairwise,
    /// Eight publishers and one subscriber.
    FanIn,
    /// One publisher and eight subscribers.
    FanOut,
    /// Latency at 1,000 messages a second.
    Rate,
    /// Eight sessions read what they missed.
    Drain,
    /// Publish rate with more and more offline sessions on one filter.
    Offline,
    /// Sessions resumed a second.
    Storm,
    /// Memory of idle connections.
    Connections,
    /// Very many stored sessions. Not a part of `all`: it takes minutes, and kills processes.
    Sessions,
}

impl Scenario {
    const USUAL: [(&str, Scenario); 9] = [
        ("idle", Scenario::Idle),
        ("connections", Scenario::Connections),
        ("pairwise", Scenario::Pairwise),
        ("fan-in", Scenario::FanIn),
        ("fan-out", Scenario::FanOut),
        ("rate", Scenario::Rate),
        ("drain", Scenario::Drain),
        ("storm", Scenario::Storm),
        ("offline", Scenario::Offline),
    ];

    const NAMED: &str = "sessions";

    /// The scenarios with these names; `all` is every one. Returns the name that is none.
    pub(crate) fn parse_all(names: &[String]) -> Result<Vec<Scenario>, String> {
        if names.iter().any(|name| name == "all") {
            return Ok(Scenario::USUAL.iter().map(|(_, scenario)| *scenario).collect());
        }
        let parse = |name: &String| {
            if name == Scenario::NAMED {
                return Ok(Scenario::Sessions);
            }
            let found = Scenario::USUAL.iter().find(|(known, _)| known == name);
            found.map(|(_, scenario)| *scenario).ok_or_else(|| name.clone())
        };
        names.iter().map(parse).collect()
    }

    /// All names, for an error message.
    pub(crate) fn names() -> String {
        let usual = Scenario::USUAL.map(|(name, _)| name).join(", ");
        format!("{usual}, {}", Scenario::NAMED)
    }
}
