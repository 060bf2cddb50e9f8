//! Which devices a pod's claims get on one node: all of them, or none.
//!
//! Requests are served in order; each takes the first device that fits and leaves room for the rest, or the search goes back.
//! Source: `k8s.io/dynamic-resource-allocation/structured`.

use std::sync::Arc;

use api::cel::{Bindings, PER_CALL_LIMIT, Val};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use uuid::Uuid;

use crate::model::devices::{Alternative, Device, DeviceClaim, DeviceSelector, Devices, Place, Pool};
use crate::model::labels::Labels;
use crate::model::shares::{self, Amounts, Holding, Taken};

/// Devices one claim may get; upstream's number.
const DEVICES_MAX: usize = 32;
/// Steps of one search, after which a node is taken to have no room: bounds what a claim without a solution costs.
const STEPS_MAX: usize = 20_000;

/// The devices of one claim.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub claim: Arc<DeviceClaim>,
    pub result: resource::AllocationResult,
    pub holdings: Vec<Holding>,
    /// Who uses it, when it is the claim for the pod's extended resources.
    pub mappings: Vec<core::ContainerExtendedResourceRequest>,
    /// The version that was written of that claim.
    pub written: Option<u64>,
}

impl Given {
    /// Does the node have to wait for any of the devices?
    pub(super) fn has_conditions(&self) -> bool {
        let results = self.result.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        results.into_iter().any(|result| result.binding_conditions.is_some())
    }
}

/// Where devices are looked for.
pub(super) struct Search<'a> {
    pub devices: &'a Devices,
    pub pools: &'a [Pool],
    pub taken: &'a Taken,
    pub node: &'a str,
    pub labels: &'a Labels,
}

/// One device for one request.
#[derive(Clone)]
struct Pick {
    claim: usize,
    request: String,
    alternative: Alternative,
    device: Arc<Device>,
    /// What it has of the device's capacity, when others may have some too.
    share: Option<Amounts>,
}

/// A device that a request still needs.
struct Need<'a> {
    claim: usize,
    request: &'a str,
    alternative: &'a Alternative,
    /// For all that match: this one.
    only: Option<Arc<Device>>,
}

impl Search<'_> {
    /// Devices for all claims, or why there are none on this node (`None`: there is no room).
    pub(super) fn run(&self, claims: &[Arc<DeviceClaim>]) -> Result<Option<Vec<Given>>, String> {
        let mut picks = Vec::new();
        let mut steps = 0;
        if !self.requests(claims, 0, 0, &mut picks, &mut steps)? {
            return Ok(None);
        }
        Ok(Some(claims.iter().enumerate().map(|(at, claim)| self.given(at, claim, &picks)).collect()))
    }

    /// Serves the requests from this one on. False: it cannot be done with what has been picked.
    fn requests(
        &self,
        claims: &[Arc<DeviceClaim>],
        claim: usize,
        request: usize,
        picks: &mut Vec<Pick>,
        steps: &mut usize,
    ) -> Result<bool, String> {
        let Some(of) = claims.get(claim) else { return Ok(true) };
        let Some(wanted) = of.requests.get(request) else { return self.requests(claims, claim + 1, 0, picks, steps) };
        for alternative in &wanted.alternatives {
            let Some(needs) = self.needs(of, claim, &wanted.name, alternative, picks)? else { continue };
            let before = picks.len();
            if self.serve(claims, (claim, request), &needs, picks, steps)? {
                return Ok(true);
            }
            picks.truncate(before);
        }
        Ok(false)
    }

    /// What one alternative needs; `None`: it cannot be had.
    fn needs<'r>(
        &self,
        of: &DeviceClaim,
        claim: usize,
        request: &'r str,
        alternative: &'r Alternative,
        picks: &[Pick],
    ) -> Result<Option<Vec<Need<'r>>>, String> {
        if !self.devices.classes.contains_key(&alternative.class) {
            let text =
                format!("claim {}, request {}: could not retrieve device class {}", of.key, request, alternative.class);
            return Err(text);
        }
        let need = |only| Need { claim, request, alternative, only };
        let needs: Vec<Need<'r>> = match alternative.count {
            Some(count) => (0..count).map(|_| need(None)).collect(),
            None => {
                let mut all = Vec::new();
                for pool in self.pools {
                    let here = pool.devices.iter().filter(|device| device.place.is_on(self.node, self.labels));
                    for device in here {
                        if !self.matches(of, request, alternative, device)? {
                            continue;
                        }
                        if pool.is_unsound {
                            let (driver, name) = &pool.name;
                            return Err(format!(
                                "claim {}, request {request}: asks for all devices, but resource pool {driver}/{name} is \
                                 currently being updated",
                                of.key
                            ));
                        }
                        all.push(need(Some(device.clone())));
                    }
                }
                if all.is_empty() {
                    return Ok(None);
                }
                all
            }
        };
        let held = picks.iter().filter(|pick| pick.claim == claim).count();
        Ok((held + needs.len() <= DEVICES_MAX).then_some(needs))
    }

    fn serve(
        &self,
        claims: &[Arc<DeviceClaim>],
        (claim, request): (usize, usize),
        needs: &[Need<'_>],
        picks: &mut Vec<Pick>,
        steps: &mut usize,
    ) -> Result<bool, String> {
        let Some((need, rest)) = needs.split_first() else {
            return self.requests(claims, claim, request + 1, picks, steps);
        };
        let of = &claims[claim];
        let candidates: Vec<&Arc<Device>> = match &need.only {
            Some(device) => vec![device],
            None => {
                // Pools whose devices have to be waited for come last.
                let (later, sooner): (Vec<&Pool>, Vec<&Pool>) =
                    self.pools.iter().filter(|pool| !pool.is_unsound).partition(|pool| self.has_conditions(pool));
                sooner.into_iter().chain(later).flat_map(|pool| &pool.devices).collect()
            }
        };
        for device in candidates {
            *steps += 1;
            if *steps > STEPS_MAX {
                return Ok(false);
            }
            if !self.is_free(need, device, picks)
                || !device.place.is_on(self.node, self.labels)
                || !self.matches(of, need.request, need.alternative, device)?
                || !self.has_counters(device, picks)
                || !is_tolerated(device, need.alternative)
                || !agrees(of, need, device, picks)
            {
                continue;
            }
            let Some(taken) = self.share(need, device, picks) else { continue };
            picks.push(Pick {
                claim: need.claim,
                request: need.request.to_owned(),
                alternative: need.alternative.clone(),
                device: device.clone(),
                share: device.is_shared.then_some(taken),
            });
            if self.serve(claims, (claim, request), rest, picks, steps)? {
                return Ok(true);
            }
            picks.pop();
        }
        Ok(false)
    }

    fn has_conditions(&self, pool: &Pool) -> bool {
        let mut conditional = pool.devices.iter().filter(|device| !device.binding_conditions.is_empty());
        conditional.any(|device| device.place.is_on(self.node, self.labels))
    }

    /// Whoever administers a device may have it beside its user, but not twice in one claim.
    fn is_free(&self, need: &Need<'_>, device: &Device, picks: &[Pick]) -> bool {
        let picked = |pick: &Pick| pick.device.id == device.id && pick.share.is_none();
        match need.alternative.admin_access {
            true => !picks.iter().any(|pick| picked(pick) && pick.claim == need.claim && pick.request == need.request),
            false => {
                !self.taken.devices.contains(&device.id)
                    && !picks.iter().any(|pick| picked(pick) && !pick.alternative.admin_access)
            }
        }
    }

    /// What the request takes of the device's capacity; `None`: so much is not left.
    fn share(&self, need: &Need<'_>, device: &Device, picks: &[Pick]) -> Option<Amounts> {
        let before = self.taken.shares.get(&device.id).into_iter().flatten();
        let picked = picks.iter().filter(|pick| pick.device.id == device.id).filter_map(|pick| pick.share.as_ref());
        let held: Vec<&Amounts> = before.chain(picked).collect();
        shares::take(&device.capacity, &need.alternative.capacity, &held)
    }

    /// Whether the counters of the pool are enough for one more device. Only the first share of a device counts.
    fn has_counters(&self, device: &Device, picks: &[Pick]) -> bool {
        let is_held = || self.taken.shares.contains_key(&device.id) || picks.iter().any(|p| p.device.id == device.id);
        if device.counters.is_empty() || (device.is_shared && is_held()) {
            return true;
        }
        let is_pool = |pool: &&Pool| pool.name.0 == device.id.0 && pool.name.1 == device.id.1;
        let Some(pool) = self.pools.iter().find(is_pool) else { return false };
        let mut counted = vec![device];
        for pick in picks.iter().filter(|pick| pick.device.id.0 == device.id.0 && pick.device.id.1 == device.id.1) {
            if !self.taken.holds(&pick.device.id) && !counted.iter().any(|device| device.id == pick.device.id) {
                counted.push(&pick.device);
            }
        }
        pool.counters.iter().all(|(key, left)| {
            let consumed = counted.iter().filter_map(|device| device.counters.get(key));
            consumed.fold(left.clone(), |left, consumed| left.sub(consumed)).sign() >= 0
        })
    }

    fn matches(
        &self,
        of: &DeviceClaim,
        request: &str,
        alternative: &Alternative,
        device: &Device,
    ) -> Result<bool, String> {
        let class = self.devices.classes.get(&alternative.class);
        let of_class = class.iter().flat_map(|class| &class.selectors);
        for (index, selector) in of_class.chain(&alternative.selectors).enumerate() {
            let failed = |error: String| {
                let id = format!("{}/{}/{}", device.id.0, device.id.1, device.id.2);
                format!("claim {}, request {request}: selector #{index}: device {id}: {error}", of.key)
            };
            if !selects(selector, &device.seen).map_err(failed)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn given(&self, at: usize, claim: &Arc<DeviceClaim>, picks: &[Pick]) -> Given {
        let picks: Vec<&Pick> = picks.iter().filter(|pick| pick.claim == at).collect();
        let results = picks.iter().map(|pick| {
            let (driver, pool, device) = pick.device.id.clone();
            let tolerations = &pick.alternative.tolerations;
            resource::DeviceRequestAllocationResult {
                request: pick.alternative.name.clone(),
                driver,
                pool,
                device,
                admin_access: pick.alternative.admin_access.then_some(true),
                tolerations: (!tolerations.is_empty()).then(|| tolerations.clone()),
                consumed_capacity: pick.share.as_ref().filter(|share| !share.is_empty()).map(|share| {
                    share.iter().map(|(name, amount)| (name.clone(), Quantity(amount.to_string()))).collect()
                }),
                share_id: pick.share.as_ref().map(|_| Uuid::new_v4().to_string()),
                binding_conditions: listed(&pick.device.binding_conditions),
                binding_failure_conditions: listed(&pick.device.binding_failure_conditions),
            }
        });
        let results: Vec<_> = results.collect();
        let config = self.config(claim, &picks);
        Given {
            claim: claim.clone(),
            holdings: Holding::all_of(&results),
            mappings: Vec::new(),
            written: None,
            result: resource::AllocationResult {
                allocation_timestamp: None,
                devices: Some(resource::DeviceAllocationResult {
                    config: (!config.is_empty()).then_some(config),
                    results: (!results.is_empty()).then_some(results),
                }),
                node_selector: self.node_selector(&picks),
            },
        }
    }

    /// What classes and the claim say to drivers, as far as it is about what was picked.
    fn config(&self, claim: &DeviceClaim, picks: &[&Pick]) -> Vec<resource::DeviceAllocationConfiguration> {
        let mut all = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for pick in picks {
            if seen.contains(&pick.alternative.name.as_str()) {
                continue;
            }
            seen.push(&pick.alternative.name);
            let class = self.devices.classes.get(&pick.alternative.class);
            all.extend(class.iter().flat_map(|class| &class.config).map(|config| {
                resource::DeviceAllocationConfiguration {
                    source: "FromClass".to_owned(),
                    requests: Some(vec![pick.alternative.name.clone()]),
                    opaque: config.opaque.clone(),
                }
            }));
        }
        let configs = claim.claim.spec.devices.iter().flat_map(|devices| devices.config.iter().flatten());
        for config in configs {
            let requests = config.requests.clone().unwrap_or_default();
            let is_about =
                |pick: &&&Pick| requests.contains(&pick.request) || requests.contains(&pick.alternative.name);
            if requests.is_empty() || picks.iter().any(|pick| is_about(&pick)) {
                all.push(resource::DeviceAllocationConfiguration {
                    source: "FromClaim".to_owned(),
                    requests: (!requests.is_empty()).then_some(requests),
                    opaque: config.opaque.clone(),
                });
            }
        }
        all
    }

    /// Where the devices can be used: on the node, if one of them is only there; else where all of them are.
    fn node_selector(&self, picks: &[&Pick]) -> Option<core::NodeSelector> {
        if picks.iter().any(|pick| pick.device.binds_to_node || matches!(pick.device.place, Place::Node(_))) {
            let requirement = core::NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![self.node.to_owned()]),
            };
            let term =
                core::NodeSelectorTerm { match_fields: Some(vec![requirement]), ..core::NodeSelectorTerm::default() };
            return Some(core::NodeSelector { node_selector_terms: vec![term] });
        }
        let mut all = core::NodeSelectorTerm::default();
        for pick in picks {
            let Place::Nodes { selector, .. } = &pick.device.place else { continue };
            let Some(term) = selector.node_selector_terms.first() else { continue };
            for (into, from) in
                [(&mut all.match_expressions, &term.match_expressions), (&mut all.match_fields, &term.match_fields)]
            {
                for requirement in from.iter().flatten() {
                    let list = into.get_or_insert_default();
                    if !list.contains(requirement) {
                        list.push(requirement.clone());
                    }
                }
            }
        }
        let is_bound = all.match_expressions.is_some() || all.match_fields.is_some();
        is_bound.then(|| core::NodeSelector { node_selector_terms: vec![all] })
    }
}

fn listed(conditions: &[String]) -> Option<Vec<String>> {
    (!conditions.is_empty()).then(|| conditions.to_vec())
}

fn selects(selector: &DeviceSelector, seen: &Val<'static>) -> Result<bool, String> {
    let program = selector.compiled.as_ref().map_err(|error| format!("CEL compile error: {error}"))?;
    let bindings = Bindings::new().with("device", seen.clone());
    let (value, _cost) = program.evaluate(&bindings, PER_CALL_LIMIT);
    match value.map_err(|error| format!("CEL runtime error: {error}"))? {
        Val::Bool(selected) => Ok(selected),
        _ => Err(format!("CEL expression must return bool: {}", selector.text)),
    }
}

/// A taint that keeps others off keeps off whoever does not tolerate it.
fn is_tolerated(device: &Device, alternative: &Alternative) -> bool {
    let keeps_off = device.taints.iter().filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
    keeps_off.into_iter().all(|taint| {
        alternative.tolerations.iter().any(|toleration| {
            let effect = toleration.effect.as_deref().unwrap_or("");
            let key = toleration.key.as_deref().unwrap_or("");
            let value_fits = match toleration.operator.as_deref() {
                Some("Exists") => true,
                _ => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
            };
            (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && value_fits
        })
    })
}

/// Devices that a constraint ties together have one value of its attribute, and each has it.
fn agrees(of: &DeviceClaim, need: &Need<'_>, device: &Device, picks: &[Pick]) -> bool {
    let constraints = of.claim.spec.devices.iter().flat_map(|devices| devices.constraints.iter().flatten());
    let ties = |constraint: &resource::DeviceConstraint, request: &str, name: &str| {
        let requests = constraint.requests.as_deref().unwrap_or_default();
        requests.is_empty() || requests.iter().any(|one| one == request || one == name)
    };
    constraints.into_iter().all(|constraint| {
        let (attribute, is_match) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, true),
            (None, Some(attribute)) => (attribute, false),
            (None, None) => return false,
        };
        if !ties(constraint, need.request, &need.alternative.name) {
            return true;
        }
        let Some(value) = device.attributes.get(attribute) else { return false };
        let tied = |pick: &&Pick| pick.claim == need.claim && ties(constraint, &pick.request, &pick.alternative.name);
        picks.iter().filter(tied).all(|pick| (pick.device.attributes.get(attribute) == Some(value)) == is_match)
    })
}
