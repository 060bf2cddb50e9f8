//! IP addresses and CIDRs: parsing as lenient as Go's (leading zeros tolerated), and the messages of what is wrong with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Cursor, ErrorList};

/// Parses an address; like Go's historical parser it reads leading zeros of IPv4 octets as decimal.
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let (head, tail) = text.rsplit_once(':')?;
        if tail.contains('.') {
            let v4 = parse_ipv4_sloppy(tail)?.octets();
            let low = format!("{:x}:{:x}", u16::from_be_bytes([v4[0], v4[1]]), u16::from_be_bytes([v4[2], v4[3]]));
            return format!("{head}:{low}").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        }
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    parse_ipv4_sloppy(text).map(IpAddr::V4)
}

fn parse_ipv4_sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|e| if part.bytes().all(|b| b == b'0') { Ok(0) } else { Err(e) })
            .ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// An address and a prefix length; host bits may be set.
pub fn parse_cidr_sloppy(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = text.split_once('/')?;
    let ip = parse_ip_sloppy(ip)?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    (bits <= max).then_some((ip, bits))
}

/// Whether `ip`'s text is an IPv6 address (an IPv4-mapped one counts as IPv4, as in Go).
pub fn is_ipv6_text(text: &str) -> bool {
    parse_ip_sloppy(text).is_some_and(|ip| is_ipv6(&ip))
}

pub fn is_ipv6(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none())
}

/// The network address of `ip/bits`.
pub fn network(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = if bits == 0 { 0 } else { u32::MAX << (32 - u32::from(bits)) };
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// Whether `inner/inner_bits` lies within `outer/outer_bits`.
pub fn contains(outer: (IpAddr, u8), inner: (IpAddr, u8)) -> bool {
    outer.0.is_ipv4() == inner.0.is_ipv4()
        && inner.1 >= outer.1
        && network(inner.0, outer.1) == network(outer.0, outer.1)
}

/// More than one address, and both families among them.
pub fn is_dual_stack<'a>(addresses: impl Iterator<Item = &'a str>) -> Option<bool> {
    let (mut v4, mut v6) = (false, false);
    for text in addresses {
        let ip = parse_ip_sloppy(text)?;
        if is_ipv6(&ip) { v6 = true } else { v4 = true }
    }
    Some(v4 && v6)
}

/// As [`is_dual_stack`] for CIDRs.
pub fn is_dual_stack_cidrs<'a>(cidrs: impl Iterator<Item = &'a str>) -> Option<bool> {
    let (mut v4, mut v6) = (false, false);
    for text in cidrs {
        if parse_cidr_sloppy(text)?.0.is_ipv4() { v4 = true } else { v6 = true }
    }
    Some(v4 && v6)
}

/// A valid address in a form that every parser reads alike, or Invalid errors. Returns whether it was valid.
pub fn ip(value: &Cursor<'_>, errors: &mut ErrorList) -> bool {
    let text = value.str();
    let Some(ip) = parse_ip_sloppy(text) else {
        errors.invalid(value.path(), text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        return false;
    };
    let problem = if text.parse::<IpAddr>().is_err() {
        "must not have leading 0s"
    } else if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        "must not be an IPv4-mapped IPv6 address"
    } else {
        return true;
    };
    errors.invalid(value.path(), text, problem);
    false
}

/// A valid CIDR without host bits, in a form that every parser reads alike, or Invalid errors.
pub fn cidr(value: &Cursor<'_>, errors: &mut ErrorList) -> bool {
    let text = value.str();
    let Some((ip, bits)) = parse_cidr_sloppy(text) else {
        errors.invalid(value.path(), text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        return false;
    };
    let (ip_text, bits_text) = text.split_once('/').unwrap_or((text, ""));
    let mut ok = true;
    let mut refuse = |detail: &str| {
        errors.invalid(value.path(), text, detail);
        ok = false;
    };
    if ip_text.parse::<IpAddr>().is_err() || (bits_text.len() > 1 && bits_text.starts_with('0')) {
        refuse("must not have leading 0s in IP or prefix length");
    } else if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        refuse("must not have an IPv4-mapped IPv6 address");
    }
    if network(ip, bits) != ip {
        refuse("must not have bits set beyond the prefix length");
    }
    ok
}

/// An address and the prefix length of its network, in the one form that Go would print, or an Invalid error.
pub fn interface_address(value: &Cursor<'_>, errors: &mut ErrorList) {
    let text = value.str();
    let Some((ip, bits)) = parse_cidr_sloppy(text) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return errors.invalid(value.path(), text, detail);
    };
    let plain = as_go(ip);
    let is_mapped = plain.is_ipv4() && ip.is_ipv6() && bits > 32;
    let bits = if is_mapped { bits.saturating_sub(96) } else { bits };
    let canonical = format!("{plain}/{bits}");
    if text != canonical {
        errors.invalid(value.path(), text, format!("must be in canonical form (\"{canonical}\")"));
    }
}

/// An address that was accepted in a form that no longer should be written, or not in its shortest form.
pub fn ip_warning(value: &Cursor<'_>, out: &mut Vec<String>) {
    let (path, text) = (value.path(), value.str());
    let Some(ip) = parse_ip_sloppy(text) else { return };
    let plain = as_go(ip);
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            if v6.to_string() != text {
                out.push(format!("{path}: IPv6 address \"{text}\" should be in RFC 5952 canonical format (\"{v6}\")"));
            }
        }
        Ok(IpAddr::V4(_)) => {}
        _ => out.push(format!("{path}: non-standard IP address \"{text}\" is invalid: use \"{plain}\"")),
    }
}

/// As [`ip_warning`] for a range, which should also have no bits behind its prefix.
pub fn cidr_warning(value: &Cursor<'_>, out: &mut Vec<String>) {
    let (path, text) = (value.path(), value.str());
    let Some((ip, bits)) = parse_cidr_sloppy(text) else { return };
    let (plain, n_before) = (network(ip, bits), out.len());
    if plain != ip {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        out.push(format!(
            "{path}: CIDR value \"{text}\" is ambiguous in this context (should be \"{plain}/{bits}\" or \"{ip}/{longest}\"?)"
        ));
    }
    let (ip_text, bits_text) = text.split_once('/').unwrap_or((text, ""));
    let is_standard = ip_text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() || is_ipv6(&ip))
        && !(bits_text.len() > 1 && bits_text.starts_with('0'));
    if !is_standard {
        out.push(format!("{path}: non-standard CIDR value \"{text}\" is invalid: use \"{plain}/{bits}\""));
    }
    if out.len() == n_before && is_ipv6(&ip) && format!("{ip}/{bits}") != text {
        out.push(format!(
            "{path}: IPv6 CIDR value \"{text}\" should be in RFC 5952 canonical format (\"{ip}/{bits}\")"
        ));
    }
}

/// An IPv4-mapped address prints as IPv4 in Go.
fn as_go(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Refuses addresses that mean "this host" or "this link": they make no sense for endpoints and external addresses.
pub fn non_special_ip(value: &Cursor<'_>, errors: &mut ErrorList) {
    let text = value.str();
    let Some(ip) = parse_ip_sloppy(text) else {
        errors.invalid(value.path(), text, "must be a valid IP address");
        return;
    };
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut refuse = |detail: String| errors.invalid(value.path(), text, detail);
    if ip.is_unspecified() {
        refuse(format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    if link_local {
        refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_local_multicast {
        refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(parse_ip_sloppy("010.000.0.1"), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(parse_ip_sloppy("256.0.0.1"), None);
        assert_eq!(parse_ip_sloppy("1.2.3"), None);
        assert!(parse_ip_sloppy("::ffff:1.2.3.4").is_some());
    }

    #[test]
    fn cidr_containment_is_by_network() {
        let outer = parse_cidr_sloppy("10.0.0.0/8").unwrap_or((IpAddr::from([0, 0, 0, 0]), 0));
        assert!(contains(outer, (IpAddr::from([10, 1, 0, 0]), 16)));
        assert!(!contains(outer, (IpAddr::from([11, 0, 0, 0]), 16)));
        assert_eq!(parse_cidr_sloppy("10.0.0.0/33"), None);
    }
}
