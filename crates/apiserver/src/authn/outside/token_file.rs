//! A file of fixed tokens: `token,user,uid,"group1,group2"`, one a line.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::attributes::UserInfo;

/// Users by the hash of their token: looking one up takes no longer for a token that is nearly right.
#[derive(Debug)]
pub struct TokenFile(HashMap<[u8; 32], UserInfo>);

impl TokenFile {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let fields = fields(line);
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(format!(
                    "token file must have at least 3 columns (token, user name, user uid), found {}",
                    fields.len()
                ));
            };
            if token.is_empty() {
                tracing::warn!(line = at + 1, "empty token has been found in token file");
                continue;
            }
            let groups = rest.first().map(|groups| groups.split(',').map(str::to_owned).collect());
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.unwrap_or_default(),
                ..UserInfo::default()
            };
            if users.insert(Sha256::digest(token).into(), user).is_some() {
                tracing::warn!(line = at + 1, "duplicate token has been found in token file");
            }
        }
        Ok(Self(users))
    }

    pub(super) fn user(&self, token: &str) -> Option<&UserInfo> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&hash)
    }
}

/// The fields of a CSV line; a quoted one may hold commas.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match (c, quoted, fields.last_mut()) {
            ('"', _, _) => quoted = !quoted,
            (',', false, _) => fields.push(String::new()),
            (c, _, Some(field)) => field.push(c),
            (_, _, None) => {}
        }
    }
    fields
}
