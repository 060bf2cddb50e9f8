//! Rows of services and of what routes to them.

use std::collections::BTreeSet;

use crate::Value;

use super::row::{NONE, Row, UNKNOWN, UNSET, list_with_more};

/// Items shown before `+ N more...`.
const SHOWN_MAX: usize = 3;

/// Addresses of a load balancer, sorted and unique.
fn load_balancer<'a>(row: &Row<'a>) -> Vec<&'a str> {
    let addresses: BTreeSet<&str> = row
        .items("/status/loadBalancer/ingress")
        .map(|ingress| match ingress.object.get("ip").and_then(Value::as_str) {
            Some(ip) if !ip.is_empty() => ip,
            _ => ingress.object.get("hostname").and_then(Value::as_str).unwrap_or(""),
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().collect()
}

pub(super) fn service(row: &Row<'_>) -> Vec<Value> {
    let external_ips = row.joined("/spec/externalIPs", ",");
    let external = match row.str("/spec/type") {
        "ClusterIP" | "NodePort" if external_ips.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => external_ips,
        "LoadBalancer" => {
            let mut all: Vec<String> = load_balancer(row).into_iter().map(str::to_owned).collect();
            all.extend(Some(external_ips).filter(|ips| !ips.is_empty()));
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => row.str("/spec/externalName").to_owned(),
        _ => UNKNOWN.to_owned(),
    };
    let ports: Vec<String> = row
        .items("/spec/ports")
        .map(|port| match port.int("/nodePort") {
            0 => format!("{}/{}", port.int("/port"), port.str("/protocol")),
            node_port => format!("{}:{node_port}/{}", port.int("/port"), port.str("/protocol")),
        })
        .collect();
    let cluster_ip = row.items("/spec/clusterIPs").next().and_then(|ip| ip.object.as_str()).unwrap_or("");
    vec![
        row.name(),
        row.text("/spec/type"),
        if cluster_ip.is_empty() { NONE.into() } else { cluster_ip.into() },
        external.into(),
        if ports.is_empty() { NONE.into() } else { ports.join(",").into() },
        row.age(),
        row.labels("/spec/selector"),
    ]
}

pub(super) fn endpoints(row: &Row<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in row.items("/subsets") {
        let ips = || subset.items("/addresses").map(|a| a.str("/ip").to_owned());
        if subset.count("/ports") == 0 {
            all.extend(ips());
        }
        for port in subset.items("/ports") {
            let number = port.int("/port");
            all.extend(
                ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    let text = if row.count("/subsets") == 0 { NONE.to_owned() } else { first_of(&all) };
    vec![row.name(), text.into(), row.age()]
}

fn first_of(all: &[String]) -> String {
    list_with_more(&all[..all.len().min(SHOWN_MAX)], all.len(), SHOWN_MAX)
}

pub(super) fn endpoint_slice(row: &Row<'_>) -> Vec<Value> {
    let ports: Vec<String> = row
        .items("/ports")
        .map(|port| match port.get("/port") {
            Some(number) => number.to_string(),
            None if port.has("/name") => port.str("/name").to_owned(),
            None => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = row
        .items("/endpoints")
        .flat_map(|endpoint| {
            endpoint.items("/addresses").filter_map(|a| a.object.as_str()).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let show = |all: &[String]| Value::from(if all.is_empty() { UNSET.to_owned() } else { first_of(all) });
    vec![row.name(), row.text("/addressType"), show(&ports), show(&addresses), row.age()]
}

pub(super) fn ingress(row: &Row<'_>) -> Vec<Value> {
    let rules = row.count("/spec/rules");
    let mut hosts: Vec<String> = Vec::new();
    let mut more = false;
    for rule in row.items("/spec/rules") {
        more |= hosts.len() == SHOWN_MAX;
        if !more && !rule.str("/host").is_empty() {
            hosts.push(rule.str("/host").to_owned());
        }
    }
    let hosts = match (hosts.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules - SHOWN_MAX),
        (false, false) => hosts.join(","),
    };
    vec![
        row.name(),
        row.text_or("/spec/ingressClassName", NONE),
        hosts.into(),
        load_balancer(row).join(",").into(),
        if row.count("/spec/tls") > 0 { "80, 443".into() } else { "80".into() },
        row.age(),
    ]
}

pub(super) fn ingress_class(row: &Row<'_>) -> Vec<Value> {
    let is_default = row.str("/metadata/annotations/ingressclass.kubernetes.io~1is-default-class") == "true";
    let name = if is_default {
        format!("{} (default)", row.str("/metadata/name"))
    } else {
        row.str("/metadata/name").to_owned()
    };
    let parameters = match row.get("/spec/parameters").map(|v| row.at(v)) {
        Some(p) => {
            let group = p.str("/apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", p.str("/kind"), p.str("/name"))
        }
        None => NONE.to_owned(),
    };
    vec![name.into(), row.text("/spec/controller"), parameters.into(), row.age()]
}

pub(super) fn network_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.selector("/spec/podSelector"), row.age()]
}

pub(super) fn service_cidr(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.joined("/spec/cidrs", ",").into(), row.age()]
}

pub(super) fn ip_address(row: &Row<'_>) -> Vec<Value> {
    let parent = match row.get("/spec/parentRef").map(|v| row.at(v)) {
        Some(parent) => {
            let group = parent.str("/group");
            let dot = if group.is_empty() { "" } else { "." };
            let namespace = parent.str("/namespace");
            let slash = if namespace.is_empty() { "" } else { "/" };
            format!("{}{dot}{group}{slash}{namespace}/{}", parent.str("/resource"), parent.str("/name"))
        }
        None => NONE.to_owned(),
    };
    vec![row.name(), parent.into(), row.age()]
}
