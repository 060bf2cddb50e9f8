//! What is in a target: names, and what can be restored from them. Pure.
//!
//! ```text
//! snapshot-CLUSTER-REVISION-TIME.qdb      everything at least up to REVISION
//! log-CLUSTER-FROM-TO-TIME.qdb            every change from FROM to TO, both included
//! ```
//!
//! CLUSTER is the store's cluster id, 16 hexadecimal digits; revisions are decimal, filled up to 19 digits, so that names sort as
//! revisions do; TIME is when the archive was finished, as 20260102T030405Z.

use jiff::Timestamp;

use super::archive::{ArchiveKind, Manifest};
use super::target::StoredArchive;

const SUFFIX: &str = ".qdb";
const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// An archive, as far as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub name: String,
    pub size_bytes: u64,
    pub kind: ArchiveKind,
    pub cluster_id: String,
    /// A log's first revision; a snapshot's only one.
    pub from: i64,
    pub to: i64,
    pub time: Timestamp,
}

/// The name an archive gets.
pub(crate) fn name_of(manifest: &Manifest, now: Timestamp) -> String {
    let Manifest { kind, cluster_id, revision, from_revision, .. } = manifest;
    let time = now.strftime(TIME_FORMAT);
    match kind {
        ArchiveKind::Snapshot => format!("snapshot-{cluster_id}-{revision:019}-{time}{SUFFIX}"),
        ArchiveKind::Log => {
            let from = from_revision.unwrap_or(*revision);
            format!("log-{cluster_id}-{from:019}-{revision:019}-{time}{SUFFIX}")
        }
    }
}

/// Reads a name; `None` for files that are something else.
fn parse(archive: &StoredArchive) -> Option<Listed> {
    let parts: Vec<&str> = archive.name.strip_suffix(SUFFIX)?.split('-').collect();
    let (kind, cluster_id, from, to, time) = match parts.as_slice() {
        ["snapshot", cluster, revision, time] => (ArchiveKind::Snapshot, cluster, revision, revision, time),
        ["log", cluster, from, to, time] => (ArchiveKind::Log, cluster, from, to, time),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime(TIME_FORMAT, time).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Listed {
        name: archive.name.clone(),
        size_bytes: archive.size_bytes,
        kind,
        cluster_id: (*cluster_id).to_owned(),
        from: from.parse().ok()?,
        to: to.parse().ok()?,
        time: time.timestamp(),
    })
}

/// Everything in a target, the oldest first.
pub(crate) fn read(archives: &[StoredArchive]) -> Vec<Listed> {
    let mut listed: Vec<Listed> = archives.iter().filter_map(parse).collect();
    listed.sort_by(|a, b| (a.time, a.to, &a.name).cmp(&(b.time, b.to, &b.name)));
    listed
}

/// Up to where the logs continue what was there at `revision`, without a gap, and which logs those are.
pub(crate) fn continued<'a>(listed: &'a [Listed], cluster_id: &str, revision: i64) -> (i64, Vec<&'a Listed>) {
    let is_log = |archive: &&Listed| archive.kind == ArchiveKind::Log && archive.cluster_id == cluster_id;
    let mut logs: Vec<&Listed> = listed.iter().filter(is_log).collect();
    logs.sort_by_key(|log| (log.from, log.to));
    let (mut reached, mut chain) = (revision, Vec::new());
    for log in logs {
        if log.to > reached && log.from <= reached + 1 {
            reached = log.to;
            chain.push(log);
        }
    }
    (reached, chain)
}

/// What the newest snapshot of a cluster and the logs after it reach.
pub(crate) fn reached(listed: &[Listed], cluster_id: &str) -> Option<i64> {
    let snapshot = newest_snapshot(listed, cluster_id, i64::MAX)?;
    Some(continued(listed, cluster_id, snapshot.to).0)
}

/// The newest snapshot of a cluster at or before a revision.
pub(crate) fn newest_snapshot<'a>(listed: &'a [Listed], cluster_id: &str, revision_max: i64) -> Option<&'a Listed> {
    let snapshots = listed.iter().filter(|archive| archive.kind == ArchiveKind::Snapshot);
    snapshots.filter(|s| s.cluster_id == cluster_id && s.to <= revision_max).max_by_key(|s| s.to)
}

/// The time between which any moment can be restored: from the oldest snapshot whose logs reach the newest, to the last log.
pub(crate) fn window(listed: &[Listed], cluster_id: &str) -> Option<(Timestamp, Timestamp)> {
    let end = reached(listed, cluster_id)?;
    let snapshots = listed.iter().filter(|a| a.kind == ArchiveKind::Snapshot && a.cluster_id == cluster_id);
    let first = snapshots.filter(|s| continued(listed, cluster_id, s.to).0 == end).map(|s| s.time).min()?;
    let last = listed.iter().filter(|a| a.cluster_id == cluster_id && a.to == end).map(|a| a.time).max()?;
    Some((first, last.max(first)))
}

/// What retention lets go: all but the newest `n_snapshots` of the cluster, and logs that no kept snapshot needs. Archives of
/// other clusters are never touched: they may be the only trace of a cluster that is gone.
pub(crate) fn superfluous(listed: &[Listed], cluster_id: &str, n_snapshots: usize) -> Vec<String> {
    let of_cluster = || listed.iter().filter(|archive| archive.cluster_id == cluster_id);
    let mut snapshots: Vec<&Listed> = of_cluster().filter(|a| a.kind == ArchiveKind::Snapshot).collect();
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.to, snapshot.time)));
    // The last snapshot is never given up, whatever the number.
    let kept = snapshots.len().min(n_snapshots.max(1));
    let Some(oldest) = snapshots[..kept].last() else { return Vec::new() };
    let logs = of_cluster().filter(|a| a.kind == ArchiveKind::Log && a.to <= oldest.to);
    snapshots[kept..].iter().copied().chain(logs).map(|archive| archive.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "cdf818194e3a8c32";

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn manifest(kind: ArchiveKind, from: i64, to: i64) -> Manifest {
        Manifest {
            kind,
            created: String::new(),
            writer: String::new(),
            cluster_id: CLUSTER.into(),
            revision: to,
            from_revision: (kind == ArchiveKind::Log).then_some(from),
        }
    }

    fn snapshot(revision: i64, second: i64) -> StoredArchive {
        StoredArchive { name: name_of(&manifest(ArchiveKind::Snapshot, 0, revision), time(second)), size_bytes: 1 }
    }

    fn log(from: i64, to: i64, second: i64) -> StoredArchive {
        StoredArchive { name: name_of(&manifest(ArchiveKind::Log, from, to), time(second)), size_bytes: 1 }
    }

    #[test]
    fn names_are_read_as_they_were_made_and_others_are_passed_over() {
        let other = StoredArchive { name: "notes.txt".into(), size_bytes: 3 };
        let listed = read(&[log(6, 9, 20), other, snapshot(5, 10)]);
        assert_eq!(listed.len(), 2);
        assert_eq!((listed[0].kind, listed[0].to, listed[0].time), (ArchiveKind::Snapshot, 5, time(10)));
        assert_eq!((listed[1].kind, listed[1].from, listed[1].to), (ArchiveKind::Log, 6, 9));
        assert_eq!(listed[0].cluster_id, CLUSTER);
    }

    #[test]
    fn a_gap_in_the_logs_ends_what_can_be_reached() {
        let whole = read(&[snapshot(5, 0), log(4, 7, 1), log(8, 9, 2), log(8, 12, 3)]);
        assert_eq!(reached(&whole, CLUSTER), Some(12));
        let gap = read(&[snapshot(5, 0), log(6, 7, 1), log(9, 12, 2)]);
        assert_eq!(reached(&gap, CLUSTER), Some(7));
        assert_eq!(reached(&gap, "another"), None);
    }

    #[test]
    fn the_window_begins_at_the_oldest_snapshot_that_reaches_the_end() {
        let listed = read(&[snapshot(5, 0), log(9, 9, 5), snapshot(8, 10), log(9, 12, 20)]);
        assert_eq!(window(&listed, CLUSTER), Some((time(10), time(20))));
        assert_eq!(window(&read(&[snapshot(5, 3)]), CLUSTER), Some((time(3), time(3))));
        assert_eq!(window(&[], CLUSTER), None);
    }

    #[test]
    fn retention_keeps_the_newest_snapshots_and_the_logs_they_need() {
        let archives = [snapshot(5, 0), log(6, 8, 1), snapshot(8, 2), log(9, 11, 3), snapshot(11, 4), log(12, 14, 5)];
        let gone = superfluous(&read(&archives), CLUSTER, 2);
        assert_eq!(gone, [archives[0].name.clone(), archives[1].name.clone()]);
        assert_eq!(superfluous(&read(&archives), CLUSTER, 0).len(), 4);
        assert!(superfluous(&read(&archives), "another", 1).is_empty());
    }
}
