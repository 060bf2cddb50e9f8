//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction: who may speak for a signer,
//! and what nobody may ask of one.

use api::{Status, Value};
use base64::{Engine, engine::general_purpose::STANDARD};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{Context, Operation, Request, items};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const SUPERUSERS: &str = "system:masters";

fn signer(request: &Value) -> &str {
    request["spec"]["signerName"].as_str().unwrap_or_default()
}

fn is_update_of(request: &Request<'_>, resource: &str, subresource: &str) -> bool {
    request.is(GROUP, resource) && request.subresource == subresource && request.operation == Operation::Update
}

pub(super) fn validate_approval(request: &Request<'_>, csr: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !is_update_of(request, "certificatesigningrequests", "approval") {
        return Ok(());
    }
    // The stored signer counts, not the one sent along.
    let signer = signer(request.old.unwrap_or(csr));
    if ctx.may_sign(request.user, "approve", signer) {
        return Ok(());
    }
    Err(request.forbidden(csr, &format!("user not permitted to approve requests with signerName \"{signer}\"")))
}

pub(super) fn validate_signing(request: &Request<'_>, csr: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let is_plain = is_update_of(request, "certificatesigningrequests", "status");
    let is_pods = is_update_of(request, "podcertificaterequests", "status");
    let Some(old) = request.old.filter(|_| is_plain || is_pods) else { return Ok(()) };
    let failed = |csr: &Value| items(&csr["status"], "conditions").find(|c| c["type"] == "Failed").cloned();
    let unchanged = if is_plain {
        old["status"]["certificate"] == csr["status"]["certificate"] && failed(old) == failed(csr)
    } else {
        old["status"] == csr["status"]
    };
    let signer = signer(old);
    if unchanged || ctx.may_sign(request.user, "sign", signer) {
        return Ok(());
    }
    Err(request.forbidden(csr, &format!("user not permitted to sign requests with signerName \"{signer}\"")))
}

pub(super) fn validate_attest(request: &Request<'_>, bundle: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !request.is(GROUP, "clustertrustbundles") || !writes {
        return Ok(());
    }
    if request.old.is_some_and(|old| old["spec"] == bundle["spec"] && signer(old) == signer(bundle)) {
        return Ok(());
    }
    let signer = signer(bundle);
    if signer.is_empty() || ctx.may_sign(request.user, "attest", signer) {
        return Ok(());
    }
    Err(request.forbidden(bundle, &format!("user not permitted to attest for signerName \"{signer}\"")))
}

pub(super) fn validate_subject(request: &Request<'_>, csr: &Value, _: &mut Context<'_>) -> Result<(), Status> {
    let is_new = request.is_whole(GROUP, "certificatesigningrequests") && request.operation == Operation::Create;
    if !is_new || signer(csr) != CLIENT_SIGNER {
        return Ok(());
    }
    let subject = match subject(csr["spec"]["request"].as_str().unwrap_or_default()) {
        Ok(subject) => subject,
        Err(text) => return Err(request.forbidden(csr, &format!("failed to parse CSR: {text}"))),
    };
    if subject.organizations.iter().any(|group| group == SUPERUSERS) {
        let text = format!("use of {CLIENT_SIGNER} signer with {SUPERUSERS} group is not allowed");
        return Err(request.forbidden(csr, &text));
    }
    Ok(())
}

/// Whom a certificate request is for.
pub(super) struct Subject {
    pub(super) common_name: String,
    organizations: Vec<String>,
}

/// The subject of a base64 PEM certificate request.
pub(super) fn subject(request: &str) -> Result<Subject, String> {
    const BAD: &str = "PEM block type must be CERTIFICATE REQUEST";
    let pem = STANDARD.decode(request).map_err(|_| BAD.to_owned())?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| BAD.to_owned())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(BAD.to_owned());
    }
    let (_, csr) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
    let subject = &csr.certification_request_info.subject;
    let common_name =
        subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Ok(Subject { common_name, organizations })
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    fn csr(signer: &str, group: &str) -> Value {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        json!({"metadata": {"name": "a"}, "spec": {"signerName": signer, "request": STANDARD.encode(pem)}})
    }

    #[test]
    fn nobody_asks_to_be_a_superuser() {
        let user = UserInfo::default();
        let create = request(Operation::Create, GROUP, "certificatesigningrequests", &user);
        let run = |csr: Value| World::new().run("CertificateSubjectRestriction", &create, csr).map(|_| ());
        assert_eq!(
            run(csr(CLIENT_SIGNER, SUPERUSERS)).unwrap_err(),
            "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: use of kubernetes.io/kube-apiserver-client \
             signer with system:masters group is not allowed"
        );
        assert_eq!(run(csr(CLIENT_SIGNER, "devs")), Ok(()));
        assert_eq!(run(csr("example.com/own", SUPERUSERS)), Ok(()));
    }

    #[test]
    fn approval_needs_the_right_on_the_signer_or_its_domain() {
        let user = UserInfo { name: "jane".into(), ..UserInfo::default() };
        let old = json!({"metadata": {"name": "a"}, "spec": {"signerName": "example.com/own"}});
        let mut update = request(Operation::Update, GROUP, "certificatesigningrequests", &user);
        (update.subresource, update.old) = ("approval", Some(&old));
        let world = World::new();
        assert_eq!(
            world.run("CertificateApproval", &update, old.clone()).unwrap_err(),
            "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to approve requests with \
             signerName \"example.com/own\""
        );
        let rbac = "rbac.authorization.k8s.io";
        let world = world
            .with(
                rbac,
                "clusterroles",
                json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["approve"], "apiGroups": [GROUP],
                    "resources": ["signers"], "resourceNames": ["example.com/*"]}]}),
            )
            .with(
                rbac,
                "clusterrolebindings",
                json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
                       "subjects": [{"kind": "User", "name": "jane"}]}),
            );
        assert_eq!(world.run("CertificateApproval", &update, old.clone()), Ok(old.clone()));
    }
}
