//! What a Deployment should do now: which ReplicaSets to make, resize or delete, and what its status says.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::rolling::{self, Bounds};
use super::sets::{self, replicas};
use super::status::{self, Newest};
use crate::ownership::{controller_reference, name, uid};
use crate::template::{self, HASH_LABEL};

pub(super) struct View<'a> {
    pub deployment: &'a Deployment,
    pub spec: &'a DeploymentSpec,
    /// The ReplicaSets it controls.
    pub sets: &'a [Arc<ReplicaSet>],
    /// Whether pods of other sets than the one with this uid have not ended. Asked only in a Recreate rollout.
    pub old_pods_run: &'a dyn Fn(Option<&str>) -> bool,
    pub now: Time,
}

#[derive(Debug)]
pub(super) enum Step {
    Create(Box<ReplicaSet>),
    /// `scaled`: from, to.
    Update {
        set: Box<ReplicaSet>,
        scaled: Option<(i32, i32)>,
    },
    Delete(Arc<ReplicaSet>),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In order; the first that fails ends the plan.
    pub steps: Vec<Step>,
    /// None when it would not change.
    pub status: Option<DeploymentStatus>,
    /// The Deployment's new revision annotation.
    pub revision: Option<String>,
    pub requeue_seconds: Option<i64>,
}

/// Same view, same plan. Touches nothing.
pub(super) fn plan(view: &View) -> Plan {
    let mut rollout = Rollout::new(view);
    if view.deployment.metadata.deletion_timestamp.is_some() {
        rollout.count();
        return rollout.finish();
    }
    status::note_pause(&mut rollout.status, view.spec, &view.now);
    rollout.revise_newest();
    if view.spec.paused.unwrap_or(false) {
        rollout.resize();
        rollout.trim_history();
        rollout.count();
    } else if rollout.was_resized() {
        rollout.resize();
        rollout.count();
    } else if rollout.bounds.recreate {
        rollout.recreate();
        rollout.settle();
    } else {
        rollout.roll();
        rollout.settle();
    }
    rollout.finish()
}

/// A plan in the making. `newest` and `old` follow the steps taken so far; their statuses are as read.
struct Rollout<'a> {
    view: &'a View<'a>,
    bounds: Bounds,
    newest: Option<Arc<ReplicaSet>>,
    /// In order of creation.
    old: Vec<Arc<ReplicaSet>>,
    status: DeploymentStatus,
    plan: Plan,
}

impl<'a> Rollout<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let mut sorted = view.sets.to_vec();
        let order = |set: &ReplicaSet| (set.metadata.creation_timestamp.clone(), name(&set.metadata).to_owned());
        sorted.sort_by_key(|set| order(set));
        let same = |set: &Arc<ReplicaSet>| {
            sets::template(set).is_some_and(|one| template::equal_ignoring_hash(one, &view.spec.template))
        };
        // Of several sets with the same template the oldest is the newest revision, as upstream picks.
        let newest = sorted.iter().position(same).map(|index| sorted.remove(index));
        let status = view.deployment.status.clone().unwrap_or_default();
        Self { view, bounds: Bounds::of(view.spec), newest, old: sorted, status, plan: Plan::default() }
    }

    fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().chain(&self.newest).cloned().collect()
    }

    fn active(&self) -> Vec<Arc<ReplicaSet>> {
        self.all().into_iter().filter(|set| replicas(set) > 0).collect()
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| sets::revision(set)).max().unwrap_or(0) + 1
    }

    /// Brings annotations, revision and minReadySeconds of an existing newest set up to date, and the Deployment's revision.
    fn revise_newest(&mut self) {
        let Some(newest) = &self.newest else { return };
        let mut revised = newest.as_ref().clone();
        let annotated = sets::annotate_newest(self.view.deployment, &mut revised, self.next_revision());
        let min_ready = self.view.spec.min_ready_seconds.filter(|seconds| *seconds != 0);
        let spec = revised.spec.get_or_insert_default();
        let differs = spec.min_ready_seconds.filter(|seconds| *seconds != 0) != min_ready;
        spec.min_ready_seconds = min_ready;
        if annotated || differs {
            self.update(revised, None);
        }
        let Some(newest) = &self.newest else { return };
        let (revision, set_name) = (sets::revision(newest), name(&newest.metadata).to_owned());
        self.set_revision(revision);
        status::note_newest(&mut self.status, self.view.spec, Newest::Found(&set_name), &self.view.now);
    }

    fn set_revision(&mut self, revision: i64) {
        let revision = revision.to_string();
        let annotations = self.view.deployment.metadata.annotations.as_ref();
        if annotations.and_then(|annotations| annotations.get(sets::REVISION)) != Some(&revision) {
            self.plan.revision = Some(revision);
        }
    }

    fn create_newest(&mut self) {
        let revision = self.next_revision();
        let total: i32 = self.old.iter().map(|set| replicas(set)).sum();
        let size = rolling::newest_size(&self.bounds, 0, total);
        let mut created = new_set(self.view, size);
        sets::annotate_newest(self.view.deployment, &mut created, revision);
        sets::note_size(&mut created, self.bounds.replicas, self.bounds.max_total());
        status::note_newest(&mut self.status, self.view.spec, Newest::Created(name(&created.metadata)), &self.view.now);
        self.set_revision(revision);
        self.plan.steps.push(Step::Create(Box::new(created.clone())));
        self.newest = Some(Arc::new(created));
    }

    /// Whether the Deployment's size is not the one its active sets were made for.
    fn was_resized(&self) -> bool {
        let differs =
            |set: &Arc<ReplicaSet>| sets::desired_replicas(set).is_some_and(|desired| desired != self.bounds.replicas);
        self.active().iter().any(differs)
    }

    /// Sizes without a rollout: the only active set (or the latest) takes all; a finished rollout empties the old ones; else each
    /// active set gets its share.
    fn resize(&mut self) {
        let active = self.active();
        let only = match active.as_slice() {
            [] => self.newest.clone().or_else(|| self.old.last().cloned()),
            [one] => Some(one.clone()),
            _ => None,
        };
        if let Some(only) = only {
            return self.scale(&only, self.bounds.replicas);
        }
        let saturated = |set: &Arc<ReplicaSet>| {
            let all = self.bounds.replicas;
            replicas(set) == all && sets::desired_replicas(set) == Some(all) && sets::available(set) == all
        };
        if self.newest.as_ref().is_some_and(saturated) {
            for set in self.old.clone().iter().filter(|set| replicas(set) > 0) {
                self.scale(set, 0);
            }
        } else if !self.bounds.recreate {
            for (set, size) in rolling::proportional(&self.bounds, &active, self.status.replicas.unwrap_or(0)) {
                self.scale(&set, size);
            }
        }
    }

    fn roll(&mut self) {
        if self.newest.is_none() {
            self.create_newest();
        }
        let Some(newest) = self.newest.clone() else { return };
        let total: i32 = self.all().iter().map(|set| replicas(set)).sum();
        let size = rolling::newest_size(&self.bounds, replicas(&newest), total);
        if size != replicas(&newest) {
            return self.scale(&newest, size);
        }
        for (set, size) in rolling::shrink_old(&self.bounds, &self.old, Some(&newest)) {
            self.scale(&set, size);
        }
    }

    fn recreate(&mut self) {
        let old: Vec<_> = self.old.iter().filter(|set| replicas(set) > 0).cloned().collect();
        for set in &old {
            self.scale(set, 0);
        }
        let newest = self.newest.as_ref().map(|set| uid(&set.metadata));
        if !old.is_empty() || (self.view.old_pods_run)(newest) {
            return;
        }
        match self.newest.clone() {
            None => self.create_newest(),
            Some(newest) => self.scale(&newest, self.bounds.replicas),
        }
    }

    /// The end of a pass of a rollout: status with progress, and history when it is over.
    fn settle(&mut self) {
        self.count();
        let newest = self.newest.clone();
        let (view, all) = (self.view, self.all());
        status::note_progress(view.deployment, view.spec, &mut self.status, &all, newest.as_deref(), &view.now);
        if self.plan.steps.is_empty() && status::is_complete(view.deployment, view.spec, &self.status) {
            self.trim_history();
        }
        self.plan.requeue_seconds = status::seconds_to_deadline(view.deployment, view.spec, &self.status, &view.now);
    }

    fn count(&mut self) {
        let status = std::mem::take(&mut self.status);
        let newest = self.newest.clone();
        self.status =
            status::count(self.view.deployment, status, &self.all(), newest.as_deref(), &self.bounds, &self.view.now);
    }

    /// Deletes the oldest revisions beyond the limit that are empty and settled.
    fn trim_history(&mut self) {
        let Some(limit) = self.view.spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut by_revision = self.old.clone();
        by_revision.retain(|set| set.metadata.deletion_timestamp.is_none());
        by_revision.sort_by_key(|set| sets::revision(set));
        let n_beyond = by_revision.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for set in by_revision.into_iter().take(n_beyond) {
            let status = set.status.clone().unwrap_or_default();
            let settled = status.observed_generation >= set.metadata.generation;
            if status.replicas == 0 && replicas(&set) == 0 && settled {
                self.plan.steps.push(Step::Delete(set));
            }
        }
    }

    /// Resizes a set and notes the Deployment's size on it; a step only when either changes.
    fn scale(&mut self, set: &Arc<ReplicaSet>, size: i32) {
        let mut scaled = set.as_ref().clone();
        let noted = sets::note_size(&mut scaled, self.bounds.replicas, self.bounds.max_total());
        let from = replicas(set);
        scaled.spec.get_or_insert_default().replicas = Some(size);
        if noted || from != size {
            self.update(scaled, (from != size).then_some((from, size)));
        }
    }

    /// Puts a changed set in its place. A set changed twice in one plan, or just created, is written once.
    fn update(&mut self, set: ReplicaSet, scaled: Option<(i32, i32)>) {
        let set_name = name(&set.metadata).to_owned();
        let changed = Arc::new(set.clone());
        for place in self.old.iter_mut().chain(&mut self.newest) {
            if name(&place.metadata) == set_name {
                *place = changed.clone();
            }
        }
        for step in &mut self.plan.steps {
            match step {
                Step::Create(created) if name(&created.metadata) == set_name => {
                    **created = set;
                    return;
                }
                Step::Update { set: earlier, scaled: earlier_scaled } if name(&earlier.metadata) == set_name => {
                    **earlier = set;
                    *earlier_scaled = match (*earlier_scaled, scaled) {
                        (Some((from, _)), Some((_, to))) => Some((from, to)),
                        (earlier, later) => later.or(earlier),
                    };
                    return;
                }
                _ => {}
            }
        }
        self.plan.steps.push(Step::Update { set: Box::new(set), scaled });
    }

    fn finish(mut self) -> Plan {
        let old = self.view.deployment.status.clone().unwrap_or_default();
        self.plan.status = (self.status != old).then_some(self.status);
        self.plan
    }
}

fn new_set(view: &View, size: i32) -> ReplicaSet {
    let deployment = view.deployment;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template::hash(&view.spec.template, collisions);
    let mut template = view.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = view.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: view.spec.min_ready_seconds.filter(|seconds| *seconds != 0),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock;

    fn deployment(replicas: i32, image: &str, more: Value) -> Deployment {
        let mut object = json!({
            "metadata": { "name": "web", "namespace": "n", "uid": "d", "generation": 1 },
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
                "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": image }] } },
            },
        });
        for (key, value) in more.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    /// A set made by `deployment` for its present template, with so many pods, so many of them available.
    fn set_of(deployment: &Deployment, revision: i64, replicas: i32, available: i32) -> Arc<ReplicaSet> {
        let spec = deployment.spec.as_ref().unwrap();
        let never = |_: Option<&str>| false;
        let view = View { deployment, spec, sets: &[], old_pods_run: &never, now: clock::now() };
        let mut set = new_set(&view, replicas);
        sets::annotate_newest(deployment, &mut set, revision);
        let bounds = Bounds::of(spec);
        sets::note_size(&mut set, bounds.replicas, bounds.max_total());
        set.metadata.uid = Some(format!("set-{revision}"));
        set.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(1_700_000_000 + revision).unwrap()));
        let status = json!({ "replicas": replicas, "readyReplicas": available, "availableReplicas": available });
        set.status = serde_json::from_value(status).unwrap();
        Arc::new(set)
    }

    fn planned(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Plan {
        let none_run = |_: Option<&str>| false;
        let spec = deployment.spec.as_ref().unwrap();
        plan(&View { deployment, spec, sets, old_pods_run: &none_run, now: clock::now() })
    }

    /// Steps as words: `create 1`, `<revision>: 2 -> 3`, `delete <revision>`.
    fn steps(plan: &Plan) -> Vec<String> {
        let word = |step: &Step| match step {
            Step::Create(set) => format!("create {}", replicas(set)),
            Step::Update { set, scaled: Some((from, to)) } => format!("{}: {from} -> {to}", sets::revision(set)),
            Step::Update { set, scaled: None } => format!("{}: annotate", sets::revision(set)),
            Step::Delete(set) => format!("delete {}", sets::revision(set)),
        };
        plan.steps.iter().map(word).collect()
    }

    fn conditions(plan: &Plan) -> Vec<(String, String, String)> {
        let conditions = plan.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.map(|one| (one.type_.clone(), one.status.clone(), one.reason.clone().unwrap_or_default())).collect()
    }

    fn row(type_: &str, status: &str, reason: &str) -> (String, String, String) {
        (type_.to_owned(), status.to_owned(), reason.to_owned())
    }

    #[test]
    fn a_new_deployment_creates_its_first_set_at_full_size() {
        let deployment = deployment(3, "v1", json!({}));
        let plan = planned(&deployment, &[]);
        assert_eq!(steps(&plan), ["create 3"]);
        assert_eq!(plan.revision.as_deref(), Some("1"));
        let expected = [
            row("Progressing", "True", "NewReplicaSetCreated"),
            row("Available", "False", "MinimumReplicasUnavailable"),
        ];
        assert_eq!(conditions(&plan), expected);
        let Step::Create(set) = &plan.steps[0] else { panic!("not a create") };
        let annotations = set.metadata.annotations.clone().unwrap();
        assert_eq!(annotations["deployment.kubernetes.io/desired-replicas"], "3");
        assert_eq!(annotations["deployment.kubernetes.io/max-replicas"], "4");
        assert_eq!(annotations["deployment.kubernetes.io/revision"], "1");
    }

    #[test]
    fn a_new_template_rolls_one_surge_pod_at_a_time() {
        let (before, after) = (deployment(3, "v1", json!({})), deployment(3, "v2", json!({})));
        let old = set_of(&before, 1, 3, 3);
        assert_eq!(steps(&planned(&after, std::slice::from_ref(&old))), ["create 1"]);
        let waiting = planned(&after, &[old.clone(), set_of(&after, 2, 1, 0)]);
        assert_eq!(steps(&waiting), Vec::<String>::new());
        let available = planned(&after, &[old, set_of(&after, 2, 1, 1)]);
        assert_eq!(steps(&available), ["1: 3 -> 2"]);
    }

    #[test]
    fn a_finished_rollout_says_so_and_trims_its_history() {
        let versions: Vec<Deployment> =
            ["v1", "v2", "v3"].iter().map(|image| deployment(2, image, json!({}))).collect();
        let sets = [set_of(&versions[0], 1, 0, 0), set_of(&versions[1], 2, 0, 0), set_of(&versions[2], 3, 2, 2)];
        let plan = planned(&versions[2], &sets);
        assert_eq!(steps(&plan), ["delete 1"]);
        let expected = [
            row("Available", "True", "MinimumReplicasAvailable"),
            row("Progressing", "True", "NewReplicaSetAvailable"),
        ];
        assert_eq!(conditions(&plan), expected);
        assert_eq!(plan.requeue_seconds, None);
    }

    #[test]
    fn going_back_to_an_old_template_gives_its_set_a_new_revision() {
        let (first, second) = (deployment(2, "v1", json!({})), deployment(2, "v2", json!({})));
        let plan = planned(&first, &[set_of(&first, 1, 0, 0), set_of(&second, 2, 2, 2)]);
        assert_eq!(steps(&plan), ["3: 0 -> 1"]);
        assert_eq!(plan.revision.as_deref(), Some("3"));
        let Step::Update { set, .. } = &plan.steps[0] else { panic!("not an update") };
        assert_eq!(set.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision-history"], "1");
    }

    #[test]
    fn recreate_empties_the_old_set_before_making_the_new_one() {
        let recreate = json!({ "strategy": { "type": "Recreate" } });
        let (before, after) = (deployment(2, "v1", recreate.clone()), deployment(2, "v2", recreate));
        assert_eq!(steps(&planned(&after, &[set_of(&before, 1, 2, 2)])), ["1: 2 -> 0"]);
        let empty = [set_of(&before, 1, 0, 0)];
        let (spec, still_run) = (after.spec.as_ref().unwrap(), |_: Option<&str>| true);
        let view = View { deployment: &after, spec, sets: &empty, old_pods_run: &still_run, now: clock::now() };
        assert_eq!(steps(&plan(&view)), Vec::<String>::new());
        assert_eq!(steps(&planned(&after, &empty)), ["create 2"]);
    }

    #[test]
    fn a_paused_deployment_resizes_but_does_not_roll() {
        let before = deployment(2, "v1", json!({}));
        let paused = deployment(5, "v2", json!({ "paused": true }));
        let plan = planned(&paused, &[set_of(&before, 1, 2, 2)]);
        assert_eq!(steps(&plan), ["1: 2 -> 5"]);
        assert!(conditions(&plan).contains(&row("Progressing", "Unknown", "DeploymentPaused")));
    }

    #[test]
    fn a_resize_changes_the_set_and_its_notes_in_one_write() {
        let (before, after) = (deployment(2, "v1", json!({})), deployment(4, "v1", json!({})));
        let plan = planned(&after, &[set_of(&before, 1, 2, 2)]);
        assert_eq!(steps(&plan), ["1: 2 -> 4"]);
        let Step::Update { set, .. } = &plan.steps[0] else { panic!("not an update") };
        assert_eq!(set.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/desired-replicas"], "4");
    }

    #[test]
    fn a_rollout_without_progress_times_out_after_its_deadline() {
        let mut deployment = deployment(1, "v1", json!({ "progressDeadlineSeconds": 10 }));
        let set = set_of(&deployment, 1, 1, 0);
        let first = planned(&deployment, std::slice::from_ref(&set));
        assert_eq!(first.requeue_seconds, Some(11));
        deployment.status = first.status;
        for condition in deployment.status.as_mut().unwrap().conditions.iter_mut().flatten() {
            condition.last_update_time = Some(Time(jiff::Timestamp::from_second(1_700_000_000).unwrap()));
        }
        let late = planned(&deployment, &[set]);
        assert!(conditions(&late).contains(&row("Progressing", "False", "ProgressDeadlineExceeded")));
        assert_eq!(late.requeue_seconds, None);
    }
}
