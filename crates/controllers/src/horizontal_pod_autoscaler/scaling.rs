//! From what the metrics ask for to what is done: stabilisation, rates and bounds.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use tokio::time::Instant;

/// A size that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Recommendation {
    replicas: i32,
    at: Instant,
}

/// A change that was made, always positive.
#[derive(Clone, Copy, Debug)]
struct Change {
    replicas: i32,
    at: Instant,
}

/// What is remembered of one autoscaler. It starts empty in a new process, as upstream's.
#[derive(Debug, Default)]
pub(super) struct Memory {
    recommendations: Vec<Recommendation>,
    ups: Vec<Change>,
    downs: Vec<Change>,
}

/// Longest period of a policy, and so of what is worth remembering of changes (upstream's validation).
const PERIOD_MAX: Duration = Duration::from_secs(1800);
/// Longest stabilisation window (upstream's validation).
const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// Sizes and rules of one decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    pub current: i32,
    pub min: i32,
    pub max: i32,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// How long a smaller size must have been enough, unless the behavior says otherwise.
    pub down_window: Duration,
}

/// A condition to set: status, reason, message.
pub(super) type Said = (bool, &'static str, &'static str);

/// The size to set, and what is said about it.
#[derive(Debug, PartialEq)]
pub(super) struct Decision {
    pub replicas: i32,
    pub able_to_scale: Said,
    pub scaling_limited: Said,
}

const READY: Said = (true, "ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Said = (
    true,
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Said = (
    true,
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);

type Limit = (&'static str, &'static str);
const WITHIN: Limit = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: Limit = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Limit =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Limit = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Limit = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl Memory {
    /// The first size seen counts as asked for, so that a restart does not shrink at once.
    pub(super) fn begin(&mut self, current: i32, now: Instant) {
        if self.recommendations.is_empty() {
            self.recommendations.push(Recommendation { replicas: current, at: now });
        }
    }

    /// Notes a change that was made.
    pub(super) fn changed(&mut self, from: i32, to: i32, now: Instant) {
        let changes = if to > from { &mut self.ups } else { &mut self.downs };
        changes.retain(|change| now.duration_since(change.at) <= PERIOD_MAX);
        changes.push(Change { replicas: (to - from).abs(), at: now });
    }

    /// Notes what is asked for, and says what to do.
    pub(super) fn decide(&mut self, desired: i32, bounds: &Bounds<'_>, now: Instant) -> Decision {
        let (stable, stabilized) = self.stabilize(desired, bounds, now);
        let (replicas, limit) = match bounds.behavior {
            None => bounded(stable, bounds),
            Some(behavior) => self.at_rate(stable, bounds, behavior, now),
        };
        Decision {
            replicas,
            able_to_scale: if stable == desired { READY } else { stabilized },
            scaling_limited: (replicas != stable, limit.0, limit.1),
        }
    }

    fn stabilize(&mut self, desired: i32, bounds: &Bounds<'_>, now: Instant) -> (i32, Said) {
        let window = |rules: Option<&HPAScalingRules>, default: Duration| {
            let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
            seconds.map_or(default, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        };
        let up = window(bounds.behavior.and_then(|behavior| behavior.scale_up.as_ref()), Duration::ZERO);
        let down = window(bounds.behavior.and_then(|behavior| behavior.scale_down.as_ref()), bounds.down_window);
        let grows = bounds.behavior.is_some() && desired >= bounds.current;
        let within = if grows { up } else { down };
        let recent = self.recommendations.iter().filter(|one| now.duration_since(one.at) < within);
        let recent = recent.map(|one| one.replicas).chain([desired]);
        let stable = if grows { recent.min() } else { recent.max() };
        let kept = up.max(down).min(WINDOW_MAX);
        self.recommendations.retain(|one| now.duration_since(one.at) <= kept);
        self.recommendations.push(Recommendation { replicas: desired, at: now });
        (stable.unwrap_or(desired), if grows { UP_STABILIZED } else { DOWN_STABILIZED })
    }

    fn at_rate(
        &self,
        desired: i32,
        bounds: &Bounds<'_>,
        behavior: &HorizontalPodAutoscalerBehavior,
        now: Instant,
    ) -> (i32, Limit) {
        let current = bounds.current;
        if desired > current {
            let limit = behavior.scale_up.as_ref().map_or(i32::MAX, |rules| up_limit(current, &self.ups, rules, now));
            let limit = limit.max(current);
            let (most, why) = if bounds.max > limit { (limit, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
            if desired > most {
                return (most, why);
            }
        } else if desired < current {
            let rules = behavior.scale_down.as_ref();
            let limit = rules.map_or(i32::MIN, |rules| down_limit(current, &self.downs, rules, now));
            let limit = limit.min(current);
            let (least, why) = if bounds.min < limit { (limit, DOWN_LIMIT) } else { (bounds.min, TOO_FEW) };
            if desired < least {
                return (least, why);
            }
        }
        (desired, WITHIN)
    }
}

/// Without a behavior: at most twice as many, or four.
fn bounded(desired: i32, bounds: &Bounds<'_>) -> (i32, Limit) {
    let limit = bounds.current.saturating_mul(2).max(4);
    let (most, why) = if bounds.max > limit { (limit, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
    match desired {
        desired if desired < bounds.min => (bounds.min, TOO_FEW),
        desired if desired > most => (most, why),
        desired => (desired, WITHIN),
    }
}

/// Replicas changed within the last `seconds`.
fn changed_within(changes: &[Change], seconds: i32, now: Instant) -> i32 {
    let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    changes.iter().filter(|change| now.duration_since(change.at) < period).map(|change| change.replicas).sum()
}

fn up_limit(current: i32, ups: &[Change], rules: &HPAScalingRules, now: Instant) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = current - changed_within(ups, policy.period_seconds, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            // Rounded up: a change too small to count would never come.
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.min().unwrap_or(current),
        _ => proposals.max().unwrap_or(current),
    }
}

fn down_limit(current: i32, downs: &[Change], rules: &HPAScalingRules, now: Instant) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = current.saturating_add(changed_within(downs, policy.period_seconds, now));
        match policy.type_.as_str() {
            "Pods" => start - policy.value,
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.max().unwrap_or(current),
        _ => proposals.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bounds<'a>(current: i32, behavior: Option<&'a HorizontalPodAutoscalerBehavior>) -> Bounds<'a> {
        Bounds { current, min: 1, max: 10, behavior, down_window: Duration::from_secs(300) }
    }

    /// The default that the API server fills in.
    fn default_behavior() -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(json!({
            "scaleUp": { "stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                { "type": "Pods", "value": 4, "periodSeconds": 15 }, { "type": "Percent", "value": 100, "periodSeconds": 15 },
            ] },
            "scaleDown": { "selectPolicy": "Max", "policies": [{ "type": "Percent", "value": 100, "periodSeconds": 15 }] },
        }))
        .unwrap()
    }

    #[test]
    fn growth_is_bounded_and_shrinking_waits() {
        let now = Instant::now();
        let mut memory = Memory::default();
        memory.begin(3, now);
        let grown = memory.decide(20, &bounds(3, None), now);
        assert_eq!((grown.replicas, grown.scaling_limited.1), (6, "ScaleUpLimit"));
        let waits = memory.decide(1, &bounds(6, None), now);
        assert_eq!((waits.replicas, waits.able_to_scale.1), (10, "ScaleDownStabilized"));
        let later = now + Duration::from_secs(301);
        let shrunk = memory.decide(0, &bounds(6, None), later);
        assert_eq!((shrunk.replicas, shrunk.scaling_limited), (1, (true, TOO_FEW.0, TOO_FEW.1)));
    }

    #[test]
    fn policies_limit_the_rate_of_a_period() {
        let behavior = default_behavior();
        let now = Instant::now();
        let mut memory = Memory::default();
        let first = memory.decide(9, &bounds(3, Some(&behavior)), now);
        assert_eq!((first.replicas, first.scaling_limited.1), (7, "ScaleUpLimit"));
        memory.changed(3, 7, now);
        let second = memory.decide(9, &bounds(7, Some(&behavior)), now + Duration::from_secs(5));
        assert_eq!(second.replicas, 7, "the period's four are used up");
        let third = memory.decide(12, &bounds(7, Some(&behavior)), now + Duration::from_secs(20));
        assert_eq!((third.replicas, third.scaling_limited.1), (10, "TooManyReplicas"));
    }

    #[test]
    fn a_disabled_direction_stays() {
        let mut behavior = default_behavior();
        behavior.scale_down.as_mut().unwrap().select_policy = Some("Disabled".into());
        behavior.scale_down.as_mut().unwrap().stabilization_window_seconds = Some(0);
        let decision = Memory::default().decide(2, &bounds(5, Some(&behavior)), Instant::now());
        assert_eq!((decision.replicas, decision.scaling_limited.1), (5, "ScaleDownLimit"));
    }
}
