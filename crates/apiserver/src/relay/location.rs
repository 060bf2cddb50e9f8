//! What a proxy subresource points at.

use std::net::IpAddr;

use api::{Status, Value};

use super::kubelet::Kubelet;
use crate::http::path::percent_decode;
use crate::outbound::{ServiceResolver, Tls, authority};
use crate::source::ObjectSource;

/// `name`, `name:port` or `scheme:name:port`: the name in a proxy's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id<'a> {
    /// Empty, `http` or `https`.
    scheme: &'a str,
    pub name: &'a str,
    /// Number or name; empty when not given.
    port: &'a str,
}

impl<'a> Id<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let id = match parts.as_slice() {
            [name] => Self { scheme: "", name, port: "" },
            [name, port] => Self { scheme: "", name, port },
            ["", name, port] => Self { scheme: "", name, port },
            [scheme @ ("http" | "https"), name, port] => Self { scheme, name, port },
            _ => return None,
        };
        (!id.name.is_empty()).then_some(id)
    }

    fn scheme_or_http(&self) -> String {
        if self.scheme.is_empty() { "http".to_owned() } else { self.scheme.to_owned() }
    }
}

/// The words for a name that is none of these.
pub(super) fn invalid(resource: &str, id: &str) -> String {
    format!("invalid {} request {id:?}", resource.trim_end_matches('s'))
}

/// Scheme and `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub scheme: String,
    pub host: String,
}

/// A port of a pod; its first declared one when the path names none.
pub(super) fn of_pod(pod: &Value, id: &Id<'_>) -> Result<Place, Status> {
    let declared = || {
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array)?;
        containers.iter().find_map(|container| container.pointer("/ports/0/containerPort")).map(Value::to_string)
    };
    let port = if id.port.is_empty() { declared().unwrap_or_default() } else { id.port.to_owned() };
    let port = port_number(&port)?;
    let ip = pod.pointer("/status/podIPs/0/ip").and_then(Value::as_str).unwrap_or("");
    let address = ip.parse::<IpAddr>().ok().filter(is_global_unicast);
    let Some(address) = address else { return Err(Status::bad_request("address not allowed")) };
    let host = match (address, port.is_empty()) {
        (IpAddr::V6(ip), true) => format!("[{ip}]"),
        (IpAddr::V6(ip), false) => format!("[{ip}]:{port}"),
        (IpAddr::V4(ip), true) => ip.to_string(),
        (IpAddr::V4(ip), false) => format!("{ip}:{port}"),
    };
    Ok(Place { scheme: id.scheme_or_http(), host })
}

/// Ports that go by a name; those of Go's resolver without a file of services that somebody could mean here.
const NAMED_PORTS: [(&str, &str); 4] = [("domain", "53"), ("http", "80"), ("https", "443"), ("ssh", "22")];

/// The names of a pod's ports are not looked at; a few names are known to everybody.
fn port_number(port: &str) -> Result<&str, Status> {
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(port);
    }
    let named = NAMED_PORTS.iter().find(|(name, _)| *name == port);
    named.map(|(_, number)| *number).ok_or_else(|| unknown_port(port))
}

fn unknown_port(port: &str) -> Status {
    Status::service_unavailable(&format!("error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"))
}

/// Go's notion: neither unspecified, loopback, multicast, link-local nor broadcast.
fn is_global_unicast(ip: &IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || local)
}

/// A ready endpoint of a service that is one of its pods. `asked` is the name as the path has it.
pub(super) fn of_service(
    services: &ServiceResolver,
    source: &dyn ObjectSource,
    service: &Value,
    id: &Id<'_>,
    asked: &str,
) -> Result<Place, Status> {
    let (namespace, name) = (api::meta::namespace(service), api::meta::name(service));
    let ports = || service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let port_name = match id.port.parse::<i64>() {
        Err(_) => id.port,
        Ok(number) => match ports().find(|port| port["port"] == number) {
            Some(port) => port["name"].as_str().unwrap_or(""),
            None => {
                let text = format!("no service port {number} found for service {name:?}");
                return Err(Status::service_unavailable(&text));
            }
        },
    };
    let none = |name: &str| Status::service_unavailable(&format!("no endpoints available for service {name:?}"));
    if services.slices(namespace, name).is_empty() {
        return Err(none(name));
    }
    let host = services.endpoint(service, namespace, name, port_name, |endpoint| is_pod(source, endpoint));
    Ok(Place { scheme: id.scheme_or_http(), host: host.ok_or_else(|| none(asked))? })
}

/// An endpoint may say anything; only addresses of pods are proxied to.
fn is_pod(source: &dyn ObjectSource, endpoint: &Value) -> bool {
    let target = &endpoint["targetRef"];
    let text = |field: &str| target[field].as_str().unwrap_or("");
    if text("kind") != "Pod" {
        return false;
    }
    let pod = source.get("", "pods", text("namespace"), text("name")).and_then(|stored| stored.parse());
    pod.is_some_and(|pod| {
        let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
        let listed = ips.is_some_and(|ips| ips.iter().any(|ip| ip["ip"] == endpoint["addresses"][0]));
        listed && (target["uid"].is_null() || target["uid"] == pod["metadata"]["uid"])
    })
}

/// The kubelet itself, with its credentials, or another port of its host, without.
pub(super) fn of_node(kubelet: &Kubelet<'_>, id: &Id<'_>) -> Result<(Place, Option<Tls>), Status> {
    if id.port.is_empty() || id.port == kubelet.port.to_string() {
        let host = authority(&kubelet.host, kubelet.port);
        return Ok((Place { scheme: "https".into(), host }, Some(kubelet.tls(false))));
    }
    if kubelet.host.parse::<IpAddr>().is_ok_and(|ip| !is_global_unicast(&ip)) {
        return Err(Status::bad_request("address not allowed"));
    }
    let port = port_number(id.port)?.parse::<u16>().map_err(|_| unknown_port(id.port))?;
    Ok((Place { scheme: id.scheme_or_http(), host: authority(&kubelet.host, port.into()) }, None))
}

/// What follows `…/proxy` in a raw path: `/a%20b/`, or nothing.
pub(super) fn path_behind(raw: &str) -> &str {
    // /api/v1/nodes/NAME/proxy or /api/v1/namespaces/NS/RESOURCE/NAME/proxy; slashes may be doubled in what follows only.
    let trimmed = raw.strip_prefix('/').unwrap_or(raw);
    let segments = if trimmed.split('/').nth(2) == Some("namespaces") { 7 } else { 5 };
    let end = trimmed.match_indices('/').nth(segments - 1).map(|(at, _)| at);
    end.map_or("", |at| &trimmed[at..])
}

/// Path and query for the other side: the path as upstream joins it, without empty and dotted segments, and escaped anew.
pub(super) fn join(raw: &str, query: &str) -> String {
    let decoded = percent_decode(raw).unwrap_or_else(|| raw.to_owned());
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        escape(segment, &mut path);
    }
    if path.is_empty() || decoded.ends_with('/') {
        path.push('/');
    }
    format!("{path}{query}")
}

/// As Go escapes a path.
fn escape(segment: &str, out: &mut String) {
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b':' | b';' | b'=' | b'@' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;

    #[test]
    fn names_may_carry_scheme_and_port() {
        let parse = |text: &'static str| Id::parse(text).map(|id| (id.scheme, id.name, id.port));
        assert_eq!(parse("a"), Some(("", "a", "")));
        assert_eq!(parse("a:80"), Some(("", "a", "80")));
        assert_eq!(parse("https:a:web"), Some(("https", "a", "web")));
        assert_eq!(parse("https:a:"), Some(("https", "a", "")));
        assert_eq!(parse("ftp:a:1"), None);
        assert_eq!(parse(":"), None);
        assert_eq!(invalid("pods", "x:y:z"), "invalid pod request \"x:y:z\"");
    }

    #[test]
    fn a_pods_first_port_is_the_default_and_loopback_is_refused() {
        let pod = |ip: &str| {
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]},
                "status": {"podIPs": [{"ip": ip}]}})
        };
        let host = |ip: &str, id: &'static str| {
            of_pod(&pod(ip), &Id::parse(id).unwrap()).map(|place| format!("{}://{}", place.scheme, place.host))
        };
        assert_eq!(host("10.1.2.3", "p").unwrap(), "http://10.1.2.3:8080");
        assert_eq!(host("fd00::1", "https:p:443").unwrap(), "https://[fd00::1]:443");
        assert_eq!(host("127.0.0.1", "p").unwrap_err().message, "address not allowed");
        assert_eq!(host("", "p").unwrap_err().message, "address not allowed");
    }

    #[test]
    fn names_of_a_pods_ports_are_not_looked_at() {
        assert_eq!((port_number("8080"), port_number("http")), (Ok("8080"), Ok("80")));
        let refused = port_number("dest1").unwrap_err();
        assert_eq!(refused.message, "error trying to reach service: dial tcp: lookup tcp/dest1: unknown port");
        assert_eq!(refused.code, 503);
    }

    #[test]
    fn the_other_side_gets_a_clean_path() {
        assert_eq!(join("", "?a=%2F"), "/?a=%2F");
        assert_eq!(join("/", ""), "/");
        assert_eq!(join("/a%20b//c%2Fd/./e/../f(1)/", ""), "/a%20b/c/d/f%281%29/");
        assert_eq!(join("/../x", ""), "/x");
    }

    #[test]
    fn the_path_behind_the_proxy_is_cut_out() {
        assert_eq!(path_behind("/api/v1/namespaces/ns/pods/a/proxy/x%2Fy//z/"), "/x%2Fy//z/");
        assert_eq!(path_behind("/api/v1/namespaces/ns/pods/a/proxy"), "");
        assert_eq!(path_behind("/api/v1/nodes/n/proxy/"), "/");
        assert_eq!(path_behind("/api/v1/nodes/n:10250/proxy/metrics"), "/metrics");
    }
}
