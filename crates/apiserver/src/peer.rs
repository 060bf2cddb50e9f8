//! Who a client certificate stands for.

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::attributes::UserInfo;

/// CN is the user, every O a group; `None` when there is no CN. The chain and dates were checked by TLS.
pub(crate) fn user_of_certificate(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    Some(UserInfo { name, groups, ..UserInfo::default() })
}
