//! DefaultPreemption: when no node fits, finds a node that would if less important pods left it, and picks the node where that
//! does the least harm.

use std::cmp::Reverse;
use std::sync::Arc;

use super::PluginArgs;
use crate::cycle::{self, Diagnosis};
use crate::framework::{
    Code, CycleState, ExtensionPoints, Plugin, PostFilter, PostFilterInput, PostFilterResult, Status,
};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "DefaultPreemption";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const POLICY_NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const ALREADY_PREEMPTING: &str = "not eligible due to a terminating pod on the nominated node.";

/// Arguments of DefaultPreemption: how many candidate nodes are tried at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultPreemptionArgs {
    pub min_candidate_nodes_percentage: usize,
    pub min_candidate_nodes_absolute: usize,
}

impl Default for DefaultPreemptionArgs {
    fn default() -> DefaultPreemptionArgs {
        DefaultPreemptionArgs { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

struct DefaultPreemption {
    args: DefaultPreemptionArgs,
}

pub(super) fn extend(args: &PluginArgs, points: &mut ExtensionPoints) {
    points.at_post_filter(&Arc::new(DefaultPreemption { args: args.default_preemption.clone() }));
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        NAME
    }
}

/// A node, and who would have to leave it.
struct Candidate {
    node: String,
    /// Most important first.
    victims: Vec<Arc<PodInfo>>,
    budget_violations: usize,
}

/// The harm done, least first; the first candidate wins a tie.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Harm {
    budget_violations: usize,
    highest_priority: i32,
    priority_sum: i64,
    victims: usize,
    /// The later the most important victims started, the less is lost.
    earliest_start: Reverse<i64>,
}

impl Candidate {
    fn harm(&self) -> Harm {
        let highest_priority = self.victims.first().map_or(i32::MIN, |victim| victim.priority);
        let most_important = self.victims.iter().filter(|victim| victim.priority == highest_priority);
        Harm {
            budget_violations: self.budget_violations,
            highest_priority,
            // Shifted so that many victims of negative priority still cost more than few.
            priority_sum: self.victims.iter().map(|victim| i64::from(victim.priority) + (1 << 31)).sum(),
            victims: self.victims.len(),
            earliest_start: Reverse(most_important.map(|victim| started(victim)).min().unwrap_or(i64::MAX)),
        }
    }
}

fn started(pod: &PodInfo) -> i64 {
    pod.started.unwrap_or(i64::MAX)
}

impl PostFilter for DefaultPreemption {
    fn post_filter(&self, input: PostFilterInput<'_>) -> PostFilterResult {
        if let Err(reason) = eligible(&input) {
            return PostFilterResult::NotNow { message: format!("preemption: {reason}") };
        }
        let mut diagnosis = Diagnosis {
            all_nodes: input.snapshot.len(),
            not_searched: Some(Status::unresolvable(NAME, NOT_HELPFUL)),
            ..Diagnosis::default()
        };
        let dice = input.rng.next_u64();
        let candidates = self.find_candidates(&input, dice, &mut diagnosis);
        match candidates.iter().min_by_key(|candidate| candidate.harm()) {
            Some(best) => PostFilterResult::Nominated {
                node: best.node.clone(),
                victims: best.victims.iter().map(|victim| victim.uid.to_string()).collect(),
            },
            None => PostFilterResult::Unhelpful { message: format!("preemption: {}", diagnosis.message()) },
        }
    }
}

/// Whether the pod may preempt at all (again).
fn eligible(input: &PostFilterInput<'_>) -> Result<(), &'static str> {
    let pod = input.pod;
    let policy = pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Err(POLICY_NEVER);
    }
    let promised = pod.nominated_node.as_deref().or_else(|| input.nominator.node_of(&pod.uid));
    let Some(node) = promised.and_then(|name| input.snapshot.node(name)) else { return Ok(()) };
    let hopeless = input
        .diagnosis
        .refused
        .iter()
        .any(|(name, status)| name == node.name() && status.code == Code::UnschedulableAndUnresolvable);
    let leaving = |other: &Arc<PodInfo>| other.priority < pod.priority && is_preempted(other);
    if !hopeless && node.pods.iter().any(leaving) { Err(ALREADY_PREEMPTING) } else { Ok(()) }
}

/// Whether a pod is on its way out because a scheduler asked for it.
fn is_preempted(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.terminating
        && conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

impl DefaultPreemption {
    /// Tries nodes from a random start, so that not always the same nodes are preempted from.
    fn find_candidates(&self, input: &PostFilterInput<'_>, dice: u64, diagnosis: &mut Diagnosis) -> Vec<Candidate> {
        let helpful: Vec<&NodeInfo> = input
            .diagnosis
            .refused
            .iter()
            .filter(|(_, status)| status.code == Code::Unschedulable)
            .filter_map(|(name, _)| input.snapshot.node(name))
            .collect();
        if helpful.is_empty() {
            return Vec::new();
        }
        let percentage = helpful.len() * self.args.min_candidate_nodes_percentage / 100;
        let wanted = percentage.max(self.args.min_candidate_nodes_absolute).min(helpful.len());
        let offset = usize::try_from(dice % helpful.len() as u64).unwrap_or(0);
        let mut candidates: Vec<Candidate> = Vec::new();
        for index in 0..helpful.len() {
            let node = helpful[(offset + index) % helpful.len()];
            match select_victims(input, node) {
                Ok(candidate) => candidates.push(candidate),
                Err(status) => diagnosis.refused.push((node.name().clone(), status)),
            }
            if candidates.len() >= wanted && candidates.iter().any(|candidate| candidate.budget_violations == 0) {
                break;
            }
        }
        candidates
    }
}

/// The fewest, least important pods to take off a node so that the pod fits.
fn select_victims(input: &PostFilterInput<'_>, node: &NodeInfo) -> Result<Candidate, Status> {
    let (profile, snapshot, pod) = (input.profile, input.snapshot, input.pod);
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Status::unresolvable(NAME, NO_VICTIMS));
    }
    let (mut state, mut emptied): (CycleState, NodeInfo) = (input.state.clone(), node.clone());
    for other in &lower {
        emptied.remove_pod(&other.uid);
        cycle::pretend_removed(profile, snapshot, &mut state, pod, other, &emptied);
    }
    let fits = |state: &CycleState, node: &NodeInfo| {
        cycle::filter_with_nominated(profile, input.nominator, snapshot, state, pod, node)
    };
    fits(&state, &emptied)?;
    lower.sort_by_key(|other| (Reverse(other.priority), started(other)));
    let (protected, free) = split_by_budgets(snapshot, lower);
    let mut candidate = Candidate { node: node.name().to_string(), victims: Vec::new(), budget_violations: 0 };
    for (others, violates) in [(protected, true), (free, false)] {
        for other in others {
            emptied.add_pod(other.clone());
            cycle::pretend_added(profile, snapshot, &mut state, pod, &other, &emptied);
            if fits(&state, &emptied).is_err() {
                emptied.remove_pod(&other.uid);
                cycle::pretend_removed(profile, snapshot, &mut state, pod, &other, &emptied);
                candidate.budget_violations += usize::from(violates);
                candidate.victims.push(other);
            }
        }
    }
    candidate.victims.sort_by_key(|other| (Reverse(other.priority), started(other)));
    Ok(candidate)
}

/// Pods whose removal would break a disruption budget, and the others; both keep their order.
fn split_by_budgets(snapshot: &Snapshot, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i32> = snapshot.budgets.values().map(|budget| budget.disruptions_allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (budget, allowed) in snapshot.budgets.values().zip(&mut allowed) {
            let covers = budget.namespace == *pod.namespace
                && !pod.labels.is_empty()
                && !budget.selector.is_everything()
                && budget.selector.matches(&pod.labels);
            if covers && !budget.disrupted_pods.contains(&*pod.name) {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

#[cfg(test)]
mod tests {
    use crate::cycle::{Cycle, ScheduleError};
    use crate::framework::PostFilterResult;
    use crate::nominator::Nominator;
    use crate::profile::{Profile, ProfileConfig};
    use crate::snapshot::{DisruptionBudget, Snapshot};
    use crate::testing::{cluster, pod};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use serde_json::{Value, json};

    fn machine(name: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}})
    }

    fn running(snapshot: &mut Snapshot, node: &str, name: &str, priority: i32, cpu: &str) {
        let guest = pod(json!({"metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": name}},
            "spec": {"priority": priority, "nodeName": node,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}));
        assert!(snapshot.add_pod(node, guest));
    }

    fn remedy(snapshot: &Snapshot, spec: Value) -> (String, PostFilterResult) {
        let mut object = json!({"metadata": {"name": "vip", "uid": "vip", "namespace": "d"}, "spec": {"priority": 100,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]}});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let profile = Profile::new(&ProfileConfig::default()).unwrap();
        let mut cycle = Cycle {
            profile: &profile,
            snapshot,
            nominator: &Nominator::default(),
            start_index: &mut 0,
            rng: &mut SmallRng::seed_from_u64(1),
        };
        match cycle.run(&pod(object)) {
            Err(ScheduleError::Unfit { diagnosis, remedy }) => (diagnosis.message(), remedy),
            Err(other) => panic!("{other:?}"),
            Ok(decision) => panic!("scheduled to {}", decision.node),
        }
    }

    fn nominated(node: &str, victims: &[&str]) -> PostFilterResult {
        PostFilterResult::Nominated { node: node.into(), victims: victims.iter().map(|v| (*v).to_owned()).collect() }
    }

    #[test]
    fn only_as_many_pods_as_needed_leave_and_the_least_important_first() {
        let mut snapshot = cluster(&[machine("a")]);
        running(&mut snapshot, "a", "low", 1, "2");
        running(&mut snapshot, "a", "middle", 5, "1");
        running(&mut snapshot, "a", "high", 200, "1");
        assert_eq!(remedy(&snapshot, json!({})).1, nominated("a", &["middle", "low"]));
        assert_eq!(
            remedy(&snapshot, json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]})).1,
            nominated("a", &["low"])
        );
    }

    #[test]
    fn the_node_with_the_least_important_victims_is_taken() {
        let mut snapshot = cluster(&[machine("a"), machine("b")]);
        running(&mut snapshot, "a", "important", 50, "4");
        running(&mut snapshot, "b", "unimportant", 2, "4");
        assert_eq!(remedy(&snapshot, json!({})).1, nominated("b", &["unimportant"]));
    }

    #[test]
    fn disruption_budgets_are_spared_where_possible() {
        let mut snapshot = cluster(&[machine("a"), machine("b")]);
        running(&mut snapshot, "a", "guarded", 1, "4");
        running(&mut snapshot, "b", "open", 2, "4");
        let selector = crate::model::labels::Selector::from_map(&[("app".to_owned(), "guarded".to_owned())].into());
        let budget =
            DisruptionBudget { namespace: "d".into(), selector, disruptions_allowed: 0, disrupted_pods: [].into() };
        snapshot.budgets.insert("d/budget".into(), budget);
        assert_eq!(remedy(&snapshot, json!({})).1, nominated("b", &["open"]));
    }

    #[test]
    fn message_tells_why_preemption_does_not_help() {
        let mut snapshot = cluster(&[
            machine("a"),
            machine("b"),
            json!({"metadata": {"name": "small"},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}}),
        ]);
        running(&mut snapshot, "a", "x", 500, "4");
        running(&mut snapshot, "b", "y", 500, "4");
        assert_eq!(
            remedy(&snapshot, json!({})).0,
            "0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: \
             1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
        );
        assert_eq!(
            remedy(&snapshot, json!({"preemptionPolicy": "Never"})).0,
            "0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
        );
    }
}
