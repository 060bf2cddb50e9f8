//! CertificateSigningRequests: approved where that is safe, signed by the cluster's CA, and cleaned up.
//! Source: certificates.k8s.io API reference, "Certificates and Certificate Signing Requests".

pub(crate) mod approve;
pub(crate) mod clean;
pub(crate) mod der;
pub(crate) mod request;
pub(crate) mod sign;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

pub(crate) const API_SERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

fn conditions(csr: &CertificateSigningRequest) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    csr.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

/// A condition of this type exists. Upstream does not look at its status, which can only be True for decisions.
fn has(csr: &CertificateSigningRequest, type_: &str) -> bool {
    conditions(csr).any(|condition| condition.type_ == type_)
}

fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|issued| !issued.0.is_empty())
}
