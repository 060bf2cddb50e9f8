//! Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR. Source: `pkg/apis/networking/validation`.

use crate::occurrences::Occurrences;
use crate::strategy::{GenerationSeen, SubresourceStrategy};
use crate::validate::labels::{invalid_each, selector};
use crate::validate::text::{
    domain_prefixed_path, formatted, formatted_if_present, formatted_if_set, immutable, immutable_text, optional_enum,
    port_number, port_number_or_name, required_formatted, same, supported, supported_text,
};
use crate::validate::{go, names, net};
use crate::{Cursor, ErrorList, Path, Strategy, json, meta};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_MAX_BYTES: usize = 250;
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];

pub const INGRESS: Strategy = Strategy {
    validate: |ingress, errors| {
        ingress_spec(ingress, errors);
        let annotation = ingress.field("metadata").field("annotations").field(CLASS_ANNOTATION);
        let class = ingress.field("spec").field("ingressClassName");
        if annotation.is_set() && class.is_set() && annotation.str() != class.str() {
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            errors.invalid(path, annotation.str(), "must match `ingressClassName` when both are specified");
        }
    },
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        ingress_spec(new, errors);
    },
    warnings: |new, old, out| {
        let annotations = new.field("metadata").field("annotations");
        let has_class = new.field("spec").field("ingressClassName").is_set();
        if old.is_none() && annotations.field(CLASS_ANNOTATION).is_set() && !has_class {
            out.push(format!(
                "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
            ));
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, old, errors| {
            meta::validate_update_again(new, old, errors);
            ingress_status(&new.field("status").field("loadBalancer"), errors);
        },
    }],
    ..Strategy::DEFAULT
};

fn ingress_spec(ingress: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = ingress.field("spec");
    let (rules, backend, class) = (spec.field("rules"), spec.field("defaultBackend"), spec.field("ingressClassName"));
    if rules.is_empty() && !backend.is_set() {
        errors.invalid(spec.path(), rules.value().clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        ingress_backend(&backend, errors);
    }
    for rule in rules.items() {
        ingress_rule(&rule, errors);
    }
    for tls in spec.field("tls").items() {
        for host in tls.field("hosts").items() {
            let format =
                if host.str().contains('*') { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain };
            formatted(&host, format, errors);
        }
        formatted_if_set(&tls.field("secretName"), names::dns1123_subdomain, errors);
    }
    if class.is_set() {
        formatted(&class, names::dns1123_subdomain, errors);
    }
}

fn ingress_rule(rule: &Cursor<'_>, errors: &mut ErrorList) {
    let host = rule.field("host");
    if !host.is_empty() {
        if net::parse_ip_sloppy(host.str()).is_some() {
            host.invalid(errors, "must be a DNS name, not an IP address");
        }
        let format =
            if host.str().contains('*') { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain };
        formatted(&host, format, errors);
    }
    let http = rule.field("http");
    if !http.is_set() {
        return;
    }
    let paths = http.field("paths");
    if paths.is_empty() {
        paths.required(errors, "");
    }
    for path in paths.items() {
        ingress_path(&path, errors);
    }
}

/// Sequences that routers would normalise away, and so could be used to slip past a rule.
const INVALID_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const INVALID_SUFFIXES: &[&str] = &["/..", "/."];

fn ingress_path(path: &Cursor<'_>, errors: &mut ErrorList) {
    let (kind, text) = (path.field("pathType"), path.field("path"));
    if !kind.is_set() {
        kind.required(errors, "pathType must be specified");
        return;
    }
    match kind.str() {
        "Exact" | "Prefix" => {
            if !text.str().starts_with('/') {
                errors.invalid(text.path(), text.str(), "must be an absolute path");
            }
            for sequence in INVALID_SEQUENCES.iter().filter(|s| text.str().contains(**s)) {
                text.invalid(errors, format!("must not contain '{sequence}'"));
            }
            for suffix in INVALID_SUFFIXES.iter().filter(|s| text.str().ends_with(**s)) {
                text.invalid(errors, format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.str().starts_with('/') {
                text.invalid(errors, "must be an absolute path");
            }
        }
        _ => kind.no_such_choice(errors, PATH_TYPES),
    }
    ingress_backend(&path.field("backend"), errors);
}

fn ingress_backend(backend: &Cursor<'_>, errors: &mut ErrorList) {
    let (service, resource) = (backend.field("service"), backend.field("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => errors.invalid(backend.path(), "", "cannot set both resource and service backends"),
        (false, true) => {
            formatted_if_present(&resource.field("apiGroup"), names::dns1123_subdomain, errors);
            for field in ["kind", "name"] {
                if resource.field(field).is_empty() {
                    resource.field(field).required(errors, "");
                }
            }
        }
        (true, false) => {
            let (name, port) = (service.field("name"), service.field("port"));
            required_formatted(&name, names::dns1123_label, errors);
            match (port.field("name").is_empty(), port.field("number").int()) {
                (true, 0) => backend.required(errors, "port name or number is required"),
                (false, 0) => formatted(&port.field("name"), names::port_name, errors),
                (true, _) => port_number(&port.field("number"), errors),
                (false, _) => errors.invalid(backend.path(), "", "cannot set both port name & port number"),
            }
        }
        (false, false) => errors.invalid(backend.path(), "", "resource or service backend is required"),
    }
}

fn ingress_status(status: &Cursor<'_>, errors: &mut ErrorList) {
    for ingress in status.field("ingress").items() {
        let (ip, host) = (ingress.field("ip"), ingress.field("hostname"));
        if !ip.is_empty() {
            net::ip(&ip, errors);
        }
        if !host.is_empty() {
            formatted(&host, names::dns1123_subdomain, errors);
            if net::parse_ip_sloppy(host.str()).is_some() {
                host.invalid(errors, "must be a DNS name, not an IP address");
            }
        }
    }
}

pub const INGRESS_CLASS: Strategy = Strategy {
    validate: |class, errors| ingress_class_spec(&class.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        let spec = new.field("spec");
        let controller = spec.field("controller");
        if controller.str() != old.field("spec").field("controller").str() {
            errors.invalid(controller.path(), controller.str(), crate::validate::text::IMMUTABLE);
        }
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        ingress_class_spec(&spec, errors);
    },
    ..Strategy::DEFAULT
};

fn ingress_class_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let controller = spec.field("controller");
    if controller.str().len() > CONTROLLER_MAX_BYTES {
        errors.too_long(controller.path(), CONTROLLER_MAX_BYTES);
    }
    domain_prefixed_path(&controller, errors);
    let parameters = spec.field("parameters");
    if !parameters.is_set() {
        return;
    }
    formatted_if_present(&parameters.field("apiGroup"), names::dns1123_subdomain, errors);
    for field in ["kind", "name"] {
        let value = parameters.field(field);
        required_formatted(&value, names::path_segment, errors);
    }
    let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
    if !scope.is_set() {
        scope.required(errors, "");
        return;
    }
    supported_text(&scope, &["Cluster", "Namespace"], errors);
    match scope.str() {
        "Namespace" if !namespace.is_set() => namespace.required(errors, "`parameters.scope` is set to 'Namespace'"),
        "Namespace" => formatted(&namespace, names::dns1123_label, errors),
        "Cluster" if namespace.is_set() => namespace.forbidden(errors, "`parameters.scope` is set to 'Cluster'"),
        _ => {}
    }
}

pub const NETWORK_POLICY: Strategy = Strategy {
    generation_seen: GenerationSeen::Sent,
    validate: |policy, errors| policy_spec(&policy.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        policy_spec(&new.field("spec"), errors);
    },
    ..Strategy::DEFAULT
};

fn policy_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    selector(&spec.field("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            for port in rule.field("ports").items() {
                policy_port(&port, errors);
            }
            for peer in rule.field(peers).items() {
                policy_peer(&peer, errors);
            }
        }
    }
    let types = spec.field("policyTypes");
    if types.len() > 2 {
        types.invalid(errors, "may not specify more than two policyTypes");
        return;
    }
    for kind in types.items() {
        supported(&kind, &["Ingress", "Egress"], errors);
    }
}

fn policy_port(port: &Cursor<'_>, errors: &mut ErrorList) {
    optional_enum(&port.field("protocol"), &["TCP", "UDP", "SCTP"], errors);
    let (number, end) = (port.field("port"), port.field("endPort"));
    if !number.is_set() {
        if end.is_set() {
            end.invalid(errors, "may not be specified when `port` is not specified");
        }
        return;
    }
    if number.opt_int().is_some() {
        port_number(&number, errors);
    }
    if let Some(last) = end.opt_int() {
        match number.opt_int() {
            None => end.invalid(errors, "may not be specified when `port` is non-numeric"),
            Some(first) => {
                if last < first {
                    // The number shown is that of the port.
                    errors.invalid(end.path(), first, "must be greater than or equal to `port`");
                }
                port_number(&end, errors);
            }
        }
    }
    if number.opt_int().is_none() {
        port_number_or_name(&number, errors);
    }
}

fn policy_peer(peer: &Cursor<'_>, errors: &mut ErrorList) {
    let (pods, namespaces, block) = (peer.field("podSelector"), peer.field("namespaceSelector"), peer.field("ipBlock"));
    let n_peers = [&pods, &namespaces, &block].iter().filter(|p| p.is_set()).count();
    selector(&pods, errors);
    selector(&namespaces, errors);
    if block.is_set() {
        ip_block(&block, errors);
    }
    if n_peers == 0 {
        peer.required(errors, "must specify a peer");
    } else if n_peers > 1 && block.is_set() {
        peer.forbidden(errors, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &Cursor<'_>, errors: &mut ErrorList) {
    let cidr = block.field("cidr");
    if cidr.is_empty() {
        cidr.required(errors, "");
        return;
    }
    net::cidr(&cidr, errors);
    let Some(outer) = net::parse_cidr_sloppy(cidr.str()) else { return };
    for except in block.field("except").items() {
        let Some(inner) = net::parse_cidr_sloppy(except.str()) else {
            net::cidr(&except, errors);
            continue;
        };
        net::cidr(&except, errors);
        if !net::contains(outer, inner) || inner.1 <= outer.1 {
            except.invalid(errors, "must be a strict subset of `cidr`");
        }
    }
}

pub const IP_ADDRESS: Strategy = Strategy {
    name_rule: ip_address_name,
    validate: |address, errors| parent_reference(&address.field("spec").field("parentRef"), errors),
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, ip_address_name, errors);
        parent_reference(&new.field("spec").field("parentRef"), errors);
        meta::validate_update_again(new, old, errors);
        let (parent, before) = (new.field("spec").field("parentRef"), old.field("spec").field("parentRef"));
        if !same(parent.value(), before.value()) {
            errors.invalid(
                parent.path(),
                go::pointer("net.ParentReference", parent.value()),
                crate::validate::text::IMMUTABLE,
            );
        }
    },
    ..Strategy::DEFAULT
};

/// An address is named after itself.
fn ip_address_name(name: &str, _: bool) -> Vec<String> {
    let canonical = net::parse_ip_sloppy(name).map(|ip| ip.to_string());
    match canonical {
        Some(_) if !name.contains(':') && name.parse::<std::net::IpAddr>().is_err() => {
            vec!["must not have leading 0s".to_owned()]
        }
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        Some(text) if text != name => vec![format!("must be in canonical form (\"{text}\")")],
        Some(_) => Vec::new(),
    }
}

fn parent_reference(parent: &Cursor<'_>, errors: &mut ErrorList) {
    if !parent.is_set() {
        parent.required(errors, "");
        return;
    }
    formatted_if_set(&parent.field("group"), names::dns1123_subdomain, errors);
    for field in ["resource", "name"] {
        let value = parent.field(field);
        required_formatted(&value, names::path_segment, errors);
    }
    let namespace = parent.field("namespace");
    if !namespace.is_empty() {
        formatted(&namespace, names::path_segment, errors);
    }
}

pub const SERVICE_CIDR: Strategy = Strategy {
    validate: |object, errors| service_cidrs(&object.field("spec").field("cidrs"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        let (cidrs, before) = (new.field("spec").field("cidrs"), old.field("spec").field("cidrs"));
        // One family may become two; nothing else changes.
        if before.len() == cidrs.len() {
            for (cidr, before) in cidrs.items().zip(before.items()) {
                immutable_text(&cidr, &before, errors);
            }
        } else if before.len() == 1 && cidrs.len() == 2 {
            immutable_text(&cidrs.index(0), &before.index(0), errors);
            service_cidrs(&cidrs, errors);
        } else {
            cidrs.invalid(errors, crate::validate::text::IMMUTABLE);
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: meta::validate_update_again,
    }],
    ..Strategy::DEFAULT
};

fn service_cidrs(cidrs: &Cursor<'_>, errors: &mut ErrorList) {
    if cidrs.is_empty() {
        cidrs.required(errors, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        let shown = json!({"CIDRs": cidrs.value()});
        errors.invalid(cidrs.path(), shown, "may only hold up to 2 values");
        return;
    }
    for cidr in cidrs.items() {
        if !net::cidr(&cidr, errors) {
            continue;
        }
        let canonical = net::parse_cidr_sloppy(cidr.str()).map(|(ip, bits)| format!("{ip}/{bits}"));
        if let Some(canonical) = canonical.filter(|canonical| canonical != cidr.str()) {
            cidr.invalid(errors, format!("must be in canonical form (\"{canonical}\")"));
        }
    }
    let texts: Vec<&str> = cidrs.items().map(|c| c.str()).collect();
    if texts.len() == 2 && net::is_dual_stack_cidrs(texts.into_iter()) == Some(false) {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        cidrs.invalid(errors, detail);
    }
}

/// Endpoints of services, in slices. Source: `pkg/apis/discovery/validation`.
pub const ENDPOINT_SLICE: Strategy = Strategy {
    prepare_for_create: |new, _| drop_topology(new),
    validate: |slice, errors| endpoint_slice(slice, true, errors),
    warnings: |slice, _, out| {
        if slice.field("addressType").str() == "FQDN" {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
    },
    prepare_for_update: |new, _, _| drop_topology(new),
    generation_seen: GenerationSeen::Decoded,
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        // Endpoints that stay as they are stay valid.
        let unchanged = same(new.field("endpoints").value(), old.field("endpoints").value());
        endpoint_slice(new, !unchanged, errors);
        immutable(&new.field("addressType"), &old.field("addressType"), errors);
    },
    ..Strategy::DEFAULT
};

fn drop_topology(slice: &mut crate::Value) {
    for endpoint in slice.get_mut("endpoints").and_then(crate::Value::as_array_mut).into_iter().flatten() {
        crate::kinds::carry::remove(endpoint, &[], "deprecatedTopology");
    }
}

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

fn endpoint_slice(slice: &Cursor<'_>, check_endpoints: bool, errors: &mut ErrorList) {
    let kind = slice.field("addressType");
    if kind.is_empty() {
        kind.required(errors, "");
    } else {
        supported(&kind, &["FQDN", "IPv4", "IPv6"], errors);
    }
    slice_ports(&slice.field("ports"), errors);
    let endpoints = slice.field("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.too_many(endpoints.path(), endpoints.len(), ENDPOINTS_MAX);
    } else if check_endpoints {
        for endpoint in endpoints.items() {
            slice_endpoint(&endpoint, kind.str(), errors);
        }
    }
}

fn slice_endpoint(endpoint: &Cursor<'_>, kind: &str, errors: &mut ErrorList) {
    let addresses = endpoint.field("addresses");
    if addresses.is_empty() {
        addresses.required(errors, "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        errors.too_many(addresses.path(), addresses.len(), ADDRESSES_MAX);
    }
    for address in addresses.items() {
        slice_address(&addresses, &address, kind, errors);
    }
    let node = endpoint.field("nodeName");
    if node.is_set() {
        formatted(&node, names::dns1123_subdomain, errors);
    }
    let host = endpoint.field("hostname");
    if host.is_set() {
        formatted(&host, names::dns1123_label, errors);
    }
    let hints = endpoint.field("hints");
    for (list, label) in [("forZones", true), ("forNodes", false)] {
        let targets = hints.field(list);
        if targets.len() > HINTS_MAX {
            errors.too_many(targets.path(), targets.len(), HINTS_MAX);
            continue;
        }
        let mut seen: Occurrences<&str> = Occurrences::new();
        for target in targets.items() {
            let name = target.field("name");
            if seen.contains(&name.str()) {
                errors.duplicate(name.path(), name.str());
            } else {
                seen.push(name.str());
            }
            let messages = if label { names::label_value(name.str()) } else { names::dns1123_subdomain(name.str()) };
            invalid_each(errors, &name.path(), name.str(), messages);
        }
    }
}

fn slice_address(list: &Cursor<'_>, address: &Cursor<'_>, kind: &str, errors: &mut ErrorList) {
    match kind {
        "IPv4" | "IPv6" => {
            if !net::ip(address, errors) {
                return;
            }
            // Reported at the list: upstream never indexed this one.
            if net::is_ipv6_text(address.str()) != (kind == "IPv6") {
                errors.invalid(list.path(), address.str(), format!("must be an {kind} address"));
            }
            net::non_special_ip(address, errors);
        }
        "FQDN" => fully_qualified_name(address, errors),
        _ => {}
    }
}

fn fully_qualified_name(address: &Cursor<'_>, errors: &mut ErrorList) {
    let text = address.str();
    if text.is_empty() {
        address.required(errors, "");
        return;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        errors.invalid(address.path(), name, messages.join(","));
        return;
    }
    if !name.contains('.') {
        errors.invalid(address.path(), name, "should be a domain with at least two segments separated by dots");
        return;
    }
    for label in name.split('.') {
        let messages = names::dns1123_label(label);
        if !messages.is_empty() {
            errors.invalid(address.path(), label, messages.join(","));
            return;
        }
    }
}

fn slice_ports(ports: &Cursor<'_>, errors: &mut ErrorList) {
    if ports.len() > PORTS_MAX {
        errors.too_many(ports.path(), ports.len(), PORTS_MAX);
        return;
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for port in ports.items() {
        let (name, protocol, app) = (port.field("name"), port.field("protocol"), port.field("appProtocol"));
        if !name.is_empty() {
            formatted(&name, names::dns1123_label, errors);
        }
        if seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        } else {
            seen.push(name.str());
        }
        if !protocol.is_set() {
            protocol.required(errors, "");
        } else {
            supported(&protocol, &["SCTP", "TCP", "UDP"], errors);
        }
        // Upstream does not look at the number.
        if app.is_set() {
            formatted(&app, names::qualified_name, errors);
        }
    }
}
