//! An IP range, and the choice of a free address in it.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.name() == name)
    }
}

/// A range of addresses, `10.0.0.0/24`. The host bits of the base are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// The text is not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidCidr(String);

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let ip: IpAddr = ip.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if prefix > bits(ip) {
            return Err(invalid());
        }
        let cidr = Self { base: ip, prefix };
        let base = to_number(ip) & !(cidr.n_addresses_minus_one());
        Ok(Self { base: from_number(base, Family::of(ip)), prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Cidr {
    pub fn family(&self) -> Family {
        Family::of(self.base)
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family() && to_number(ip) & !self.n_addresses_minus_one() == to_number(self.base)
    }

    /// The base address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// The n-th address from the base (0); `None` beyond the end.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        (n <= self.n_addresses_minus_one()).then(|| from_number(to_number(self.base) + n, self.family()))
    }

    /// Offsets of the first and last address a Service may have: not the base, and not the IPv4 broadcast address.
    fn hosts(&self) -> Option<(u128, u128)> {
        let last = match self.family() {
            Family::V4 => self.n_addresses_minus_one().checked_sub(1)?,
            Family::V6 => self.n_addresses_minus_one(),
        };
        (last >= 1).then_some((1, last))
    }

    /// May a Service have the address?
    pub(super) fn is_host(&self, ip: IpAddr) -> bool {
        let Some((first, last)) = self.hosts() else { return false };
        self.contains(ip) && (first..=last).contains(&(to_number(ip) - to_number(self.base)))
    }

    /// A free address: the upper part of the range first, because users pick theirs from the lower one (KEP-3070).
    pub(super) fn pick(&self, used: &HashSet<IpAddr>, random: Random<'_>) -> Option<IpAddr> {
        let (first, last) = self.hosts()?;
        let split = first + self.static_band();
        if split <= last
            && let Some(ip) = self.pick_between(split, last, used, random)
        {
            return Some(ip);
        }
        if split > first { self.pick_between(first, (split - 1).min(last), used, random) } else { None }
    }

    /// Random start, then upwards and around.
    fn pick_between(&self, from: u128, to: u128, used: &HashSet<IpAddr>, random: Random<'_>) -> Option<IpAddr> {
        let n = to - from + 1;
        let start = random(n);
        // Past as many addresses as are in use one must be free.
        let n_tries = n.min(used.len() as u128 + 1);
        (0..n_tries).filter_map(|i| self.nth(from + (start + i) % n)).find(|ip| !used.contains(ip))
    }

    /// Size of the part left to users: a sixteenth, 16 to 256 addresses; none of a small range.
    fn static_band(&self) -> u128 {
        let size = self.n_addresses_minus_one().saturating_add(1);
        if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
    }

    fn n_addresses_minus_one(&self) -> u128 {
        let host_bits = u32::from(bits(self.base) - self.prefix);
        if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 }
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn from_number(number: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_addresses_go_first_and_every_host_is_given_once() {
        let cidr: Cidr = "10.0.0.0/27".parse().unwrap();
        let mut used = HashSet::new();
        let mut order = Vec::new();
        while let Some(ip) = cidr.pick(&used, &mut |_| 0) {
            used.insert(ip);
            order.push(ip.to_string());
        }
        assert_eq!(order.len(), 30);
        assert_eq!((order[0].as_str(), order[13].as_str(), order[14].as_str()), ("10.0.0.17", "10.0.0.30", "10.0.0.1"));
    }

    #[test]
    fn network_and_broadcast_address_are_no_hosts() {
        let cidr: Cidr = "10.0.0.77/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.0.0.0/24");
        assert!(!cidr.is_host("10.0.0.0".parse().unwrap()));
        assert!(!cidr.is_host("10.0.0.255".parse().unwrap()));
        assert!(cidr.is_host("10.0.0.254".parse().unwrap()));
        let v6: Cidr = "fd00::/120".parse().unwrap();
        assert!(v6.is_host("fd00::ff".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
        assert_eq!("::/0".parse::<Cidr>().unwrap().nth(1), Some("::1".parse().unwrap()));
    }
}
