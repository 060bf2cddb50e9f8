//! Endpoints, the predecessor of EndpointSlice. Source: `pkg/apis/core/validation`.

use crate::validate::text::{formatted, formatted_if_set, port_number, required_enum};
use crate::validate::{names, net};
use crate::{Cursor, ErrorList, Strategy, meta};

pub const STRATEGY: Strategy = Strategy {
    validate,
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        validate(new, errors);
    },
    ..Strategy::DEFAULT
};

fn validate(endpoints: &Cursor<'_>, errors: &mut ErrorList) {
    for subset in endpoints.field("subsets").items() {
        let (ready, not_ready) = (subset.field("addresses"), subset.field("notReadyAddresses"));
        if ready.is_empty() && not_ready.is_empty() {
            subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(not_ready.items()) {
            endpoint_address(&address, errors);
        }
        let ports = subset.field("ports");
        for port in ports.items() {
            endpoint_port(&port, ports.len() > 1, errors);
        }
    }
}

fn endpoint_address(address: &Cursor<'_>, errors: &mut ErrorList) {
    net::ip(&address.field("ip"), errors);
    formatted_if_set(&address.field("hostname"), names::dns1123_label, errors);
    let node = address.field("nodeName");
    if node.is_set() {
        formatted(&node, names::dns1123_subdomain, errors);
    }
    net::non_special_ip(&address.field("ip"), errors);
}

fn endpoint_port(port: &Cursor<'_>, needs_name: bool, errors: &mut ErrorList) {
    let name = port.field("name");
    if name.is_empty() && needs_name {
        name.required(errors, "");
    }
    formatted_if_set(&name, names::dns1123_label, errors);
    port_number(&port.field("port"), errors);
    required_enum(&port.field("protocol"), &["SCTP", "TCP", "UDP"], errors);
    let protocol = port.field("appProtocol");
    if protocol.is_set() {
        formatted(&protocol, names::qualified_name, errors);
    }
}
