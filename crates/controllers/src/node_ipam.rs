//! Node IPAM: gives every node a range of pod addresses, one per family of the cluster's.
//! Reads Node. Writes Node.spec.podCIDRs. Runs only when the cluster has ranges to give.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tracing::error;

use crate::api_error::ApiErrorExt;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::name;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "node-ipam-controller",
    alias: "nodeipam",
    account: "node-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

/// One: the next free range depends on the last one given.
const WORKERS: usize = 1;
/// How soon a node without a range is looked at again when none was free.
const NONE_FREE_SECONDS: i64 = 30;

/// A cluster range and the size of the pieces nodes get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    base: IpAddr,
    prefix: u8,
    node_prefix: u8,
}

impl Range {
    /// None for a malformed range, or pieces larger than the whole.
    fn parse(text: &str, ipv4_prefix: u8, ipv6_prefix: u8) -> Option<Self> {
        let (base, prefix) = text.trim().split_once('/')?;
        let (base, prefix): (IpAddr, u8) = (base.parse().ok()?, prefix.parse().ok()?);
        let (node_prefix, longest) = if base.is_ipv4() { (ipv4_prefix, 32) } else { (ipv6_prefix, 128) };
        (prefix <= node_prefix && node_prefix <= longest).then_some(Self { base, prefix, node_prefix })
    }

    /// The piece at `index`, or None beyond the end.
    fn piece(&self, index: u128) -> Option<String> {
        let longest: u8 = if self.base.is_ipv4() { 32 } else { 128 };
        let index_bits = u32::from(self.node_prefix - self.prefix);
        if index_bits < 128 && index >> index_bits != 0 {
            return None;
        }
        let host_bits = u32::from(longest - self.node_prefix);
        let offset = index.checked_shl(host_bits).unwrap_or(0);
        let masked = |bits: u128, width: u32| {
            let free = width - u32::from(self.prefix);
            bits.checked_shr(free).and_then(|bits| bits.checked_shl(free)).unwrap_or(0)
        };
        let address = match self.base {
            IpAddr::V4(base) => {
                let bits = masked(u128::from(u32::from(base)), 32) | offset;
                IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).ok()?))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(masked(u128::from(base), 128) | offset)),
        };
        Some(format!("{address}/{}", self.node_prefix))
    }

    /// The first piece nobody has. As many are tried as there are taken, and one more.
    fn first_free(&self, taken: &BTreeSet<String>) -> Option<String> {
        let tries = 0..=u128::try_from(taken.len()).ok()?;
        tries.map_while(|index| self.piece(index)).find(|piece| !taken.contains(piece))
    }
}

fn ranges_of(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    if listed.is_empty() { spec.and_then(|spec| spec.pod_cidr.clone()).into_iter().collect() } else { listed }
}

/// The node's ranges, one of each cluster range; None when one of them is used up.
fn plan(ranges: &[Range], nodes: &[Arc<Node>]) -> Option<Vec<String>> {
    let taken: BTreeSet<String> = nodes.iter().flat_map(|node| ranges_of(node)).collect();
    ranges.iter().map(|range| range.first_free(&taken)).collect()
}

struct Controller {
    ctx: Ctx,
    nodes: Informer<Node>,
    ranges: Vec<Range>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let (ipv4_prefix, ipv6_prefix) = (ctx.config.node_cidr_mask_size_ipv4, ctx.config.node_cidr_mask_size_ipv6);
    let mut ranges = Vec::new();
    for text in &ctx.config.cluster_cidrs {
        match Range::parse(text, ipv4_prefix, ipv6_prefix) {
            Some(range) => ranges.push(range),
            None => error!(range = text, "cluster CIDR cannot be divided into node CIDRs, nodes get none of it"),
        }
    }
    if ranges.is_empty() {
        return ctx.shutdown.cancelled().await;
    }
    let nodes = ctx.informers.informer::<Node>();
    let queue = WorkQueue::default();
    nodes.on_event({
        let queue = queue.clone();
        move |event: &Event<Node>| {
            if ranges_of(event.object()).is_empty() {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    nodes.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), nodes, ranges, own_writes: OwnWrites::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        // All nodes share one account of what is taken.
        let account = ObjectKey::default();
        if !self.own_writes.settled(&account) {
            return Ok(LOOK_AGAIN);
        }
        let node = self.nodes.get(key).filter(|node| node.metadata.deletion_timestamp.is_none());
        let Some(node) = node.filter(|node| ranges_of(node).is_empty()) else { return Ok(Requeue::Never) };
        let Some(given) = plan(&self.ranges, &self.nodes.list()) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", name(&node.metadata));
            self.ctx.events.event(node.as_ref(), EventType::Normal, "CIDRNotAvailable", message);
            return Ok(Requeue::after_seconds(NONE_FREE_SECONDS));
        };
        let change = json!({
            "metadata": { "uid": node.metadata.uid },
            "spec": { "podCIDR": given.first(), "podCIDRs": given },
        });
        let api = self.ctx.connection.all::<Node>();
        match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(change)).await {
            Ok(written) => {
                self.own_writes.wrote(&account, &self.nodes, &written);
                Ok(Requeue::Never)
            }
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => {
                let message = format!("Node {} status is now: CIDRAssignmentFailed", name(&node.metadata));
                self.ctx.events.event(node.as_ref(), EventType::Normal, "CIDRAssignmentFailed", message);
                Err(error.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ranges: &[&str]) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({ "spec": { "podCIDRs": ranges } })).unwrap())
    }

    #[test]
    fn nodes_get_the_first_free_piece_of_each_range() {
        let ranges = [Range::parse("10.244.0.0/16", 24, 64).unwrap(), Range::parse("fd00:1::/48", 24, 64).unwrap()];
        assert_eq!(plan(&ranges, &[]).unwrap(), ["10.244.0.0/24", "fd00:1::/64"]);
        let nodes = [node(&["10.244.0.0/24", "fd00:1::/64"]), node(&["10.244.2.0/24"]), node(&[])];
        assert_eq!(plan(&ranges, &nodes).unwrap(), ["10.244.1.0/24", "fd00:1:0:1::/64"]);
    }

    #[test]
    fn a_used_up_range_gives_nothing() {
        let range = [Range::parse("10.0.0.0/23", 24, 64).unwrap()];
        assert_eq!(plan(&range, &[node(&["10.0.0.0/24"])]).unwrap(), ["10.0.1.0/24"]);
        assert_eq!(plan(&range, &[node(&["10.0.0.0/24"]), node(&["10.0.1.0/24"])]), None);
        assert_eq!(Range::parse("10.0.0.0/25", 24, 64), None);
    }
}
