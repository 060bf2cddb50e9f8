use super::policy::{Level, Stage};
use super::*;

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo {
        name: name.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..UserInfo::default()
    }
}

fn on(verb: &str, group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Action {
    Action::Resource {
        verb: verb.into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
  resources:
  - group: ""
    resources: [endpoints, services]
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", /version]
- level: Request
  omitManagedFields: true
  resources:
  - group: ""
    resources: [configmaps]
    resourceNames: [controller-leader]
  namespaces: [kube-system]
- level: Metadata
  omitStages: [ResponseStarted]
  resources:
  - group: ""
    resources: ["pods/*", "*/scale"]
- level: RequestResponse
  resources:
  - group: apps
"#;

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = Policy::parse(POLICY).unwrap();
    let level = |user: &UserInfo, action: &Action| policy.evaluate(user, action).level;
    let someone = user("jane", &["system:authenticated"]);
    let proxy = user("system:kube-proxy", &[]);
    assert_eq!(level(&proxy, &on("watch", "", "services", "", "", "")), Level::None);
    let url = |path: &str| Action::NonResource { verb: "get".into(), path: path.into() };
    assert_eq!(level(&someone, &url("/apis/apps")), Level::None);
    let leader = policy.evaluate(&someone, &on("update", "", "configmaps", "", "kube-system", "controller-leader"));
    assert_eq!((leader.level, leader.omit_managed_fields), (Level::Request, true));
    assert_eq!(level(&someone, &on("update", "", "configmaps", "", "default", "controller-leader")), Level::None);
    let log = policy.evaluate(&someone, &on("get", "", "pods", "log", "default", "a"));
    assert_eq!(log.level, Level::Metadata);
    assert_eq!(log.omit_stages, [Stage::ResponseStarted, Stage::RequestReceived]);
    assert_eq!(level(&someone, &on("get", "", "nodes", "", "", "a")), Level::None);
    assert_eq!(level(&someone, &on("get", "apps", "deployments", "", "default", "a")), Level::RequestResponse);
}

#[test]
fn a_wrong_policy_is_refused_in_upstreams_words() {
    let refused = |rules: &str| {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rules}]\n")).unwrap_err()
    };
    assert_eq!(refused(""), "loaded illegal policy with 0 rules");
    assert_eq!(refused("{}"), "rules[0].level: Required value");
    assert_eq!(
        refused("{level: Loud}"),
        "rules[0].level: Unsupported value: \"Loud\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\""
    );
    assert_eq!(
        refused("{level: None, nonResourceURLs: [api]}"),
        "rules[0].nonResourceURLs[0]: Invalid value: \"api\": non-resource URL rules must begin with a '/' character"
    );
    assert_eq!(
        refused("{level: None, omitStages: [Never]}"),
        "rules[0].omitStages[0]: Invalid value: \"Never\": allowed stages are \
         RequestReceived,ResponseStarted,ResponseComplete,Panic"
    );
    assert!(refused("{level: None, wants: 1}").contains("unknown field \"wants\""));
}

#[test]
fn the_way_of_a_request_is_told_from_its_first_client_on() {
    let mut headers = HeaderMap::new();
    let peer = Some("10.1.2.3".parse().unwrap());
    assert_eq!(source_ips(&headers, peer), ["10.1.2.3"]);
    headers.insert("x-forwarded-for", "192.0.2.1, 192.0.2.2".parse().unwrap());
    assert_eq!(source_ips(&headers, peer), ["192.0.2.1", "192.0.2.2", "10.1.2.3"]);
    assert_eq!(source_ips(&HeaderMap::new(), None), ["127.0.0.1"]);
}
