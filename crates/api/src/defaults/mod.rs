//! Defaulting: what upstream fills in after decoding and before admission, and the mirrored fields of its conversions.
//!
//! Most defaults are rows of a table (type, field, literal) and apply wherever the type occurs, pod templates included. The
//! rest are small functions keyed by type. A walk visits only parts that exist and only types below which something defaults,
//! outermost first as upstream does. Values must be normalised (see [`crate::codec`]) and stay so.

mod hooks;
mod image;
mod pod;
mod resources;
mod table;

use std::sync::OnceLock;

use crate::codec::Target;
use crate::schema::{Schema, Shape, TypeId};
use crate::{Map, Value};

/// Fills in the defaults of a built-in kind or of the body of a subresource. Kinds of CRDs have the defaults of their schemas. The one default that is a time (of device taints) is left to [`apply_at`].
pub fn apply<'t>(target: impl Into<Target<'t>>, value: &mut Value) {
    apply_at(target, value, "");
}

/// The same with the current time (RFC 3339, second precision), which taints of devices are dated with.
pub fn apply_at<'t>(target: impl Into<Target<'t>>, value: &mut Value, now: &str) {
    let target = target.into();
    if let Some(custom) = target.custom {
        return custom.default(value);
    }
    if let Value::Object(map) = value {
        Rules::builtin().visit(target.type_id, map, now);
    }
}

/// A function for what a literal cannot say.
type Hook = fn(&mut Fields<'_>);

/// The defaults of one type.
#[derive(Default)]
struct TypeRules {
    literals: Vec<(&'static str, Value)>,
    hooks: Vec<Hook>,
    /// Fields whose values are worth visiting.
    children: Vec<(usize, Shape)>,
    /// Fields that are resource lists.
    quantities: Vec<usize>,
}

struct Rules {
    schema: &'static Schema,
    types: Vec<TypeRules>,
}

impl Rules {
    fn builtin() -> &'static Rules {
        static RULES: OnceLock<Rules> = OnceLock::new();
        RULES.get_or_init(|| Rules::compile(Schema::builtin()))
    }

    fn compile(schema: &'static Schema) -> Rules {
        let mut types: Vec<TypeRules> = schema.types().map(|_| TypeRules::default()).collect();
        let index = |name: &str| schema.type_id(&format!("io.k8s.{name}")).map(|id| id.0 as usize);
        for (name, fields) in table::LITERALS {
            let Some(rules) = index(name).and_then(|i| types.get_mut(i)) else { continue };
            for (field, literal) in *fields {
                if let Ok(value) = serde_json::from_str(literal) {
                    rules.literals.push((field, value));
                }
            }
        }
        for (name, hook) in hooks::HOOKS {
            if let Some(rules) = index(name).and_then(|i| types.get_mut(i)) {
                rules.hooks.push(*hook);
            }
        }
        for (id, ty) in schema.types() {
            types[id.0 as usize].quantities =
                (0..ty.fields.len()).filter(|&i| ty.fields[i].go_type.as_deref() == Some("v1.ResourceList")).collect();
        }
        let reaching = reaching(schema, &types);
        for (id, ty) in schema.types() {
            let children = ty.fields.iter().enumerate().filter_map(|(i, f)| {
                let below = innermost(schema, f.shape)?;
                reaching[below.0 as usize].then_some((i, f.shape))
            });
            types[id.0 as usize].children = children.collect();
        }
        Rules { schema, types }
    }

    fn visit(&self, id: TypeId, map: &mut Map, now: &str) {
        let rules = &self.types[id.0 as usize];
        let ty = self.schema.get(id);
        let mut fields = Fields { schema: self.schema, id, map, now };
        for hook in &rules.hooks {
            hook(&mut fields);
        }
        for (name, literal) in &rules.literals {
            fields.default(name, || literal.clone());
        }
        for &i in &rules.quantities {
            if let Some(Value::Object(list)) = map.get_mut(ty.fields[i].name.as_ref()) {
                resources::round_up_to_milli(list);
            }
        }
        for &(i, shape) in &rules.children {
            if let Some(value) = map.get_mut(ty.fields[i].name.as_ref()) {
                self.visit_shape(shape, value, now);
            }
        }
    }

    fn visit_shape(&self, shape: Shape, value: &mut Value, now: &str) {
        match (shape, value) {
            (Shape::Ref(id), Value::Object(map)) => self.visit(id, map, now),
            (Shape::List(element), Value::Array(items)) => {
                let element = self.schema.element(element);
                items.iter_mut().for_each(|item| self.visit_shape(element, item, now));
            }
            (Shape::Map(element), Value::Object(map)) => {
                let element = self.schema.element(element);
                map.values_mut().for_each(|item| self.visit_shape(element, item, now));
            }
            _ => {}
        }
    }
}

/// Which types have defaults of their own or anywhere below.
fn reaching(schema: &Schema, types: &[TypeRules]) -> Vec<bool> {
    let mut reaching: Vec<bool> =
        types.iter().map(|t| !(t.literals.is_empty() && t.hooks.is_empty() && t.quantities.is_empty())).collect();
    loop {
        let mut changed = false;
        for (id, ty) in schema.types() {
            let at = id.0 as usize;
            if reaching[at] {
                continue;
            }
            let below = ty.fields.iter().filter_map(|f| innermost(schema, f.shape)).any(|t| reaching[t.0 as usize]);
            reaching[at] = below;
            changed |= below;
        }
        if !changed {
            return reaching;
        }
    }
}

/// The struct type at the bottom of lists and maps.
fn innermost(schema: &Schema, shape: Shape) -> Option<TypeId> {
    match shape {
        Shape::Ref(id) => Some(id),
        Shape::List(id) | Shape::Map(id) => innermost(schema, schema.element(id)),
        _ => None,
    }
}

/// An object of a known type that defaults are being written to.
struct Fields<'m> {
    schema: &'static Schema,
    id: TypeId,
    map: &'m mut Map,
    now: &'m str,
}

impl Fields<'_> {
    /// The value, when there is one that is not `null`.
    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn str(&self, name: &str) -> &str {
        self.get(name).and_then(Value::as_str).unwrap_or("")
    }

    fn is(&self, name: &str, text: &str) -> bool {
        self.str(name) == text
    }

    /// Absent, or the zero of a field that is not a pointer.
    fn is_unset(&self, name: &str) -> bool {
        match self.get(name) {
            None => true,
            Some(value) => {
                let pointer = self.schema.field(self.id, name).is_some_and(|f| f.pointer);
                !pointer && is_zero(value)
            }
        }
    }

    /// No items or entries.
    fn is_empty(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
            None => true,
        }
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.schema.set(self.id, self.map, name, value.into());
    }

    fn remove(&mut self, name: &str) {
        self.map.remove(name);
    }

    fn default(&mut self, name: &str, value: impl FnOnce() -> Value) {
        if self.is_unset(name) {
            self.set(name, value());
        }
    }

    /// A struct field that is there.
    fn child(&mut self, name: &str) -> Option<Fields<'_>> {
        let id = self.schema.field(self.id, name)?.shape.type_id()?;
        let map = self.map.get_mut(name)?.as_object_mut()?;
        Some(Fields { schema: self.schema, id, map, now: self.now })
    }

    /// A struct field, created empty when it is not there.
    fn child_or_new(&mut self, name: &str) -> Option<Fields<'_>> {
        let id = self.schema.field(self.id, name)?.shape.type_id()?;
        if self.get(name).is_none() {
            let zero = self.schema.zero(id);
            self.set(name, zero);
        }
        self.child(name)
    }

    /// Calls `f` with each struct of a list.
    fn each(&mut self, name: &str, mut f: impl FnMut(&mut Fields<'_>)) {
        let Some(field) = self.schema.field(self.id, name) else { return };
        let Some(id) = self.schema.element_of(field.shape).type_id() else { return };
        let Some(Value::Array(items)) = self.map.get_mut(name) else { return };
        for map in items.iter_mut().filter_map(Value::as_object_mut) {
            f(&mut Fields { schema: self.schema, id, map, now: self.now });
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

#[cfg(test)]
mod facts_tests;
#[cfg(test)]
mod tests;
