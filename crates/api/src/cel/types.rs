//! Types of expressions, their two spellings, and unification.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What an expression evaluates to, as far as is known before it does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Dyn,
    /// Of an expression that has an error; agrees with everything.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Optional(Arc<Type>),
    /// A type as a value; the parameter is missing when it is not known.
    Type(Option<Arc<Type>>),
    /// A struct, by name. Its fields are the environment's matter.
    Object(Arc<str>),
    /// A named type without fields that compares with null, e.g. `net.IP`.
    Opaque(Arc<str>),
    /// A type variable.
    Param(Arc<str>),
}

impl Type {
    pub fn list(element: Type) -> Self {
        Self::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub fn optional(value: Type) -> Self {
        Self::Optional(Arc::new(value))
    }

    pub fn object(name: &str) -> Self {
        Self::Object(name.into())
    }

    pub(super) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// The inner type of an optional, or the type itself; and whether it was one.
    pub(super) fn unwrap_optional(&self) -> (&Type, bool) {
        match self {
            Self::Optional(inner) => (inner, true),
            other => (other, false),
        }
    }

    /// Name at run time, without parameters: `list`, `google.protobuf.Duration`.
    pub fn name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "error",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Object(name) | Self::Opaque(name) | Self::Param(name) => name,
        }
    }

    fn params(&self) -> Vec<&Type> {
        match self {
            Self::List(inner) | Self::Optional(inner) | Self::Type(Some(inner)) => vec![inner],
            Self::Map(pair) => vec![&pair.0, &pair.1],
            _ => Vec::new(),
        }
    }

    /// Spelling of the checker's errors: `list(int)`, `timestamp`, `null`.
    pub(super) fn checker_name(&self) -> String {
        match self {
            Self::Duration => "duration".to_owned(),
            Self::Timestamp => "timestamp".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Error => "!error!".to_owned(),
            other => join(other.name(), other.params().into_iter().map(Type::checker_name)),
        }
    }

    /// Equal up to wildcards in either.
    pub(super) fn is_equivalent(&self, other: &Type) -> bool {
        if self.is_wild() || other.is_wild() {
            return self.is_wild() && other.is_wild();
        }
        let (own, others) = (self.params(), other.params());
        self.name() == other.name()
            && own.len() == others.len()
            && own.iter().zip(&others).all(|(a, b)| a.is_equivalent(b))
    }

    fn is_wild(&self) -> bool {
        matches!(self, Self::Dyn | Self::Param(_))
    }
}

fn join(name: &str, params: impl Iterator<Item = String>) -> String {
    let params: Vec<String> = params.collect();
    if params.is_empty() { name.to_owned() } else { format!("{name}({})", params.join(", ")) }
}

/// Spelling of upstream's own messages: `google.protobuf.Timestamp`, `null_type`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param(name) => write!(f, "<{name}>"),
            other => f.write_str(&join(other.name(), other.params().into_iter().map(ToString::to_string))),
        }
    }
}

/// What type variables stand for. Rules and their order are cel-go's, because error messages and inferred types depend on them.
#[derive(Clone, Debug, Default)]
pub(super) struct Substitution(HashMap<Arc<str>, Type>);

impl Substitution {
    pub(super) fn bind(&mut self, variable: Arc<str>, to: Type) {
        self.0.insert(variable, to);
    }

    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(name) => self.0.get(name),
            _ => None,
        }
    }

    /// Replaces bound variables; unbound ones become dyn if `finish`.
    pub(super) fn apply(&self, t: &Type, finish: bool) -> Type {
        if let Some(bound) = self.find(t) {
            return self.apply(&bound.clone(), finish);
        }
        match t {
            Type::Param(_) if finish => Type::Dyn,
            Type::List(inner) => Type::list(self.apply(inner, finish)),
            Type::Map(pair) => Type::map(self.apply(&pair.0, finish), self.apply(&pair.1, finish)),
            Type::Optional(inner) => Type::optional(self.apply(inner, finish)),
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.apply(inner, finish)))),
            other => other.clone(),
        }
    }

    /// Can a value of `from` go where `to` is wanted? Binds variables if it can, and nothing if it cannot.
    pub(super) fn assign(&mut self, from: &Type, to: &Type) -> bool {
        self.assign_all(std::slice::from_ref(from), std::slice::from_ref(to))
    }

    pub(super) fn assign_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        let mut trial = self.clone();
        let fits = from.len() == to.len() && from.iter().zip(to).all(|(from, to)| trial.assignable(from, to));
        if fits {
            *self = trial;
        }
        fits
    }

    fn assignable(&mut self, t1: &Type, t2: &Type) -> bool {
        if matches!(t2, Type::Param(_)) {
            let (valid, bound) = self.substitutes(t1, t2);
            if valid || bound {
                return valid;
            }
        }
        if matches!(t1, Type::Param(_)) {
            return self.substitutes(t2, t1).0;
        }
        if t1.is_dyn_or_error() || t2.is_dyn_or_error() {
            return true;
        }
        match (t1, t2) {
            (Type::Null, other) | (other, Type::Null) => is_nullable(other),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assignable(a, b),
            (Type::Map(a), Type::Map(b)) => self.assignable(&a.0, &b.0) && self.assignable(&a.1, &b.1),
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => a == b,
        }
    }

    /// Is the variable `t2` free to be `t1`, or bound to something that fits? And is it bound?
    fn substitutes(&mut self, t1: &Type, t2: &Type) -> (bool, bool) {
        if t1 == t2 {
            return (true, true);
        }
        let Type::Param(name) = t2 else { return (false, false) };
        if let Some(bound) = self.find(t2).cloned() {
            if *t1 == bound {
                return (true, true);
            }
            if !self.assignable(t1, &bound) {
                return (false, true);
            }
            let general = most_general(t1, &bound);
            if !self.occurs(t2, &general) {
                self.bind(name.clone(), general);
            }
            return (true, true);
        }
        if self.occurs(t2, t1) {
            return (false, false);
        }
        self.bind(name.clone(), t1.clone());
        (true, false)
    }

    fn occurs(&self, variable: &Type, within: &Type) -> bool {
        if variable == within {
            return true;
        }
        match self.find(within) {
            Some(bound) => self.occurs(variable, bound),
            None => within.params().into_iter().any(|param| self.occurs(variable, param)),
        }
    }
}

fn is_nullable(t: &Type) -> bool {
    matches!(t, Type::Null | Type::Optional(_) | Type::Object(_) | Type::Opaque(_) | Type::Duration | Type::Timestamp)
}

/// The wider of two types that fit each other.
pub(super) fn most_general(a: &Type, b: &Type) -> Type {
    if is_equal_or_less_specific(a, b) { a.clone() } else { b.clone() }
}

fn is_equal_or_less_specific(a: &Type, b: &Type) -> bool {
    if a.is_wild() {
        return true;
    }
    if b.is_wild() {
        return false;
    }
    match (a, b) {
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => is_equal_or_less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => is_equal_or_less_specific(&a.0, &b.0) && is_equal_or_less_specific(&a.1, &b.1),
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}
