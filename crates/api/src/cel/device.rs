//! Selectors of devices (`resource.k8s.io`). Source: `k8s.io/dynamic-resource-allocation/cel/compile.go`.

use std::sync::OnceLock;

use super::environment::Environment;
use super::functions;
use super::policy::Compiled;
use super::types::Type;

const DEVICE: &str = "kubernetes.DRADevice";

/// Compiles the expression of a selector, which may name `device`.
///
/// # Errors
/// In upstream's words.
pub fn compile(text: &str) -> Compiled {
    static SHARED: OnceLock<Environment> = OnceLock::new();
    let env = SHARED.get_or_init(|| {
        let mut env = Environment::new();
        let by_domain = |t: Type| Type::map(Type::String, Type::map(Type::String, t));
        env.declare_object(
            DEVICE,
            [
                ("driver", Type::String),
                ("attributes", by_domain(Type::Dyn)),
                ("capacity", by_domain(Type::object(functions::QUANTITY))),
                ("allowMultipleAllocations", Type::Bool),
            ],
        );
        env.declare("device", Type::object(DEVICE));
        env
    });
    let program = env.compile(text).map_err(|errors| format!("compilation failed: {errors}"))?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}
