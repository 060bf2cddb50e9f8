//! Types of objects whose schema is known, and what type checking has to say of a policy that is for them.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`.

use std::collections::BTreeMap;

use crate::json;

use super::environment::Declared;
use super::escape::escape;
use super::policy::{Compiler, Declarations};
use super::structural::{ObjectTypes, Structural};
use super::types::Type;
use crate::kind::Kind;
use crate::schema::{Schema, Shape, TypeId};
use crate::{Map, Value};

/// Kinds that one rule of a policy is checked for.
const KINDS_MAX: usize = 10;

impl Declared {
    /// The type of objects of a built-in kind. Quantities and free JSON are not part of it, as they are not upstream.
    pub fn of_kind(kind: &Kind) -> Self {
        let mut objects = ObjectTypes::new();
        let mut walk = Walk { schema: &kind.schema, objects: &mut objects, above: Vec::new() };
        let t = walk.object(kind.type_id, &kind.kind);
        Self { t, objects }
    }

    /// The type of objects of a CRD's version. `None`: expressions cannot name any part of them.
    pub fn of_crd(schema: &Value, kind: &str) -> Option<Self> {
        let mut objects = ObjectTypes::new();
        let t = Structural::new(schema, true).declare(kind, &mut objects)?;
        let builtin = Schema::builtin();
        if let Some(metadata) = builtin.type_id("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
            Walk { schema: builtin, objects: &mut objects, above: Vec::new() }
                .object(metadata, &format!("{kind}.metadata"));
        }
        Some(Self { t, objects })
    }
}

/// Goes through a schema of built-in types.
struct Walk<'w> {
    schema: &'w Schema,
    objects: &'w mut ObjectTypes,
    /// Types that contain the place. One that contains itself ends there.
    above: Vec<TypeId>,
}

impl Walk<'_> {
    fn object(&mut self, id: TypeId, path: &str) -> Type {
        let mut fields = BTreeMap::new();
        if !self.above.contains(&id) {
            self.above.push(id);
            let schema = self.schema;
            for field in &schema.get(id).fields {
                let Some(name) = escape(&field.name) else { continue };
                if let Some(t) = self.shape(field.shape, &format!("{path}.{name}")) {
                    fields.insert(name.into(), t);
                }
            }
            self.above.pop();
        }
        self.objects.insert(path.into(), fields);
        Type::object(path)
    }

    fn shape(&mut self, shape: Shape, path: &str) -> Option<Type> {
        Some(match shape {
            Shape::String | Shape::Duration => Type::String,
            Shape::Bool => Type::Bool,
            Shape::Int32 | Shape::Int64 => Type::Int,
            Shape::Double => Type::Double,
            Shape::Bytes => Type::Bytes,
            Shape::Time | Shape::MicroTime => Type::Timestamp,
            Shape::IntOrString => Type::Dyn,
            Shape::RawExtension | Shape::Free | Shape::FieldsV1 => {
                self.objects.insert(path.into(), BTreeMap::new());
                Type::object(path)
            }
            Shape::Quantity
            | Shape::Any
            | Shape::SchemaOrArray(_)
            | Shape::SchemaOrBool(_)
            | Shape::SchemaOrStrings(_) => return None,
            Shape::Ref(id) => self.object(id, path),
            Shape::List(id) => Type::list(self.shape(self.schema.element(id), &format!("{path}.@idx"))?),
            Shape::Map(id) => Type::map(Type::String, self.shape(self.schema.element(id), &format!("{path}.@elem"))?),
        })
    }
}

/// Group, version and resource or kind.
pub type Gvr<'a> = (&'a str, &'a str, &'a str);

/// The kinds that exist, with the types of their objects.
pub trait Kinds {
    /// The kind of a resource.
    fn kind_of(&self, resource: Gvr<'_>) -> Option<String>;
    /// The type of a kind's objects.
    fn declared(&self, kind: Gvr<'_>) -> Option<Declared>;
}

/// `status.typeChecking.expressionWarnings` of a ValidatingAdmissionPolicy.
pub fn expression_warnings(policy: &Value, kinds: &dyn Kinds) -> Vec<Value> {
    let spec = &policy["spec"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let (api_version, param_kind) = (text(&spec["paramKind"]["apiVersion"]), text(&spec["paramKind"]["kind"]));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let declared = Declarations { params: !param_kind.is_empty(), authorizer: true, patches: false };
    let params = kinds.declared((group, version, &param_kind)).filter(|_| declared.params);
    let mut checkers: Vec<(String, Compiler)> = Vec::new();
    for (group, version, kind) in kinds_of(spec, kinds) {
        let Some(object) = kinds.declared((&group, &version, &kind)) else { continue };
        let mut compiler = Compiler::typed(object, params.clone());
        for variable in spec["variables"].as_array().into_iter().flatten() {
            // A variable that does not compile has no type; it is told where it is used, if at all.
            let _ = compiler.variable(&text(&variable["name"]), &text(&variable["expression"]), declared);
        }
        checkers.push((format!("{group}/{version}, Kind={kind}"), compiler));
    }
    let mut warnings = Vec::new();
    for (index, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(&validation[field]);
            if field == "messageExpression" && expression.is_empty() {
                continue;
            }
            let issues: Vec<String> = checkers
                .iter_mut()
                .filter_map(|(gvk, compiler)| {
                    let errors = compiler.check(&expression, declared)?;
                    Some(format!("{gvk}: {errors}\n"))
                })
                .collect();
            if !issues.is_empty() {
                let place = format!("spec.validations[{index}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": issues.join("\n")}));
            }
        }
    }
    warnings
}

/// The status that type checking gives a policy.
pub fn checked_status(policy: &Value, kinds: &dyn Kinds) -> Value {
    let warnings = expression_warnings(policy, kinds);
    let mut checking = Map::new();
    if !warnings.is_empty() {
        checking.insert("expressionWarnings", warnings.into());
    }
    json!({"observedGeneration": policy["metadata"]["generation"], "typeChecking": checking})
}

/// The kinds that the rules of a policy name, as far as they name any.
fn kinds_of(spec: &Value, kinds: &dyn Kinds) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let names = |field: &str| -> Vec<&str> {
            let mut names: Vec<&str> = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names
        };
        let (groups, versions, mut resources) = (names("apiGroups"), names("apiVersions"), names("resources"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        resources.retain(|name| !name.contains(['*', '/']));
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for resource in &resources {
                    let Some(kind) = kinds.kind_of((group, version, resource)) else { continue };
                    let gvk = ((*group).to_owned(), (*version).to_owned(), kind);
                    if !found.contains(&gvk) {
                        found.push(gvk);
                    }
                    count += 1;
                    if count == KINDS_MAX {
                        found.sort();
                        return found;
                    }
                }
            }
        }
    }
    found.sort();
    found
}
