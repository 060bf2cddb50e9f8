//! NamespaceLifecycle: nothing is created where there is no namespace, or where it is going away; system namespaces stay.

use api::{Status, Value, status::GroupResource};

use super::{Context, Operation, Request};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(request: &Request<'_>, object: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let is_namespace = request.is("", "namespaces");
    if request.operation == Operation::Delete {
        if is_namespace && IMMORTAL.contains(&request.name) {
            return Err(request.forbidden(object, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    let is_review = request.is("authorization.k8s.io", "localsubjectaccessreviews");
    let changes = matches!(request.operation, Operation::Create | Operation::Update);
    if !changes || request.namespace.is_empty() || is_namespace || is_review {
        return Ok(());
    }
    let name = request.namespace;
    let Some(namespace) = ctx.get("", "namespaces", "", name) else {
        return Err(Status::not_found(GroupResource { group: "", resource: "namespaces" }, name));
    };
    if request.operation == Operation::Create && namespace["status"]["phase"] == "Terminating" {
        let text = format!("unable to create new content in namespace {name} because it is being terminated");
        let cause = format!("namespace {name} is being terminated");
        return Err(request.forbidden(object, &text).with_cause("NamespaceTerminating", &cause, "metadata.namespace"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    #[test]
    fn system_namespaces_stay() {
        let user = UserInfo::default();
        let mut delete = request(Operation::Delete, "", "namespaces", &user);
        (delete.namespace, delete.name) = ("kube-system", "kube-system");
        assert_eq!(
            World::new().run("NamespaceLifecycle", &delete, Value::Null).unwrap_err(),
            "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
        );
    }

    #[test]
    fn a_missing_or_terminating_namespace_takes_nothing() {
        let user = UserInfo::default();
        let mut create = request(Operation::Create, "", "configmaps", &user);
        let object = json!({"metadata": {"name": "b"}});
        let world = World::new().with(
            "",
            "namespaces",
            json!({"metadata": {"name": "ns"}, "status": {"phase": "Terminating"}}),
        );
        let status = admit(&create, &mut object.clone(), &mut world.ctx()).unwrap_err();
        assert_eq!(
            status.message,
            "configmaps \"b\" is forbidden: unable to create new content in namespace ns because it is being terminated"
        );
        assert_eq!(status.details.unwrap().causes[0].reason, "NamespaceTerminating");
        create.namespace = "none";
        assert_eq!(world.run("NamespaceLifecycle", &create, object).unwrap_err(), "namespaces \"none\" not found");
    }
}
