//! Which functions there are, and for what types: the table of overloads.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::types::Type;

/// Name of the type of a named format, as `format.named` returns it.
pub(super) const FORMAT: &str = "kubernetes.NamedFormat";
pub(super) const URL: &str = "kubernetes.URL";
pub(super) const QUANTITY: &str = "kubernetes.Quantity";
pub(super) const SEMVER: &str = "kubernetes.Semver";
pub(super) const IP: &str = "net.IP";
pub(super) const CIDR: &str = "net.CIDR";
pub(super) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(super) const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub(super) const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub(super) const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

/// One way to call a function.
#[derive(Clone, Debug)]
pub(super) struct Overload {
    /// Called on a value, which is then the first argument.
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// Names of its type variables.
    pub params: Vec<Arc<str>>,
}

/// All overloads of a function, in the order in which they are tried.
pub(super) fn overloads(function: &str) -> Option<&'static [Overload]> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Overload>>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
        for row in include_str!("../../data/cel-functions.tsv").lines().skip(1) {
            let mut columns = row.split('\t');
            let mut next = || columns.next().unwrap_or("-");
            let (function, receiver, args, result) = (next(), next(), next(), next());
            let listed = if args == "-" { "" } else { args };
            let args = [receiver].into_iter().chain(listed.split(';'));
            let args: Vec<Type> = args.filter(|arg| !arg.is_empty() && *arg != "-").map(type_of).collect();
            let result = type_of(result);
            let mut params = Vec::new();
            args.iter().chain([&result]).for_each(|t| collect_params(t, &mut params));
            table.entry(function).or_default().push(Overload { member: receiver != "-", args, result, params });
        }
        table
    });
    table.get(function).map(Vec::as_slice)
}

fn collect_params(t: &Type, found: &mut Vec<Arc<str>>) {
    match t {
        Type::Param(name) if !found.contains(name) => found.push(name.clone()),
        Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => collect_params(inner, found),
        Type::Map(pair) => {
            collect_params(&pair.0, found);
            collect_params(&pair.1, found);
        }
        _ => {}
    }
}

/// Reads a type as the table spells it; a single capital letter is a type variable.
fn type_of(text: &str) -> Type {
    if let Some((outer, inner)) = text.split_once('(') {
        let inner = inner.strip_suffix(')').unwrap_or(inner);
        return match outer {
            "list" => Type::list(type_of(inner)),
            "optional" => Type::optional(type_of(inner)),
            "type" => Type::Type(Some(Arc::new(type_of(inner)))),
            _ => {
                let (key, value) = inner.split_once(',').unwrap_or((inner, "dyn"));
                Type::map(type_of(key), type_of(value))
            }
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "url" => Type::object(URL),
        "quantity" => Type::object(QUANTITY),
        "semver" => Type::object(SEMVER),
        "format" => Type::object(FORMAT),
        "ip" => Type::Opaque(IP.into()),
        "cidr" => Type::Opaque(CIDR.into()),
        "authorizer" => Type::object(AUTHORIZER),
        "pathCheck" => Type::object(PATH_CHECK),
        "groupCheck" => Type::object(GROUP_CHECK),
        "resourceCheck" => Type::object(RESOURCE_CHECK),
        "decision" => Type::object(DECISION),
        variable => Type::Param(variable.into()),
    }
}
