//! `quarterdeck certs`: when the certificates of a master expire, told as kubeadm tells it.

use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde_json::json;

use super::{print_line, print_table};
use crate::args::{CertsCommand, PrintFormat};
use crate::pki::{Found, certificates_in};

pub(crate) fn certs(command: CertsCommand) -> Result<()> {
    let CertsCommand::Check { data_dir, within, output } = command;
    let found = certificates_in(&data_dir.join("pki"))?;
    let now = Timestamp::now();
    match output.output {
        PrintFormat::Json => print_line(&format!("{:#}", document(&found, now))),
        PrintFormat::Table => print(&found, now),
    }
    let late: Vec<&str> = found.iter().filter(|one| is_late(one, within, now)).map(|one| one.name.as_str()).collect();
    if late.is_empty() {
        return Ok(());
    }
    bail!("expired, or about to expire within {}h: {}", within.as_secs() / 3600, late.join(", "))
}

fn is_late(found: &Found, within: Duration, now: Timestamp) -> bool {
    seconds_left(found, now) < i64::try_from(within.as_secs()).unwrap_or(i64::MAX)
}

fn seconds_left(found: &Found, now: Timestamp) -> i64 {
    found.expires.as_second() - now.as_second()
}

fn print(found: &[Found], now: Timestamp) {
    let external = |one: &Found| if one.is_external { "yes" } else { "no" }.to_owned();
    let expires = |one: &Found| one.expires.strftime("%b %d, %Y %H:%M UTC").to_string();
    let of = |is_ca: bool| found.iter().filter(move |one| one.is_ca == is_ca);
    let authority = |one: &Found| one.authority.clone().unwrap_or_default();
    let rows = of(false).map(|one| {
        vec![one.name.clone(), expires(one), residual(seconds_left(one, now)), authority(one), external(one)]
    });
    let head = ["CERTIFICATE", "EXPIRES", "RESIDUAL TIME", "CERTIFICATE AUTHORITY", "EXTERNALLY MANAGED"];
    print_table(&head, &rows.collect::<Vec<_>>());
    print_line("");
    let rows =
        of(true).map(|one| vec![one.name.clone(), expires(one), residual(seconds_left(one, now)), external(one)]);
    let head = ["CERTIFICATE AUTHORITY", "EXPIRES", "RESIDUAL TIME", "EXTERNALLY MANAGED"];
    print_table(&head, &rows.collect::<Vec<_>>());
}

/// One unit, as kubeadm.
fn residual(seconds: i64) -> String {
    const YEAR: i64 = 365 * 86_400;
    match seconds {
        ..0 => "<invalid>".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        86_400..YEAR => format!("{}d", seconds / 86_400),
        YEAR.. => format!("{}y", seconds / YEAR),
    }
}

/// kubeadm's CertificateExpirationInfo.
fn document(found: &[Found], now: Timestamp) -> serde_json::Value {
    let item = |one: &Found| {
        let mut item = json!({
            "name": one.name,
            "expirationDate": one.expires.to_string(),
            "residualTime": seconds_left(one, now),
            "externallyManaged": one.is_external,
            "missing": false,
        });
        if let (false, Some(authority)) = (one.is_ca, &one.authority) {
            item["caName"] = authority.as_str().into();
        }
        item
    };
    let of = |is_ca: bool| found.iter().filter(|one| one.is_ca == is_ca).map(item).collect::<Vec<_>>();
    json!({
        "kind": "CertificateExpirationInfo",
        "apiVersion": "output.kubeadm.k8s.io/v1alpha3",
        "certificates": of(false),
        "certificateAuthorities": of(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residual_times_have_one_unit() {
        let shown = [-1, 59, 3_599, 86_399, 86_400 * 364, 86_400 * 3_649].map(residual);
        assert_eq!(shown, ["<invalid>", "59s", "59m", "23h", "364d", "9y"]);
    }

    #[test]
    fn a_certificate_is_late_when_less_than_asked_for_is_left() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let expires = "2026-01-03T00:00:00Z".parse().unwrap();
        let found = Found { name: "a".into(), expires, is_ca: false, authority: Some("ca".into()), is_external: false };
        assert!(is_late(&found, Duration::from_secs(86_401), now));
        assert!(!is_late(&found, Duration::from_secs(86_400), now));
        assert_eq!(document(&[found], now)["certificates"][0]["residualTime"], 86_400);
    }
}
