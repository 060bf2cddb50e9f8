//! CSR cleaner: deletes requests that nobody needs any more.
//! Reads and deletes CertificateSigningRequest.

use std::time::Duration;

use client::Informer;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::DeleteParams;
use tracing::warn;
use x509_parser::pem::parse_x509_pem;

use super::{conditions, is_issued};
use crate::api_error::ApiErrorExt;
use crate::clock::{self, seconds_between};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "certificatesigningrequest-cleaner-controller",
    alias: "csrcleaner",
    account: "certificate-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const PERIOD: Duration = Duration::from_secs(3600);
/// How long requests that got their answer stay.
const ANSWERED_SECONDS: i64 = 3600;
/// How long requests that wait for one do.
const WAITING_SECONDS: i64 = 24 * 3600;

async fn run(ctx: Ctx) {
    let requests: Informer<CertificateSigningRequest> = ctx.informers.informer();
    requests.has_synced().await;
    loop {
        let now = clock::now();
        for csr in requests.list().iter().filter(|csr| is_done(csr, &now)) {
            let name = csr.metadata.name.as_deref().unwrap_or("");
            let api: Api<CertificateSigningRequest> = ctx.connection.all();
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => warn!(name, %error, "request not cleaned up"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

/// Same view, same plan. Touches nothing.
fn is_done(csr: &CertificateSigningRequest, now: &Time) -> bool {
    let older = |than: Option<&Time>, seconds| than.is_some_and(|since| seconds_between(since, now) > seconds);
    let issued = is_issued(csr);
    let mut all = conditions(csr).peekable();
    if all.peek().is_none() {
        return older(csr.metadata.creation_timestamp.as_ref(), WAITING_SECONDS);
    }
    all.any(|condition| {
        let since = condition.last_update_time.as_ref();
        match condition.type_.as_str() {
            "Denied" | "Failed" => older(since, ANSWERED_SECONDS),
            "Approved" if issued => older(since, ANSWERED_SECONDS) || has_expired(csr, now),
            "Approved" => older(since, WAITING_SECONDS),
            _ => false,
        }
    })
}

fn has_expired(csr: &CertificateSigningRequest, now: &Time) -> bool {
    let pem = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    let parsed = pem.and_then(|pem| parse_x509_pem(&pem.0).ok());
    let until = parsed.and_then(|(_, pem)| Some(pem.parse_x509().ok()?.validity().not_after.timestamp()));
    until.and_then(|second| Timestamp::from_second(second).ok()).is_some_and(|until| until < now.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_go_an_hour_after_their_answer_and_a_day_without_one() {
        let csr = |type_: Option<&str>, certificate: Option<&str>| -> CertificateSigningRequest {
            let at = "2024-01-01T00:00:00Z";
            let condition = type_.map(|type_| json!({ "type": type_, "status": "True", "lastUpdateTime": at }));
            serde_json::from_value(json!({
                "metadata": { "creationTimestamp": at },
                "spec": { "request": "", "signerName": "a/b" },
                "status": { "conditions": condition.into_iter().collect::<Vec<_>>(), "certificate": certificate },
            }))
            .unwrap()
        };
        let after = |hours: i64| {
            Time("2024-01-01T00:00:01Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(hours))
        };
        for (type_, certificate, hours, expected) in [
            (None, None, 23, false),
            (None, None, 24, true),
            (Some("Denied"), None, 0, false),
            (Some("Denied"), None, 1, true),
            (Some("Failed"), None, 1, true),
            (Some("Approved"), None, 23, false),
            (Some("Approved"), None, 24, true),
            (Some("Approved"), Some("eA=="), 1, true),
        ] {
            assert_eq!(is_done(&csr(type_, certificate), &after(hours)), expected, "{type_:?} {hours}");
        }
    }
}
