//! What a URL path names, as upstream's RequestInfo.

/// A parsed path of the API: `/api/v1/namespaces/ns/pods/web-0/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub group: String,
    pub version: String,
    /// Empty for cluster scope and all namespaces.
    pub namespace: String,
    pub resource: String,
    /// Empty for the collection.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Whatever follows a subresource that takes a path (`proxy`).
    pub rest: Vec<String>,
    /// The deprecated `/watch/` prefix was used.
    pub watch_prefix: bool,
}

/// What a path is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Resource(ResourcePath),
    /// Anything else, by its decoded path.
    Other(String),
}

/// Subresources of a namespace itself; anything else under `/namespaces/NAME/` is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Decodes and parses; `None` when the percent-encoding is broken or not UTF-8.
pub(crate) fn parse(raw: &str) -> Option<Target> {
    let decoded = percent_decode(raw)?;
    Some(match resource_path(&decoded) {
        Some(path) => Target::Resource(path),
        None => Target::Other(decoded),
    })
}

fn resource_path(path: &str) -> Option<ResourcePath> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, mut rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let mut out = ResourcePath { group: group.into(), version: version.into(), ..ResourcePath::default() };
    if let ["watch", after @ ..] = rest
        && !after.is_empty()
    {
        out.watch_prefix = true;
        rest = after;
    }
    match rest {
        [] => return None,
        ["namespaces"] => out.resource = "namespaces".into(),
        ["namespaces", name] => (out.resource, out.name, out.namespace) = named_namespace(name),
        ["namespaces", name, sub] if NAMESPACE_SUBRESOURCES.contains(sub) => {
            (out.resource, out.name, out.namespace) = named_namespace(name);
            out.subresource = (*sub).into();
        }
        ["namespaces", namespace, resource, tail @ ..] => {
            out.namespace = (*namespace).into();
            out.resource = (*resource).into();
            set_tail(&mut out, tail);
        }
        [resource, tail @ ..] => {
            out.resource = (*resource).into();
            set_tail(&mut out, tail);
        }
    }
    (!out.resource.is_empty()).then_some(out)
}

/// A namespace counts as lying in itself, for authorization.
fn named_namespace(name: &str) -> (String, String, String) {
    ("namespaces".into(), name.into(), name.into())
}

fn set_tail(out: &mut ResourcePath, tail: &[&str]) {
    if let [name, tail @ ..] = tail {
        out.name = (*name).into();
        if let [subresource, tail @ ..] = tail {
            out.subresource = (*subresource).into();
            out.rest = tail.iter().map(|s| (*s).to_owned()).collect();
        }
    }
}

/// Percent-decoding of a path (`+` stays a plus).
pub(crate) fn percent_decode(raw: &str) -> Option<String> {
    if !raw.contains('%') {
        return Some(raw.to_owned());
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match parse(path) {
            Some(Target::Resource(path)) => path,
            other => panic!("{path} is not a resource path: {other:?}"),
        }
    }

    #[test]
    fn paths_name_resources_objects_and_subresources() {
        let pod = resource("/api/v1/namespaces/ns/pods/web-0/status");
        assert_eq!((pod.namespace.as_str(), pod.resource.as_str()), ("ns", "pods"));
        assert_eq!((pod.name.as_str(), pod.subresource.as_str()), ("web-0", "status"));
        let deployments = resource("/apis/apps/v1/deployments");
        assert_eq!((deployments.group.as_str(), deployments.resource.as_str()), ("apps", "deployments"));
        let namespace = resource("/api/v1/namespaces/ns/finalize");
        assert_eq!((namespace.resource.as_str(), namespace.subresource.as_str()), ("namespaces", "finalize"));
        assert_eq!(namespace.namespace, "ns");
        assert!(resource("/api/v1/watch/pods").watch_prefix);
        let proxy = resource("/api/v1/namespaces/ns/pods/p/proxy/a/b");
        assert_eq!(proxy.rest, ["a", "b"]);
    }

    #[test]
    fn other_paths_are_not_resources() {
        for path in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/nope"] {
            assert!(matches!(parse(path), Some(Target::Other(_))), "{path}");
        }
        assert_eq!(parse("/api/v1/pods/%zz"), None);
        assert_eq!(parse("/api/v1/pods/%ff"), None);
    }
}
