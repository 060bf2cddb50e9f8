//! The documents by which others verify service account tokens: `/.well-known/openid-configuration` and `/openid/v1/jwks`.

use api::Value;
use api::json;

use super::jwt::PublicKeys;

pub const JWKS_PATH: &str = "/openid/v1/jwks";

/// The discovery document. `jwks_uri` is where the keys are served to the outside.
pub fn configuration(issuer: &str, jwks_uri: &str, keys: &PublicKeys) -> Value {
    let mut algorithms: Vec<Value> = keys.iter().filter_map(|key| key.jwk()).map(|jwk| jwk["alg"].clone()).collect();
    algorithms.sort_by_key(Value::to_string);
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

/// The key set.
pub fn key_set(keys: &PublicKeys) -> Value {
    json!({"keys": keys.iter().filter_map(|key| key.jwk()).collect::<Vec<Value>>()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::signing_key::test_key;

    #[test]
    fn the_documents_name_issuer_keys_and_algorithm() {
        let key = test_key();
        let keys = PublicKeys::new(vec![key.public().clone()]);
        assert_eq!(
            configuration("https://k", "https://k/openid/v1/jwks", &keys),
            json!({"issuer": "https://k", "jwks_uri": "https://k/openid/v1/jwks", "response_types_supported": ["id_token"],
                   "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]})
        );
        assert_eq!(key_set(&keys)["keys"][0]["kid"], key.public().id.as_str());
    }
}
