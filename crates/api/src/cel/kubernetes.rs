//! Kubernetes' own functions: URLs, quantities, addresses, versions, formats, and what the authorizer says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::field::go_quote;
use crate::quantity::{self, Quantity};
use crate::url::Url;
use crate::validate::{names, net};

use super::opaque::{Check, FORMATS, Opaque, ResourceCheck};
use super::semver::Version;
use super::value::{Eval, Val, fail, make_map, no_such_overload};

fn text<'v>(args: &'v [Val<'_>], index: usize) -> Eval<&'v str> {
    match args.get(index) {
        Some(Val::String(text)) => Ok(text),
        _ => no_such_overload(),
    }
}

fn opaque<'v>(args: &'v [Val<'_>], index: usize) -> Eval<&'v Opaque> {
    match args.get(index) {
        Some(Val::Opaque(value)) => Ok(value),
        _ => no_such_overload(),
    }
}

fn made<'a>(value: Opaque) -> Eval<Val<'a>> {
    Ok(Val::Opaque(value))
}

// URLs

pub(super) fn url<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match Url::parse_request(text(args, 0)?) {
        Ok(url) => made(Opaque::Url(Arc::new(url))),
        Err(error) => fail(format!("URL parse error during conversion from string: {error}")),
    }
}

pub(super) fn is_url<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(Url::parse_request(text(args, 0)?).is_ok()))
}

fn url_part<'a>(args: &[Val<'a>], part: impl FnOnce(&Url) -> String) -> Eval<Val<'a>> {
    match opaque(args, 0)? {
        Opaque::Url(url) => Ok(Val::string(part(url))),
        _ => no_such_overload(),
    }
}

pub(super) fn scheme<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    url_part(args, |url| url.scheme.clone())
}

pub(super) fn host<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    url_part(args, |url| url.host.clone())
}

pub(super) fn hostname<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    url_part(args, |url| url.hostname().to_owned())
}

pub(super) fn port<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    url_part(args, |url| url.port().to_owned())
}

pub(super) fn escaped_path<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    url_part(args, Url::escaped_path)
}

pub(super) fn query<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Opaque::Url(url) = opaque(args, 0)? else { return no_such_overload() };
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in url.query() {
        values.entry(key).or_default().push(value);
    }
    make_map(values.into_iter().map(|(key, values)| (Val::string(key), Val::strings(values))))
}

// Quantities

pub(super) fn quantity<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match text(args, 0)?.parse::<Quantity>() {
        Ok(quantity) => made(Opaque::Quantity(Arc::new(quantity))),
        Err(error) => fail(error.to_string()),
    }
}

pub(super) fn is_quantity<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(text(args, 0)?.parse::<Quantity>().is_ok()))
}

fn amount<'v>(args: &'v [Val<'_>], index: usize) -> Eval<&'v Quantity> {
    match opaque(args, index)? {
        Opaque::Quantity(quantity) => Ok(quantity),
        _ => no_such_overload(),
    }
}

pub(super) fn sign<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Int(i64::from(amount(args, 0)?.sign())))
}

pub(super) fn as_float<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Double(amount(args, 0)?.to_f64()))
}

/// The amount as a whole number that fits.
fn whole(quantity: &Quantity) -> Option<i64> {
    let value = quantity.value();
    (*quantity == Quantity::new(value, quantity::Format::DecimalSi)).then_some(value)
}

pub(super) fn is_integer<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(whole(amount(args, 0)?).is_some()))
}

pub(super) fn as_integer<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match whole(amount(args, 0)?) {
        Some(value) => Ok(Val::Int(value)),
        None => fail("cannot convert value to integer"),
    }
}

/// The second operand of a sum: a quantity or an int.
fn addend(args: &[Val<'_>]) -> Eval<Quantity> {
    match args.get(1) {
        Some(Val::Int(n)) => Ok(Quantity::new(*n, quantity::Format::DecimalExponent)),
        _ => amount(args, 1).cloned(),
    }
}

pub(super) fn add<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    made(Opaque::Quantity(Arc::new(amount(args, 0)?.add(&addend(args)?))))
}

pub(super) fn sub<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    made(Opaque::Quantity(Arc::new(amount(args, 0)?.sub(&addend(args)?))))
}

// Order of quantities and of versions

fn order(args: &[Val<'_>]) -> Eval<std::cmp::Ordering> {
    match (opaque(args, 0)?, opaque(args, 1)?) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => Ok(a.cmp(b)),
        (Opaque::Semver(a), Opaque::Semver(b)) => Ok(a.precedence(b)),
        _ => no_such_overload(),
    }
}

pub(super) fn is_greater<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(order(args)?.is_gt()))
}

pub(super) fn is_less<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(order(args)?.is_lt()))
}

pub(super) fn compare<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Int(order(args)? as i64))
}

// Versions

fn version(args: &[Val<'_>]) -> Eval<Result<Version, String>> {
    let text = text(args, 0)?;
    match args.get(1) {
        Some(Val::Bool(true)) => Ok(Version::parse_tolerant(text)),
        None | Some(Val::Bool(false)) => Ok(Version::parse(text)),
        Some(_) => no_such_overload(),
    }
}

pub(super) fn semver<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match version(args)? {
        Ok(version) => made(Opaque::Semver(Arc::new(version))),
        Err(error) => fail(error),
    }
}

pub(super) fn is_semver<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(version(args)?.is_ok()))
}

fn version_part<'a>(args: &[Val<'a>], part: impl FnOnce(&Version) -> u64) -> Eval<Val<'a>> {
    match opaque(args, 0)? {
        Opaque::Semver(version) => Ok(Val::Int(part(version) as i64)),
        _ => no_such_overload(),
    }
}

pub(super) fn major<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    version_part(args, |version| version.major)
}

pub(super) fn minor<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    version_part(args, |version| version.minor)
}

pub(super) fn patch<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    version_part(args, |version| version.patch)
}

// Addresses

fn parse_ip(raw: &str) -> Result<IpAddr, String> {
    let quoted = go_quote(raw);
    if raw.contains('%') && raw.contains(':') {
        return Err(format!("IP address {quoted} with zone value is not allowed"));
    }
    match raw.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {quoted} is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!(
            "IP Address {quoted} parse error during conversion from string: ParseAddr({quoted}): unable to parse IP"
        )),
    }
}

fn parse_cidr(raw: &str) -> Result<(IpAddr, u8), String> {
    let quoted = go_quote(raw);
    let wrong = |why: &str| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({quoted}): {why}")
    };
    let Some((address, bits)) = raw.rsplit_once('/') else { return Err(wrong("no '/'")) };
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(wrong(&format!("ParseAddr({}): unable to parse IP", go_quote(address))));
    };
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    match bits.parse::<u8>() {
        Ok(n) if plain && n <= max => match ip {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(format!("IPv4-mapped IPv6 address {quoted} is not allowed"))
            }
            _ => Ok((ip, n)),
        },
        Ok(_) if plain => Err(wrong("prefix length out of range")),
        _ => Err(wrong(&format!("bad bits after slash: {}", go_quote(bits)))),
    }
}

/// From text, or of a network.
pub(super) fn ip<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Opaque(Opaque::Cidr(ip, _)) => made(Opaque::Ip(*ip)),
        Val::String(text) => match parse_ip(text) {
            Ok(ip) => made(Opaque::Ip(ip)),
            Err(error) => fail(error),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn is_ip<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(parse_ip(text(args, 0)?).is_ok()))
}

pub(super) fn is_canonical<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let raw = text(args, 0)?;
    match parse_ip(raw) {
        Ok(ip) => Ok(Val::Bool(ip.to_string() == raw)),
        Err(error) => fail(error),
    }
}

fn address<'a>(args: &[Val<'a>], test: impl FnOnce(&IpAddr) -> bool) -> Eval<Val<'a>> {
    match opaque(args, 0)? {
        Opaque::Ip(ip) => Ok(Val::Bool(test(ip))),
        _ => no_such_overload(),
    }
}

pub(super) fn family<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match opaque(args, 0)? {
        Opaque::Ip(ip) => Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => no_such_overload(),
    }
}

pub(super) fn is_unspecified<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    address(args, IpAddr::is_unspecified)
}

pub(super) fn is_loopback<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    address(args, IpAddr::is_loopback)
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

pub(super) fn is_link_local_multicast<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    address(args, link_local_multicast)
}

pub(super) fn is_link_local_unicast<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    address(args, link_local_unicast)
}

pub(super) fn is_global_unicast<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    address(args, |ip| {
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip))
    })
}

// Networks

pub(super) fn cidr<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match parse_cidr(text(args, 0)?) {
        Ok((ip, bits)) => made(Opaque::Cidr(ip, bits)),
        Err(error) => fail(format!("network address parse error during conversion from string: {error}")),
    }
}

pub(super) fn is_cidr<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(parse_cidr(text(args, 0)?).is_ok()))
}

fn network(args: &[Val<'_>]) -> Eval<(IpAddr, u8)> {
    match opaque(args, 0)? {
        Opaque::Cidr(ip, bits) => Ok((*ip, *bits)),
        _ => no_such_overload(),
    }
}

pub(super) fn contains_ip<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let outer = network(args)?;
    let Val::Opaque(Opaque::Ip(inner)) = ip(&args[1..])? else { return no_such_overload() };
    let bits = if inner.is_ipv4() { 32 } else { 128 };
    Ok(Val::Bool(net::contains(outer, (inner, bits))))
}

pub(super) fn contains_cidr<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let outer = network(args)?;
    let inner = match &args[1] {
        Val::String(_) => match cidr(&args[1..])? {
            Val::Opaque(Opaque::Cidr(ip, bits)) => (ip, bits),
            _ => return no_such_overload(),
        },
        _ => network(&args[1..])?,
    };
    Ok(Val::Bool(net::contains(outer, inner)))
}

pub(super) fn prefix_length<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Int(i64::from(network(args)?.1)))
}

pub(super) fn masked<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let (ip, bits) = network(args)?;
    made(Opaque::Cidr(net::network(ip, bits), bits))
}

// Formats

/// The format of a function `format.NAME`.
pub(super) fn format_constant(function: &str) -> Option<Val<'static>> {
    let name = function.strip_prefix("format.")?;
    FORMATS.iter().find(|format| format.name == name).map(|format| Val::Opaque(Opaque::Format(format)))
}

pub(super) fn format_named<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let found = format_constant(&format!("format.{}", text(args, 0)?));
    Ok(found.map_or(Val::Optional(None), Val::some))
}

pub(super) fn validate<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Opaque::Format(format) = opaque(args, 0)? else { return no_such_overload() };
    let messages = (format.validate)(text(args, 1)?);
    Ok(if messages.is_empty() { Val::Optional(None) } else { Val::some(Val::strings(messages)) })
}

pub(super) fn escape_key<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::string(text(args, 0)?.replace('~', "~0").replace('/', "~1")))
}

// The authorizer

pub(super) fn path<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Opaque::Authorizer(asker) = opaque(args, 0)? else { return no_such_overload() };
    let path = text(args, 1)?;
    if path.trim().is_empty() {
        return fail("path must not be empty");
    }
    made(Opaque::PathCheck(asker.clone(), path.into()))
}

pub(super) fn group<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Opaque::Authorizer(asker) = opaque(args, 0)? else { return no_such_overload() };
    made(Opaque::GroupCheck(asker.clone(), text(args, 1)?.into()))
}

pub(super) fn service_account<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Opaque::Authorizer(asker) = opaque(args, 0)? else { return no_such_overload() };
    let (namespace, name) = (text(args, 1)?, text(args, 2)?);
    if !names::subdomain_name(name, false).is_empty() {
        return fail("Invalid service account name");
    }
    if !names::label_name(namespace, false).is_empty() {
        return fail("Invalid service account namespace");
    }
    let mut asker = asker.clone();
    asker.service_account = Some(Arc::new((namespace.to_owned(), name.to_owned())));
    made(Opaque::Authorizer(asker))
}

pub(super) fn resource<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Opaque::GroupCheck(asker, group) = opaque(args, 0)? else { return no_such_overload() };
    let resource = text(args, 1)?;
    if resource.trim().is_empty() {
        return fail("resource must not be empty");
    }
    made(Opaque::ResourceCheck(Arc::new(ResourceCheck::new(asker.clone(), group, resource))))
}

fn narrowed<'a>(args: &[Val<'a>], set: impl FnOnce(&mut ResourceCheck, String)) -> Eval<Val<'a>> {
    let Opaque::ResourceCheck(check) = opaque(args, 0)? else { return no_such_overload() };
    let mut check = (**check).clone();
    set(&mut check, text(args, 1)?.to_owned());
    made(Opaque::ResourceCheck(Arc::new(check)))
}

pub(super) fn subresource<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    narrowed(args, |check, value| check.subresource = value)
}

pub(super) fn namespace<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    narrowed(args, |check, value| check.namespace = value)
}

pub(super) fn name<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    narrowed(args, |check, value| check.name = value)
}

pub(super) fn field_selector<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    narrowed(args, |check, value| check.field_selector = value)
}

pub(super) fn label_selector<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    narrowed(args, |check, value| check.label_selector = value)
}

pub(super) fn check<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let verb = text(args, 1)?;
    let decision = match opaque(args, 0)? {
        Opaque::PathCheck(asker, path) => asker.ask(verb, &Check::Path(path)),
        Opaque::ResourceCheck(check) => check.asker.ask(verb, &Check::Resource(check)),
        _ => return no_such_overload(),
    };
    made(Opaque::Decision(Arc::new(decision)))
}

fn decision<'v>(args: &'v [Val<'_>]) -> Eval<&'v super::opaque::Decision> {
    match opaque(args, 0)? {
        Opaque::Decision(decision) => Ok(decision),
        _ => no_such_overload(),
    }
}

pub(super) fn allowed<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(decision(args)?.allowed))
}

pub(super) fn reason<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::string(decision(args)?.reason.as_str()))
}

pub(super) fn errored<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(decision(args)?.error.is_some()))
}

pub(super) fn error<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::string(decision(args)?.error.as_deref().unwrap_or("")))
}
