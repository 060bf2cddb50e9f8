//! The most that a rule can cost, from its text and the bounds of its schema. What a CRD may contain depends on it, so it is
//! upstream's estimate step by step.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{ACCUMULATOR, Expr, Fold, Kind, Literal};
use super::check::Checked;
use super::cost::{self, CHARACTER, PATTERN, scaled};
use super::functions::{self, Overload};
use super::structural::Structural;
use super::types::Type;

/// Characters of the longest regular expression behind a named format.
const FORMAT_REGEX_MAX: f64 = 128.0;
/// Characters of the longest name of a format.
const FORMAT_MAX: u64 = 64;

pub(super) fn cost_max(schema: &Structural, checked: &Checked, expr: &Expr) -> u64 {
    let mut coster = Coster {
        schema,
        checked,
        paths: HashMap::new(),
        locals: Vec::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(expr).max
}

/// From the least to the most, of a size or of a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    min: u64,
    max: u64,
}

impl Range {
    const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
    const ZERO: Range = Range::fixed(0);

    const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scaled(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Sizes of the keys and values of a list or map.
#[derive(Clone, Copy, Debug)]
struct EntrySize {
    is_list: bool,
    key: Range,
    value: Range,
}

type Path = Vec<Arc<str>>;

#[derive(Clone, Debug)]
struct Local {
    name: Arc<str>,
    path: Path,
    size: Option<Range>,
    entry: Option<EntrySize>,
}

struct Coster<'c> {
    schema: &'c Structural,
    checked: &'c Checked,
    paths: HashMap<u32, Path>,
    locals: Vec<Local>,
    sizes: HashMap<u32, Range>,
    entries: HashMap<u32, EntrySize>,
}

/// Cost of a call without its arguments, and the size of its result.
struct CallCost {
    cost: Range,
    size: Option<Range>,
}

fn costs(cost: Range) -> Option<CallCost> {
    Some(CallCost { cost, size: None })
}

fn makes(cost: Range, size: Range) -> Option<CallCost> {
    Some(CallCost { cost, size: Some(size) })
}

/// What is known of an operand.
struct Operand<'e> {
    expr: &'e Expr,
    path: Path,
    size: Option<Range>,
}

impl Coster<'_> {
    fn cost(&mut self, expr: &Expr) -> Range {
        match &expr.kind {
            Kind::Literal(_) | Kind::Missing => Range::ZERO,
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                Range::fixed(cost::SELECT)
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, test: false } => self.select(expr, operand, field),
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List(items) => {
                let (mut sum, mut size) = (Range::fixed(cost::LIST), None);
                for item in items {
                    sum = sum.plus(self.cost(&item.value));
                    size = self.widened(size, &item.value);
                }
                let value = size.unwrap_or(Range::ZERO);
                self.entries.insert(expr.id, EntrySize { is_list: true, key: Range::fixed(1), value });
                sum
            }
            Kind::Map(entries) => {
                let (mut sum, mut keys, mut values) = (Range::fixed(cost::MAP), None, None);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    keys = self.widened(keys, &entry.key);
                    values = self.widened(values, &entry.value);
                }
                let (key, value) = (keys.unwrap_or(Range::ZERO), values.unwrap_or(Range::ZERO));
                self.entries.insert(expr.id, EntrySize { is_list: false, key, value });
                sum
            }
            Kind::Struct { fields, .. } => {
                let fields = fields.iter().map(|field| self.cost(&field.value));
                fields.fold(Range::fixed(cost::STRUCT), Range::plus)
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(expr, fold),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    fn widened(&mut self, before: Option<Range>, part: &Expr) -> Option<Range> {
        let own = self.size(part).unwrap_or(Range::UNKNOWN);
        Some(before.map_or(own, |before| before.union(own)))
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| *local.name == *name)
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn longer(&self, expr: &Expr, step: &str) -> Path {
        let mut path = self.path(expr);
        path.push(step.into());
        path
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &Arc<str>) -> Range {
        let mut sum = self.cost(operand);
        if matches!(self.checked.type_of(operand), Type::Map(_) | Type::Object(_) | Type::Param(_)) {
            sum = sum.plus(Range::fixed(cost::SELECT));
        }
        let path = self.longer(operand, field);
        self.paths.insert(expr.id, path);
        sum
    }

    fn bind(&mut self, expr: &Expr, fold: &Fold) -> Range {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_accumulator(fold);
        let sum = sum.plus(self.cost(&fold.result));
        let (size, entry) = (self.size(&fold.result), self.entry(&fold.result));
        self.locals.pop();
        self.remember(expr, size, entry);
        sum
    }

    fn push_accumulator(&mut self, fold: &Fold) {
        let local = Local {
            name: fold.accu.clone(),
            path: self.path(&fold.init),
            size: self.size(&fold.init),
            entry: self.entry(&fold.init),
        };
        self.locals.push(local);
    }

    fn push_variable(&mut self, name: &Arc<str>, range: &Expr, key: bool) {
        let entry = self.entry(range);
        let is_list = entry.map_or(matches!(self.checked.type_of(range), Type::List(_)), |entry| entry.is_list);
        let step = match (is_list, key) {
            (true, true) => "@indices",
            (true, false) => "@items",
            (false, true) => "@keys",
            (false, false) => "@values",
        };
        let size = entry.map(|entry| if key { entry.key } else { entry.value });
        let path = self.longer(range, step);
        self.locals.push(Local { name: name.clone(), path, size, entry: None });
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> Range {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_accumulator(fold);
        let outer = self.locals.len();
        match &fold.var2 {
            Some(var2) => {
                self.push_variable(&fold.var, &fold.range, true);
                self.push_variable(var2, &fold.range, false);
            }
            None => {
                let entry = self.entry(&fold.range);
                let is_list =
                    entry.map_or(matches!(self.checked.type_of(&fold.range), Type::List(_)), |entry| entry.is_list);
                self.push_variable(&fold.var, &fold.range, !is_list);
            }
        }
        let round = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(outer);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size(&fold.range).unwrap_or(Range::UNKNOWN);
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.remember(expr, size, None);
            }
            Kind::List(_) | Kind::Map(_) => {
                let entry = self.entry(&fold.step);
                self.remember(expr, Some(count), entry);
            }
            _ => {}
        }
        sum.plus(count.times(round))
    }

    fn remember(&mut self, expr: &Expr, size: Option<Range>, entry: Option<EntrySize>) {
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        if let Some(entry) = entry {
            self.entries.insert(expr.id, entry);
        }
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = written_size(expr) {
            return Some(size);
        }
        if let Some(size) = self.bound(&self.path(expr)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr)) {
            return Some(Range::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    /// What the schema says of the size of what a path leads to.
    fn bound(&self, path: &[Arc<str>]) -> Option<Range> {
        self.schema.elements_max(path).map(|max| Range { min: 0, max })
    }

    fn entry(&self, expr: &Expr) -> Option<EntrySize> {
        if let Some(entry) = self.entries.get(&expr.id) {
            return Some(*entry);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entry),
            _ => None,
        }
    }

    fn operand<'e>(&mut self, expr: &'e Expr) -> Operand<'e> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|first| **first == *ACCUMULATOR) {
            path.clear();
        }
        Operand { expr, path, size: self.size(expr) }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Range {
        if function == "dyn" {
            let sum = self.cost(&args[0]).plus(Range::fixed(1));
            let (size, entry) = (self.size(&args[0]), self.entry(&args[0]));
            self.remember(expr, size, entry);
            return sum;
        }
        let mut arg_costs = Vec::new();
        let mut operands = Vec::new();
        for arg in args {
            arg_costs.push(self.cost(arg));
            operands.push(self.operand(arg));
        }
        // Optional selection has one overload, which the checker does not look up.
        let fitting: Vec<usize> = if function == "_?._" { vec![0] } else { self.checked.overloads(expr).to_vec() };
        let Some(table) = functions::overloads(function).filter(|_| !fitting.is_empty()) else {
            return Range::ZERO;
        };
        let mut sum = Range::ZERO;
        let mut receiver = None;
        if let Some(target) = target {
            sum = self.cost(target);
            receiver = Some(self.operand(target));
        }
        let mut call: Option<Range> = None;
        let mut size: Option<Range> = None;
        for overload in fitting.iter().filter_map(|index| table.get(*index)) {
            let own = self.call_cost(expr, function, overload, receiver.as_ref(), &operands, &arg_costs);
            call = Some(call.map_or(own.cost, |call| call.union(own.cost)));
            if let Some(own) = own.size {
                size = Some(size.map_or(own, |size| size.union(own)));
            }
            if function == "_[_]" {
                let step = match overload.args.first() {
                    Some(Type::List(_)) => Some("@items"),
                    Some(Type::Map(_)) => Some("@values"),
                    _ => None,
                };
                if let Some(step) = step {
                    size = self.entry(&args[0]).map(|entry| entry.value);
                    let path = self.longer(&args[0], step);
                    self.paths.insert(expr.id, path);
                }
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.remember(expr, size, None);
        sum.plus(call.unwrap_or(Range::ZERO))
    }

    fn call_cost(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &Overload,
        target: Option<&Operand<'_>>,
        args: &[Operand<'_>],
        arg_costs: &[Range],
    ) -> CallCost {
        let all = arg_costs.iter().fold(Range::ZERO, |sum, cost| sum.plus(*cost));
        if let Some(own) = self.library_cost(function, overload, target, args) {
            return CallCost { cost: own.cost.plus(all), size: own.size };
        }
        let of = |operand: &Operand<'_>| operand.size.unwrap_or(Range::UNKNOWN);
        let first = overload.args.first();
        let is_text = matches!(first, Some(Type::String | Type::Bytes));
        let (cost, size) = match (function, args) {
            ("_&&_" | "_||_", [_, _]) => {
                let [lhs, rhs] = [arg_costs[0], arg_costs[1]];
                return CallCost { cost: Range { min: lhs.min, max: lhs.plus(rhs).max }, size: None };
            }
            ("_?:_" | "_?_:_", [_, truthy, falsy]) => {
                if let (Some(a), Some(b)) = (self.entry(truthy.expr), self.entry(falsy.expr)) {
                    let entry =
                        EntrySize { is_list: a.is_list, key: a.key.union(b.key), value: a.value.union(b.value) };
                    self.entries.insert(expr.id, entry);
                }
                let cost = arg_costs[0].plus(arg_costs[1].union(arg_costs[2]));
                return CallCost { cost, size: Some(of(truthy).union(of(falsy))) };
            }
            ("format", _) => (target.map_or(Range::UNKNOWN, of).scaled(CHARACTER), None),
            ("bytes", [text]) if is_text && overload.args[0] == Type::String => {
                let size = of(text);
                (size.scaled(CHARACTER), Some(Range { min: size.min, max: size.max.saturating_mul(4) }))
            }
            ("string", [text]) if overload.args[0] == Type::Bytes => {
                let size = of(text);
                (size.scaled(CHARACTER), Some(Range { min: size.min / 4, max: size.max }))
            }
            ("strings.quote", [text]) => {
                let size = of(text);
                let max = size.max.saturating_mul(2).saturating_add(2);
                (size.scaled(CHARACTER), Some(Range { min: size.min + 2, max }))
            }
            ("startsWith" | "endsWith", [part]) => (of(part).scaled(CHARACTER), None),
            ("@in", [_, list]) if matches!(overload.args[1], Type::List(_)) => (of(list), None),
            ("matches", [pattern]) if target.is_some() => {
                let subject = target.map_or(Range::UNKNOWN, of).plus(Range::fixed(1)).scaled(CHARACTER);
                (subject.times(of(pattern).scaled(PATTERN)), None)
            }
            ("contains", [part]) => {
                let subject = target.map_or(Range::UNKNOWN, of).scaled(CHARACTER);
                (subject.times(of(part).scaled(CHARACTER)), None)
            }
            ("_+_", [a, b]) if is_text || matches!(first, Some(Type::List(_))) => {
                let size = of(a).plus(of(b));
                if let (Some(a), Some(b)) = (self.entry(a.expr), self.entry(b.expr)) {
                    let entry =
                        EntrySize { is_list: a.is_list, key: a.key.union(b.key), value: a.value.union(b.value) };
                    self.entries.insert(expr.id, entry);
                }
                (if is_text { size.scaled(CHARACTER) } else { Range::fixed(1) }, Some(size))
            }
            ("_==_" | "_!=_", [a, b]) => (comparison(of(a), of(b)), None),
            ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) if is_text => (comparison(of(a), of(b)), None),
            _ => (Range::fixed(1), None),
        };
        CallCost { cost: cost.plus(all), size }
    }

    /// Size of an operand for the libraries, which look at the schema before they give up.
    fn library_size(&self, operand: &Operand<'_>) -> Range {
        operand.size.or_else(|| self.bound(&operand.path)).unwrap_or(Range::UNKNOWN)
    }

    /// Kubernetes' libraries, and the extensions with costs of their own.
    fn library_cost(
        &mut self,
        function: &str,
        overload: &Overload,
        target: Option<&Operand<'_>>,
        args: &[Operand<'_>],
    ) -> Option<CallCost> {
        let of = |operand: &Operand<'_>| self.library_size(operand);
        let subject = target.map(of);
        let first = args.first().map(of);
        match function {
            "check" => costs(Range::fixed(cost::AUTHORIZATION)),
            "fieldSelector" | "labelSelector" => {
                let length = first?;
                let requirements = length.scaled(0.5).scaled((cost::LIST + cost::STRUCT) as f64);
                costs(Range::fixed(cost::LIST).plus(length.scaled(CHARACTER)).plus(requirements))
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => self.list_traversal(target?),
            "url" | "jsonpatch.escapeKey" => makes(first?.scaled(CHARACTER), first?),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => makes(subject?.scaled(CHARACTER), subject?),
            "replace" => {
                let size = replaced(subject?, first?, of(args.get(1)?));
                makes(subject?.scaled(2.0 * CHARACTER), size)
            }
            "split" => {
                let max = match args.get(1).map(|limit| &limit.expr.kind) {
                    Some(Kind::Literal(Literal::Int(n))) => u64::try_from(*n).unwrap_or(u64::MAX),
                    _ => subject?.max,
                };
                makes(subject?.scaled(2.0 * CHARACTER), Range { min: 0, max })
            }
            "join" => {
                let list = subject?;
                let mut size = self.element_size(target?).map_or(Range::ZERO, |element| list.times(element));
                if let Some(separator) = first {
                    let count = Range { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                    size = size.plus(separator.times(count));
                }
                makes(size.scaled(CHARACTER), size)
            }
            "find" | "findAll" => {
                let text = subject?.plus(Range::fixed(1)).scaled(CHARACTER);
                makes(text.times(first?.scaled(PATTERN)), Range { min: 0, max: subject?.max })
            }
            "ip" if target.is_some() => costs(Range::fixed(1)),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                costs(first?.scaled(CHARACTER))
            }
            "ip.isCanonical" => costs(first?.scaled(2.0 * CHARACTER)),
            "containsIP" | "containsCIDR" => {
                let address = Range { min: 4, max: 16 };
                let mut sum = address.plus(address).scaled(CHARACTER);
                if function == "containsCIDR" {
                    sum = sum.plus(address.scaled(CHARACTER)).plus(Range::fixed(1));
                }
                if overload.args.get(1) == Some(&Type::String) {
                    sum = sum.plus(first?.scaled(CHARACTER));
                }
                costs(sum)
            }
            "validate" => costs(first?.scaled(CHARACTER).scaled(FORMAT_REGEX_MAX * PATTERN)),
            "_==_" => self.equality(args),
            "slice" => {
                let (start, end) = (written_index(args.first()?, 0), written_index(args.get(1)?, subject?.max));
                allocating(1.0, Range::fixed(end.saturating_sub(start)))
            }
            "flatten" => {
                let depth = args.first().map_or(1, |depth| written_index(depth, u64::MAX));
                allocating(depth as f64, subject?)
            }
            "lists.range" => allocating(1.0, Range::fixed(written_index(args.first()?, u64::MAX))),
            "reverse" => allocating(1.0, subject?),
            "distinct" => allocating(2.0, subject?.times(subject?)),
            "sort" => self_comparison(overload.args.first()?, subject?),
            "@sortByAssociatedKeys" => self_comparison(overload.args.get(1)?, first?),
            "sets.contains" | "sets.intersects" => costs(first?.times(of(args.get(1)?)).plus(Range::fixed(1))),
            "sets.equivalent" => costs(first?.times(of(args.get(1)?)).scaled(2.0).plus(Range::fixed(1))),
            _ => None,
        }
    }

    fn list_traversal(&self, target: &Operand<'_>) -> Option<CallCost> {
        let size = self.library_size(target);
        let Type::List(element) = self.checked.type_of(target.expr) else {
            return costs(size.scaled(CHARACTER));
        };
        let mut each = Range::fixed(1);
        if matches!(**element, Type::String | Type::Bytes) {
            let element = self.element_size(target).unwrap_or(Range::UNKNOWN);
            each = each.plus(element.scaled(CHARACTER));
        }
        costs(size.times(each))
    }

    /// Size of the elements of a list: of what the schema says, or unknown. `None`: it is no list.
    fn element_size(&self, list: &Operand<'_>) -> Option<Range> {
        if !matches!(self.checked.type_of(list.expr), Type::List(_) | Type::Map(_) | Type::Optional(_)) {
            return None;
        }
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".into());
        }
        Some(self.bound(&path).unwrap_or(Range::UNKNOWN))
    }

    fn equality(&self, args: &[Operand<'_>]) -> Option<CallCost> {
        let [a, b] = args else { return None };
        let t = self.checked.type_of(a.expr);
        if t != self.checked.type_of(b.expr) {
            return None;
        }
        match t.name() {
            functions::FORMAT => costs(Range { min: 1, max: FORMAT_MAX }.scaled(CHARACTER)),
            functions::URL => {
                let max = b.size.map_or(1, |size| size.max);
                costs(Range { min: 1, max }.scaled(CHARACTER))
            }
            functions::IP
            | functions::CIDR
            | functions::QUANTITY
            | functions::SEMVER
            | functions::AUTHORIZER
            | functions::PATH_CHECK
            | functions::GROUP_CHECK
            | functions::RESOURCE_CHECK
            | functions::DECISION => costs(Range::fixed(1)),
            _ => None,
        }
    }
}

fn comparison(a: Range, b: Range) -> Range {
    let max = a.max.min(b.max);
    Range { min: u64::from(max > 0), max }.scaled(CHARACTER)
}

/// Cost of a call that makes a list.
fn allocating(factor: f64, size: Range) -> Option<CallCost> {
    makes(size.scaled(factor).plus(Range::fixed(1 + cost::LIST)), size)
}

fn self_comparison(list: &Type, size: Range) -> Option<CallCost> {
    let is_text = matches!(list, Type::List(element) if matches!(**element, Type::String | Type::Bytes));
    allocating(if is_text { 2.0 + CHARACTER } else { 2.0 }, size.times(size))
}

/// Size of a string after replacements.
fn replaced(text: Range, old: Range, new: Range) -> Range {
    let (mut count, mut kept) = (Range::ZERO, Range::ZERO);
    if old.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if new.max <= old.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / old.min as f64).ceil() as u64;
    }
    if old.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if old.max <= new.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / old.max as f64).ceil() as u64;
    }
    count.times(new).plus(kept)
}

/// Size of what is written out.
fn written_size(expr: &Expr) -> Option<Range> {
    let size = match &expr.kind {
        Kind::Literal(Literal::String(text)) => text.chars().count() as u64,
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List(items) => items.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    };
    Some(Range::fixed(size))
}

fn written_index(operand: &Operand<'_>, otherwise: u64) -> u64 {
    match &operand.expr.kind {
        Kind::Literal(Literal::Int(n)) => u64::try_from(*n).unwrap_or(0),
        _ => otherwise,
    }
}

fn is_scalar(t: &Type) -> bool {
    match t {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}
