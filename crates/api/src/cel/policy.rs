//! Expressions of admission: what policies, bindings and webhook configurations may name, and how their results are judged.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::OnceLock;

use super::environment::{Declared, Environment, Program};
use super::eval::{Bindings, Fields};
use super::functions;
use super::source::CompileErrors;
use super::types::Type;
use super::value::{EvalError, Val};
use super::{MATCH_CONDITIONS_BUDGET, PER_CALL_LIMIT};

const VARIABLES: &str = "kubernetes.variables";

/// Which of the variables that not every expression has are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declarations {
    pub params: bool,
    pub authorizer: bool,
    /// `Object{…}`, `JSONPatch{…}` and their functions.
    pub patches: bool,
}

/// `object`, `oldObject`, `request`, `namespaceObject`, and what is declared.
pub fn environment(declarations: Declarations) -> Environment {
    let mut env = Environment::new();
    env.declare("object", Type::Dyn);
    env.declare("oldObject", Type::Dyn);
    let strings = || Type::list(Type::String);
    let object = Type::object;
    env.declare_object(
        "kubernetes.GroupVersionKind",
        [("group", Type::String), ("version", Type::String), ("kind", Type::String)],
    );
    env.declare_object(
        "kubernetes.GroupVersionResource",
        [("group", Type::String), ("version", Type::String), ("resource", Type::String)],
    );
    env.declare_object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", strings()),
            ("extra", Type::map(Type::String, strings())),
        ],
    );
    env.declare_object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", object("kubernetes.GroupVersionKind")),
            ("resource", object("kubernetes.GroupVersionResource")),
            ("subResource", Type::String),
            ("requestKind", object("kubernetes.GroupVersionKind")),
            ("requestResource", object("kubernetes.GroupVersionResource")),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", object("kubernetes.UserInfo")),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    );
    env.declare("request", object("kubernetes.AdmissionRequest"));
    declare_namespace(&mut env);
    if declarations.params {
        env.declare("params", Type::Dyn);
    }
    if declarations.authorizer {
        env.declare("authorizer", object(functions::AUTHORIZER));
        env.declare("authorizer.requestResource", object(functions::RESOURCE_CHECK));
    }
    if declarations.patches {
        env.allow_mutations();
    }
    env
}

fn declare_namespace(env: &mut Environment) {
    let strings = || Type::list(Type::String);
    let object = Type::object;
    let labels = || Type::map(Type::String, Type::String);
    env.declare_object("kubernetes.NamespaceSpec", [("finalizers", strings())]);
    env.declare_object(
        "kubernetes.NamespaceCondition",
        [
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    env.declare_object(
        "kubernetes.NamespaceStatus",
        [("conditions", Type::list(object("kubernetes.NamespaceCondition"))), ("phase", Type::String)],
    );
    env.declare_object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", strings()),
        ],
    );
    env.declare_object(
        "kubernetes.Namespace",
        [
            ("metadata", object("kubernetes.NamespaceMetadata")),
            ("spec", object("kubernetes.NamespaceSpec")),
            ("status", object("kubernetes.NamespaceStatus")),
        ],
    );
    env.declare("namespaceObject", object("kubernetes.Namespace"));
}

/// An expression as it is judged later: a program, or upstream's words for why there is none.
pub type Compiled = Result<Program, String>;

/// Compiles the expressions of one policy. Each may use the variables that have been compiled before it.
#[derive(Debug)]
pub struct Compiler {
    environments: HashMap<[bool; 3], Environment>,
    variables: Option<Vec<(String, Type)>>,
    /// Types of the object and the parameters, where they are known.
    typed: Option<(Declared, Option<Declared>)>,
}

impl Compiler {
    /// For expressions without variables: `variables` is not declared at all.
    pub fn without_variables() -> Self {
        Self { environments: HashMap::new(), variables: None, typed: None }
    }

    pub fn with_variables() -> Self {
        Self { environments: HashMap::new(), variables: Some(Vec::new()), typed: None }
    }

    /// For checking expressions against the types of what they will be evaluated on.
    pub fn typed(object: Declared, params: Option<Declared>) -> Self {
        Self { typed: Some((object, params)), ..Self::with_variables() }
    }

    /// What is wrong with an expression of any type.
    pub fn check(&mut self, text: &str, declarations: Declarations) -> Option<CompileErrors> {
        self.environment(declarations).compile(text).err()
    }

    fn environment(&mut self, declarations: Declarations) -> &Environment {
        let Declarations { params, authorizer, patches } = declarations;
        self.environments.entry([params, authorizer, patches]).or_insert_with(|| {
            let mut env = environment(declarations);
            if let Some((object, params)) = &self.typed {
                env.declare_typed("oldObject", object.clone());
                env.declare_typed("object", object.clone());
                if let Some(params) = params {
                    env.declare_typed("params", params.clone());
                }
            }
            if let Some(variables) = &self.variables {
                env.declare_lazy("variables", VARIABLES);
                for (name, t) in variables {
                    env.declare_lazy_field(VARIABLES, name, t.clone());
                }
            }
            env
        })
    }

    /// Compiles an expression that must be of one of the types; of any when there are none.
    pub fn compile(&mut self, text: &str, declarations: Declarations, types: &[Type]) -> Compiled {
        let program =
            self.environment(declarations).compile(text).map_err(|errors| format!("compilation failed: {errors}"))?;
        let result = program.result_type();
        match types {
            [] => {}
            types if types.contains(result) => {}
            [only] => return Err(format!("must evaluate to {only} but got {result}")),
            types => {
                let names: Vec<String> = types.iter().map(ToString::to_string).collect();
                return Err(format!("must evaluate to one of [{}] but got {result}", names.join(" ")));
            }
        }
        Ok(program)
    }

    /// Compiles a variable, which expressions after it may use even if it does not compile.
    pub fn variable(&mut self, name: &str, text: &str, declarations: Declarations) -> Compiled {
        let compiled = self.compile(text, declarations, &[]);
        let t = compiled.as_ref().map_or(Type::Dyn, |program| declared(program.result_type()));
        self.environments.clear();
        self.variables.get_or_insert_default().push((name.to_owned(), t));
        compiled
    }
}

/// A variable has the type of its expression only if that is made of plain types.
fn declared(t: &Type) -> Type {
    match t {
        Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => t.clone(),
        Type::List(element) => Type::list(declared(element)),
        Type::Map(pair) => Type::map(declared(&pair.0), declared(&pair.1)),
        _ => Type::Dyn,
    }
}

/// A match condition compiled as a webhook's or a policy's; the declarations of one without parameters are shared.
pub fn compile_condition(text: &str, params: bool) -> Compiled {
    static SHARED: OnceLock<[Environment; 2]> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        [false, true].map(|params| environment(Declarations { params, authorizer: true, patches: false }))
    });
    let program =
        shared[usize::from(params)].compile(text).map_err(|errors| format!("compilation failed: {errors}"))?;
    match program.result_type() {
        Type::Bool => Ok(program),
        other => Err(format!("must evaluate to bool but got {other}")),
    }
}

/// A name and a compiled expression.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    pub text: String,
    pub compiled: Compiled,
}

/// Variables of a policy during one evaluation: each is computed once, when first used, and its cost is kept apart.
#[derive(Debug)]
pub struct Variables<'p, 'a> {
    all: &'p [Named],
    bindings: &'p Bindings<'a>,
    known: RefCell<HashMap<String, Result<Val<'a>, EvalError>>>,
    cost: Cell<u64>,
    /// Names under way: a variable can only use those before it, but this does not rest on that.
    depth: Cell<usize>,
}

impl<'p, 'a> Variables<'p, 'a> {
    /// `bindings`: what the variables themselves may name.
    pub fn new(all: &'p [Named], bindings: &'p Bindings<'a>) -> Self {
        Self { all, bindings, known: RefCell::default(), cost: Cell::new(0), depth: Cell::new(0) }
    }

    /// What variables have cost since this was last asked.
    pub fn take_cost(&self) -> u64 {
        self.cost.replace(0)
    }
}

impl<'a> Fields<'a> for Variables<'_, 'a> {
    fn get(&self, name: &str) -> Result<Val<'a>, EvalError> {
        if let Some(known) = self.known.borrow().get(name) {
            return known.clone();
        }
        let failed = |message: String| Err(EvalError::Failed(message));
        let Some(variable) = self.all.iter().rfind(|variable| variable.name == name) else {
            return failed(format!("no such key: {name}"));
        };
        if self.depth.get() > self.all.len() {
            return failed(format!("composited variable {name:?} uses itself"));
        }
        self.depth.set(self.depth.get() + 1);
        let value = match &variable.compiled {
            Err(why) => failed(format!("composited variable {name:?} fails to compile: {why}")),
            Ok(program) => {
                let (value, cost) = program.evaluate_with(self.bindings, Some(self), PER_CALL_LIMIT);
                self.cost.set(self.cost.get().saturating_add(cost));
                value.or_else(|error| failed(format!("composited variable {name:?} fails to evaluate: {error}")))
            }
        };
        self.depth.set(self.depth.get() - 1);
        self.known.borrow_mut().insert(name.to_owned(), value.clone());
        value
    }
}

/// No more expressions are evaluated: all together cost too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("validation failed due to running out of cost budget, no further validation rules will be run")]
pub struct OutOfBudget;

/// Evaluates an expression and takes its cost from the budget. The inner error is the expression's own, in upstream's words.
pub fn evaluate<'a>(
    text: &str,
    compiled: &Compiled,
    bindings: &Bindings<'a>,
    variables: Option<&Variables<'_, 'a>>,
    budget: &mut u64,
) -> Result<Result<Val<'a>, String>, OutOfBudget> {
    let program = match compiled {
        Ok(program) => program,
        Err(why) => return Ok(Err(format!("compilation error: {why}"))),
    };
    let lazy = variables.map(|variables| variables as &dyn Fields<'a>);
    let (value, cost) = program.evaluate_with(bindings, lazy, PER_CALL_LIMIT);
    let cost = cost.saturating_add(variables.map_or(0, Variables::take_cost));
    *budget = budget.checked_sub(cost).ok_or(OutOfBudget)?;
    Ok(value.map_err(|error| format!("expression '{text}' resulted in error: {error}")))
}

/// What match conditions say of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    Yes,
    /// Some condition is false, or one failed and failures are to be ignored.
    No,
    /// None is false and some failed; the text is for the refusal.
    Failed(String),
}

/// All conditions must be true; one that is false decides even if others fail. `ignore_failures`: failure policy `Ignore`.
pub fn match_conditions<'a>(
    conditions: &[Named],
    bindings: &Bindings<'a>,
    variables: Option<&Variables<'_, 'a>>,
    ignore_failures: bool,
) -> Matched {
    let mut budget = MATCH_CONDITIONS_BUDGET;
    let mut failures: Vec<String> = Vec::new();
    for condition in conditions {
        match evaluate(&condition.text, &condition.compiled, bindings, variables, &mut budget) {
            Err(out) => {
                failures = vec![out.to_string()];
                break;
            }
            Ok(Ok(Val::Bool(true))) => {}
            Ok(Ok(Val::Bool(false))) => return Matched::No,
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => {
                if !failures.contains(&failure) {
                    failures.push(failure);
                }
            }
        }
    }
    match failures.as_slice() {
        [] => Matched::Yes,
        _ if ignore_failures => Matched::No,
        [only] => Matched::Failed(only.clone()),
        many => Matched::Failed(format!("[{}]", many.join(", "))),
    }
}
