//! A webhook that says whose token it is, asked with a TokenReview.

use std::time::Duration;

use api::Value;
use api::json;

use super::super::Identity;
use crate::attributes::UserInfo;
use crate::outbound::RemoteEndpoint;

/// Time for one question.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries, and the wait before the second one; upstream's numbers.
const TRIES_MAX: u32 = 5;
const RETRY_WAIT: Duration = Duration::from_millis(500);
const RETRY_FACTOR: f64 = 1.5;

/// `--authentication-token-webhook-…`
#[derive(Debug)]
pub struct TokenWebhook {
    pub endpoint: RemoteEndpoint,
    /// `v1` or `v1beta1`
    pub version: String,
    /// Answers are kept this long.
    pub ttl: Duration,
}

impl TokenWebhook {
    /// `Ok(None)`: the webhook does not know the token.
    pub(super) async fn ask(&self, token: &str, audiences: &[String]) -> Result<Option<Identity>, String> {
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": audiences},
            "status": {"user": {}},
        });
        let answer = post(&self.endpoint, &review, TIMEOUT).await?;
        let status = &answer["status"];
        if status["authenticated"] != true {
            let error = status["error"].as_str().unwrap_or("");
            return if error.is_empty() { Ok(None) } else { Err(error.to_owned()) };
        }
        let user = &status["user"];
        let text = |field: &str| user[field].as_str().unwrap_or("").to_owned();
        let extra = user["extra"].as_object().into_iter().flatten();
        let user = UserInfo {
            name: text("username"),
            uid: text("uid"),
            groups: strings(&user["groups"]),
            extra: extra.map(|(key, values)| (key.to_string(), strings(values))).collect(),
        };
        let said = strings(&status["audiences"]);
        let meant: Vec<String> = said.iter().filter(|audience| audiences.contains(audience)).cloned().collect();
        if !said.is_empty() && !audiences.is_empty() && meant.is_empty() {
            return Ok(None);
        }
        // A webhook that knows nothing of audiences means this server.
        let audiences = if said.is_empty() { audiences.to_vec() } else { meant };
        Ok(Some(Identity { user, audiences }))
    }
}

/// Posts a review, again if that may help; the review that comes back.
pub(crate) async fn post(endpoint: &RemoteEndpoint, review: &Value, timeout: Duration) -> Result<Value, String> {
    let body = ::bytes::Bytes::from(review.to_string());
    let mut wait = RETRY_WAIT;
    for tried in 1.. {
        match endpoint.post(body.clone(), timeout).await {
            Ok(answer) => return Value::from_json(&answer).map_err(|error| error.to_string()),
            Err(error) if tried >= TRIES_MAX || !error.is_worth_retrying() => return Err(error.to_string()),
            Err(error) => tracing::debug!(%error, "a webhook is asked again"),
        }
        tokio::time::sleep(wait).await;
        wait = wait.mul_f64(RETRY_FACTOR);
    }
    Err("the webhook was never asked".to_owned())
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
