//! What one write of a Service takes and gives back.

use std::{collections::HashSet, net::IpAddr};

use api::json;
use api::{ErrorList, Path, Status, Value};

use super::{
    Cidr, Family, InUse, PortRange, Random,
    families::{self, NONE, strings},
    ports::{Operation, PortError},
    usage::requested_port,
};

/// The ranges of a cluster.
#[derive(Clone, Debug)]
pub struct Allocator {
    /// The families of the cluster, the default first.
    families: Vec<Family>,
    /// Where addresses are taken from, in this order.
    ranges: Vec<Cidr>,
    node_ports: PortRange,
}

/// Addresses that a write takes and releases. In a dry run nothing is to be created or deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub taken: Vec<IpAddr>,
    pub released: Vec<IpAddr>,
}

/// How a Service is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write<'a> {
    in_use: &'a InUse,
    dry_run: bool,
}

impl Allocator {
    /// Of the server's own ranges: at least one; the first one's family is the default. More than one per family is fine.
    pub fn new(ranges: Vec<Cidr>, node_ports: PortRange) -> Self {
        let mut families: Vec<Family> = Vec::new();
        for range in &ranges {
            if !families.contains(&range.family()) {
                families.push(range.family());
            }
        }
        Self { families, ranges, node_ports }
    }

    pub fn ranges(&self) -> &[Cidr] {
        &self.ranges
    }

    /// The same cluster with other ranges: its families stay.
    pub fn with_ranges(&self, ranges: Vec<Cidr>) -> Self {
        Self { ranges, ..self.clone() }
    }

    /// Fills in everything a new Service lacks.
    pub fn create(
        &self,
        service: &mut Value,
        in_use: &InUse,
        dry_run: bool,
        random: Random<'_>,
    ) -> Result<Allocation, Status> {
        families::carry_over(service, None);
        self.init_families(service, None)?;
        let write = Write { in_use, dry_run };
        let taken = self.allocate_all(service, write, random)?;
        let mut ports = Operation::new(self.node_ports, &in_use.node_ports, dry_run);
        if wants_node_ports(service) {
            init_node_ports(service, &mut ports, random)?;
        }
        if needs_health_check(service) {
            allocate_health_check(service, &mut ports, random)?;
        }
        Ok(Allocation { taken, released: Vec::new() })
    }

    /// Fills in everything an updated Service lacks, keeping what it had. What the old version holds counts as in use.
    pub fn update(
        &self,
        service: &mut Value,
        old: &Value,
        in_use: &InUse,
        dry_run: bool,
        random: Random<'_>,
    ) -> Result<Allocation, Status> {
        families::carry_over(service, Some(old));
        self.init_families(service, Some(old))?;
        let write = Write { in_use, dry_run };
        let allocation = self.update_ips(service, old, write, random)?;
        let mut ports = Operation::new(self.node_ports, &in_use.node_ports, dry_run);
        if wants_node_ports(service) {
            update_node_ports(service, old, &mut ports, random)?;
        }
        if needs_health_check(service) && !needs_health_check(old) {
            allocate_health_check(service, &mut ports, random)?;
        }
        Ok(allocation)
    }

    /// What the deletion of a Service gives back.
    pub fn delete(service: &Value) -> Allocation {
        let has_ips = service["spec"]["type"] != "ExternalName";
        let ips = if has_ips { strings(service, "clusterIPs") } else { Vec::new() };
        Allocation { taken: Vec::new(), released: ips.iter().filter_map(|ip| ip.parse().ok()).collect() }
    }

    fn init_families(&self, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if self.families.is_empty() {
            return Err(Status::internal("no service IP range is configured"));
        }
        families::init(service, old, &self.families).map_err(|errors| invalid(service, &errors))
    }

    fn update_ips(
        &self,
        service: &mut Value,
        old: &Value,
        write: Write<'_>,
        random: Random<'_>,
    ) -> Result<Allocation, Status> {
        if families::is_settled_dual_stack(service, old) {
            return Ok(Allocation::default());
        }
        let is_external = |s: &Value| s["spec"]["type"] == "ExternalName";
        let old_ips = strings(old, "clusterIPs");
        if is_external(old) && !is_external(service) {
            let taken = self.allocate_all(service, write, random)?;
            return Ok(Allocation { taken, released: Vec::new() });
        }
        if old_ips.first().is_some_and(|ip| ip == NONE) {
            return Ok(Allocation::default());
        }
        let parsed: Vec<IpAddr> = old_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        if !is_external(old) && is_external(service) {
            return Ok(Allocation { taken: Vec::new(), released: parsed });
        }
        match (strings(old, "ipFamilies").len(), strings(service, "ipFamilies").len()) {
            (1, 2) => {
                let taken = self.allocate_from(service, 1, write, random)?;
                Ok(Allocation { taken, released: Vec::new() })
            }
            (2, 1) => Ok(Allocation { taken: Vec::new(), released: parsed.get(1).copied().into_iter().collect() }),
            _ => Ok(Allocation::default()),
        }
    }

    fn allocate_all(&self, service: &mut Value, write: Write<'_>, random: Random<'_>) -> Result<Vec<IpAddr>, Status> {
        let is_headless = strings(service, "clusterIPs").first().is_some_and(|ip| ip == NONE);
        if service["spec"]["type"] == "ExternalName" || is_headless {
            return Ok(Vec::new());
        }
        self.allocate_from(service, 0, write, random)
    }

    /// An address for every family from index `first` on: the one the user chose, or a free one.
    fn allocate_from(
        &self,
        service: &mut Value,
        first: usize,
        write: Write<'_>,
        random: Random<'_>,
    ) -> Result<Vec<IpAddr>, Status> {
        let families = strings(service, "ipFamilies");
        let mut ips = strings(service, "clusterIPs");
        let mut taken = Vec::new();
        for (i, family) in families.iter().enumerate().skip(first) {
            let Some(family) = Family::from_name(family) else { continue };
            let ip = match ips.get(i).filter(|ip| !ip.is_empty()) {
                Some(text) => self.reserve(service, &ips, text, write)?,
                None => self.choose(family, write, random)?,
            };
            taken.push(ip);
            match ips.get_mut(i) {
                // The user's spelling is kept.
                Some(text) if !text.is_empty() => {}
                Some(text) => *text = ip.to_string(),
                None => ips.push(ip.to_string()),
            }
        }
        if let Some(ip) = ips.first() {
            service["spec"]["clusterIP"] = json!(ip);
        }
        service["spec"]["clusterIPs"] = json!(ips);
        Ok(taken)
    }

    fn reserve(&self, service: &Value, ips: &[String], text: &str, write: Write<'_>) -> Result<IpAddr, Status> {
        let refuse = |reason: String| {
            let mut errors = ErrorList::new();
            let detail = format!("failed to allocate IP {text}: {reason}");
            errors.invalid(Path::new("spec.clusterIPs"), json!(ips), detail);
            invalid(service, &errors)
        };
        let ip: IpAddr = text.parse().map_err(|_| refuse("not an IP address".into()))?;
        let Some(range) = self.ranges.iter().find(|range| range.contains(ip)) else {
            // A dry run asks the first range alone.
            let reason = match self.ranges.first().filter(|_| write.dry_run) {
                Some(range) => not_in(ip, range),
                None => "the provided network does not match the current range".into(),
            };
            return Err(refuse(reason));
        };
        if !range.is_host(ip) {
            return Err(refuse(not_in(ip, range)));
        }
        if !write.dry_run && write.in_use.ips.contains(&ip) {
            return Err(refuse("provided IP is already allocated".into()));
        }
        Ok(ip)
    }

    fn choose(&self, family: Family, write: Write<'_>, random: Random<'_>) -> Result<IpAddr, Status> {
        let mut ranges = self.ranges.iter().filter(|range| range.family() == family);
        if write.dry_run {
            // As upstream: a placeholder of the right family, nothing is looked for.
            return ranges.next().map(Cidr::base).ok_or_else(full);
        }
        ranges.find_map(|range| range.pick(&write.in_use.ips, random)).ok_or_else(full)
    }
}

fn full() -> Status {
    Status::internal("failed to allocate a serviceIP: range is full")
}

fn invalid(service: &Value, errors: &ErrorList) -> Status {
    Status::invalid("", "Service", api::meta::name(service), errors)
}

fn wants_node_ports(service: &Value) -> bool {
    matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

/// A LoadBalancer may decline node ports; it still gets those it asks for.
fn allocates_node_ports(service: &Value) -> bool {
    match service["spec"]["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn needs_health_check(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

fn port_values(service: &Value) -> Vec<Value> {
    service["spec"]["ports"].as_array().cloned().unwrap_or_default()
}

fn refuse_port(service: &Value, index: usize, port: i64, error: &PortError) -> Status {
    let mut errors = ErrorList::new();
    errors.invalid(Path::new("spec.ports").index(index).child("nodePort"), port, error.to_string());
    invalid(service, &errors)
}

/// Ports of one number (TCP and UDP) share a node port.
fn init_node_ports(service: &mut Value, operation: &mut Operation<'_>, random: Random<'_>) -> Result<(), Status> {
    let allocates = allocates_node_ports(service);
    let mut ports = port_values(service);
    let mut by_number: Vec<(Value, i64)> = Vec::new();
    for i in 0..ports.len() {
        let requested = requested_port(&ports[i]["nodePort"]);
        if requested.is_none() && !allocates {
            continue;
        }
        let number = ports[i]["port"].clone();
        let shared = by_number.iter().find(|(n, _)| *n == number).map(|(_, port)| *port);
        let node_port = match (shared, requested) {
            (Some(shared), None) => shared,
            (Some(shared), Some(own)) if shared == own => shared,
            (Some(_), Some(own)) => {
                operation.allocate(own).map_err(|e| refuse_port(service, i, own, &e))?;
                own
            }
            (None, _) => {
                let named = ports.iter().filter(|p| p["port"] == number).find_map(|p| requested_port(&p["nodePort"]));
                let port = match named {
                    Some(port) => {
                        operation.allocate(port).map_err(|e| refuse_port(service, i, port, &e))?;
                        port
                    }
                    None => next_node_port(operation, random)?,
                };
                by_number.push((number, port));
                port
            }
        };
        ports[i]["nodePort"] = json!(node_port as i32);
    }
    service["spec"]["ports"] = Value::Array(ports);
    Ok(())
}

fn next_node_port(operation: &mut Operation<'_>, random: Random<'_>) -> Result<i64, Status> {
    operation.allocate_next(random).map_err(|e| Status::internal(format!("failed to allocate a nodePort: {e}")))
}

fn update_node_ports(
    service: &mut Value,
    old: &Value,
    operation: &mut Operation<'_>,
    random: Random<'_>,
) -> Result<(), Status> {
    let kept: HashSet<i64> = port_values(old).iter().filter_map(|p| requested_port(&p["nodePort"])).collect();
    let allocates = allocates_node_ports(service);
    let mut ports = port_values(service);
    let mut seen: HashSet<(String, i64)> = HashSet::new();
    let mut taken: HashSet<i64> = HashSet::new();
    for (i, port) in ports.iter_mut().enumerate() {
        let requested = requested_port(&port["nodePort"]);
        if requested.is_none() && !allocates {
            continue;
        }
        let node_port = match requested {
            Some(own) => {
                if !kept.contains(&own) && taken.insert(own) {
                    operation.allocate(own).map_err(|e| refuse_port(service, i, own, &e))?;
                }
                own
            }
            None => next_node_port(operation, random)?,
        };
        port["nodePort"] = json!(node_port as i32);
        let protocol = port["protocol"].as_str().unwrap_or_default().to_owned();
        if !seen.insert((protocol.clone(), node_port)) {
            return Err(Status::unknown(format!("duplicate nodePort: {{{protocol} {node_port}}}")));
        }
    }
    service["spec"]["ports"] = Value::Array(ports);
    Ok(())
}

fn allocate_health_check(service: &mut Value, operation: &mut Operation<'_>, random: Random<'_>) -> Result<(), Status> {
    match requested_port(&service["spec"]["healthCheckNodePort"]) {
        Some(port) => operation
            .allocate(port)
            .map_err(|e| Status::internal(format!("failed to allocate requested HealthCheck NodePort {port}: {e}"))),
        None => {
            let port = operation
                .allocate_next(random)
                .map_err(|e| Status::internal(format!("failed to allocate a HealthCheck NodePort 0: {e}")))?;
            service["spec"]["healthCheckNodePort"] = json!(port as i32);
            Ok(())
        }
    }
}

fn not_in(ip: IpAddr, range: &Cidr) -> String {
    format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(ranges: &[&str]) -> Allocator {
        Allocator::new(ranges.iter().map(|r| r.parse().unwrap()).collect(), PortRange::default())
    }

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"type": "ClusterIP",
            "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
        for (key, value) in spec.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        service
    }

    fn create(spec: Value) -> Result<Value, String> {
        let mut service = service(spec);
        let in_use = InUse { ips: HashSet::from(["10.0.0.9".parse().unwrap()]), node_ports: HashSet::from([30001]) };
        match allocator(&["10.0.0.0/24"]).create(&mut service, &in_use, false, &mut |_| 0) {
            Ok(_) => Ok(service["spec"].clone()),
            Err(status) => Err(status.message),
        }
    }

    #[test]
    fn a_plain_service_gets_one_address_and_says_so() {
        let spec = create(json!({})).unwrap();
        assert_eq!(
            [&spec["clusterIP"], &spec["clusterIPs"], &spec["ipFamilies"], &spec["ipFamilyPolicy"]],
            [&json!("10.0.0.17"), &json!(["10.0.0.17"]), &json!(["IPv4"]), &json!("SingleStack")]
        );
    }

    #[test]
    fn what_the_user_chose_is_refused_with_upstreams_words() {
        let table = [
            (
                json!({"clusterIP": "1.2.3.4"}),
                "spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to allocate IP 1.2.3.4: the provided network does \
                 not match the current range",
            ),
            (
                json!({"clusterIP": "10.0.0.9"}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.9\"]: failed to allocate IP 10.0.0.9: provided IP is already \
                 allocated",
            ),
            (
                json!({"clusterIP": "x"}),
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.10"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.10\"]: first value must match `clusterIP`",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (json!({"ipFamilies": ["IPv4", "IPv4"]}), "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
                 services",
            ),
            (
                json!({"ipFamilyPolicy": "Bogus"}),
                "spec.ipFamilyPolicy: Unsupported value: \"Bogus\": supported values: \"PreferDualStack\", \
                 \"RequireDualStack\", \"SingleStack\"",
            ),
            (
                json!({"clusterIPs": ["10.0.0.9"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.9\"]: must be empty when `clusterIP` is not specified",
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}),
                "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(create(spec.clone()).unwrap_err(), format!("Service \"a\" is invalid: {expected}"), "{spec}");
        }
    }

    #[test]
    fn a_selectorless_headless_service_is_dual_stack_on_any_cluster() {
        let spec = create(json!({"clusterIP": "None", "selector": {}})).unwrap();
        assert_eq!(
            [&spec["clusterIPs"], &spec["ipFamilies"], &spec["ipFamilyPolicy"]],
            [&json!(["None"]), &json!(["IPv4", "IPv6"]), &json!("RequireDualStack")]
        );
    }

    #[test]
    fn tcp_and_udp_of_one_port_share_a_node_port() {
        let spec = create(json!({"type": "NodePort", "ports": [
            {"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}]}))
        .unwrap();
        let ports: Vec<u64> =
            spec["ports"].as_array().unwrap().iter().map(|p| p["nodePort"].as_u64().unwrap()).collect();
        assert_eq!(ports, [30086, 30086, 30087]);
    }

    #[test]
    fn an_upgrade_to_dual_stack_takes_a_second_address_and_a_downgrade_gives_it_back() {
        let allocator = allocator(&["10.0.0.0/24", "fd00::/120"]);
        let mut old = service(json!({}));
        let in_use = InUse::default();
        allocator.create(&mut old, &in_use, false, &mut |_| 0).unwrap();
        let mut new = old.clone();
        new["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
        let upgrade = allocator.update(&mut new, &old, &in_use, false, &mut |_| 0).unwrap();
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.17", "fd00::11"]));
        assert_eq!(upgrade.taken, ["fd00::11".parse::<IpAddr>().unwrap()]);
        let mut single = new.clone();
        single["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        let downgrade = allocator.update(&mut single, &new, &in_use, false, &mut |_| 0).unwrap();
        assert_eq!(single["spec"]["clusterIPs"], json!(["10.0.0.17"]));
        assert_eq!(downgrade.released, upgrade.taken);
    }

    #[test]
    fn an_update_keeps_what_a_client_leaves_out() {
        let allocator = allocator(&["10.0.0.0/24"]);
        let mut old = service(json!({"type": "NodePort"}));
        allocator.create(&mut old, &InUse::default(), false, &mut |_| 0).unwrap();
        let mut new = service(json!({"type": "NodePort"}));
        let in_use = InUse::of_service(&old);
        assert_eq!(allocator.update(&mut new, &old, &in_use, false, &mut |_| 0), Ok(Allocation::default()));
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(new["spec"]["ports"][0]["nodePort"], old["spec"]["ports"][0]["nodePort"]);
    }

    #[test]
    fn a_headless_service_stays_headless_and_dual_stack() {
        let allocator = allocator(&["10.0.0.0/24"]);
        let mut old = service(json!({"clusterIP": "None", "selector": {}}));
        allocator.create(&mut old, &InUse::default(), false, &mut |_| 0).unwrap();
        let update = |change: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new["spec"]);
            let result = allocator.update(&mut new, &old, &InUse::default(), false, &mut |_| 0);
            result.map(|_| new["spec"].clone()).map_err(|status| status.message)
        };
        assert_eq!(
            update(&|spec| spec["clusterIP"] = json!("10.0.0.77")).unwrap_err(),
            "Service \"a\" is invalid: [spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not \
             configured for dual-stack services, spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster]"
        );
        assert_eq!(
            update(&|spec| spec["ipFamilies"] = json!(["IPv6"])).unwrap_err(),
            "Service \"a\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to \
             release the secondary IP family"
        );
        let cleared = update(&|spec| {
            spec["clusterIP"] = json!("");
            spec["clusterIPs"] = Value::Null;
        });
        assert_eq!(cleared.unwrap(), old["spec"]);
    }

    #[test]
    fn a_changed_address_is_left_for_validation_to_refuse() {
        let allocator = allocator(&["10.0.0.0/24"]);
        let mut old = service(json!({}));
        allocator.create(&mut old, &InUse::default(), false, &mut |_| 0).unwrap();
        let mut new = old.clone();
        new["spec"]["clusterIP"] = json!("10.0.0.99");
        assert_eq!(allocator.update(&mut new, &old, &InUse::default(), false, &mut |_| 0), Ok(Allocation::default()));
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.99"]));
    }

    #[test]
    fn a_local_load_balancer_has_a_health_check_port() {
        let spec = create(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})).unwrap();
        assert_eq!([&spec["ports"][0]["nodePort"], &spec["healthCheckNodePort"]], [&json!(30086), &json!(30087)]);
    }

    #[test]
    fn a_dry_run_shows_placeholders() {
        let mut service = service(json!({"type": "NodePort"}));
        allocator(&["10.0.0.0/24"]).create(&mut service, &InUse::default(), true, &mut |_| 0).unwrap();
        assert_eq!(service["spec"]["clusterIP"], "10.0.0.0");
        assert_eq!(service["spec"]["ports"][0]["nodePort"], 32769);
    }
}
