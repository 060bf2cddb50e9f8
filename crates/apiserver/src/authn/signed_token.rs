//! A signed JSON token (RFC 7519, compact form), taken apart and not believed.

use api::Value;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// A token longer than this is not looked at (the largest header block a server accepts).
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// What a token says of itself, and the signature that has to be checked.
#[derive(Debug)]
pub(super) struct SignedToken<'t> {
    pub algorithm: String,
    pub key_id: Option<String>,
    pub claims: Value,
    /// What was signed.
    pub input: &'t [u8],
    pub signature: Vec<u8>,
}

impl<'t> SignedToken<'t> {
    /// `None` for what is no such token.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        if text.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (input, signature) = text.rsplit_once('.')?;
        let (header, claims) = input.split_once('.')?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let json = |part: &str| Value::from_json(&decode(part)?).ok().filter(Value::is_object);
        let header = json(header)?;
        Some(Self {
            algorithm: header["alg"].as_str()?.to_owned(),
            key_id: header["kid"].as_str().map(str::to_owned),
            claims: json(claims)?,
            input: input.as_bytes(),
            signature: decode(signature)?,
        })
    }
}
