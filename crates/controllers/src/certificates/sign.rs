//! CSR signing controller: signs approved requests of the `kubernetes.io` signers with the cluster's CA.
//! Reads CertificateSigningRequest. Writes CertificateSigningRequest.status.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::Api;
use kube::api::PostParams;
use rcgen::{KeyPair, SigningKey as _};
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;

use super::der::{self, Terms};
use super::request::Request;
use super::{conditions, has, is_issued};
use crate::clock;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "certificatesigningrequest-signing-controller",
    alias: "csrsigning",
    account: "certificate-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
/// Clocks of verifiers may be behind ours by this much.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates of at most this lifetime are not backdated.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// The shortest lifetime that is given, whatever is asked for.
const LIFETIME_MIN: Duration = Duration::from_secs(600);

/// The CA that signs requests (`--cluster-signing-cert-file` and `-key-file`), and for how long at most.
#[derive(Clone)]
pub struct ClusterSigner {
    key: Arc<KeyPair>,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
    algorithm: Vec<u8>,
    lifetime_max: Duration,
}

impl fmt::Debug for ClusterSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSigner").field("lifetime_max", &self.lifetime_max).finish_non_exhaustive()
    }
}

/// A CA that cannot sign. Fix the files.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("the cluster signing key cannot be used")]
    Key(#[source] rcgen::Error),
    #[error("the cluster signing certificate cannot be used: {0}")]
    Certificate(String),
}

impl ClusterSigner {
    pub fn new(certificate_pem: &str, key_pem: &str, lifetime_max: Duration) -> Result<Self, SignerError> {
        let key = KeyPair::from_pem(key_pem).map_err(SignerError::Key)?;
        let bad = |error: String| SignerError::Certificate(error);
        let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let certificate = pem.parse_x509().map_err(|error| bad(error.to_string()))?;
        let key_id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp())
            .map_err(|error| bad(error.to_string()))?;
        let algorithm = signature_algorithm(key.algorithm())
            .ok_or_else(|| bad("its key signs with an algorithm that is not supported".to_owned()))?;
        Ok(Self {
            subject: certificate.subject().as_raw().to_vec(),
            key: Arc::new(key),
            key_id,
            not_after,
            algorithm,
            lifetime_max,
        })
    }

    /// The PEM of a certificate for `request`.
    fn sign(
        &self,
        request: &Request,
        usages: &[String],
        lifetime: Duration,
        now: Timestamp,
        serial: [u8; 16],
    ) -> Result<String, String> {
        if now >= self.not_after {
            return Err(format!(
                "refusing to sign a certificate that expired in the past: NotAfter={}",
                self.not_after
            ));
        }
        let lifetime_signed = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX);
        let not_after = now.checked_add(lifetime_signed).unwrap_or(self.not_after).min(self.not_after);
        let not_before = if lifetime < SHORT { now } else { now - BACKDATE };
        let terms = Terms {
            issuer: &self.subject,
            authority_key_id: self.key_id.as_deref(),
            signature_algorithm: &self.algorithm,
            serial,
            not_before,
            not_after,
            usages,
        };
        let to_be_signed = der::to_be_signed(request, &terms);
        let signature = self.key.sign(&to_be_signed).map_err(|error| error.to_string())?;
        Ok(pem(&der::certificate(&to_be_signed, &self.algorithm, &signature)))
    }

    fn lifetime(&self, expiration_seconds: Option<i32>) -> Duration {
        let Some(seconds) = expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok()) else {
            return self.lifetime_max;
        };
        Duration::from_secs(seconds).max(LIFETIME_MIN).min(self.lifetime_max)
    }
}

/// DER of the AlgorithmIdentifier of signatures of such a key.
fn signature_algorithm(algorithm: &rcgen::SignatureAlgorithm) -> Option<Vec<u8>> {
    let known: [(&rcgen::SignatureAlgorithm, &[u8]); 4] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]),
        (&rcgen::PKCS_ECDSA_P384_SHA384, &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]),
        (&rcgen::PKCS_ED25519, &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70]),
        (&rcgen::PKCS_RSA_SHA256, &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b, 5, 0]),
    ];
    known.into_iter().find(|(one, _)| *one == algorithm).map(|(_, der)| der.to_vec())
}

fn pem(der: &[u8]) -> String {
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

struct Controller {
    ctx: Ctx,
    requests: Informer<CertificateSigningRequest>,
    signer: ClusterSigner,
}

async fn run(ctx: Ctx) {
    let Some(signer) = ctx.config.cluster_signer.clone() else {
        // Without a CA there is nothing to sign with, as upstream.
        return ctx.shutdown.cancelled().await;
    };
    let requests = ctx.informers.informer::<CertificateSigningRequest>();
    let queue = WorkQueue::default();
    requests.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    requests.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), requests, signer };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Sign {
        request: Box<Request>,
        usages: Vec<String>,
    },
    /// The request is not what its signer is for: the reason.
    Fail(String),
    /// It cannot be read.
    Broken(String),
}

/// Same view, same plan. Touches nothing.
fn plan(csr: &CertificateSigningRequest) -> Plan {
    let failed = conditions(csr).any(|condition| condition.type_ == "Failed" && condition.status == "True");
    let refused = has(csr, "Denied") || !has(csr, "Approved") || failed;
    if refused || is_issued(csr) || csr.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing;
    }
    let usages = csr.spec.usages.clone().unwrap_or_default();
    let request = match Request::parse(&csr.spec.request.0) {
        Ok(request) => request,
        Err(error) => return Plan::Broken(error),
    };
    match request.check_for(&csr.spec.signer_name, &usages) {
        None => Plan::Nothing,
        Some(Ok(())) => Plan::Sign { request: Box::new(request), usages },
        Some(Err(reason)) => Plan::Fail(reason),
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(csr) = self.requests.get(key) else { return Ok(Requeue::Never) };
        let mut changed = csr.as_ref().clone();
        match plan(&csr) {
            Plan::Nothing => return Ok(Requeue::Never),
            Plan::Broken(error) => {
                return Err(ReconcileError::NotYet(format!("unable to parse csr \"{key}\": {error}")));
            }
            Plan::Fail(message) => {
                let failed = CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(message),
                    last_update_time: Some(clock::now()),
                    last_transition_time: None,
                };
                changed.status.get_or_insert_default().conditions.get_or_insert_default().push(failed);
            }
            Plan::Sign { request, usages } => {
                // Positive, and of the full length.
                let mut serial: [u8; 16] = rand::random();
                serial[0] &= 0x7f;
                let lifetime = self.signer.lifetime(csr.spec.expiration_seconds);
                let signed = self.signer.sign(&request, &usages, lifetime, Timestamp::now(), serial);
                let pem = signed.map_err(|error| ReconcileError::NotYet(format!("error auto signing csr: {error}")))?;
                changed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
            }
        }
        let api: Api<CertificateSigningRequest> = self.ctx.connection.all();
        api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa};

    use super::super::request::tests::made;
    use super::*;

    fn csr(signer: &str, usages: &[&str], conditions: &[&str], request: &[u8]) -> CertificateSigningRequest {
        let conditions: Vec<_> =
            conditions.iter().map(|type_| serde_json::json!({ "type": type_, "status": "True" })).collect();
        let mut csr: CertificateSigningRequest = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "a" },
            "spec": { "signerName": signer, "usages": usages, "request": "" },
            "status": { "conditions": conditions },
        }))
        .unwrap();
        csr.spec.request = ByteString(request.to_vec());
        csr
    }

    #[test]
    fn only_approved_requests_of_known_signers_are_signed() {
        let request = made("o", "cn", &[]);
        let client = super::super::API_SERVER_CLIENT;
        let planned = |signer: &str, conditions: &[&str]| plan(&csr(signer, &["client auth"], conditions, &request));
        assert!(matches!(planned(client, &["Approved"]), Plan::Sign { .. }));
        assert_eq!(planned(client, &[]), Plan::Nothing);
        assert_eq!(planned(client, &["Approved", "Failed"]), Plan::Nothing);
        assert_eq!(planned("example.com/a", &["Approved"]), Plan::Nothing);
        assert_eq!(
            planned(super::super::KUBELET_SERVING, &["Approved"]),
            Plan::Fail("subject organization is not system:nodes".into())
        );
    }

    #[test]
    fn the_certificate_is_the_requests_and_verifies_with_the_ca() {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = ca.self_signed(&ca_key).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let signer = ClusterSigner::new(&ca.pem(), &ca_key.serialize_pem(), day).unwrap();
        let request = Request::parse(&made("system:nodes", "system:node:a", &["a.example"])).unwrap();
        let usages = ["digital signature".to_owned(), "server auth".to_owned()];
        let now = Timestamp::now();
        let pem = signer.sign(&request, &usages, signer.lifetime(None), now, [7; 16]).unwrap();
        let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let (_, ca_pem) = parse_x509_pem(ca.pem().as_bytes()).map(|(rest, pem)| (rest.to_vec(), pem)).unwrap();
        let authority = ca_pem.parse_x509().unwrap();
        let public_key = ring::signature::UnparsedPublicKey::new(
            &ring::signature::ECDSA_P256_SHA256_ASN1,
            authority.public_key().subject_public_key.data.as_ref(),
        );
        public_key.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).unwrap();
        assert_eq!(certificate.subject().as_raw(), request.subject);
        assert_eq!(certificate.issuer(), authority.subject());
        assert_eq!(certificate.public_key().raw, request.public_key);
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value.clone();
        assert!(extended.server_auth && !extended.client_auth);
        let names = certificate.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 1);
        let seconds = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert_eq!(seconds, 24 * 3600 + 300);
        assert_eq!(signer.lifetime(Some(600)), LIFETIME_MIN);
        assert_eq!(signer.lifetime(Some(i32::MAX)), day);
    }
}
