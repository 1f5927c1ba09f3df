//! The group of subscription changes that is under way: asked of the tails, committed, answered.

use holdfast_proto::shard;
use holdfast_proto::shard::command::Command as Kind;

use super::{Attach, Session, propose};
use crate::effect::Effect;
use crate::feed::Feed;
use crate::operations::Stage;
use crate::subscriptions::Subscription;

impl Session {
    pub(super) fn start_operations(&mut self, out: &mut Vec<Effect>) {
        if !matches!(self.attach, Attach::Done) {
            return;
        }
        loop {
            let since: Vec<u64> = self.outbound.log.feeds.iter().map(Feed::newest_known).collect();
            let next_token = self.next_token + 1;
            let started = self.operations.start(self.protocol, &mut self.subscriptions, &since);
            let Some(group) = started else { return };
            self.next_token = next_token;
            group.token = next_token;
            if group.subscribes && !group.changed.is_empty() {
                let filters = group.changed.clone();
                out.push(Effect::Subscribe { token: next_token, filters });
                return;
            }
            if !group.subscribes && !group.changed.is_empty() {
                out.push(Effect::Unsubscribe { filters: group.changed.clone() });
            }
            self.propose_group(out);
            if self.operations.group.is_some() {
                return;
            }
        }
    }

    /// Commits the group's change; a group that changes nothing durable is done.
    pub(super) fn propose_group(&mut self, out: &mut Vec<Effect>) {
        let durable = self.is_durable();
        let token = self.token();
        let Some(group) = &mut self.operations.group else { return };
        let names = if group.subscribes { &group.granted } else { &group.changed };
        if !durable || names.is_empty() {
            self.group_done(out);
            return;
        }
        group.token = token;
        group.stage = Stage::Committing;
        let client = Some(self.client.clone());
        let (epoch, instance) = (self.epoch, self.instance);
        let kind = if group.subscribes {
            let rows = names.iter().filter_map(|filter| self.subscriptions.get(filter));
            Kind::Subscribe(shard::Subscribe {
                client,
                epoch,
                instance,
                subscriptions: rows.map(Subscription::row).collect(),
            })
        } else {
            let filters = names.clone();
            Kind::Unsubscribe(shard::Unsubscribe { client, epoch, instance, filters })
        };
        out.push(propose(token, kind));
    }

    pub(super) fn group_done(&mut self, out: &mut Vec<Effect>) {
        let retained = self.operations.finish(out);
        if !retained.is_empty() {
            self.retained.get_or_insert_default().push(retained);
        }
    }

    pub(super) fn group_failed(&mut self, out: &mut Vec<Effect>) {
        if let Some(group) = &mut self.operations.group {
            group.fail();
            if group.subscribes && !group.changed.is_empty() {
                for filter in &group.changed {
                    self.subscriptions.remove(filter);
                }
                out.push(Effect::Unsubscribe { filters: std::mem::take(&mut group.changed) });
            }
        }
        self.group_done(out);
    }
}
