//! Evaluation, with the account of what it costs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::cost;
use super::plan::{Call, Code, FoldPlan, Given, Node, Step};
use super::standard;
use super::strings;
use super::value::{Eval, EvalError, Key, List, MapVal, Struct, Val, fail, insert, no_such_overload};

/// Where the fields of the lazy variable come from.
pub trait Fields<'a> {
    /// The value of a field that is declared.
    ///
    /// # Errors
    /// The field cannot be computed.
    fn get(&self, name: &str) -> Result<Val<'a>, EvalError>;
}

/// Values for the variables of an environment.
#[derive(Debug, Default)]
pub struct Bindings<'a> {
    values: HashMap<&'static str, Val<'a>>,
}

impl<'a> Bindings<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set(&mut self, name: &'static str, value: Val<'a>) {
        self.values.insert(name, value);
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: Val<'a>) -> Self {
        self.set(name, value);
        self
    }
}

pub(super) struct Evaluation<'b, 'a> {
    pub bindings: &'b Bindings<'a>,
    pub lazy: Option<&'b dyn Fields<'a>>,
    pub locals: Vec<Val<'a>>,
    pub cost: u64,
    pub limit: u64,
}

impl<'a> Evaluation<'_, 'a> {
    fn charge(&mut self, cost: u64) -> Eval<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    pub(super) fn eval(&mut self, node: &Node) -> Eval<Val<'a>> {
        match node {
            Node::Constant(val) => Ok(val.clone()),
            Node::Local(place) => {
                self.charge(cost::SELECT)?;
                self.locals.get(*place).cloned().map_or_else(no_such_overload, Ok)
            }
            Node::Global(name) => self.global(name),
            Node::Lazy(name) => self.lazy(name),
            Node::Select(operand, field) => self.select(operand, field),
            Node::Has(operand, field) => self.has(operand, field),
            Node::OptionalSelect(operand, field) => self.optional_select(operand, field),
            Node::Index(operand, index) => self.index(operand, index),
            Node::OptionalIndex(operand, index) => self.optional_index(operand, index),
            Node::And(a, b) => self.logical(a, b, false),
            Node::Or(a, b) => self.logical(a, b, true),
            Node::Conditional(parts) => self.conditional(parts),
            Node::Alternative(a, b) => self.alternative(a, b),
            Node::Fallback(a, b) => self.fallback(a, b),
            Node::NotStrictlyFalse(inner) => self.not_strictly_false(inner),
            Node::Call(call) => self.call(call),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct(name, fields) => self.structure(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(parts) => self.bind(parts),
        }
    }

    fn global(&mut self, name: &str) -> Eval<Val<'a>> {
        self.charge(cost::SELECT)?;
        match self.bindings.values.get(name) {
            Some(val) => Ok(val.clone()),
            None => fail(format!("no such attribute(s): {name}")),
        }
    }

    fn lazy(&mut self, name: &str) -> Eval<Val<'a>> {
        self.charge(2 * cost::SELECT)?;
        match self.lazy {
            Some(fields) => fields.get(name),
            None => fail(format!("no such key: {name}")),
        }
    }

    /// A field of a value: `None` when it is not there.
    fn field(operand: &Val<'a>, field: &str) -> Eval<Option<Val<'a>>> {
        match operand {
            Val::Map(map) => map.field(field),
            Val::Struct(made) => Ok(made.fields.get(field).cloned()),
            Val::List(_) => fail("unsupported index type 'string' in list"),
            _ => fail(format!("no such key: {field}")),
        }
    }

    /// What `a.b` and `a[b]` are of an optional: what they are of its value, if it has one.
    fn of_optional(operand: Val<'a>, find: impl FnOnce(&Val<'a>) -> Eval<Option<Val<'a>>>) -> Eval<Val<'a>> {
        let found = match &operand {
            Val::Optional(None) => None,
            Val::Optional(Some(inner)) => find(inner)?,
            other => find(other)?,
        };
        Ok(match found {
            Some(inner @ Val::Optional(_)) => inner,
            Some(found) => Val::some(found),
            None => Val::Optional(None),
        })
    }

    /// What is neither a map nor a struct has no fields, and asking whether it has one is no error.
    fn field_if_any(operand: &Val<'a>, field: &str) -> Eval<Option<Val<'a>>> {
        match operand {
            Val::Map(_) | Val::Struct(_) | Val::List(_) => Self::field(operand, field),
            _ => Ok(None),
        }
    }

    fn select(&mut self, operand: &Node, field: &str) -> Eval<Val<'a>> {
        let operand = self.eval(operand)?;
        self.charge(cost::SELECT)?;
        if matches!(operand, Val::Optional(_)) {
            return Self::of_optional(operand, |inner| Self::field_if_any(inner, field));
        }
        match Self::field(&operand, field)? {
            Some(found) => Ok(found),
            None => fail(format!("no such key: {field}")),
        }
    }

    fn has(&mut self, operand: &Node, field: &str) -> Eval<Val<'a>> {
        let operand = self.eval(operand)?;
        let inner = match &operand {
            Val::Optional(None) => return Ok(Val::Bool(false)),
            Val::Optional(Some(inner)) => inner,
            other => other,
        };
        Ok(Val::Bool(Self::field_if_any(inner, field)?.is_some()))
    }

    fn optional_select(&mut self, operand: &Node, field: &str) -> Eval<Val<'a>> {
        let operand = self.eval(operand)?;
        self.charge(cost::SELECT)?;
        Self::of_optional(operand, |inner| Self::field_if_any(inner, field))
    }

    fn index(&mut self, operand: &Node, index: &Node) -> Eval<Val<'a>> {
        let (operand, index) = (self.eval(operand)?, self.eval(index)?);
        self.charge(cost::SELECT)?;
        if matches!(operand, Val::Optional(_)) {
            return Self::of_optional(operand, |inner| standard::element(inner, &index));
        }
        standard::index(&operand, &index)
    }

    fn optional_index(&mut self, operand: &Node, index: &Node) -> Eval<Val<'a>> {
        let (operand, index) = (self.eval(operand)?, self.eval(index)?);
        self.charge(cost::SELECT)?;
        Self::of_optional(operand, |inner| standard::element(inner, &index))
    }

    /// `&&` (decided by false) and `||` (decided by true): an error on one side does not matter if the other decides.
    fn logical(&mut self, a: &Node, b: &Node, deciding: bool) -> Eval<Val<'a>> {
        let first = self.eval(a);
        match first {
            Ok(Val::Bool(value)) if value == deciding => return Ok(Val::Bool(deciding)),
            Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
            _ => {}
        }
        let second = self.eval(b);
        match (first, second) {
            (_, Ok(Val::Bool(value))) if value == deciding => Ok(Val::Bool(deciding)),
            (_, Err(EvalError::CostLimit)) => Err(EvalError::CostLimit),
            (Ok(Val::Bool(_)), Ok(Val::Bool(_))) => Ok(Val::Bool(!deciding)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => no_such_overload(),
        }
    }

    fn conditional(&mut self, [condition, truthy, falsy]: &[Node; 3]) -> Eval<Val<'a>> {
        match self.eval(condition)? {
            Val::Bool(true) => self.eval(truthy),
            Val::Bool(false) => self.eval(falsy),
            _ => no_such_overload(),
        }
    }

    fn alternative(&mut self, a: &Node, b: &Node) -> Eval<Val<'a>> {
        match self.eval(a)? {
            found @ Val::Optional(Some(_)) => Ok(found),
            Val::Optional(None) => self.eval(b),
            _ => no_such_overload(),
        }
    }

    fn fallback(&mut self, a: &Node, b: &Node) -> Eval<Val<'a>> {
        match self.eval(a)? {
            Val::Optional(Some(inner)) => Ok((*inner).clone()),
            Val::Optional(None) => self.eval(b),
            _ => no_such_overload(),
        }
    }

    fn not_strictly_false(&mut self, inner: &Node) -> Eval<Val<'a>> {
        let value = self.eval(inner);
        self.charge(1)?;
        match value {
            Ok(Val::Bool(b)) => Ok(Val::Bool(b)),
            Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
            _ => Ok(Val::Bool(true)),
        }
    }

    fn call(&mut self, call: &Call) -> Eval<Val<'a>> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.eval(arg)?);
        }
        let result = match &call.code {
            Code::Function(code) => code(&args),
            Code::Constant(val) => Ok(val.clone()),
            Code::Pattern(Some(regex)) => strings::with_regex(&call.function, regex, &args),
            Code::Pattern(None) => match args.get(1) {
                Some(Val::String(pattern)) => match strings::compile(pattern) {
                    Ok(regex) => strings::with_regex(&call.function, &regex, &args),
                    Err(error) => fail(format!("Illegal regex: {error}")),
                },
                _ => no_such_overload(),
            },
        };
        self.charge(cost::of_call(&call.function, &args, result.as_ref().ok()))?;
        result
    }

    fn list(&mut self, items: &[(bool, Node)]) -> Eval<Val<'a>> {
        let mut made = Vec::with_capacity(items.len());
        for (optional, node) in items {
            let item = self.eval(node)?;
            match (optional, item) {
                (true, Val::Optional(None)) => {}
                (true, Val::Optional(Some(inner))) => made.push((*inner).clone()),
                (_, item) => made.push(item),
            }
        }
        self.charge(cost::LIST)?;
        Ok(Val::list(made))
    }

    fn map(&mut self, entries: &[(bool, Node, Node)]) -> Eval<Val<'a>> {
        let mut made = BTreeMap::new();
        for (optional, key, value) in entries {
            let key = self.eval(key)?;
            let mut value = self.eval(value)?;
            if *optional {
                match value {
                    Val::Optional(None) => continue,
                    Val::Optional(Some(inner)) => value = (*inner).clone(),
                    _ => return no_such_overload(),
                }
            }
            let mut one = BTreeMap::new();
            insert(&mut one, &key, value)?;
            made.extend(one);
        }
        self.charge(cost::MAP)?;
        Ok(Val::Map(MapVal::Made(Arc::new(made))))
    }

    fn structure(&mut self, name: &Arc<str>, fields: &[(Arc<str>, bool, Node)]) -> Eval<Val<'a>> {
        let mut given = Given::new();
        for (field, optional, node) in fields {
            match (optional, self.eval(node)?) {
                (true, Val::Optional(None)) => {}
                (true, Val::Optional(Some(inner))) => {
                    given.insert(field.clone(), (*inner).clone());
                }
                (_, value) => {
                    given.insert(field.clone(), value);
                }
            }
        }
        self.charge(cost::STRUCT)?;
        Ok(Val::Struct(Arc::new(Struct { name: name.clone(), fields: given })))
    }

    fn bind(&mut self, [value, within]: &[Node; 2]) -> Eval<Val<'a>> {
        let value = self.eval(value)?;
        self.locals.push(value);
        let result = self.eval(within);
        self.locals.pop();
        result
    }

    fn fold(&mut self, fold: &FoldPlan) -> Eval<Val<'a>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let outer = self.locals.len();
        let result = self.iterate(fold, &range, init);
        self.locals.truncate(outer);
        result
    }

    fn iterate(&mut self, fold: &FoldPlan, range: &Val<'a>, init: Val<'a>) -> Eval<Val<'a>> {
        let place = self.locals.len();
        let mut accumulator = Accumulator::new(&fold.step);
        self.locals.push(init);
        let mut outcome = Ok(());
        match range {
            Val::List(list) => self.over_list(fold, list, place, &mut accumulator, &mut outcome)?,
            Val::Map(map) => self.over_map(fold, map, place, &mut accumulator, &mut outcome)?,
            _ => return no_such_overload(),
        }
        // An error that no later step overcame is the value of the accumulator.
        outcome?;
        match accumulator {
            Accumulator::Slot => {}
            Accumulator::List(items) => self.locals[place] = Val::list(items),
            Accumulator::Map(map) => self.locals[place] = Val::Map(MapVal::Made(Arc::new(map))),
        }
        self.eval(&fold.result)
    }

    fn over_list(
        &mut self,
        fold: &FoldPlan,
        list: &List<'a>,
        place: usize,
        accumulator: &mut Accumulator<'a>,
        outcome: &mut Eval<()>,
    ) -> Eval<()> {
        for (index, item) in list.iter().enumerate() {
            let item = item?;
            let first = if fold.two { Val::Int(index as i64) } else { item.clone() };
            let second = fold.two.then_some(item);
            if !self.round(fold, first, second, place, accumulator, outcome)? {
                break;
            }
        }
        Ok(())
    }

    fn over_map(
        &mut self,
        fold: &FoldPlan,
        map: &MapVal<'a>,
        place: usize,
        accumulator: &mut Accumulator<'a>,
        outcome: &mut Eval<()>,
    ) -> Eval<()> {
        for key in map.keys() {
            let second = if fold.two { map.get(&key)? } else { None };
            if !self.round(fold, key, second, place, accumulator, outcome)? {
                break;
            }
        }
        Ok(())
    }

    /// One element. `false`: no more are needed.
    fn round(
        &mut self,
        fold: &FoldPlan,
        first: Val<'a>,
        second: Option<Val<'a>>,
        place: usize,
        accumulator: &mut Accumulator<'a>,
        outcome: &mut Eval<()>,
    ) -> Eval<bool> {
        self.locals.truncate(place + 1);
        self.locals.push(first);
        self.locals.extend(second);
        if let Some(condition) = &fold.condition {
            // While the accumulator is an error, it is not strictly false.
            let go_on = if outcome.is_ok() { self.eval(condition)? } else { Val::Bool(true) };
            if !matches!(go_on, Val::Bool(true)) {
                return Ok(false);
            }
        }
        match &fold.step {
            Step::Value(step) => self.value_step(fold, step, place, outcome)?,
            Step::Append(filter, value) => {
                if self.passes(filter.as_ref())? {
                    let value = self.eval(value)?;
                    self.charge(cost::SELECT + cost::LIST + 1)?;
                    accumulator.push(value);
                }
            }
            Step::Insert(filter, args) => {
                if self.passes(filter.as_ref())? {
                    let mut given = Vec::with_capacity(args.len());
                    for arg in args {
                        given.push(self.eval(arg)?);
                    }
                    self.charge(cost::SELECT + 1)?;
                    accumulator.insert(given)?;
                }
            }
        }
        Ok(true)
    }

    /// An error becomes the accumulator; `&&` and `||` in the step may still overcome it with a later element.
    fn value_step(&mut self, fold: &FoldPlan, step: &Node, place: usize, outcome: &mut Eval<()>) -> Eval<()> {
        let next = match (&*outcome, step) {
            (Ok(()), _) => self.eval(step),
            (Err(earlier), Node::And(_, b)) => self.overcome(earlier.clone(), b, false),
            (Err(earlier), Node::Or(_, b)) => self.overcome(earlier.clone(), b, true),
            (Err(earlier), _) => Err(earlier.clone()),
        };
        match next {
            Ok(value) => {
                self.locals[place] = value;
                *outcome = Ok(());
            }
            Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
            Err(error) if fold.condition.is_none() => return Err(error),
            Err(error) => *outcome = Err(error),
        }
        Ok(())
    }

    fn overcome(&mut self, earlier: EvalError, next: &Node, deciding: bool) -> Eval<Val<'a>> {
        self.charge(cost::SELECT)?;
        match self.eval(next) {
            Ok(Val::Bool(value)) if value == deciding => Ok(Val::Bool(value)),
            Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
            _ => Err(earlier),
        }
    }

    fn passes(&mut self, filter: Option<&Node>) -> Eval<bool> {
        match filter {
            None => Ok(true),
            Some(filter) => match self.eval(filter)? {
                Val::Bool(true) => Ok(true),
                Val::Bool(false) => {
                    self.charge(cost::SELECT)?;
                    Ok(false)
                }
                _ => no_such_overload(),
            },
        }
    }
}

/// What a fold builds.
enum Accumulator<'a> {
    /// Kept among the locals.
    Slot,
    List(Vec<Val<'a>>),
    Map(BTreeMap<Key<'a>, Val<'a>>),
}

impl<'a> Accumulator<'a> {
    fn new(step: &Step) -> Self {
        match step {
            Step::Value(_) => Self::Slot,
            Step::Append(..) => Self::List(Vec::new()),
            Step::Insert(..) => Self::Map(BTreeMap::new()),
        }
    }

    fn push(&mut self, value: Val<'a>) {
        if let Self::List(items) = self {
            items.push(value);
        }
    }

    fn insert(&mut self, given: Vec<Val<'a>>) -> Eval<()> {
        let Self::Map(map) = self else { return Ok(()) };
        match given.as_slice() {
            [key, value] => insert(map, key, value.clone()),
            [Val::Map(more)] => {
                for key in more.keys() {
                    if let Some(value) = more.get(&key)? {
                        insert(map, &key, value)?;
                    }
                }
                Ok(())
            }
            _ => no_such_overload(),
        }
    }
}
