//! Node ports: reserving one, or choosing a free one.

use std::{collections::HashSet, fmt};

use super::Random;

/// Ports that Services may use on nodes; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// A text that is not a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port range like 30000-32767 or 30000+100")]
pub struct InvalidPortRange(String);

impl std::str::FromStr for PortRange {
    type Err = InvalidPortRange;

    /// `30000-32767`, `30000+2767` or a single port, as upstream's flag takes them.
    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let invalid = || InvalidPortRange(text.to_owned());
        let number = |part: &str| part.trim().parse::<u16>().map_err(|_| invalid());
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (number(first)?, number(last)?)
        } else if let Some((first, more)) = text.split_once('+') {
            let first = number(first)?;
            (first, first.checked_add(number(more)?).ok_or_else(invalid)?)
        } else {
            (number(text)?, number(text)?)
        };
        if first == 0 || last < first { Err(invalid()) } else { Ok(Self { first, last }) }
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 30000, last: 32767 }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Why a port cannot be had. Texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortError {
    #[error("range is full")]
    Full,
    #[error("provided port is already allocated")]
    Allocated,
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    NotInRange(PortRange),
}

/// The ports taken while one Service is written.
pub(super) struct Operation<'a> {
    range: PortRange,
    used: &'a HashSet<u16>,
    taken: HashSet<i64>,
    dry_run: bool,
}

impl<'a> Operation<'a> {
    pub(super) fn new(range: PortRange, used: &'a HashSet<u16>, dry_run: bool) -> Self {
        Self { range, used, taken: HashSet::new(), dry_run }
    }

    /// Takes a port that a client asks for: any number, which may be none of a port.
    pub(super) fn allocate(&mut self, port: i64) -> Result<(), PortError> {
        let is_used = u16::try_from(port).is_ok_and(|port| self.used.contains(&port));
        if is_used || self.taken.contains(&port) {
            return Err(PortError::Allocated);
        }
        // A dry run only looks for collisions.
        if !self.dry_run && !(i64::from(self.range.first)..=i64::from(self.range.last)).contains(&port) {
            return Err(PortError::NotInRange(self.range));
        }
        self.taken.insert(port);
        Ok(())
    }

    pub(super) fn allocate_next(&mut self, random: Random<'_>) -> Result<i64, PortError> {
        if self.dry_run {
            // A placeholder outside of any range: nothing is decided in a dry run.
            let port = self.taken.iter().max().map_or(32768, |last| (*last).max(0)) + 1;
            self.taken.insert(port);
            return Ok(port);
        }
        let size = u32::from(self.range.last) + 1 - u32::from(self.range.first);
        let split = static_band(size);
        let port = self
            .pick_between(split, size, random)
            .or_else(|| if split > 0 { self.pick_between(0, split, random) } else { None })
            .ok_or(PortError::Full)?;
        self.taken.insert(port);
        Ok(port)
    }

    fn pick_between(&self, from: u32, to: u32, random: Random<'_>) -> Option<i64> {
        let n = to.checked_sub(from).filter(|n| *n > 0)?;
        let start = random(u128::from(n)) as u32;
        (0..n)
            .filter_map(|i| u16::try_from(u32::from(self.range.first) + from + (start + i) % n).ok())
            .filter(|port| !self.used.contains(port))
            .map(i64::from)
            .find(|port| !self.taken.contains(port))
    }
}

/// Ports left to users: a thirty-second part, 16 to 128; none of a small range (KEP-3668).
fn static_band(size: u32) -> u32 {
    if size <= 16 { 0 } else { (size / 32).clamp(16, 128) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_band_is_used_last_and_nothing_twice() {
        let used = HashSet::new();
        let range = PortRange { first: 30000, last: 30019 };
        let mut operation = Operation::new(range, &used, false);
        let order: Vec<i64> = std::iter::from_fn(|| operation.allocate_next(&mut |_| 0).ok()).collect();
        assert_eq!(order.len(), 20);
        assert_eq!((order[0], order[3], order[4], order[19]), (30016, 30019, 30000, 30015));
    }

    #[test]
    fn a_port_is_refused_with_upstreams_words() {
        let used = HashSet::from([30001]);
        let mut operation = Operation::new(PortRange::default(), &used, false);
        assert_eq!(operation.allocate(30001).unwrap_err().to_string(), "provided port is already allocated");
        assert_eq!(
            operation.allocate(80).unwrap_err().to_string(),
            "provided port is not in the valid range. The range of valid ports is 30000-32767"
        );
        assert_eq!(operation.allocate(30002), Ok(()));
        assert_eq!(operation.allocate(30002), Err(PortError::Allocated));
    }
}
