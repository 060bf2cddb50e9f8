//! Impersonation: acting as somebody else, by header, if one may (KEP-5284 and the older verb `impersonate`).
//!
//! There are several ways to be allowed. The old one (`impersonate` on users, groups, uids, userextras and service accounts) is
//! tried first: it decides alone what the new identity is, so the outcome does not depend on earlier requests. Then the
//! constrained modes: `impersonate-on:MODE:VERB` for the request itself and `impersonate:MODE` for the identity. When nothing
//! allows it, the refusal of the first constrained mode that applies is the answer, as upstream.

use std::collections::BTreeMap;

use api::{Status, field::go_quote, meta};
use http::HeaderMap;

use super::{
    AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP,
    service_account::{NODE_NAME, groups, split_user_name},
};
use crate::{
    attributes::{Action, UserInfo},
    authz::{Decision, SUPERUSER_GROUP, forbidden, rule::go_quoted_list},
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// From this many values on, permission for all of them is asked for first.
const MANY_VALUES: usize = 4;

/// Who the headers ask to be; `None` when they ask nothing.
pub fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let first = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut user = UserInfo { name: first(USER), uid: first(UID), ..UserInfo::default() };
    user.groups = headers.get_all(GROUP).iter().map(text).collect();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            user.extra.entry(unescape(key)).or_default().push(text(value));
        }
    }
    let asks_more = !user.uid.is_empty() || !user.groups.is_empty() || !user.extra.is_empty();
    match (user.name.is_empty(), asks_more) {
        (false, _) => Ok(Some(user)),
        (true, false) => Ok(None),
        (true, true) => {
            let text = format!("requested {} without impersonating a user name", go_user(&user));
            Err(Status::bad_request(text))
        }
    }
}

/// The identity that `requestor` gets for a request, or the 403.
pub fn impersonate(
    wanted: &UserInfo,
    requestor: &UserInfo,
    request: &Action,
    authorize: &dyn Fn(&UserInfo, &Action) -> Decision,
) -> Result<UserInfo, Status> {
    let legacy = Attempt { requestor, wanted, mode: None, authorize };
    let refused = match legacy.check() {
        Ok(user) => return Ok(user),
        Err(status) => status,
    };
    let mut first_refusal = None;
    for mode in [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo] {
        if !mode.applies(wanted, requestor) {
            continue;
        }
        let attempt = Attempt { requestor, wanted, mode: Some(mode), authorize };
        match attempt.require(&mode.on(request)).and_then(|()| attempt.check()) {
            Ok(user) => return Ok(user),
            Err(status) => {
                first_refusal.get_or_insert(status);
            }
        }
    }
    Err(first_refusal.unwrap_or(refused))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A pod's service account as the node the pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Anybody who is neither node nor service account.
    UserInfo,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
        }
    }

    fn applies(self, wanted: &UserInfo, requestor: &UserInfo) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_of(&wanted.name);
        match self {
            Self::AssociatedNode => {
                let own_node = requestor.extra.get(NODE_NAME).filter(|values| values.len() == 1).map(|v| v[0].as_str());
                only_name && node.is_some() && split_user_name(&requestor.name).is_some() && own_node == node
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && split_user_name(&wanted.name).is_some(),
            Self::UserInfo => node.is_none() && split_user_name(&wanted.name).is_none(),
        }
    }

    /// The request, with a verb that says in whose name it is made.
    fn on(self, request: &Action) -> Action {
        let mut action = request.clone();
        match &mut action {
            Action::Resource { verb, .. } | Action::NonResource { verb, .. } => {
                *verb = format!("impersonate-on:{}:{verb}", self.name());
            }
        }
        action
    }
}

struct Attempt<'a> {
    requestor: &'a UserInfo,
    wanted: &'a UserInfo,
    /// `None` is the old way.
    mode: Option<Mode>,
    authorize: &'a dyn Fn(&UserInfo, &Action) -> Decision,
}

impl Attempt<'_> {
    fn check(&self) -> Result<UserInfo, Status> {
        let mut user = self.wanted.clone();
        self.check_name(&mut user)?;
        if !self.wanted.uid.is_empty() {
            self.require(&self.ask(AUTHENTICATION, "uids", &self.wanted.uid))?;
        }
        self.check_groups()?;
        self.check_extra()?;
        let group = if user.name == "system:anonymous" {
            UNAUTHENTICATED_GROUP
        } else if user.in_group(UNAUTHENTICATED_GROUP) {
            return Ok(user);
        } else {
            AUTHENTICATED_GROUP
        };
        if !user.in_group(group) {
            user.groups.push(group.to_owned());
        }
        Ok(user)
    }

    fn check_name(&self, user: &mut UserInfo) -> Result<(), Status> {
        let mut ask = self.ask(self.user_group(), "users", &self.wanted.name);
        if self.mode.is_some()
            && let Some(node) = node_of(&self.wanted.name)
        {
            // Whichever node the pod runs on: the right is to impersonate one's own.
            let name = if self.mode == Some(Mode::AssociatedNode) { "*" } else { node };
            ask = self.ask(self.user_group(), "nodes", name);
            user.groups = vec!["system:nodes".to_owned()];
        }
        if let Some((account_namespace, account)) = split_user_name(&self.wanted.name) {
            ask = self.ask(self.user_group(), "serviceaccounts", account);
            if let Action::Resource { namespace, .. } = &mut ask {
                *namespace = account_namespace.to_owned();
            }
            if self.wanted.groups.is_empty() {
                user.groups = groups(account_namespace);
            }
        }
        self.require(&ask)
    }

    fn check_groups(&self) -> Result<(), Status> {
        let wanted = &self.wanted.groups;
        let ask = |name: &str| self.ask(self.user_group(), "groups", name);
        if self.mode.is_some() {
            if wanted.iter().any(String::is_empty) {
                let text = "impersonating the empty string group is not allowed";
                return Err(forbidden(self.requestor, &ask(""), text));
            }
            if wanted.iter().any(|group| group == SUPERUSER_GROUP) {
                let text = "impersonating the system:masters group is not allowed";
                return Err(forbidden(self.requestor, &ask(SUPERUSER_GROUP), text));
            }
            if wanted.len() >= MANY_VALUES && self.require(&ask("*")).is_ok() {
                return Ok(());
            }
        }
        wanted.iter().try_for_each(|group| self.require(&ask(group)))
    }

    fn check_extra(&self) -> Result<(), Status> {
        let extra = &self.wanted.extra;
        let ask = |key: &str, value: &str| {
            let mut action = self.ask(AUTHENTICATION, "userextras", value);
            if let Action::Resource { subresource, .. } = &mut action {
                *subresource = key.to_owned();
            }
            action
        };
        if self.mode.is_some() && !extra.is_empty() {
            valid_extra(extra).map_err(|text| forbidden(self.requestor, &ask("", ""), &text))?;
            let n_values: usize = extra.values().map(Vec::len).sum();
            let is_large = extra.len() >= MANY_VALUES || n_values >= MANY_VALUES;
            if is_large && self.require(&ask("*", "*")).is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            values.iter().try_for_each(|value| self.require(&ask(key, value)))?;
        }
        Ok(())
    }

    /// API group of users and groups: the old way has them in the core group.
    fn user_group(&self) -> &'static str {
        if self.mode.is_some() { AUTHENTICATION } else { "" }
    }

    fn ask(&self, group: &str, resource: &str, name: &str) -> Action {
        Action::Resource {
            verb: self.mode.map_or_else(|| "impersonate".to_owned(), |mode| format!("impersonate:{}", mode.name())),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: String::new(),
            namespace: String::new(),
            name: name.to_owned(),
        }
    }

    fn require(&self, action: &Action) -> Result<(), Status> {
        let requestor = match self.mode {
            Some(Mode::AssociatedNode) => {
                // The node has been compared already; what remains must not depend on it.
                let keys: Vec<String> = self.requestor.extra.keys().cloned().collect();
                let extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
                UserInfo { extra, ..self.requestor.clone() }
            }
            _ => self.requestor.clone(),
        };
        let decision = (self.authorize)(&requestor, action);
        if decision.allowed { Ok(()) } else { Err(forbidden(&requestor, action, &decision.reason.text())) }
    }
}

fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| meta::dns1123_subdomain_name(name, false).is_empty())
}

fn valid_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".into());
        }
        if !is_domain_prefixed_path(key) {
            return Err(format!("impersonating an invalid key in extra is not allowed: {}", go_quote(key)));
        }
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".into());
        }
    }
    Ok(())
}

/// `domain/path`.
fn is_domain_prefixed_path(key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(domain, path)| meta::dns1123_subdomain_name(domain, false).is_empty() && !path.is_empty())
}

/// Undoes percent-encoding; text that is not well encoded is taken as it is.
fn unescape(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| (b as char).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return key.to_owned(),
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

/// Go's `%#v` of the user, which upstream puts into the message.
fn go_user(user: &UserInfo) -> String {
    let list = |values: &[String]| {
        let quoted: Vec<String> = values.iter().map(|v| go_quote(v)).collect();
        format!("[]string{{{}}}", quoted.join(", "))
    };
    let groups = if user.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&user.groups) };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> = user.extra.iter().map(|(k, v)| format!("{}:{}", go_quote(k), list(v))).collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    let name = go_quote(&user.name);
    format!("&user.DefaultInfo{{Name:{name}, UID:{}, Groups:{groups}, Extra:{extra}}}", go_quote(&user.uid))
}

/// One line for the log: who is who.
pub fn describe(requestor: &UserInfo, user: &UserInfo) -> String {
    let one = |u: &UserInfo| format!("{} groups={}", go_quote(&u.name), go_quoted_list(&u.groups));
    format!("{} is impersonating {}", one(requestor), one(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(http::HeaderName::from_static(name), value.parse().unwrap());
            map
        })
    }

    fn request() -> Action {
        Action::Resource {
            verb: "list".into(),
            group: String::new(),
            version: "v1".into(),
            resource: "configmaps".into(),
            subresource: String::new(),
            namespace: "ns".into(),
            name: String::new(),
        }
    }

    fn everything(_: &UserInfo, _: &Action) -> Decision {
        Decision::allow()
    }

    #[test]
    fn extras_without_a_user_name_are_a_bad_request() {
        assert_eq!(
            wanted(&headers(&[(GROUP, "devs")])).unwrap_err().message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"devs\"}, Extra:map[string][]string(nil)} \
             without impersonating a user name"
        );
        assert_eq!(
            wanted(&headers(&[(UID, "x")])).unwrap_err().message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"x\", Groups:[]string(nil), Extra:map[string][]string(nil)} \
             without impersonating a user name"
        );
        assert_eq!(wanted(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn groups_are_completed_by_kind_of_user() {
        let admin = UserInfo::default();
        let become_user = |pairs: &[(&'static str, &str)]| {
            let user = wanted(&headers(pairs)).unwrap().unwrap();
            impersonate(&user, &admin, &request(), &everything).unwrap()
        };
        assert_eq!(become_user(&[(USER, "jane")]).groups, ["system:authenticated"]);
        assert_eq!(become_user(&[(USER, "system:anonymous")]).groups, ["system:unauthenticated"]);
        assert_eq!(
            become_user(&[(USER, "system:serviceaccount:ns:default")]).groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        let jane =
            become_user(&[(USER, "jane"), (GROUP, "devs"), ("impersonate-extra-reason%2fx", "test"), (UID, "u1")]);
        assert_eq!(jane.groups, ["devs", "system:authenticated"]);
        assert_eq!((jane.uid.as_str(), &jane.extra["reason/x"]), ("u1", &vec!["test".to_owned()]));
    }

    #[test]
    fn a_refusal_names_the_constrained_verb() {
        let user = UserInfo { name: "jane".into(), ..UserInfo::default() };
        let refused = impersonate(&user, &UserInfo::anonymous(), &request(), &|_, _| Decision::pass("")).unwrap_err();
        assert_eq!(
            refused.message,
            "configmaps is forbidden: User \"system:anonymous\" cannot impersonate-on:user-info:list resource \
             \"configmaps\" in API group \"\" in the namespace \"ns\""
        );
    }

    #[test]
    fn a_constrained_right_never_reaches_system_masters() {
        let constrained = |_: &UserInfo, action: &Action| match action {
            Action::Resource { verb, .. }
                if verb.starts_with("impersonate:") || verb.starts_with("impersonate-on:") =>
            {
                Decision::allow()
            }
            _ => Decision::pass(""),
        };
        let requestor = UserInfo { name: "u".into(), ..UserInfo::default() };
        let mut user = UserInfo { name: "jane".into(), groups: vec!["system:masters".into()], ..UserInfo::default() };
        let refused = impersonate(&user, &requestor, &request(), &constrained).unwrap_err();
        assert!(
            refused.message.ends_with("impersonating the system:masters group is not allowed"),
            "{}",
            refused.message
        );
        user.groups.clear();
        assert_eq!(impersonate(&user, &requestor, &request(), &constrained).unwrap().groups, ["system:authenticated"]);
    }
}
