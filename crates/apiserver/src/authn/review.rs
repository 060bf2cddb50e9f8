//! TokenReview and SelfSubjectReview: authentication asked about itself.

use api::json;
use api::{Status, Value, meta};
use jiff::Timestamp;

use super::Authenticator;
use crate::attributes::UserInfo;

/// Answers a TokenReview.
pub async fn token_review(authenticator: &Authenticator, mut review: Value, now: Timestamp) -> Result<Value, Status> {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    if !meta::namespace(&review).is_empty() {
        return Err(Status::bad_request("namespace is not allowed on this type"));
    }
    let asked: Vec<String> = review["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let asked = if asked.is_empty() { authenticator.audiences().to_vec() } else { asked };
    let outcome = authenticator.authenticate_anywhere(token, &asked, now).await;
    // What the client says of the outcome stays where nothing else is to be said.
    let mut status = review["status"].as_object().cloned().unwrap_or_default();
    status.entry("user").or_insert_with(|| json!({}));
    match outcome {
        Ok(identity) => {
            status.insert("authenticated", json!(true));
            status.insert("user", user_info(&identity.user));
            status.remove("audiences");
            if !identity.audiences.is_empty() {
                status.insert("audiences", json!(identity.audiences));
            }
        }
        Err(error) => {
            status.remove("authenticated");
            status.insert("error", json!(error.to_string()));
        }
    }
    review["status"] = status.into();
    Ok(review)
}

/// Answers a SelfSubjectReview: whom does the server take me for?
pub fn self_subject_review(user: &UserInfo, mut review: Value, now: Timestamp) -> Value {
    let created = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    review["metadata"] = json!({"creationTimestamp": created});
    review["status"] = json!({"userInfo": user_info(user)});
    review
}

/// `authentication.k8s.io/v1` UserInfo.
pub fn user_info(user: &UserInfo) -> Value {
    let mut out = api::Map::new();
    let UserInfo { name, uid, groups, extra } = user;
    if !name.is_empty() {
        out.insert("username", json!(name));
    }
    if !uid.is_empty() {
        out.insert("uid", json!(uid));
    }
    if !groups.is_empty() {
        out.insert("groups", json!(groups));
    }
    if !extra.is_empty() {
        out.insert("extra", json!(extra));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authn::{PublicKeys, Settings},
        source::testing::MemorySource,
    };

    fn authenticator() -> Authenticator {
        let settings = Settings {
            keys: PublicKeys::default(),
            issuers: vec!["i".into()],
            audiences: vec![],
            bootstrap_tokens: false,
        };
        Authenticator::new(MemorySource::new().shared(), settings)
    }

    #[tokio::test]
    async fn a_bad_token_is_an_answer_and_no_token_a_bad_request() {
        let now = Timestamp::UNIX_EPOCH;
        let authenticator = authenticator();
        let review = async |spec| token_review(&authenticator, spec, now).await;
        let answer = review(json!({"spec": {"token": "bogus"}})).await.unwrap();
        assert_eq!(answer["status"], json!({"user": {}, "error": "invalid bearer token"}));
        let said = json!({"authenticated": true, "audiences": ["b"], "error": "e"});
        let answer =
            token_review(&authenticator, json!({"spec": {"token": "bogus"}, "status": said}), now).await.unwrap();
        assert_eq!(answer["status"], json!({"audiences": ["b"], "error": "invalid bearer token", "user": {}}));
        let refused = review(json!({"spec": {}})).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (400, "token is required for TokenReview in authentication")
        );
    }

    #[test]
    fn a_review_of_oneself_lists_what_is_known() {
        let user = UserInfo { name: "jane".into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() };
        let answer = self_subject_review(&user, json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
        assert_eq!(
            answer,
            json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"},
                   "status": {"userInfo": {"username": "jane", "groups": ["system:authenticated"]}}})
        );
    }
}
