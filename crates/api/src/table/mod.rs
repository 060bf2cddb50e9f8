//! Objects as rows of a `meta.k8s.io/v1` Table: what `kubectl get` shows.
//!
//! Columns are a table (`data/columns.tsv`, generated); the cells of a kind are one small function, registered in [`PRINTERS`].
//! Kinds without a function get the default table: name and creation time. Whether rows carry objects (`includeObject`) and the
//! list's metadata are the server's business.

mod admission;
mod apps;
mod autoscaling;
mod batch;
mod core;
mod custom;
mod flowcontrol;
mod networking;
mod node;
mod pod;
mod rbac;
mod row;
mod storage;

use std::{collections::HashMap, sync::OnceLock};

use crate::json;
use jiff::Timestamp;

use crate::{Kind, Value};

pub use custom::CustomColumn;
use row::Row;

/// What a row shows, one value per column.
type Cells = fn(&Row<'_>) -> Vec<Value>;

/// Group, kind and cells. A new kind is a row here, its columns in the facts, and a function in its group's file.
static PRINTERS: &[(&str, &str, Cells)] = &[
    ("", "ComponentStatus", core::component_status),
    ("", "ConfigMap", core::config_map),
    ("", "Endpoints", networking::endpoints),
    ("", "Event", core::event),
    ("", "Namespace", core::namespace),
    ("", "Node", node::node),
    ("", "PersistentVolume", storage::persistent_volume),
    ("", "PersistentVolumeClaim", storage::persistent_volume_claim),
    ("", "Pod", pod::pod),
    ("", "PodTemplate", core::pod_template),
    ("", "ReplicationController", apps::replication_controller),
    ("", "ResourceQuota", core::resource_quota),
    ("", "Secret", core::secret),
    ("", "Service", networking::service),
    ("", "ServiceAccount", core::name_and_age),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", admission::mutating_policy),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", admission::policy_binding),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", admission::webhooks),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", admission::validating_policy),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", admission::policy_binding),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", admission::webhooks),
    ("apiregistration.k8s.io", "APIService", core::api_service),
    ("apps", "ControllerRevision", apps::controller_revision),
    ("apps", "DaemonSet", apps::daemon_set),
    ("apps", "Deployment", apps::deployment),
    ("apps", "ReplicaSet", apps::replica_set),
    ("apps", "StatefulSet", apps::stateful_set),
    ("autoscaling", "HorizontalPodAutoscaler", autoscaling::horizontal_pod_autoscaler),
    ("autoscaling", "Scale", autoscaling::scale),
    ("batch", "CronJob", batch::cron_job),
    ("batch", "Job", batch::job),
    ("certificates.k8s.io", "CertificateSigningRequest", core::certificate_signing_request),
    ("coordination.k8s.io", "Lease", core::lease),
    ("discovery.k8s.io", "EndpointSlice", networking::endpoint_slice),
    ("events.k8s.io", "Event", core::event),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", flowcontrol::flow_schema),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", flowcontrol::priority_level),
    ("networking.k8s.io", "IPAddress", networking::ip_address),
    ("networking.k8s.io", "Ingress", networking::ingress),
    ("networking.k8s.io", "IngressClass", networking::ingress_class),
    ("networking.k8s.io", "NetworkPolicy", networking::network_policy),
    ("networking.k8s.io", "ServiceCIDR", networking::service_cidr),
    ("node.k8s.io", "RuntimeClass", node::runtime_class),
    ("policy", "PodDisruptionBudget", apps::pod_disruption_budget),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", rbac::binding),
    ("rbac.authorization.k8s.io", "RoleBinding", rbac::binding),
    ("resource.k8s.io", "DeviceClass", core::name_and_age),
    ("resource.k8s.io", "ResourceClaim", node::resource_claim),
    ("resource.k8s.io", "ResourceClaimTemplate", core::name_and_age),
    ("resource.k8s.io", "ResourceSlice", node::resource_slice),
    ("scheduling.k8s.io", "PriorityClass", node::priority_class),
    ("scheduling.k8s.io", "Workload", core::name_and_age),
    ("storage.k8s.io", "CSIDriver", storage::csi_driver),
    ("storage.k8s.io", "CSINode", storage::csi_node),
    ("storage.k8s.io", "StorageClass", storage::storage_class),
    ("storage.k8s.io", "VolumeAttachment", storage::volume_attachment),
    ("storage.k8s.io", "VolumeAttributesClass", storage::volume_attributes_class),
];

/// A column definition as the Table document carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub column_type: String,
    pub format: String,
    pub description: String,
    /// 0 is always shown; higher ones only by `-o wide`.
    pub priority: i64,
}

impl Column {
    fn to_value(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.column_type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// How the objects of one kind are shown. Cheap to make; make it once per list.
#[derive(Clone, Debug)]
pub struct Printer {
    columns: Vec<Column>,
    cells: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Builtin(Cells),
    Default,
    Custom(Vec<CustomColumn>),
}

/// One row without its object.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    pub cells: Vec<Value>,
    /// Only pods that have ended carry one.
    pub conditions: Vec<Value>,
}

/// How the default table shows that an object was never created (a bookmark's).
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

impl Printer {
    /// The printer of a kind: its own, or the default table.
    pub fn of(group: &str, kind: &str) -> Self {
        // Both groups of events show the same table.
        let columns_group = if kind == "Event" { "" } else { group };
        let own = columns_table().get(&(columns_group, kind)).zip(cells_table().get(&(group, kind)));
        match own {
            Some((columns, cells)) => Self { columns: columns.clone(), cells: Source::Builtin(*cells) },
            None => {
                Self { columns: columns_table().get(&("*", "*")).cloned().unwrap_or_default(), cells: Source::Default }
            }
        }
    }

    /// The printer of a kind, built-in or custom.
    pub fn of_kind(kind: &Kind) -> Self {
        match kind.custom() {
            Some(custom) => custom.printer().clone(),
            None => Self::of(&kind.group, &kind.kind),
        }
    }

    /// The printer of a custom resource with `additionalPrinterColumns`; none of them means name and age.
    pub fn custom(columns: Vec<CustomColumn>) -> Self {
        let defaults = columns_table().get(&("*", "*")).cloned().unwrap_or_default();
        let mut definitions: Vec<Column> = defaults.iter().take(1).cloned().collect();
        let columns = if columns.is_empty() { vec![CustomColumn::age()] } else { columns };
        definitions.extend(columns.iter().map(CustomColumn::definition));
        Self { columns: definitions, cells: Source::Custom(columns) }
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// `columnDefinitions`.
    pub fn header(&self) -> Value {
        self.columns.iter().map(Column::to_value).collect()
    }

    /// `rows` of an empty list: upstream's default table has none at all.
    pub fn no_rows(&self) -> Value {
        match self.cells {
            Source::Default => Value::Null,
            Source::Builtin(_) | Source::Custom(_) => json!([]),
        }
    }

    /// Puts the objects of a list into the order of its rows.
    pub fn arrange(&self, objects: &mut [Value]) {
        if self.shows(flowcontrol::flow_schema) {
            objects.sort_by_key(flowcontrol::precedence);
        }
    }

    /// Are the cells those of this function?
    fn shows(&self, cells: Cells) -> bool {
        matches!(self.cells, Source::Builtin(own) if std::ptr::fn_addr_eq(own, cells))
    }

    /// The row of one object; ages are relative to `now`.
    pub fn row(&self, object: &Value, now: Timestamp) -> TableRow {
        let row = Row { object, now };
        let cells = match &self.cells {
            Source::Builtin(cells) => cells(&row),
            Source::Default => vec![row.name(), row.text_or("/metadata/creationTimestamp", ZERO_TIME)],
            Source::Custom(columns) => {
                let mut cells = vec![row.name()];
                cells.extend(columns.iter().map(|column| column.cell(&row)));
                cells
            }
        };
        let is_pod =
            object.get("kind").and_then(Value::as_str).is_none_or(|kind| kind == "Pod") && self.shows(pod::pod);
        TableRow { cells, conditions: if is_pod { pod::conditions(&row) } else { Vec::new() } }
    }
}

/// `columnDefinitions` of a built-in kind.
pub fn header(kind: &Kind) -> Value {
    Printer::of(&kind.group, &kind.kind).header()
}

/// Cells and conditions of one object of a built-in kind. For lists make one [`Printer`].
pub fn row(kind: &Kind, object: &Value, now: Timestamp) -> TableRow {
    Printer::of(&kind.group, &kind.kind).row(object, now)
}

/// Columns by group and kind; `*` and `*` are those of the default table.
fn columns_table() -> &'static HashMap<(&'static str, &'static str), Vec<Column>> {
    static TABLE: OnceLock<HashMap<(&'static str, &'static str), Vec<Column>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<_, Vec<Column>> = HashMap::new();
        for line in include_str!("../../data/columns.tsv").lines().skip(1) {
            let cells: Vec<&str> = line.split('\t').collect();
            let [group, kind, name, column_type, format, priority, description] = cells[..] else { continue };
            table.entry((group, kind)).or_default().push(Column {
                name: name.to_owned(),
                column_type: column_type.to_owned(),
                format: format.to_owned(),
                description: serde_json::from_str(description).unwrap_or_default(),
                priority: priority.parse().unwrap_or_default(),
            });
        }
        table
    })
}

fn cells_table() -> &'static HashMap<(&'static str, &'static str), Cells> {
    static TABLE: OnceLock<HashMap<(&'static str, &'static str), Cells>> = OnceLock::new();
    TABLE.get_or_init(|| PRINTERS.iter().map(|(group, kind, cells)| ((*group, *kind), *cells)).collect())
}

#[cfg(test)]
mod row_tests;
#[cfg(test)]
mod tests;
