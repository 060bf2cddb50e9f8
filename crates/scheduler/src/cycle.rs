//! One scheduling cycle: a pod and the cluster in, a node or the reasons why none fits out. Pure; order of nodes and
//! randomness are arguments.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{Rng, RngCore};

use crate::framework::{Code, CycleState, Narrowed, PostFilterInput, PostFilterResult, Scoring, Status, Undo};
use crate::model::{NodeInfo, PodInfo};
use crate::nominator::Nominator;
use crate::profile::Profile;
use crate::snapshot::Snapshot;

/// Clusters smaller than this are searched in full.
const MIN_FEASIBLE_NODES: usize = 100;
/// The adaptive percentage never falls below this.
const MIN_FEASIBLE_PERCENTAGE: usize = 5;

/// Everything a cycle reads, and the two things it moves on: where the next search starts, and the dice.
pub struct Cycle<'a> {
    pub profile: &'a Profile,
    pub snapshot: &'a Snapshot,
    pub nominator: &'a Nominator,
    pub start_index: &'a mut usize,
    pub rng: &'a mut dyn RngCore,
}

/// A node was found.
pub struct Decision {
    pub node: Arc<str>,
    pub evaluated_nodes: usize,
    pub feasible_nodes: usize,
    pub state: CycleState,
}

/// No node was found.
#[derive(Debug)]
pub enum ScheduleError {
    /// The cluster has no nodes at all.
    NoNodes,
    /// Every node was refused; what to do about it, when anything can be done.
    Unfit { diagnosis: Box<Diagnosis>, remedy: PostFilterResult },
    /// A plugin failed.
    Plugin(Status),
}

/// Why nodes were refused.
#[derive(Debug, Default)]
pub struct Diagnosis {
    pub all_nodes: usize,
    /// Verdict per refused node, in order of search.
    pub refused: Vec<(Arc<str>, Status)>,
    /// The verdict for nodes that were not searched because a plugin narrowed the choice.
    pub not_searched: Option<Status>,
    /// Set when the pod was refused before any node was looked at.
    pub pre_filter_message: String,
    pub post_filter_message: String,
    /// A claim of the pod, and what of it is to be taken back.
    pub take_back: Option<(String, Undo)>,
    /// Plugins that refused anything; their events bring the pod back.
    pub plugins: BTreeSet<&'static str>,
    /// Plugins that wait for something outside the scheduler.
    pub pending_plugins: BTreeSet<&'static str>,
}

impl Diagnosis {
    /// The message users see, in upstream's words.
    pub fn message(&self) -> String {
        let mut message = format!("0/{} nodes are available:", self.all_nodes);
        if self.pre_filter_message.is_empty() {
            let reasons = self.histogram();
            if !reasons.is_empty() {
                message.push_str(&format!(" {}.", reasons.join(", ")));
            }
        } else {
            message.push_str(&format!(" {}.", self.pre_filter_message));
        }
        if !self.post_filter_message.is_empty() {
            message.push_str(&format!(" {}", self.post_filter_message));
        }
        message
    }

    /// `COUNT REASON` per reason, sorted as text.
    fn histogram(&self) -> Vec<String> {
        let mut counts: BTreeMap<&Cow<'static, str>, usize> = BTreeMap::new();
        for (_, status) in &self.refused {
            for reason in status.reasons.as_slice() {
                *counts.entry(reason).or_default() += 1;
            }
        }
        let absent = self.all_nodes.saturating_sub(self.refused.len());
        if let Some(status) = self.not_searched.as_ref().filter(|_| absent > 0) {
            for reason in status.reasons.as_slice() {
                *counts.entry(reason).or_default() += absent;
            }
        }
        let mut lines: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        lines.sort();
        lines
    }

    fn blame(&mut self, status: &Status) {
        if status.code == Code::Pending {
            self.pending_plugins.insert(status.plugin);
        } else {
            self.plugins.insert(status.plugin);
        }
    }
}

/// How many feasible nodes to find before scoring, for a cluster of `nodes` nodes.
pub fn feasible_nodes_to_find(percentage: u32, nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE_NODES {
        return nodes;
    }
    let percentage = match usize::try_from(percentage) {
        Ok(0) | Err(_) => 50usize.saturating_sub(nodes / 125).max(MIN_FEASIBLE_PERCENTAGE),
        Ok(given) => given.min(100),
    };
    (nodes * percentage / 100).max(MIN_FEASIBLE_NODES)
}

impl<'a> Cycle<'a> {
    /// Finds the best node for a pod.
    pub fn run(&mut self, pod: &PodInfo) -> Result<Decision, ScheduleError> {
        if self.snapshot.is_empty() {
            return Err(ScheduleError::NoNodes);
        }
        let mut state = CycleState::default();
        let mut diagnosis = Diagnosis { all_nodes: self.snapshot.len(), ..Diagnosis::default() };
        let narrowed = match self.pre_filter(&mut state, pod, &mut diagnosis)? {
            Some(narrowed) => narrowed,
            None => return Err(self.unfit(&state, pod, diagnosis)),
        };
        let feasible = self.find_feasible(&state, pod, narrowed.as_ref(), &mut diagnosis)?;
        if feasible.is_empty() {
            return Err(self.unfit(&state, pod, diagnosis));
        }
        let evaluated_nodes = feasible.len() + diagnosis.refused.len();
        let node = match feasible.as_slice() {
            [only] => only.name().clone(),
            nodes => self.pick(&mut state, pod, nodes).name().clone(),
        };
        Ok(Decision { node, evaluated_nodes, feasible_nodes: feasible.len(), state })
    }

    fn unfit(&mut self, state: &CycleState, pod: &PodInfo, mut diagnosis: Diagnosis) -> ScheduleError {
        let mut remedy = PostFilterResult::Unhelpful { message: String::new() };
        let mut messages = Vec::new();
        let mut take_back = None;
        for slot in &self.profile.points.post_filter {
            let input = PostFilterInput {
                profile: self.profile,
                snapshot: self.snapshot,
                nominator: self.nominator,
                state,
                pod,
                diagnosis: &diagnosis,
                rng: self.rng,
            };
            match slot.plugin.post_filter(input) {
                PostFilterResult::Unhelpful { message } => messages.push(message),
                PostFilterResult::NotNow { message } => {
                    remedy = PostFilterResult::NotNow { message: message.clone() };
                    messages.push(message);
                }
                PostFilterResult::Broken { message } => {
                    remedy = PostFilterResult::Broken { message: message.clone() };
                    messages = vec![message];
                    break;
                }
                PostFilterResult::TakeBack { claim, undo, message } => {
                    take_back = Some((claim, undo));
                    messages.push(message);
                }
                nominated @ PostFilterResult::Nominated { .. } => {
                    remedy = nominated;
                    messages.clear();
                    break;
                }
            }
        }
        diagnosis.take_back = take_back;
        messages.retain(|message| !message.is_empty());
        diagnosis.post_filter_message = messages.join(", ");
        ScheduleError::Unfit { diagnosis: Box::new(diagnosis), remedy }
    }

    /// Runs the PreFilter plugins. `Ok(Some(names))` limits the search to `names` when given; `Ok(None)` means refused.
    #[allow(clippy::type_complexity)]
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        diagnosis: &mut Diagnosis,
    ) -> Result<Option<Option<BTreeSet<String>>>, ScheduleError> {
        let mut names: Option<BTreeSet<String>> = None;
        let mut narrowing: BTreeSet<&'static str> = BTreeSet::new();
        for slot in &self.profile.points.pre_filter {
            let name = slot.plugin.name();
            match slot.plugin.pre_filter(state, pod, self.snapshot) {
                Ok(Narrowed::No) => {}
                Ok(Narrowed::Skip) => state.skip_filter |= slot.bit(),
                Ok(Narrowed::To(only)) => {
                    narrowing.insert(name);
                    let merged = names.map_or(only.clone(), |names| names.intersection(&only).cloned().collect());
                    if merged.is_empty() {
                        let status = Status::unresolvable(name, unsatisfiable(&narrowing));
                        refuse_everywhere(diagnosis, status);
                        return Ok(None);
                    }
                    names = Some(merged);
                }
                Err(status) if status.code == Code::Error => {
                    let reason = format!("running PreFilter plugin {name:?}: {}", status.message());
                    return Err(ScheduleError::Plugin(Status::error(name, reason)));
                }
                Err(status) => {
                    refuse_everywhere(diagnosis, status);
                    return Ok(None);
                }
            }
        }
        if !narrowing.is_empty() {
            let list = narrowing.iter().copied().collect::<Vec<_>>().join(" ");
            diagnosis.not_searched =
                Some(Status::unresolvable("", format!("node(s) didn't satisfy plugin(s) [{list}]")));
            diagnosis.plugins.extend(narrowing);
        }
        Ok(Some(names))
    }

    fn find_feasible(
        &mut self,
        state: &CycleState,
        pod: &PodInfo,
        only: Option<&BTreeSet<String>>,
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<&'a NodeInfo>, ScheduleError> {
        let snapshot = self.snapshot;
        if let Some(node) = pod.nominated_node.as_deref().and_then(|name| snapshot.node(name)) {
            let allowed = only.is_none_or(|names| names.contains(&**node.name()));
            if allowed && filter_with_nominated(self.profile, self.nominator, snapshot, state, pod, node).is_ok() {
                return Ok(vec![node]);
            }
        }
        let chosen: Option<Vec<&NodeInfo>> = only.map(|names| names.iter().filter_map(|n| snapshot.node(n)).collect());
        let total = chosen.as_ref().map_or(snapshot.len(), Vec::len);
        let wanted = feasible_nodes_to_find(self.profile.percentage_of_nodes_to_score, total);
        let mut feasible = Vec::with_capacity(wanted);
        let mut processed = 0;
        while processed < total && feasible.len() < wanted {
            let index = (*self.start_index + processed) % total;
            let node = chosen.as_ref().map_or_else(|| snapshot.at(index), |nodes| nodes[index]);
            processed += 1;
            match filter_with_nominated(self.profile, self.nominator, snapshot, state, pod, node) {
                Ok(()) => feasible.push(node),
                Err(status) if status.code == Code::Error => {
                    let reason = format!("running {:?} filter plugin: {}", status.plugin, status.message());
                    return Err(ScheduleError::Plugin(Status::error(status.plugin, reason)));
                }
                Err(status) => {
                    diagnosis.blame(&status);
                    diagnosis.refused.push((node.name().clone(), status));
                }
            }
        }
        *self.start_index = (*self.start_index + processed) % snapshot.len();
        Ok(feasible)
    }

    /// Scores the nodes and picks a best one; ties are decided by the dice.
    fn pick<'n>(&mut self, state: &mut CycleState, pod: &PodInfo, nodes: &[&'n NodeInfo]) -> &'n NodeInfo {
        let totals = score_nodes(self.profile, self.snapshot, state, pod, nodes);
        let best = totals.iter().copied().max().unwrap_or(0);
        let mut chosen = 0;
        let ties = totals.iter().enumerate().filter(|(_, total)| **total == best);
        for (seen, (index, _)) in ties.enumerate() {
            if self.rng.random_range(0..=seen) == 0 {
                chosen = index;
            }
        }
        nodes[chosen]
    }
}

/// The weighted sum of all scores per node.
pub fn score_nodes(
    profile: &Profile,
    snapshot: &Snapshot,
    state: &mut CycleState,
    pod: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    for slot in &profile.points.pre_score {
        if slot.plugin.pre_score(state, pod, snapshot, nodes) == Scoring::Skip {
            state.skip_score |= slot.bit();
        }
    }
    let mut totals = vec![0i64; nodes.len()];
    let mut scores = vec![0i64; nodes.len()];
    for slot in profile.points.score.iter().filter(|slot| state.skip_score & slot.bit() == 0) {
        for (score, node) in scores.iter_mut().zip(nodes) {
            *score = slot.plugin.score(state, pod, snapshot, node);
        }
        slot.plugin.normalize(state, nodes, &mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * slot.weight;
        }
    }
    totals
}

fn unsatisfiable(plugins: &BTreeSet<&'static str>) -> String {
    let list = plugins.iter().copied().collect::<Vec<_>>().join(" ");
    match plugins.len() {
        1 => format!("node(s) didn't satisfy plugin {list}"),
        _ => format!("node(s) didn't satisfy plugin(s) [{list}] simultaneously"),
    }
}

fn refuse_everywhere(diagnosis: &mut Diagnosis, status: Status) {
    diagnosis.blame(&status);
    diagnosis.pre_filter_message = status.message();
    diagnosis.not_searched = Some(status);
}

/// Runs the filters, first as if the more important pods promised to this node were already there.
pub fn filter_with_nominated(
    profile: &Profile,
    nominator: &Nominator,
    snapshot: &Snapshot,
    state: &CycleState,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Result<(), Status> {
    if !nominator.is_empty() {
        let promised: Vec<_> = nominator
            .on_node(node.name())
            .iter()
            .filter(|other| other.uid != pod.uid && other.priority >= pod.priority)
            .collect();
        if !promised.is_empty() {
            let (mut state, mut crowded) = (state.clone(), node.clone());
            for other in promised {
                crowded.add_pod(other.clone());
                pretend_added(profile, snapshot, &mut state, pod, other, &crowded);
            }
            run_filters(profile, &state, pod, &crowded)?;
        }
    }
    run_filters(profile, state, pod, node)
}

/// Runs every filter until one refuses.
fn run_filters(profile: &Profile, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
    for slot in &profile.points.filter {
        if state.skip_filter & slot.bit() == 0 {
            slot.plugin.filter(state, pod, node)?;
        }
    }
    Ok(())
}

/// Tells the PreFilter plugins that `added` were on `node`.
pub fn pretend_added(
    profile: &Profile,
    snapshot: &Snapshot,
    state: &mut CycleState,
    pod: &PodInfo,
    added: &PodInfo,
    node: &NodeInfo,
) {
    for slot in &profile.points.pre_filter {
        if state.skip_filter & slot.bit() == 0 {
            slot.plugin.add_pod(state, pod, added, node, snapshot);
        }
    }
}

/// Tells the PreFilter plugins that `removed` were no longer on `node`.
pub fn pretend_removed(
    profile: &Profile,
    snapshot: &Snapshot,
    state: &mut CycleState,
    pod: &PodInfo,
    removed: &PodInfo,
    node: &NodeInfo,
) {
    for slot in &profile.points.pre_filter {
        if state.skip_filter & slot.bit() == 0 {
            slot.plugin.remove_pod(state, pod, removed, node, snapshot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ProfileConfig;
    use crate::testing::{cluster, pod};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use serde_json::{Value, json};

    fn schedule(snapshot: &Snapshot, pod: &PodInfo) -> Result<Decision, ScheduleError> {
        let profile = Profile::new(&ProfileConfig::default()).unwrap();
        Cycle {
            profile: &profile,
            snapshot,
            nominator: &Nominator::default(),
            start_index: &mut 0,
            rng: &mut SmallRng::seed_from_u64(7),
        }
        .run(pod)
    }

    fn failure(snapshot: &Snapshot, pod: &PodInfo) -> String {
        match schedule(snapshot, pod) {
            Err(ScheduleError::Unfit { mut diagnosis, .. }) => {
                diagnosis.post_filter_message.clear();
                diagnosis.message()
            }
            Err(other) => panic!("{other:?}"),
            Ok(decision) => panic!("scheduled to {}", decision.node),
        }
    }

    fn machine(name: &str, cpu: &str, extra: Value) -> Value {
        let mut object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}});
        object.as_object_mut().unwrap().insert("spec".into(), extra);
        object
    }

    fn wish(spec: Value) -> Arc<PodInfo> {
        let mut object = json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
        let target = object["spec"].as_object_mut().unwrap();
        for (key, value) in spec.as_object().unwrap() {
            target.insert(key.clone(), value.clone());
        }
        pod(object)
    }

    #[test]
    fn sampling_follows_the_size_of_the_cluster() {
        for (percentage, nodes, expected) in [
            (0, 50, 50),
            (0, 99, 99),
            (0, 100, 100),
            (0, 1000, 420),
            (0, 6000, 300),
            (0, 10_000, 500),
            (40, 1000, 400),
            (1, 1000, 100),
            (100, 1000, 1000),
        ] {
            assert_eq!(feasible_nodes_to_find(percentage, nodes), expected, "{percentage}% of {nodes}");
        }
    }

    #[test]
    fn refusals_are_counted_and_sorted_as_text() {
        let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let snapshot = cluster(&[
            machine("a", "1", json!({})),
            machine("b", "1", json!({})),
            machine("c", "8", tainted.clone()),
            machine("d", "8", tainted.clone()),
            machine("e", "8", tainted),
        ]);
        assert_eq!(
            failure(&snapshot, &wish(json!({}))),
            "0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint(s)."
        );
    }

    #[test]
    fn narrowed_search_counts_the_nodes_it_did_not_look_at() {
        let snapshot =
            cluster(&[machine("a", "1", json!({})), machine("b", "8", json!({})), machine("c", "8", json!({}))]);
        let pinned = wish(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}}));
        assert_eq!(
            failure(&snapshot, &pinned),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
    }

    #[test]
    fn contradicting_node_names_are_told_before_any_node_is_looked_at() {
        let snapshot = cluster(&[machine("a", "8", json!({}))]);
        let torn = wish(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]},
                {"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}}));
        assert_eq!(failure(&snapshot, &torn), "0/1 nodes are available: pod affinity terms conflict.");
    }

    #[test]
    fn the_emptiest_node_wins() {
        let mut snapshot = cluster(&[machine("a", "8", json!({})), machine("b", "8", json!({}))]);
        snapshot.add_pod(
            "a",
            pod(json!({"metadata": {"name": "x", "uid": "x"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "3", "memory": "3Gi"}}}]}})),
        );
        assert_eq!(&*schedule(&snapshot, &wish(json!({}))).ok().unwrap().node, "b");
    }

    #[test]
    fn room_is_kept_for_more_important_nominated_pods() {
        let snapshot = cluster(&[machine("a", "3", json!({}))]);
        let profile = Profile::new(&ProfileConfig::default()).unwrap();
        let mut nominator = Nominator::default();
        nominator.put(
            pod(json!({"metadata": {"name": "vip", "uid": "vip"}, "spec": {"priority": 10, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "2"}}}]}})),
            "a",
        );
        let pod = wish(json!({}));
        let status =
            filter_with_nominated(&profile, &nominator, &snapshot, &CycleState::default(), &pod, snapshot.at(0))
                .unwrap_err();
        assert_eq!(status.message(), "Insufficient cpu");
        let important = wish(json!({"priority": 20}));
        let fits =
            filter_with_nominated(&profile, &nominator, &snapshot, &CycleState::default(), &important, snapshot.at(0));
        assert_eq!(fits, Ok(()));
    }

    #[test]
    fn an_empty_cluster_is_told_apart() {
        assert!(matches!(schedule(&Snapshot::default(), &wish(json!({}))), Err(ScheduleError::NoNodes)));
    }
}
