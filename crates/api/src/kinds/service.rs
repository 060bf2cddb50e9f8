//! Service. Addresses and ports are allocated by the server; here is what a service may say. Source:
//! `pkg/registry/core/service`, `pkg/apis/core/validation`.

use std::collections::{HashMap, HashSet};

use crate::json;

use crate::kinds::carry;
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::{invalid_each, labels};
use crate::validate::text::{
    formatted, optional_enum, port_number, port_number_or_name, required_enum, required_formatted, supported,
    supported_text,
};
use crate::validate::{go, names, net};
use crate::{Cursor, ErrorList, Map, Path, Strategy, Value, meta};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TRAFFIC_POLICIES: &[&str] = &["Cluster", "Local"];
const AFFINITY_SECONDS_MAX: i64 = 86_400;
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

pub const STRATEGY: Strategy = Strategy {
    name_rule: names::label_name,
    prepare_for_create: |new, _| {
        carry::set(new, "status", json!({"loadBalancer": {}}));
        sync_cluster_ips(new, None);
        drop_traffic_policy(new);
    },
    validate: |service, errors| validate(service, None, errors),
    prepare_for_update: |new, old, _| {
        carry::keep_status(new, old);
        drop_fields_of_former_type(new, old);
        if spec_str(new, "type") != "LoadBalancer" {
            carry::set(new, "status", without_load_balancer(new.get("status")));
        }
        keep_allocations(new, old);
        sync_cluster_ips(new, Some(old));
        drop_traffic_policy(new);
    },
    validate_update,
    warnings,
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, _| carry::keep_spec(new, old),
        validate_update: |new, old, errors| {
            meta::validate_update_again(new, old, errors);
            let status = new.field("status").field("loadBalancer");
            load_balancer_status(&status, new.field("spec").field("type").str() == "LoadBalancer", errors);
        },
    }],
    ..Strategy::DEFAULT
};

fn spec_str<'a>(service: &'a Value, field: &str) -> &'a str {
    service.get("spec").and_then(|s| s.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// Names elsewhere have no traffic in the cluster; upstream never shows a policy for it.
fn drop_traffic_policy(new: &mut Value) {
    if spec_str(new, "type") == "ExternalName" && TRAFFIC_POLICIES.contains(&spec_str(new, "internalTrafficPolicy")) {
        carry::remove(new, &["spec"], "internalTrafficPolicy");
    }
}

fn without_load_balancer(status: Option<&Value>) -> Value {
    let mut status = status.cloned().unwrap_or_else(|| json!({}));
    carry::set(&mut status, "loadBalancer", json!({}));
    status
}

/// A client that knows one of `clusterIP` and `clusterIPs` gets the other for free, on create and when it changed one.
fn sync_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let single = spec_str(new, "clusterIP").to_owned();
    let list = new.pointer("/spec/clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(Value::Object(spec)) = new.get_mut("spec") else { return };
    let replace = |spec: &mut Map, single: &str| {
        if single.is_empty() {
            spec.remove("clusterIPs");
        } else {
            spec.insert("clusterIPs", json!([single]));
        }
    };
    let Some(old) = old else {
        if !single.is_empty() && list.is_empty() {
            replace(spec, &single);
        }
        return;
    };
    let old_single = spec_str(old, "clusterIP");
    let old_list = old.pointer("/spec/clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
    if single == old_single {
        return;
    }
    // The single address was set, changed or cleared and the list was left alone: the list follows.
    if list == old_list {
        replace(spec, &single);
    } else if single.is_empty() && list.is_empty() {
        spec.remove("clusterIPs");
    }
}

/// Fields that the server filled in and the client left out are taken over, so that a plain PUT of a manifest works.
pub fn keep_allocations(new: &mut Value, old: &Value) {
    let needs_ip = |service: &Value| spec_str(service, "type") != "ExternalName";
    if needs_ip(old) && needs_ip(new) {
        let list = |service: &Value| service.pointer("/spec/clusterIPs").and_then(Value::as_array).map_or(0, Vec::len);
        if spec_str(new, "clusterIP").is_empty() {
            carry::keep_in(new, old, "spec", "clusterIP");
        }
        if list(new) == 0 && list(old) > 0 {
            carry::keep_in(new, old, "spec", "clusterIPs");
        }
    }
    let gets_ports = |service: &Value| match spec_str(service, "type") {
        "NodePort" => true,
        "LoadBalancer" => service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    };
    if gets_ports(old) && gets_ports(new) {
        keep_node_ports(new, old);
    }
    if needs_health_check(old) && needs_health_check(new) {
        let has_port = new.pointer("/spec/healthCheckNodePort").is_some_and(|p| p != 0);
        if !has_port {
            carry::keep_in(new, old, "spec", "healthCheckNodePort");
        }
    }
}

fn needs_health_check(service: &Value) -> bool {
    spec_str(service, "type") == "LoadBalancer" && spec_str(service, "externalTrafficPolicy") == "Local"
}

fn keep_node_ports(new: &mut Value, old: &Value) {
    let name = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    let node_port = |port: &Value| port.get("nodePort").and_then(Value::as_i64).filter(|number| *number != 0);
    let old_ports = old.pointer("/spec/ports").and_then(Value::as_array);
    // The last one of a name counts.
    let old_ports: HashMap<String, Option<i64>> =
        old_ports.into_iter().flatten().map(|port| (name(port), node_port(port))).collect();
    let ports = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    let Some(ports) = ports else { return };
    let mut used: HashSet<i64> = ports.iter().filter_map(node_port).collect();
    for port in ports.iter_mut().filter(|port| node_port(port).is_none()) {
        if let Some(Some(before)) = old_ports.get(&name(port))
            && used.insert(*before)
        {
            carry::set(port, "nodePort", (*before).into());
        }
    }
}

/// Fields that only made sense for the former type go away when the client did not touch them.
fn drop_fields_of_former_type(new: &mut Value, old: &Value) {
    let (new_type, old_type) = (spec_str(new, "type").to_owned(), spec_str(old, "type").to_owned());
    let unchanged = |new: &Value, field: &str| {
        new.get("spec").and_then(|s| s.get(field)) == old.get("spec").and_then(|s| s.get(field))
    };
    let mut drop_unchanged = |fields: &[&str]| {
        if fields.iter().all(|field| unchanged(new, field)) {
            for field in fields {
                carry::remove(new, &["spec"], field);
            }
        }
    };
    if old_type != "ExternalName" && new_type == "ExternalName" {
        drop_unchanged(&["clusterIP", "clusterIPs"]);
        drop_unchanged(&["ipFamilies"]);
        drop_unchanged(&["ipFamilyPolicy"]);
    }
    let needs_ports = |t: &str| matches!(t, "NodePort" | "LoadBalancer");
    if needs_ports(&old_type) && !needs_ports(&new_type) {
        drop_node_ports(new, old);
    }
    let keeps = |new: &Value, t: &str| t == "LoadBalancer" && needs_health_check(new);
    if needs_health_check(old) && !keeps(new, &new_type) && unchanged(new, "healthCheckNodePort") {
        carry::remove(new, &["spec"], "healthCheckNodePort");
    }
    if old_type == "LoadBalancer" && new_type != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(new, field) {
                carry::remove(new, &["spec"], field);
            }
        }
    }
    let external = |s: &Value, t: &str| {
        let has_ips = s.pointer("/spec/externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        needs_ports(t) || (t == "ClusterIP" && has_ips)
    };
    if external(old, &old_type) && !external(new, &new_type) && unchanged(new, "externalTrafficPolicy") {
        carry::remove(new, &["spec"], "externalTrafficPolicy");
    }
}

fn drop_node_ports(new: &mut Value, old: &Value) {
    let node_ports = |service: &Value| -> Vec<Value> {
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        ports.into_iter().flatten().map(|p| p.get("nodePort").cloned().unwrap_or_default()).collect()
    };
    let old_ports = node_ports(old);
    let own: Vec<Value> = node_ports(new).into_iter().filter(|p| !p.is_null() && *p != 0).collect();
    if own.iter().all(|p| old_ports.contains(p)) {
        for port in new.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            carry::remove(port, &[], "nodePort");
        }
    }
}

fn is_headless(service: &Cursor<'_>) -> bool {
    let ips = service.field("spec").field("clusterIPs");
    ips.len() == 1 && ips.index(0).str() == "None"
}

fn validate(service: &Cursor<'_>, old: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    let spec = service.field("spec");
    let kind = spec.field("type").str();
    let headless = is_headless(service);
    topology_annotations(service, errors);
    let ports = spec.field("ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        ports.required(errors, "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            spec.field("clusterIPs").index(0).invalid(errors, detail);
        }
        "ExternalName" => external_name(&spec, errors),
        _ => {}
    }
    let mut port_names: Occurrences<&str> = Occurrences::new();
    for port in ports.items() {
        service_port(&port, ports.len() > 1, &mut port_names, errors);
    }
    labels(&spec.field("selector"), errors);
    session_affinity(&spec, errors);
    cluster_ips(service, old, errors);
    let known = Known::of(old, "externalIPs");
    for ip in spec.field("externalIPs").items() {
        if known.has(ip.str()) || net::ip(&ip, errors) {
            net::non_special_ip(&ip, errors);
        }
    }
    required_enum(&spec.field("type"), TYPES, errors);
    unique_ports(&ports, kind, errors);
    source_ranges(service, old, kind, errors);
    load_balancer_fields(&spec, kind, errors);
    traffic_policies(&spec, kind, errors);
}

fn topology_annotations(service: &Cursor<'_>, errors: &mut ErrorList) {
    let annotations = service.field("metadata").field("annotations");
    let (hints, mode) = (annotations.field(TOPOLOGY_HINTS), annotations.key(TOPOLOGY_MODE));
    if hints.is_set() && mode.is_set() && hints.value() != mode.value() {
        mode.invalid(errors, format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified"));
    }
}

fn external_name(spec: &Cursor<'_>, errors: &mut ErrorList) {
    const REFUSED: &str = "may not be set for ExternalName services";
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let value = spec.field(field);
        if value.is_set() && (!value.is_empty() || field == "ipFamilyPolicy") {
            value.forbidden(errors, REFUSED);
        }
    }
    let name = spec.field("externalName");
    let text = name.str().strip_suffix('.').unwrap_or(name.str());
    if text.is_empty() {
        name.required(errors, "");
    } else {
        invalid_each(errors, &name.path(), text, names::dns1123_subdomain(text));
    }
}

fn service_port<'a>(port: &Cursor<'a>, needs_name: bool, seen: &mut Occurrences<&'a str>, errors: &mut ErrorList) {
    let name = port.field("name");
    if name.is_empty() {
        if needs_name {
            name.required(errors, "");
        }
    } else {
        formatted(&name, names::dns1123_label, errors);
        if seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        } else {
            seen.push(name.str());
        }
    }
    port_number(&port.field("port"), errors);
    required_enum(&port.field("protocol"), PROTOCOLS, errors);
    port_number_or_name(&port.field("targetPort"), errors);
    let protocol = port.field("appProtocol");
    if protocol.is_set() {
        formatted(&protocol, names::qualified_name, errors);
    }
}

fn session_affinity(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let (affinity, config) = (spec.field("sessionAffinity"), spec.field("sessionAffinityConfig"));
    required_enum(&affinity, &["ClientIP", "None"], errors);
    match affinity.str() {
        "ClientIP" => {
            let timeout = config.field("clientIP").field("timeoutSeconds");
            for part in [&config, &config.field("clientIP"), &timeout] {
                if !part.is_set() {
                    part.required(errors, "when session affinity type is ClientIP");
                    return;
                }
            }
            if !(1..=AFFINITY_SECONDS_MAX).contains(&timeout.int()) {
                timeout.invalid(errors, format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"));
            }
        }
        "None" if config.is_set() => config.forbidden(errors, "must not be set when session affinity is None"),
        _ => {}
    }
}

/// Addresses that the old object has: an update may keep them even if a newer rule refuses them.
struct Known<'a>(HashSet<&'a str>);

impl<'a> Known<'a> {
    fn of(old: Option<&Cursor<'a>>, field: &str) -> Self {
        Self(old.map(|old| old.field("spec").field(field).items().map(|a| a.str()).collect()).unwrap_or_default())
    }

    fn has(&self, address: &str) -> bool {
        self.0.contains(address)
    }
}

/// Cluster addresses, families and policy, each alone and against each other.
pub fn cluster_ips(service: &Cursor<'_>, old: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    let (spec, known) = (service.field("spec"), Known::of(old, "clusterIPs"));
    if spec.field("type").str() == "ExternalName" {
        return;
    }
    let (single, ips, families) = (spec.field("clusterIP"), spec.field("clusterIPs"), spec.field("ipFamilies"));
    if !single.is_empty() {
        if ips.is_empty() {
            ips.required(errors, "");
        } else if ips.index(0).str() != single.str() {
            ips.invalid(errors, "first value must match `clusterIP`");
        }
    } else if !ips.is_empty() {
        ips.invalid(errors, "must be empty when `clusterIP` is not specified");
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for family in families.items() {
        if !matches!(family.str(), "IPv4" | "IPv6") {
            family.no_such_choice(errors, &["IPv4", "IPv6"]);
        }
        if seen.contains(&family.str()) {
            errors.duplicate(family.path(), family.str());
        }
        seen.push(family.str());
    }
    let policy = spec.field("ipFamilyPolicy");
    if policy.is_set() {
        supported(&policy, &["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
    }
    let mut all_valid = true;
    for (index, ip) in ips.items().enumerate() {
        if index == 0 && ip.str() == "None" {
            if ips.len() > 1 {
                all_valid = false;
                ips.invalid(errors, "'None' must be the first and only value");
            }
            continue;
        }
        all_valid &= known.has(ip.str()) || net::ip(&ip, errors);
    }
    if ips.len() > 2 {
        ips.invalid(errors, "may only hold up to 2 values");
    }
    if !all_valid {
        return;
    }
    if ips.len() > 1 {
        let texts: Vec<&str> = ips.items().map(|ip| ip.str()).collect();
        if net::is_dual_stack(texts.into_iter()) != Some(true) {
            ips.invalid(errors, "may specify no more than one IP for each IP family");
        }
    }
    if is_headless(service) {
        return;
    }
    for (index, (ip, family)) in ips.items().zip(families.items()).enumerate() {
        let is_ipv6 = net::is_ipv6_text(ip.str());
        let expected = match family.str() {
            "IPv4" if is_ipv6 => "IPv4",
            "IPv6" if !is_ipv6 => "IPv6",
            _ => continue,
        };
        ip.invalid(errors, format!("expected an {expected} value as indicated by `ipFamilies[{index}]`"));
    }
}

fn unique_ports(ports: &Cursor<'_>, kind: &str, errors: &mut ErrorList) {
    if kind == "ClusterIP" {
        for port in ports.items() {
            let node_port = port.field("nodePort");
            if node_port.int() != 0 {
                node_port.forbidden(errors, "may not be used when `type` is 'ClusterIP'");
            }
        }
    }
    let mut node_ports: Occurrences<(&str, i64)> = Occurrences::new();
    for port in ports.items() {
        let node_port = port.field("nodePort");
        let key = (port.field("protocol").str(), node_port.int());
        if key.1 == 0 {
            continue;
        }
        if node_ports.contains(&key) {
            errors.duplicate(node_port.path(), key.1);
        }
        node_ports.push(key);
    }
    let mut seen: Occurrences<(&str, i64)> = Occurrences::new();
    for port in ports.items() {
        let key = (port.field("protocol").str(), port.field("port").int());
        if seen.contains(&key) {
            let shown = go::value("ServicePort", &json!({"protocol": key.0, "port": key.1}));
            errors.duplicate(port.path(), shown);
        }
        seen.push(key);
    }
}

fn source_ranges(service: &Cursor<'_>, old: Option<&Cursor<'_>>, kind: &str, errors: &mut ErrorList) {
    let ranges = service.field("spec").field("loadBalancerSourceRanges");
    let annotation = service.field("metadata").field("annotations").key(SOURCE_RANGES);
    let trimmed = |text: &str, path: Path, errors: &mut ErrorList| {
        let value = Value::from(text.trim());
        net::cidr(&Cursor::at(&value, path), errors);
    };
    if !ranges.is_empty() {
        let path = service.field("spec").path().child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            errors.forbidden(path.clone(), ONLY_LOAD_BALANCER);
        }
        let known: HashSet<&str> = Known::of(old, "loadBalancerSourceRanges").0.into_iter().map(str::trim).collect();
        for (index, range) in ranges.items().enumerate() {
            if !known.contains(range.str().trim()) {
                trimmed(range.str(), path.index(index), errors);
            }
        }
    } else if annotation.is_set() {
        if kind != "LoadBalancer" {
            annotation.forbidden(errors, ONLY_LOAD_BALANCER);
        }
        let before = old.map(|old| old.field("metadata").field("annotations").key(SOURCE_RANGES).str());
        if before == Some(annotation.str()) {
            return;
        }
        for range in annotation.str().trim().split(',').filter(|_| !annotation.str().trim().is_empty()) {
            trimmed(range, annotation.path(), errors);
        }
    }
}

fn load_balancer_fields(spec: &Cursor<'_>, kind: &str, errors: &mut ErrorList) {
    let allocate = spec.field("allocateLoadBalancerNodePorts");
    match (kind, allocate.is_set()) {
        ("LoadBalancer", false) => errors.required(Path::new("allocateLoadBalancerNodePorts"), ""),
        ("LoadBalancer", true) | (_, false) => {}
        (_, true) => allocate.forbidden(errors, ONLY_LOAD_BALANCER),
    }
    load_balancer_class(spec, errors);
}

fn load_balancer_class(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let class = spec.field("loadBalancerClass");
    if !class.is_set() {
        return;
    }
    if spec.field("type").str() == "LoadBalancer" {
        formatted(&class, names::qualified_name, errors);
    } else {
        class.forbidden(errors, ONLY_LOAD_BALANCER);
    }
}

fn traffic_policies(spec: &Cursor<'_>, kind: &str, errors: &mut ErrorList) {
    let (policy, health) = (spec.field("externalTrafficPolicy"), spec.field("healthCheckNodePort"));
    let is_external =
        matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && !spec.field("externalIPs").is_empty());
    if is_external {
        required_enum(&policy, TRAFFIC_POLICIES, errors);
    } else if !policy.is_empty() {
        policy.invalid(errors, "may only be set for externally-accessible services");
    }
    if kind == "LoadBalancer" && policy.str() == "Local" {
        if health.int() == 0 {
            health.required(errors, "");
        } else {
            port_number(&health, errors);
        }
    } else if health.int() != 0 {
        health.invalid(errors, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
    }
    let internal = spec.field("internalTrafficPolicy");
    if !internal.is_set() && matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        internal.required(errors, "");
    }
    optional_enum(&internal, TRAFFIC_POLICIES, errors);
    let distribution = spec.field("trafficDistribution");
    if distribution.is_set() {
        supported_text(&distribution, &["PreferClose", "PreferSameZone", "PreferSameNode"], errors);
    }
}

fn validate_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    let is_external_name = [&spec, &old_spec].iter().any(|s| s.field("type").str() == "ExternalName");
    if !is_external_name {
        cluster_ip_change(new, old, errors);
        family_change(new, old, errors);
    }
    let (class, old_class) = (spec.field("loadBalancerClass"), old_spec.field("loadBalancerClass"));
    let both_balanced = [&spec, &old_spec].iter().all(|s| s.field("type").str() == "LoadBalancer");
    if both_balanced && class.value() != old_class.value() {
        errors.invalid_choice(class.path(), class.value().clone(), "may not change once set");
    }
    load_balancer_class(&spec, errors);
    let health = spec.field("healthCheckNodePort");
    if needs_health_check(old.value())
        && needs_health_check(new.value())
        && health.int() != old_spec.field("healthCheckNodePort").int()
    {
        health.forbidden(errors, "field is immutable");
    }
    validate(new, Some(old), errors);
}

const SINGLE_STACK: &str = "SingleStack";

fn cluster_ip_change(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let (ips, old_ips) = (new.field("spec").field("clusterIPs"), old.field("spec").field("clusterIPs"));
    let mut refuse = |index: usize, detail: &str| {
        errors.invalid(ips.path().index(index), ips.value().clone(), detail);
    };
    if ips.len() == old_ips.len() {
        for (index, (ip, before)) in ips.items().zip(old_ips.items()).enumerate() {
            if ip.str() != before.str() {
                refuse(index, "may not change once set");
            }
        }
        return;
    }
    if !old_ips.is_empty() && ips.is_empty() {
        refuse(0, "primary clusterIP can not be unset");
    }
    if !old_ips.is_empty() && !ips.is_empty() && ips.index(0).str() != old_ips.index(0).str() {
        refuse(0, "may not change once set");
    }
    let policy = new.field("spec").field("ipFamilyPolicy");
    if old_ips.len() > ips.len() && ips.len() == 1 && policy.str() != SINGLE_STACK {
        policy.invalid(errors, "must be set to 'SingleStack' when releasing the secondary clusterIP");
    }
}

fn family_change(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let spec = new.field("spec");
    let (families, old_families) = (spec.field("ipFamilies"), old.field("spec").field("ipFamilies"));
    let first = families.path().index(0);
    if families.len() == old_families.len() {
        for _ in families.items().zip(old_families.items()).filter(|(n, o)| n.str() != o.str()) {
            errors.invalid(first.clone(), families.value().clone(), "may not change once set");
        }
        return;
    }
    if old_families.len() > families.len() && spec.field("clusterIPs").is_empty() {
        errors.invalid(first.clone(), families.value().clone(), "primary ipFamily can not be unset");
    }
    let both = !old_families.is_empty() && !families.is_empty();
    if both && families.index(0).str() != old_families.index(0).str() {
        errors.invalid(first, spec.field("clusterIPs").value().clone(), "may not change once set");
    }
    let policy = spec.field("ipFamilyPolicy");
    if old_families.len() > families.len() && families.len() == 1 && policy.str() != SINGLE_STACK {
        policy.invalid(errors, "must be set to 'SingleStack' when releasing the secondary ipFamily");
    }
}

/// `loadBalancer` of the status of a Service or an Ingress.
fn load_balancer_status(status: &Cursor<'_>, is_balanced: bool, errors: &mut ErrorList) {
    let list = status.field("ingress");
    if !is_balanced && !list.is_empty() {
        list.forbidden(errors, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for ingress in list.items() {
        let (ip, mode, host) = (ingress.field("ip"), ingress.field("ipMode"), ingress.field("hostname"));
        if !ip.is_empty() {
            net::ip(&ip, errors);
        }
        if !mode.is_set() {
            if !ip.is_empty() {
                mode.required(errors, "must be specified when `ip` is set");
            }
        } else if ip.is_empty() {
            mode.forbidden(errors, "may not be specified when `ip` is not set");
        } else {
            optional_enum(&mode, &["Proxy", "VIP"], errors);
        }
        if !host.is_empty() {
            required_formatted(&host, names::dns1123_subdomain, errors);
            if net::parse_ip_sloppy(host.str()).is_some() {
                host.invalid(errors, "must be a DNS name, not an IP address");
            }
        }
    }
}

fn warnings(new: &Cursor<'_>, _: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    let spec = new.field("spec");
    let annotations = new.field("metadata").field("annotations");
    let hints = annotations.key(TOPOLOGY_HINTS);
    if hints.is_set() {
        out.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let (is_headless, kind) = (is_headless(new), spec.field("type").str());
    let (ips, external_ips) = (spec.field("clusterIPs"), spec.field("externalIPs"));
    if !is_headless {
        ips.items().for_each(|ip| net::ip_warning(&ip, out));
    }
    if is_headless {
        if !spec.field("loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !spec.field("externalIPs").is_empty() {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.field("sessionAffinity").str() != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    external_ips.items().for_each(|ip| net::ip_warning(&ip, out));
    if !external_ips.is_empty() && !is_headless && kind != "ExternalName" {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    net::ip_warning(&spec.field("loadBalancerIP"), out);
    spec.field("loadBalancerSourceRanges").items().for_each(|range| net::cidr_warning(&range, out));
    if !external_ips.is_empty() && kind == "ExternalName" {
        out.push(format!("spec.externalIPs is ignored when spec.type is \"{kind}\""));
    }
    if kind != "ExternalName" && !spec.field("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    let distribution = spec.field("trafficDistribution");
    if distribution.str() == "PreferClose" {
        out.push(format!("{}: \"PreferClose\" is deprecated; use \"PreferSameZone\"", distribution.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(changes: Value) -> Value {
        let mut service = json!({
            "metadata": {"name": "a", "namespace": "n", "resourceVersion": "1"},
            "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP",
                     "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}
        });
        for (key, value) in changes.as_object().cloned().unwrap_or_default() {
            service["spec"][key] = value;
        }
        service
    }

    fn errors_of(changes: Value) -> Vec<String> {
        let service = service(changes);
        let mut errors = ErrorList::new();
        validate(&Cursor::root(&service), None, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn types_decide_about_fields() {
        assert_eq!(errors_of(json!({})), Vec::<String>::new());
        assert_eq!(errors_of(json!({"ports": []})), ["spec.ports: Required value"]);
        assert_eq!(errors_of(json!({"type": "ExternalName"})), ["spec.externalName: Required value"]);
        assert_eq!(
            errors_of(json!({"loadBalancerClass": "x"})),
            ["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"]
        );
    }

    #[test]
    fn addresses_agree_with_each_other() {
        assert_eq!(
            errors_of(json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.10"]})),
            ["spec.clusterIPs: Invalid value: [\"10.0.0.10\"]: first value must match `clusterIP`"]
        );
        assert_eq!(
            errors_of(json!({"ipFamilies": ["IPv4", "IPv4"]})),
            ["spec.ipFamilies[1]: Duplicate value: \"IPv4\""]
        );
    }

    #[test]
    fn an_address_does_not_change() {
        let old = service(json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"]}));
        let mut new = service(json!({"clusterIP": "10.0.0.99", "clusterIPs": ["10.0.0.9"]}));
        sync_cluster_ips(&mut new, Some(&old));
        let mut errors = ErrorList::new();
        validate_update(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
        assert_eq!(
            errors.aggregate_message(),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.99\"]: may not change once set"
        );
    }

    #[test]
    fn what_was_allocated_is_kept_where_it_is_left_out() {
        let old = service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.0.0.9",
            "clusterIPs": ["10.0.0.9"], "healthCheckNodePort": 30002,
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}]}));
        let kept = |changes: Value| {
            let mut new = service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "ports": [{"name": "a", "port": 81}]}));
            for (name, value) in changes.as_object().cloned().unwrap_or_default() {
                new["spec"][name] = value;
            }
            keep_allocations(&mut new, &old);
            let spec = new["spec"].take();
            json!([spec["clusterIPs"], spec["ports"][0]["nodePort"], spec["healthCheckNodePort"]])
        };
        assert_eq!(kept(json!({})), json!([["10.0.0.9"], 30001, 30002]));
        assert_eq!(kept(json!({"healthCheckNodePort": -1})), json!([["10.0.0.9"], 30001, -1]));
        assert_eq!(kept(json!({"allocateLoadBalancerNodePorts": false})), json!([["10.0.0.9"], null, 30002]));
        assert_eq!(
            kept(json!({"type": "x"})),
            json!([["10.0.0.9"], null, null]),
            "told to be unknown, and nothing else"
        );
        assert_eq!(kept(json!({"type": "ExternalName"})), json!([null, null, null]));
        let negative = json!({"ports": [{"name": "a", "port": 80, "nodePort": -1}]});
        assert_eq!(kept(negative), json!([["10.0.0.9"], -1, 30002]));
    }

    #[test]
    fn node_ports_go_with_the_type_that_needed_them() {
        let old = service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}));
        let mut new = service(json!({"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}));
        drop_fields_of_former_type(&mut new, &old);
        assert_eq!(new["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
    }
}
