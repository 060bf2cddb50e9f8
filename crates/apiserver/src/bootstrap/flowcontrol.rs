//! Priority and fairness: the mandatory and suggested PriorityLevelConfigurations and FlowSchemas.
//!
//! The spec of a mandatory object is always restored. The spec of a suggested one is restored while its annotation
//! `apf.kubernetes.io/autoupdate-spec` is `true`, or absent on an object nobody ever changed.

use api::Value;
use api::json;

use super::Change;
use crate::source::ObjectSource;

pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

struct Level {
    name: &'static str,
    mandatory: bool,
    shares: u32,
    lendable_percent: u32,
    response: Response,
}

enum Response {
    /// Never limited.
    Exempt,
    Reject,
    /// Queues, hand size, queue length.
    Queue(u32, u32, u32),
}

const fn level(name: &'static str, shares: u32, lendable_percent: u32, queues: u32, hand: u32) -> Level {
    Level { name, mandatory: false, shares, lendable_percent, response: Response::Queue(queues, hand, 50) }
}

const LEVELS: &[Level] = &[
    Level { name: "exempt", mandatory: true, shares: 0, lendable_percent: 0, response: Response::Exempt },
    Level { name: "catch-all", mandatory: true, shares: 5, lendable_percent: 0, response: Response::Reject },
    level("system", 30, 33, 64, 6),
    level("node-high", 40, 25, 64, 6),
    level("leader-election", 10, 0, 16, 4),
    level("workload-high", 40, 50, 128, 6),
    level("workload-low", 100, 90, 128, 6),
    level("global-default", 20, 50, 128, 6),
];

struct Schema {
    name: &'static str,
    mandatory: bool,
    level: &'static str,
    precedence: u32,
    distinguisher: Option<&'static str>,
    subjects: &'static [Subject],
    resources: &'static [Resources],
    urls: Option<Urls>,
}

enum Subject {
    User(&'static str),
    Group(&'static str),
    /// Every service account of a namespace.
    ServiceAccounts(&'static str),
}

/// Verbs, API groups, resources, and whether cluster-scoped objects are meant.
struct Resources(&'static [&'static str], &'static str, &'static [&'static str], bool);

/// Verbs and paths.
struct Urls(&'static [&'static str], &'static [&'static str]);

const STAR: &[&str] = &["*"];
const EVERYTHING: &[Resources] = &[Resources(STAR, "*", STAR, true)];
const ANY_URL: Option<Urls> = Some(Urls(STAR, STAR));
const EVERYBODY: &[Subject] = &[Subject::Group("system:unauthenticated"), Subject::Group("system:authenticated")];

const SCHEMAS: &[Schema] = &[
    Schema {
        name: "exempt",
        mandatory: true,
        level: "exempt",
        precedence: 1,
        distinguisher: None,
        subjects: &[Subject::Group("system:masters")],
        resources: EVERYTHING,
        urls: ANY_URL,
    },
    Schema {
        name: "probes",
        mandatory: false,
        level: "exempt",
        precedence: 2,
        distinguisher: None,
        subjects: EVERYBODY,
        resources: &[],
        urls: Some(Urls(&["get"], &["/healthz", "/readyz", "/livez"])),
    },
    Schema {
        name: "system-leader-election",
        mandatory: false,
        level: "leader-election",
        precedence: 100,
        distinguisher: Some("ByUser"),
        subjects: &[
            Subject::User("system:kube-controller-manager"),
            Subject::User("system:kube-scheduler"),
            Subject::ServiceAccounts("kube-system"),
        ],
        resources: &[Resources(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false)],
        urls: None,
    },
    Schema {
        name: "system-node-high",
        mandatory: false,
        level: "node-high",
        precedence: 400,
        distinguisher: Some("ByUser"),
        subjects: &[Subject::Group("system:nodes")],
        resources: &[
            Resources(STAR, "", &["nodes", "nodes/status"], true),
            Resources(STAR, "coordination.k8s.io", &["leases"], false),
        ],
        urls: None,
    },
    Schema {
        name: "system-nodes",
        mandatory: false,
        level: "system",
        precedence: 500,
        distinguisher: Some("ByUser"),
        subjects: &[Subject::Group("system:nodes")],
        resources: EVERYTHING,
        urls: ANY_URL,
    },
    Schema {
        name: "kube-controller-manager",
        mandatory: false,
        level: "workload-high",
        precedence: 800,
        distinguisher: Some("ByNamespace"),
        subjects: &[Subject::User("system:kube-controller-manager")],
        resources: EVERYTHING,
        urls: ANY_URL,
    },
    Schema {
        name: "kube-scheduler",
        mandatory: false,
        level: "workload-high",
        precedence: 800,
        distinguisher: Some("ByNamespace"),
        subjects: &[Subject::User("system:kube-scheduler")],
        resources: EVERYTHING,
        urls: ANY_URL,
    },
    Schema {
        name: "kube-system-service-accounts",
        mandatory: false,
        level: "workload-high",
        precedence: 900,
        distinguisher: Some("ByNamespace"),
        subjects: &[Subject::ServiceAccounts("kube-system")],
        resources: EVERYTHING,
        urls: ANY_URL,
    },
    Schema {
        name: "service-accounts",
        mandatory: false,
        level: "workload-low",
        precedence: 9000,
        distinguisher: Some("ByUser"),
        subjects: &[Subject::Group("system:serviceaccounts")],
        resources: EVERYTHING,
        urls: ANY_URL,
    },
    Schema {
        name: "global-default",
        mandatory: false,
        level: "global-default",
        precedence: 9900,
        distinguisher: Some("ByUser"),
        subjects: EVERYBODY,
        resources: EVERYTHING,
        urls: ANY_URL,
    },
    Schema {
        name: "catch-all",
        mandatory: true,
        level: "catch-all",
        precedence: 10000,
        distinguisher: Some("ByUser"),
        subjects: EVERYBODY,
        resources: EVERYTHING,
        urls: ANY_URL,
    },
];

/// Who makes the objects of flow control, by upstream's name.
pub const MANAGER: &str = "api-priority-and-fairness-config-producer-v1";

/// Who says in their status what became of them.
pub const CONDITIONS_MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

/// What to apply to the status of FlowSchemas whose condition `Dangling` does not say whether their priority level exists.
pub fn with_conditions(source: &dyn ObjectSource, now: &str) -> Vec<Value> {
    source
        .list(GROUP, "flowschemas", "")
        .iter()
        .filter_map(|stored| with_condition(source, stored.parse()?, now))
        .collect()
}

fn with_condition(source: &dyn ObjectSource, schema: Value, now: &str) -> Option<Value> {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let exists = source.get(GROUP, "prioritylevelconfigurations", "", level).is_some();
    let (status, reason, how) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" {how}");
    let mut conditions = schema["status"]["conditions"].as_array().into_iter().flatten();
    let said = conditions.find(|condition| condition["type"] == "Dangling");
    if said.is_some_and(|said| said["status"] == status && said["message"] == message) {
        return None;
    }
    let condition = json!({
        "type": "Dangling", "status": status, "lastTransitionTime": now, "reason": reason, "message": message,
    });
    Some(json!({
        "kind": "FlowSchema",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": { "name": schema["metadata"]["name"] },
        "status": { "conditions": [condition] },
    }))
}

/// What has to change so that the defaults hold.
pub fn plan(source: &dyn ObjectSource) -> Vec<Change> {
    let levels = LEVELS.iter().map(|l| ("prioritylevelconfigurations", l.mandatory, l.object()));
    let schemas = SCHEMAS.iter().map(|s| ("flowschemas", s.mandatory, s.object()));
    levels
        .chain(schemas)
        .filter_map(|(resource, mandatory, object)| change(source, resource, mandatory, object))
        .collect()
}

fn change(source: &dyn ObjectSource, resource: &'static str, mandatory: bool, desired: Value) -> Option<Change> {
    let name = desired["metadata"]["name"].as_str().unwrap_or_default();
    let Some(stored) = source.get(GROUP, resource, "", name) else {
        return Some(Change::create(GROUP, resource, desired));
    };
    let mut existing = stored.parse()?;
    let annotation = existing["metadata"]["annotations"][AUTOUPDATE].as_str().map(str::to_owned);
    let untouched = existing["metadata"]["generation"] == 1;
    let maintain = mandatory || annotation.as_deref().map_or(untouched, |value| value == "true");
    let mut changed = false;
    if maintain && existing["spec"] != desired["spec"] {
        existing["spec"] = desired["spec"].clone();
        changed = true;
    }
    let wanted = if maintain { "true" } else { "false" };
    if annotation.as_deref() != Some(wanted) {
        existing["metadata"]["annotations"][AUTOUPDATE] = json!(wanted);
        changed = true;
    }
    changed.then(|| Change::update(GROUP, resource, existing))
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}},
        "spec": spec,
    })
}

impl Level {
    fn object(&self) -> Value {
        let (shares, lendable) = (self.shares, self.lendable_percent);
        let limit_response = match self.response {
            Response::Exempt => {
                let exempt = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable});
                return object("PriorityLevelConfiguration", self.name, json!({"type": "Exempt", "exempt": exempt}));
            }
            Response::Reject => json!({"type": "Reject"}),
            Response::Queue(queues, hand_size, length) => json!({
                "type": "Queue",
                "queuing": {"queues": queues, "handSize": hand_size, "queueLengthLimit": length},
            }),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares,
            "limitResponse": limit_response,
            "lendablePercent": lendable,
        });
        object("PriorityLevelConfiguration", self.name, json!({"type": "Limited", "limited": limited}))
    }
}

impl Schema {
    fn object(&self) -> Value {
        let subjects: Vec<Value> = self.subjects.iter().map(Subject::value).collect();
        let mut rule = json!({"subjects": subjects});
        if !self.resources.is_empty() {
            rule["resourceRules"] = self.resources.iter().map(Resources::value).collect();
        }
        if let Some(Urls(verbs, urls)) = &self.urls {
            rule["nonResourceRules"] = json!([{"verbs": verbs, "nonResourceURLs": urls}]);
        }
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": self.level},
            "matchingPrecedence": self.precedence,
        });
        if let Some(distinguisher) = self.distinguisher {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        spec["rules"] = json!([rule]);
        object("FlowSchema", self.name, spec)
    }
}

impl Subject {
    fn value(&self) -> Value {
        match self {
            Self::User(name) => json!({"kind": "User", "user": {"name": name}}),
            Self::Group(name) => json!({"kind": "Group", "group": {"name": name}}),
            Self::ServiceAccounts(namespace) => {
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": "*"}})
            }
        }
    }
}

impl Resources {
    fn value(&self) -> Value {
        let Self(verbs, group, resources, cluster_scope) = self;
        let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
        if *cluster_scope {
            rule["clusterScope"] = json!(true);
        }
        rule["namespaces"] = json!(["*"]);
        rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_schema_says_whether_its_level_exists() {
        let source = crate::source::testing::MemorySource::new();
        let schema = json!({"metadata": {"name": "a"}, "spec": {"priorityLevelConfiguration": {"name": "x"}}});
        source.put(GROUP, "flowschemas", schema.clone());
        let marked = with_conditions(&source, "2026-01-01T00:00:00Z");
        assert_eq!(marked[0]["status"]["conditions"][0]["reason"], "NotFound");
        let mut schema = schema;
        schema["status"] = marked[0]["status"].clone();
        source.put(GROUP, "flowschemas", schema);
        assert_eq!(with_conditions(&source, "2026-01-01T00:00:01Z"), Vec::<Value>::new());
        source.put(GROUP, "prioritylevelconfigurations", json!({"metadata": {"name": "x"}}));
        let found = with_conditions(&source, "2026-01-01T00:00:02Z");
        assert_eq!(found[0]["status"]["conditions"][0]["status"], "False");
        assert_eq!(found[0]["status"]["conditions"].as_array().map(Vec::len), Some(1));
    }

    use crate::source::testing::MemorySource;

    #[test]
    fn everything_is_created_once() {
        let source = MemorySource::new();
        let changes = plan(&source);
        assert_eq!(changes.len(), 8 + 11);
        for change in changes {
            source.put(change.group, change.resource, change.object);
        }
        assert_eq!(plan(&source), []);
    }

    #[test]
    fn a_suggested_spec_is_the_users_once_autoupdate_is_off_and_a_mandatory_one_never() {
        let source = MemorySource::new();
        for change in plan(&source) {
            let mut object = change.object;
            object["spec"] = json!({"mine": true});
            object["metadata"]["annotations"][AUTOUPDATE] = json!("false");
            source.put(change.group, change.resource, object);
        }
        let restored: Vec<String> =
            plan(&source).iter().map(|c| c.object["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(restored, ["exempt", "catch-all", "exempt", "catch-all"]);
    }
}
