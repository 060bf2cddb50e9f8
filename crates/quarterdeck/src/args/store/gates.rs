//! Feature gates of etcd 3.6.

/// A gate: whether both settings make sense here, or only `false`.
struct Gate {
    name: &'static str,
    /// Why switching it on is refused; `None` where it may be on or off without a difference that clients could see.
    refused: Option<&'static str>,
}

const fn harmless(name: &'static str) -> Gate {
    Gate { name, refused: None }
}

const fn refused(name: &'static str, why: &'static str) -> Gate {
    Gate { name, refused: Some(why) }
}

const GATES: [Gate; 7] = [
    refused("CompactHashCheck", "members do not compare their hashes by themselves"),
    harmless(INITIAL_CORRUPT_CHECK),
    refused("LeaseCheckpoint", "leases start over with their full time when another member leads"),
    refused("LeaseCheckpointPersist", "leases start over with their full time when another member leads"),
    refused("SetMemberLocalAddr", "the operating system picks local addresses"),
    // Defragmenting holds up nobody.
    harmless("StopGRPCServiceOnDefrag"),
    // How a transaction buffers its writes.
    harmless("TxnModeWriteWithSharedBuffer"),
];

const INITIAL_CORRUPT_CHECK: &str = "InitialCorruptCheck";

/// Gates that were set; all of them known, and none on that is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeatureGates {
    pub initial_corrupt_check: bool,
}

/// Reads `A=true,B=false`.
pub(super) fn parse(text: &str) -> Result<FeatureGates, String> {
    let mut gates = FeatureGates::default();
    for setting in text.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').ok_or_else(|| format!("missing bool value for {setting}"))?;
        let (name, value) = (name.trim(), value.trim());
        let on = super::go_bool(value).map_err(|_| format!("invalid value of {name}={value}, err: not a boolean"))?;
        if matches!(name, "AllAlpha" | "AllBeta") && !on {
            continue;
        }
        let gate = GATES.iter().find(|gate| gate.name == name);
        let gate = gate.ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
        if let Some(why) = gate.refused.filter(|_| on) {
            return Err(format!("feature gate {name} is not supported: {why}"));
        }
        if name == INITIAL_CORRUPT_CHECK {
            gates.initial_corrupt_check = on;
        }
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_known_by_name_and_refused_where_they_would_do_nothing() {
        let gates = FeatureGates { initial_corrupt_check: true };
        assert_eq!(parse("InitialCorruptCheck=true, CompactHashCheck=false"), Ok(gates));
        assert_eq!(parse(""), Ok(FeatureGates::default()));
        assert_eq!(parse("Nonsense=true"), Err("unrecognized feature gate: Nonsense".to_owned()));
        assert_eq!(parse("InitialCorruptCheck"), Err("missing bool value for InitialCorruptCheck".to_owned()));
        assert!(
            parse("LeaseCheckpoint=true").unwrap_err().starts_with("feature gate LeaseCheckpoint is not supported")
        );
    }
}
