//! Expressions of authentication and authorization: claims of tokens, users made of them, and questions to authorizers.
//! Source: `k8s.io/apiserver/pkg/authentication/cel` and `pkg/authorization/cel`.

use std::sync::OnceLock;

use super::environment::Environment;
use super::policy::Compiled;
use super::types::Type;

const USER: &str = "kubernetes.UserInfo";
const REVIEW: &str = "kubernetes.SubjectAccessReviewSpec";
const RESOURCE: &str = "kubernetes.ResourceAttributes";
const NON_RESOURCE: &str = "kubernetes.NonResourceAttributes";
const FIELD_SELECTOR: &str = "kubernetes.FieldSelectorAttributes";
const LABEL_SELECTOR: &str = "kubernetes.LabelSelectorAttributes";
const REQUIREMENT: &str = "kubernetes.SelectorRequirement";

fn strings() -> Type {
    Type::list(Type::String)
}

/// What an expression over claims must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Bool,
    Anything,
}

fn compile(env: &Environment, text: &str, wanted: Wanted) -> Compiled {
    let program = env.compile(text).map_err(|errors| format!("compilation failed: {errors}"))?;
    match (wanted, program.result_type()) {
        (Wanted::Anything, _) | (Wanted::Bool, Type::Bool) => Ok(program),
        // Claims are of any type: what they are is seen when a token comes.
        (Wanted::Bool, Type::Dyn) => Ok(program),
        (Wanted::Bool, _) => Err("must evaluate to bool".to_owned()),
    }
}

/// Compiles an expression that may name `claims`.
///
/// # Errors
/// In upstream's words.
pub fn compile_claims(text: &str, wanted: Wanted) -> Compiled {
    static SHARED: OnceLock<Environment> = OnceLock::new();
    let env = SHARED.get_or_init(|| {
        let mut env = Environment::new();
        env.declare("claims", Type::map(Type::String, Type::Dyn));
        env
    });
    compile(env, text, wanted)
}

/// Compiles a condition that may name `user`.
///
/// # Errors
/// In upstream's words.
pub fn compile_user(text: &str) -> Compiled {
    static SHARED: OnceLock<Environment> = OnceLock::new();
    let env = SHARED.get_or_init(|| {
        let mut env = Environment::new();
        env.declare_object(
            USER,
            [
                ("username", Type::String),
                ("uid", Type::String),
                ("groups", strings()),
                ("extra", Type::map(Type::String, strings())),
            ],
        );
        env.declare("user", Type::object(USER));
        env
    });
    compile(env, text, Wanted::Bool)
}

/// Compiles a condition that may name `request`, the spec of a SubjectAccessReview.
///
/// # Errors
/// In upstream's words.
pub fn compile_review(text: &str) -> Compiled {
    static SHARED: OnceLock<Environment> = OnceLock::new();
    let env = SHARED.get_or_init(|| {
        let mut env = Environment::new();
        env.declare_object(REQUIREMENT, [("key", Type::String), ("operator", Type::String), ("values", strings())]);
        let selector = || [("rawSelector", Type::String), ("requirements", Type::list(Type::object(REQUIREMENT)))];
        env.declare_object(FIELD_SELECTOR, selector());
        env.declare_object(LABEL_SELECTOR, selector());
        env.declare_object(
            RESOURCE,
            [
                ("namespace", Type::String),
                ("verb", Type::String),
                ("group", Type::String),
                ("version", Type::String),
                ("resource", Type::String),
                ("subresource", Type::String),
                ("name", Type::String),
                ("fieldSelector", Type::object(FIELD_SELECTOR)),
                ("labelSelector", Type::object(LABEL_SELECTOR)),
            ],
        );
        env.declare_object(NON_RESOURCE, [("path", Type::String), ("verb", Type::String)]);
        env.declare_object(
            REVIEW,
            [
                ("resourceAttributes", Type::object(RESOURCE)),
                ("nonResourceAttributes", Type::object(NON_RESOURCE)),
                ("user", Type::String),
                ("groups", strings()),
                ("extra", Type::map(Type::String, strings())),
                ("uid", Type::String),
            ],
        );
        env.declare("request", Type::object(REVIEW));
        env
    });
    compile(env, text, Wanted::Bool)
}
