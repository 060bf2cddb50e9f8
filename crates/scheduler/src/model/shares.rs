//! What devices share: the counters of their pool, and the capacity of a device that several claims may have at once.
//!
//! Source: KEP-4815 (partitionable devices), KEP-5075 (consumable capacity).

use std::collections::{BTreeMap, HashMap, HashSet};

use api::quantity::{Format, Quantity};
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::apimachinery::pkg::api::resource as text;

use super::devices::DeviceId;

/// Amounts by name: of capacity as the device publishes it.
pub type Amounts = BTreeMap<String, Quantity>;

/// Amounts by counter set and counter.
pub type Counters = BTreeMap<(String, String), Quantity>;

/// Validation has parsed it before; what cannot be read is nothing.
fn amount(quantity: &text::Quantity) -> Quantity {
    quantity.0.parse().unwrap_or_default()
}

pub fn amounts(of: Option<&BTreeMap<String, text::Quantity>>) -> Amounts {
    of.into_iter().flatten().map(|(name, quantity)| (name.clone(), amount(quantity))).collect()
}

/// What a device takes from the counters of its pool.
pub fn consumed_counters(device: &resource::Device) -> Counters {
    let sets = device.consumes_counters.iter().flatten();
    sets.flat_map(|set| counters(&set.counter_set, &set.counters)).collect()
}

/// What the counter sets of a slice have.
pub fn shared_counters(slice: &resource::ResourceSliceSpec) -> Counters {
    let sets = slice.shared_counters.iter().flatten();
    sets.flat_map(|set| counters(&set.name, &set.counters)).collect()
}

fn counters<'c>(
    set: &'c str,
    of: &'c BTreeMap<String, resource::Counter>,
) -> impl Iterator<Item = ((String, String), Quantity)> {
    of.iter().map(move |(name, counter)| ((set.to_owned(), name.clone()), amount(&counter.value)))
}

/// One capacity of a device.
#[derive(Debug, Clone)]
pub struct Capacity {
    total: Quantity,
    policy: Option<Policy>,
}

/// Which amounts may be had.
#[derive(Debug, Clone)]
struct Policy {
    default: Option<Quantity>,
    valid: Vec<Quantity>,
    range: Option<Range>,
}

#[derive(Debug, Clone)]
struct Range {
    min: Quantity,
    max: Option<Quantity>,
    step: Option<Quantity>,
}

impl Capacity {
    pub fn all_of(device: &resource::Device) -> BTreeMap<String, Capacity> {
        device.capacity.iter().flatten().map(|(name, capacity)| (name.clone(), Capacity::new(capacity))).collect()
    }

    fn new(capacity: &resource::DeviceCapacity) -> Capacity {
        let policy = capacity.request_policy.as_ref().map(|policy| Policy {
            default: policy.default.as_ref().map(amount),
            valid: policy.valid_values.iter().flatten().map(amount).collect(),
            range: policy.valid_range.as_ref().map(|range| Range {
                min: amount(&range.min),
                max: range.max.as_ref().map(amount),
                step: range.step.as_ref().map(amount),
            }),
        });
        Capacity { total: amount(&capacity.value), policy }
    }

    /// What a request takes of it: rounded up to what the policy allows; without a request, the policy's default or all.
    /// `None`: the policy does not allow that much.
    fn consumed(&self, requested: Option<&Quantity>) -> Option<Quantity> {
        let policy = self.policy.as_ref();
        let Some(requested) = requested else {
            return Some(policy.and_then(|policy| policy.default.clone()).unwrap_or_else(|| self.total.clone()));
        };
        policy.map_or_else(|| Some(requested.clone()), |policy| policy.rounded(requested))
    }
}

impl Policy {
    fn rounded(&self, requested: &Quantity) -> Option<Quantity> {
        if let Some(range) = &self.range {
            let rounded = range.rounded_up(requested);
            let fits = range.max.as_ref().is_none_or(|max| rounded <= *max);
            return (fits || Some(&rounded) == self.default.as_ref()).then_some(rounded);
        }
        if self.valid.is_empty() {
            return Some(requested.clone());
        }
        self.valid.iter().filter(|valid| *valid >= requested).min().cloned()
    }
}

impl Range {
    /// The smallest amount of the range that is enough; steps are whole numbers, as upstream's.
    fn rounded_up(&self, requested: &Quantity) -> Quantity {
        if *requested < self.min {
            return self.min.clone();
        }
        let step = self.step.as_ref().map_or(0, Quantity::value);
        let over = requested.value().saturating_sub(self.min.value());
        if step <= 0 || over % step == 0 {
            return requested.clone();
        }
        let whole = (over / step + 1).saturating_mul(step);
        Quantity::new(self.min.value().saturating_add(whole), Format::BinarySi)
    }
}

/// What a request takes of a device, given what others have of it: `None` when that is too much, or it has no such capacity.
pub fn take(capacity: &BTreeMap<String, Capacity>, requested: &Amounts, held: &[&Amounts]) -> Option<Amounts> {
    if requested.keys().any(|name| !capacity.contains_key(name)) {
        return None;
    }
    let mut taken = Amounts::new();
    for (name, capacity) in capacity {
        let consumed = capacity.consumed(requested.get(name))?;
        let sum = held.iter().filter_map(|held| held.get(name)).fold(consumed.clone(), |sum, held| sum.add(held));
        if sum > capacity.total {
            return None;
        }
        taken.insert(name.clone(), consumed);
    }
    Some(taken)
}

/// What has been given away.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// Devices that nobody else can have.
    pub devices: HashSet<DeviceId>,
    /// What claims have of devices that others can have too: one entry per share.
    pub shares: HashMap<DeviceId, Vec<Amounts>>,
}

/// One device of an allocation; `share`: what it has of a device that others may have too.
#[derive(Debug, Clone)]
pub struct Holding {
    pub device: DeviceId,
    pub share: Option<Amounts>,
}

impl Holding {
    /// What the results of an allocation keep from others: nothing, for those who only administer a device.
    pub fn all_of(results: &[resource::DeviceRequestAllocationResult]) -> Vec<Holding> {
        let held = results.iter().filter(|result| result.admin_access != Some(true));
        let holding = |result: &resource::DeviceRequestAllocationResult| Holding {
            device: (result.driver.clone(), result.pool.clone(), result.device.clone()),
            share: result.share_id.is_some().then(|| amounts(result.consumed_capacity.as_ref())),
        };
        held.map(holding).collect()
    }
}

impl Taken {
    pub fn add(&mut self, holding: &Holding) {
        match &holding.share {
            Some(share) => self.shares.entry(holding.device.clone()).or_default().push(share.clone()),
            None => drop(self.devices.insert(holding.device.clone())),
        }
    }

    /// Somebody has the device, or a share of it.
    pub fn holds(&self, device: &DeviceId) -> bool {
        self.devices.contains(device) || self.shares.contains_key(device)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn capacity(of: Value) -> BTreeMap<String, Capacity> {
        let device: resource::Device =
            serde_json::from_value(json!({"name": "d", "capacity": {"memory": of}})).unwrap();
        Capacity::all_of(&device)
    }

    fn wanted(amount: &str) -> Amounts {
        Amounts::from([("memory".to_owned(), amount.parse().unwrap())])
    }

    fn took(of: Value, requested: &Amounts, held: &[&str]) -> Option<String> {
        let held: Vec<Amounts> = held.iter().map(|held| wanted(held)).collect();
        take(&capacity(of), requested, &held.iter().collect::<Vec<_>>()).map(|taken| taken["memory"].to_string())
    }

    #[test]
    fn requests_are_rounded_up_to_what_the_policy_allows() {
        let range = json!({"value": "16Gi", "requestPolicy": {"default": "2Gi",
            "validRange": {"min": "1Gi", "step": "1Gi", "max": "8Gi"}}});
        assert_eq!(took(range.clone(), &Amounts::new(), &[]).as_deref(), Some("2Gi"));
        assert_eq!(took(range.clone(), &wanted("100Mi"), &[]).as_deref(), Some("1Gi"));
        assert_eq!(took(range.clone(), &wanted("1100Mi"), &[]).as_deref(), Some("2Gi"));
        assert_eq!(took(range, &wanted("9Gi"), &[]), None);
        let values = json!({"value": "16Gi", "requestPolicy": {"default": "4Gi", "validValues": ["4Gi", "8Gi"]}});
        assert_eq!(took(values.clone(), &wanted("5Gi"), &[]).as_deref(), Some("8Gi"));
        assert_eq!(took(values, &wanted("9Gi"), &[]), None);
    }

    #[test]
    fn nobody_gets_more_than_is_left() {
        let plain = json!({"value": "10Gi"});
        assert_eq!(took(plain.clone(), &wanted("4Gi"), &["3Gi", "3Gi"]).as_deref(), Some("4Gi"));
        assert_eq!(took(plain.clone(), &wanted("5Gi"), &["3Gi", "3Gi"]), None);
        assert_eq!(took(plain.clone(), &Amounts::new(), &[]).as_deref(), Some("10Gi"), "all, when nothing is asked");
        assert_eq!(took(plain.clone(), &Amounts::new(), &["1Gi"]), None);
        let other = Amounts::from([("cores".to_owned(), "1".parse().unwrap())]);
        assert_eq!(took(plain, &other, &[]), None, "there is no such capacity");
    }
}
