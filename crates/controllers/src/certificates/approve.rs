//! CSR approving controller: approves what kubelets ask for their own, when RBAC lets them.
//! Reads CertificateSigningRequest. Writes CertificateSigningRequest.approval, asks SubjectAccessReviews.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::Api;
use kube::api::PostParams;

use super::request::Request;
use super::{KUBELET_CLIENT, has, is_issued};
use crate::clock;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "certificatesigningrequest-approving-controller",
    alias: "csrapproving",
    account: "certificate-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;

struct Controller {
    ctx: Ctx,
    requests: Informer<CertificateSigningRequest>,
}

async fn run(ctx: Ctx) {
    let requests = ctx.informers.informer::<CertificateSigningRequest>();
    let queue = WorkQueue::default();
    requests.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    requests.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), requests };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// A permission that lets a request pass, and what is said then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Permission {
    subresource: &'static str,
    message: &'static str,
}

/// A kubelet that renews its own certificate.
const SELF: Permission = Permission {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
/// Somebody who asks for a kubelet, such as a bootstrap token.
const ANY_NODE: Permission = Permission {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// The permissions of which one is enough, in the order to ask for them. Same view, same plan. Touches nothing.
fn plan(csr: &CertificateSigningRequest) -> Result<Vec<Permission>, String> {
    if is_issued(csr) || has(csr, "Approved") || has(csr, "Denied") || csr.spec.signer_name != KUBELET_CLIENT {
        return Ok(Vec::new());
    }
    let request = Request::parse(&csr.spec.request.0)?;
    if request.check_kubelet_client(csr.spec.usages.as_deref().unwrap_or_default()).is_err() {
        return Ok(Vec::new());
    }
    let is_self = csr.spec.username.as_deref() == Some(request.common_name.as_str());
    Ok(is_self.then_some(SELF).into_iter().chain([ANY_NODE]).collect())
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(csr) = self.requests.get(key) else { return Ok(Requeue::Never) };
        let permissions =
            plan(&csr).map_err(|error| ReconcileError::NotYet(format!("unable to parse csr \"{key}\": {error}")))?;
        if permissions.is_empty() {
            return Ok(Requeue::Never);
        }
        for permission in &permissions {
            if self.is_allowed(&csr, permission).await? {
                return self.approve(&csr, permission.message).await;
            }
        }
        let tried: Vec<&str> = permissions.iter().map(|permission| permission.subresource).collect();
        let tried = tried.join(" ");
        let message = format!("recognized csr \"{key}\" as [{tried}] but subject access review was not approved");
        Err(ReconcileError::NotYet(message))
    }
}

impl Controller {
    async fn is_allowed(
        &self,
        csr: &CertificateSigningRequest,
        permission: &Permission,
    ) -> Result<bool, ReconcileError> {
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(permission.subresource.to_owned()),
            verb: Some("create".to_owned()),
            version: Some("*".to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = self.ctx.connection.all();
        let answered = api.create(&PostParams::default(), &review).await?;
        Ok(answered.status.is_some_and(|status| status.allowed))
    }

    async fn approve(&self, csr: &CertificateSigningRequest, message: &str) -> Result<Requeue, ReconcileError> {
        let mut changed = csr.clone();
        changed.status.get_or_insert_default().conditions.get_or_insert_default().push(
            CertificateSigningRequestCondition {
                type_: "Approved".to_owned(),
                status: "True".to_owned(),
                reason: Some("AutoApproved".to_owned()),
                message: Some(message.to_owned()),
                last_update_time: Some(clock::now()),
                last_transition_time: None,
            },
        );
        let api: Api<CertificateSigningRequest> = self.ctx.connection.all();
        let name = csr.metadata.name.as_deref().unwrap_or("");
        api.replace_subresource("approval", name, &PostParams::default(), &changed).await?;
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::super::request::tests::made;
    use super::*;

    #[test]
    fn a_kubelet_may_renew_its_own_and_others_ask_for_any() {
        let csr = |user: &str, signer: &str| {
            let mut csr: CertificateSigningRequest = serde_json::from_value(serde_json::json!({
                "metadata": { "name": "a" },
                "spec": {
                    "signerName": signer, "username": user, "request": "",
                    "usages": ["digital signature", "client auth"],
                },
            }))
            .unwrap();
            csr.spec.request = ByteString(made("system:nodes", "system:node:a", &[]));
            csr
        };
        assert_eq!(plan(&csr("system:node:a", KUBELET_CLIENT)), Ok(vec![SELF, ANY_NODE]));
        assert_eq!(plan(&csr("system:bootstrap:abcdef", KUBELET_CLIENT)), Ok(vec![ANY_NODE]));
        assert_eq!(plan(&csr("system:node:a", super::super::KUBELET_SERVING)), Ok(vec![]));
    }
}
