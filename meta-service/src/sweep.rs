//! Looks every few minutes whether durable filters are left that no session has.

use std::{sync::Arc, time::Duration};

use holdfast_control::{control::Event, routes::Limits};
use holdfast_node_kit::shutdown::Shutdown;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    controller::{Controller, ControllerError},
    sessions::Sessions,
};

/// Runs until the process stops.
pub(crate) async fn run(
    controller: Controller,
    sessions: Arc<Sessions>,
    limits: Limits,
    every: Duration,
    shutdown: Shutdown,
) -> Result<(), ControllerError> {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.wait() => return Ok(()),
        }
        let (count, retiring) = {
            let filters = controller.filters.lock();
            (filters.len(), filters.is_retiring())
        };
        let mark = (sessions.changes(), count);
        if count == 0 || !sessions.is_complete() || (swept == Some(mark) && !retiring) {
            continue;
        }
        let read_ms = controller.mono_ms();
        let wanted = sessions.wanted(&limits).await?;
        if !sessions.is_complete() {
            continue;
        }
        if !controller.tell(Event::Sweep { wanted, read_ms }).await {
            return Ok(());
        }
        swept = Some(mark);
    }
}
