//! ServiceCIDR controller: says that a range of Service addresses is ready, and keeps one that is being deleted while addresses
//! of it are in use and no other range has them.
//! Reads ServiceCIDR, IPAddress. Writes ServiceCIDR.status and finalizers. Source: KEP-1880.

use std::net::IpAddr;
use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::api_error::ApiErrorExt;
use crate::clock::{self, seconds_between};
use crate::finalizer;
use crate::ownership::name;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "service-cidr-controller",
    alias: "",
    account: "service-cidrs-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
const MANAGER: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Kubernetes Service CIDR is ready";
const IN_USE: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
/// How long the allocators have to notice a deletion before the range may go.
const GRACE_SECONDS: i64 = 10;

struct Controller {
    ctx: Ctx,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

async fn run(ctx: Ctx) {
    let ranges = ctx.informers.informer::<ServiceCIDR>();
    let addresses = ctx.informers.informer::<IPAddress>();
    let queue = WorkQueue::default();
    ranges.on_event({
        let (queue, ranges) = (queue.clone(), ranges.clone());
        move |event| {
            queue.add(ObjectKey::of(event.object().as_ref()));
            // A range that comes, goes or changes decides for those that overlap it.
            let touches = |other: &&Arc<ServiceCIDR>| event.states().any(|range| overlap(range, other));
            ranges.list().iter().filter(touches).for_each(|range| queue.add(ObjectKey::of(range.as_ref())));
        }
    });
    addresses.on_event({
        let (queue, ranges) = (queue.clone(), ranges.clone());
        move |event| {
            let Ok(address) = name(&event.object().metadata).parse() else { return };
            let holding = |range: &&Arc<ServiceCIDR>| prefixes(range).any(|prefix| prefix.contains(address));
            ranges.list().iter().filter(holding).for_each(|range| queue.add(ObjectKey::of(range.as_ref())));
        }
    });
    ranges.has_synced().await;
    addresses.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), ranges, addresses };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// A range of addresses: the network's bits and how many count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    bits: u128,
    length: u32,
    is_v4: bool,
}

impl Prefix {
    /// None when the text is no range.
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        Some(Self { bits: bits(address), length: length.parse().ok()?, is_v4: address.is_ipv4() })
    }

    fn holds(self, bits: u128, is_v4: bool) -> bool {
        let width: u32 = if is_v4 { 32 } else { 128 };
        let shift = width.saturating_sub(self.length);
        self.is_v4 == is_v4 && (shift >= 128 || self.bits >> shift == bits >> shift)
    }

    fn contains(self, address: IpAddr) -> bool {
        self.holds(bits(address), address.is_ipv4())
    }

    fn contains_prefix(self, other: Prefix) -> bool {
        self.length <= other.length && self.holds(other.bits, other.is_v4)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn prefixes(range: &ServiceCIDR) -> impl Iterator<Item = Prefix> {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| Prefix::parse(cidr))
}

fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    prefixes(one).any(|a| prefixes(other).any(|b| a.contains_prefix(b) || b.contains_prefix(a)))
}

/// What is to be done about one range.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Finalizer and Ready condition, where they are missing.
    Keep {
        finalizer: bool,
        ready: bool,
    },
    /// It is going, but its addresses are in use.
    Hold,
    Wait {
        seconds: i64,
    },
    Release,
    Nothing,
}

struct View<'a> {
    range: &'a ServiceCIDR,
    /// All ranges, `range` among them.
    ranges: &'a [Arc<ServiceCIDR>],
    addresses: &'a [IpAddr],
    now: Time,
}

/// Same view, same plan. Touches nothing.
fn plan(view: &View<'_>) -> Plan {
    let has_finalizer = finalizer::has(&view.range.metadata, FINALIZER);
    let Some(deleted) = &view.range.metadata.deletion_timestamp else {
        let ready = is_said(view.range, "True", READY);
        return Plan::Keep { finalizer: !has_finalizer, ready: !ready };
    };
    if !has_finalizer {
        return Plan::Nothing;
    }
    if !may_go(view) {
        return if is_said(view.range, "False", IN_USE) { Plan::Nothing } else { Plan::Hold };
    }
    match GRACE_SECONDS - seconds_between(deleted, &view.now) {
        seconds if seconds > 0 => Plan::Wait { seconds },
        _ => Plan::Release,
    }
}

/// Another range has all of it, or none of its addresses would be left without a range.
fn may_go(view: &View<'_>) -> bool {
    let is_other = |range: &&Arc<ServiceCIDR>| name(&range.metadata) != name(&view.range.metadata);
    let others: Vec<Prefix> = view.ranges.iter().filter(is_other).flat_map(|range| prefixes(range)).collect();
    let is_covered = |prefix: Prefix| others.iter().any(|other| other.contains_prefix(prefix));
    if prefixes(view.range).all(is_covered) {
        return true;
    }
    let mut own = view.addresses.iter().filter(|address| prefixes(view.range).any(|prefix| prefix.contains(**address)));
    own.all(|address| others.iter().any(|other| other.contains(*address)))
}

fn is_said(range: &ServiceCIDR, status: &str, message: &str) -> bool {
    let conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.any(|condition| condition.status == status && condition.message == message)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(range) = self.ranges.get(key) else { return Ok(Requeue::Never) };
        let addresses: Vec<IpAddr> =
            self.addresses.list().iter().filter_map(|address| name(&address.metadata).parse().ok()).collect();
        let ranges = self.ranges.list();
        match plan(&View { range: &range, ranges: &ranges, addresses: &addresses, now: clock::now() }) {
            Plan::Nothing => {}
            Plan::Wait { seconds } => return Ok(Requeue::after_seconds(seconds)),
            Plan::Keep { finalizer, ready } => {
                if finalizer {
                    let change = json!({ "metadata": { "finalizers": [FINALIZER] } });
                    self.apply(key, change, None).await?;
                }
                if ready {
                    self.apply(key, condition("True", "", READY), Some("status")).await?;
                }
            }
            Plan::Hold => self.apply(key, condition("False", "Terminating", IN_USE), Some("status")).await?,
            Plan::Release => {
                let mut changed = range.as_ref().clone();
                finalizer::remove(&mut changed.metadata, FINALIZER);
                let api: Api<ServiceCIDR> = self.ctx.connection.all();
                match api.replace(&key.name, &PostParams::default(), &changed).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(Requeue::Never)
    }
}

fn condition(status: &str, reason: &str, message: &str) -> Value {
    json!({ "status": { "conditions": [{
        "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": clock::now(),
    }] } })
}

impl Controller {
    async fn apply(&self, key: &ObjectKey, change: Value, subresource: Option<&str>) -> Result<(), ReconcileError> {
        let mut object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": key.name },
        });
        for (field, value) in change.as_object().into_iter().flatten() {
            match (object.get_mut(field), value) {
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new.clone()),
                _ => object[field] = value.clone(),
            }
        }
        let api: Api<ServiceCIDR> = self.ctx.connection.all();
        let params = PatchParams::apply(MANAGER).force();
        match subresource {
            None => api.patch(&key.name, &params, &Patch::Apply(object)).await?,
            Some(_) => api.patch_status(&key.name, &params, &Patch::Apply(object)).await?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(range_name: &str, cidr: &str, deleted: Option<&str>) -> Arc<ServiceCIDR> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": range_name, "finalizers": [FINALIZER], "deletionTimestamp": deleted },
                "spec": { "cidrs": [cidr] },
            }))
            .unwrap(),
        )
    }

    #[test]
    fn a_range_stays_while_its_addresses_have_no_other() {
        let deleted = Some("2024-01-01T00:00:00Z");
        let going = range("a", "10.1.0.0/24", deleted);
        let wider = range("b", "10.1.0.0/16", None);
        let part = range("c", "10.1.0.0/28", None);
        let used: IpAddr = "10.1.0.77".parse().unwrap();
        let low: IpAddr = "10.1.0.7".parse().unwrap();
        let at = |second: &str| Time(format!("2024-01-01T00:00:{second}Z").parse().unwrap());
        for (ranges, addresses, second, expected) in [
            (vec![going.clone()], vec![used], "30", Plan::Hold),
            (vec![going.clone()], vec![], "04", Plan::Wait { seconds: 6 }),
            (vec![going.clone()], vec![], "30", Plan::Release),
            (vec![going.clone(), wider], vec![used], "30", Plan::Release),
            (vec![going.clone(), part.clone()], vec![used], "30", Plan::Hold),
            (vec![going.clone(), part], vec![low], "30", Plan::Release),
        ] {
            let view = View { range: &going, ranges: &ranges, addresses: &addresses, now: at(second) };
            assert_eq!(plan(&view), expected, "{addresses:?} {second}");
        }
    }

    #[test]
    fn a_new_range_is_said_to_be_ready_once() {
        let fresh: ServiceCIDR = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
        let view = |range: &ServiceCIDR| plan(&View { range, ranges: &[], addresses: &[], now: clock::now() });
        assert_eq!(view(&fresh), Plan::Keep { finalizer: true, ready: true });
        let mut kept = fresh;
        finalizer::add(&mut kept.metadata, FINALIZER);
        let said = condition("True", "", READY);
        kept.status = serde_json::from_value(said["status"].clone()).unwrap();
        assert_eq!(view(&kept), Plan::Keep { finalizer: false, ready: false });
    }
}
