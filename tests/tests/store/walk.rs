//! etcdctl through all of its commands, over TLS with client certificates, against one member and against three.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::stores::{Setup, Stores};
use quarterdeck_tests::{eventually, text};
use store::etcd::VERSION;

use crate::ctl::{Ctl, Program, etcdutl, programs};

fn walk(program: Program, n_members: usize) -> Result<()> {
    let mut stores = Stores::start(Setup { n_members, tls: true, ..Setup::default() })?;
    let ctl = Ctl::to(program.clone(), &stores);
    keys(&ctl)?;
    leases(&ctl)?;
    maintenance(&ctl, n_members)?;
    concurrency(&ctl)?;
    forms(&ctl, n_members)?;
    mirror(&ctl)?;
    downgrade(&ctl)?;
    load(&ctl)?;
    users(&ctl)?;
    members(program, &mut stores)
}

/// What is said of every endpoint, in every form there is.
fn forms(ctl: &Ctl, n_members: usize) -> Result<()> {
    ctl.ok(&["put", "form", "1"])?;
    for what in ["health", "status", "hashkv"] {
        for form in ["simple", "table", "json", "fields"] {
            let said = ctl.ok(&["endpoint", what, "-w", form])?;
            for endpoint in ctl.stores.endpoints().split(',') {
                ensure!(said.contains(endpoint), "endpoint {what} -w {form} says nothing of {endpoint}: {said}");
            }
        }
    }
    for form in ["simple", "table", "json", "fields"] {
        let said = ctl.ok(&["member", "list", "-w", form])?;
        ensure!((0..n_members).all(|at| said.contains(&format!("m{at}"))), "member list -w {form}: {said}");
    }
    for form in ["simple", "json", "fields", "protobuf"] {
        ctl.ok(&["get", "form", "-w", form])?;
    }
    ensure!(ctl.ok(&["version"])?.contains(&format!("API version: 3.{}", ctl.program.version.1)));
    if ctl.program.version >= (3, 6) {
        ensure!(ctl.ok(&["completion", "bash"])?.starts_with("# bash completion for etcdctl"));
    }
    ctl.session(&[("del form", "1")])
}

fn keys(ctl: &Ctl) -> Result<()> {
    ctl.session(&[
        ("put a 1", "OK"),
        ("put a 2 --prev-kv", "OK\na\n1"),
        ("put ab 3", "OK"),
        ("put b 4", "OK"),
        ("get a", "a\n2"),
        ("get a --rev=2", "a\n1"),
        ("get a --rev=99", "Error: etcdserver: mvcc: required revision is a future revision"),
        ("get a b", "a\n2\nab\n3"),
        ("get a --prefix --keys-only", "a\n\nab"),
        ("get a --from-key --limit=2 --order=DESCEND --sort-by=KEY", "b\n4\nab\n3"),
        ("get a --prefix --print-value-only --consistency=s", "2\n3"),
        ("get missing", ""),
        ("put a --ignore-value --lease=1 2", "Error: put command needs only 1 argument when 'ignore-value' is set"),
        ("del a --prefix --prev-kv", "2\na\n2\nab\n3"),
        ("del a", "0"),
    ])?;
    let count = ctl.ok(&["get", "b", "--count-only", "-w", "fields"])?;
    ensure!(count.contains("\"Count\" : 1"), "{count}");
    let (_, said) = ctl.run(&["txn"], "mod(\"a\") = \"0\"\n\nput a x\nput c y\n\nput a other\n\n")?;
    ensure!(said == "SUCCESS\n\nOK\n\nOK", "{said:?}");
    let (_, said) = ctl.run(&["txn"], "value(\"a\") = \"other\"\n\nget a\n\nget c\ndel c\n\n")?;
    ensure!(said == "FAILURE\n\nc\ny\n\n1", "{said:?}");
    let (_, said) = ctl.run(&["txn"], "\n\nput same 1\nput same 2\n\n\n")?;
    ensure!(said.contains("etcdserver: duplicate key given in txn request"), "{said:?}");

    let watch = ctl.follow(&["watch", "w", "--prefix", "--prev-kv", "--rev=1"])?;
    ctl.session(&[("put w1 1", "OK"), ("put w1 2", "OK"), ("put other 1", "OK"), ("del w1", "1")])?;
    watch.says(&["PUT", "w1", "1", "PUT", "w1", "1", "w1", "2", "DELETE", "w1", "2", "w1", ""])?;
    let watch = ctl.follow(&["watch", "e", "--", "sh", "-c", "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY"])?;
    // A watch from now on says nothing about when it began.
    let seen = eventually("an event", || {
        ctl.ok(&["put", "e", "1"])?;
        Ok(watch.lines.recv_timeout(Duration::from_millis(200)).ok())
    })?;
    ensure!(seen == "PUT", "the first line of the event is {seen:?}");
    Ok(())
}

fn leases(ctl: &Ctl) -> Result<()> {
    let granted = ctl.ok(&["lease", "grant", "100"])?;
    let id = granted.split(' ').nth(1).context("an id")?.to_owned();
    ensure!(granted == format!("lease {id} granted with TTL(100s)"), "{granted}");
    let lease = format!("--lease={id}");
    ctl.ok(&["put", &lease, "leased", "1"])?;
    let remaining = ctl.ok(&["lease", "timetolive", &id, "--keys"])?;
    ensure!(
        remaining.contains("granted with TTL(100s)") && remaining.ends_with("attached keys([leased])"),
        "{remaining}"
    );
    ensure!(ctl.ok(&["lease", "list"])? == format!("found 1 leases\n{id}"));
    let kept = ctl.ok(&["lease", "keep-alive", "--once", &id])?;
    ensure!(kept == format!("lease {id} keepalived with TTL(100)"), "{kept}");
    ensure!(ctl.ok(&["lease", "revoke", &id])? == format!("lease {id} revoked"));
    ctl.session(&[
        ("get leased", ""),
        ("lease revoke 1234", "Error: failed to revoke lease (etcdserver: requested lease not found)"),
        ("lease timetolive 1234", "lease 0000000000001234 already expired"),
        ("lease list", "found 0 leases"),
    ])
}

fn maintenance(ctl: &Ctl, n_members: usize) -> Result<()> {
    let newest = || -> Result<u64> {
        let fields = ctl.ok(&["get", "none", "-w", "fields"])?;
        let revision = fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        Ok(revision.context("a revision")?.parse()?)
    };
    let revision = newest()?.to_string();
    ensure!(ctl.ok(&["compaction", &revision])? == format!("compacted revision {revision}"));
    ctl.session(&[
        (&*format!("compaction {revision}"), "Error: etcdserver: mvcc: required revision has been compacted"),
        ("get a --rev=1", "Error: etcdserver: mvcc: required revision has been compacted"),
    ])?;
    ctl.ok(&["put", "a", "again"])?;
    let revision = newest()?.to_string();
    ensure!(ctl.ok(&["compaction", "--physical", &revision])? == format!("compacted revision {revision}"));
    for (command, count) in [
        (&["defrag"][..], "Finished defragmenting etcd member"),
        (&["endpoint", "health"][..], "is healthy: successfully committed proposal"),
        (&["endpoint", "health", "--cluster"][..], "is healthy: successfully committed proposal"),
        (&["endpoint", "status"][..], VERSION),
        (&["member", "list"][..], ", started, m"),
    ] {
        let said = ctl.ok(command)?;
        ensure!(said.matches(count).count() == n_members, "{command:?}: {said}");
    }
    let status: serde_json::Value =
        serde_json::from_str(&ctl.ok(&["endpoint", "status", "--cluster", "-w", "json"])?)?;
    let leaders: Vec<_> =
        status.as_array().context("a list")?.iter().map(|one| one["Status"]["leader"].as_u64()).collect();
    ensure!(leaders.len() == n_members && leaders.iter().all(|leader| *leader == leaders[0]), "{leaders:?}");
    let hashes = eventually("all members have everything", || {
        let hashes: serde_json::Value =
            serde_json::from_str(&ctl.ok(&["endpoint", "hashkv", "--cluster", "-w", "json"])?)?;
        let hashes: Vec<_> =
            hashes.as_array().context("a list")?.iter().map(|one| one["HashKV"]["hash"].as_u64()).collect();
        Ok(hashes.iter().all(|hash| *hash == hashes[0]).then_some(hashes))
    })?;
    ensure!(hashes.len() == n_members && hashes[0].is_some());
    ctl.session(&[("alarm list", ""), ("alarm disarm", "")])?;
    let one = ctl.stores.endpoints().split(',').next().map(str::to_owned).context("an endpoint")?;
    let saved = ctl.stores.dir.path().join("saved.db");
    ctl.at(&[&one]).ok(&["snapshot", "save", text(&saved)?])?;
    if ctl.run(&["snapshot", "status", "--help"], "")?.1.contains("deprecated") {
        // Later versions leave this to etcdutl.
        let status = ctl.ok(&["snapshot", "status", text(&saved)?, "-w", "json"])?;
        ensure!(status.contains(&*format!("\"revision\":{revision}")), "{status}");
        let restored = ctl.stores.dir.path().join("restored");
        ctl.ok(&["snapshot", "restore", text(&saved)?, "--data-dir", text(&restored)?])?;
    }
    offline(ctl, &saved, &revision)
}

/// etcdutl takes the snapshot as one of etcd's.
fn offline(ctl: &Ctl, saved: &Path, revision: &str) -> Result<()> {
    let Some(program) = etcdutl()? else { return Ok(()) };
    let utl = |args: &[&str]| -> Result<String> {
        let output = Command::new(&program).args(args).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "etcdutl {args:?}: {said}");
        Ok(said)
    };
    let dir = ctl.stores.dir.path().join(format!("offline-3.{}", ctl.program.version.1));
    let (saved, dir) = (text(saved)?, text(&dir)?);
    let status = utl(&["snapshot", "status", saved, "-w", "json"])?;
    ensure!(status.contains(&format!("\"revision\":{revision}")), "{status}");
    utl(&["snapshot", "restore", saved, "--data-dir", dir])?;
    utl(&["defrag", "--data-dir", dir])?;
    Ok(())
}

fn concurrency(ctl: &Ctl) -> Result<()> {
    let holder = ctl.follow(&["lock", "l"])?;
    let key = holder.line()?;
    ensure!(key.starts_with("l/"), "{key}");
    let waiter = ctl.follow(&["lock", "l", "echo", "mine"])?;
    ensure!(waiter.lines.recv_timeout(Duration::from_millis(500)).is_err(), "the lock is held");
    ctl.ok(&["del", &key])?;
    waiter.says(&["mine"])?;
    ensure!(ctl.ok(&["lock", "other", "echo", "free"])? == "free");
    let leader = ctl.follow(&["elect", "e", "first"])?;
    let key = leader.line()?;
    leader.says(&["first"])?;
    let observer = ctl.follow(&["elect", "--listen", "e"])?;
    observer.says(&[&key, "first"])?;
    let next = ctl.follow(&["elect", "e", "second"])?;
    ctl.ok(&["del", &key])?;
    let key = next.line()?;
    next.says(&["second"])?;
    observer.says(&[&key, "second"])
}

fn mirror(ctl: &Ctl) -> Result<()> {
    let [ca, cert, key] = ctl.stores.tls_files("client");
    let to = ctl.stores.endpoints().split(',').next_back().map(str::to_owned).context("an endpoint")?;
    ctl.session(&[("put from/a 1", "OK"), ("put from/b 1", "OK")])?;
    let (ca, cert, key) = (format!("--dest-cacert={ca}"), format!("--dest-cert={cert}"), format!("--dest-key={key}"));
    let args = ["make-mirror", "--prefix=from/", "--dest-prefix=to/", "--dest-insecure-transport=false"];
    let args: Vec<_> = args.into_iter().chain([&*ca, &*cert, &*key, &*to]).collect();
    let _mirroring = ctl.follow(&args)?;
    let is_there = |expected: &str| {
        eventually("the mirror follows", || Ok((ctl.ok(&["get", "to/", "--prefix"])? == expected).then_some(())))
    };
    is_there("to/a\n1\nto/b\n1")?;
    ctl.session(&[("put from/a 2", "OK"), ("del from/b", "1")])?;
    is_there("to/a\n2")
}

fn downgrade(ctl: &Ctl) -> Result<()> {
    if ctl.program.version < (3, 6) {
        return Ok(());
    }
    ctl.session(&[
        ("downgrade validate 3.5", "Downgrade validate success, cluster version 3.6"),
        ("downgrade validate 3.4", "Error: etcdserver: invalid downgrade target version"),
        ("downgrade enable 3.5", "Downgrade enable success, cluster version 3.6"),
        ("downgrade enable 3.5", "Error: etcdserver: cluster has a downgrade job in progress"),
        ("downgrade cancel", "Downgrade cancel success, cluster version 3.6"),
    ])
}

/// etcdctl's own measurements. How fast it is says nothing here; that all of it is answered does.
fn load(ctl: &Ctl) -> Result<()> {
    // It asks for metrics over HTTP: with TLS only at endpoints that say so, and without a look at --cacert.
    let urls: Vec<_> = ctl.stores.endpoints().split(',').map(|endpoint| format!("https://{endpoint}")).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let args = ["check", "datascale", "--load=s", "--auto-compact", "--auto-defrag", "--insecure-skip-tls-verify"];
    let said = ctl.at(&urls).ok(&args)?;
    ensure!(said.contains("Approximate system memory used"), "{said}");
    Ok(())
}

fn users(ctl: &Ctl) -> Result<()> {
    let root = "--user=root:pw";
    let with = |command: &str| format!("{command} {root}");
    ctl.session(&[
        ("auth status", "Authentication Status: false\nAuthRevision: 1"),
        ("user add root:pw", "User root created"),
        ("user grant-role root root", "Role root is granted to user root"),
        ("role add r", "Role r created"),
        ("role grant-permission r readwrite u --prefix=true", "Role r updated"),
        ("role grant-permission r read a", "Role r updated"),
        ("user add u:secret", "User u created"),
        ("user grant-role u r", "Role r is granted to user u"),
        ("auth enable", "Authentication Enabled"),
        ("put u1 1 --user=u:secret", "OK"),
        ("get a --user=u:secret", "a\nagain"),
        ("put a 1 --user=u:secret", "Error: etcdserver: permission denied"),
        ("user list --user=u:secret", "Error: etcdserver: permission denied"),
        // The certificate names a user too, who does not exist.
        ("get a", "Error: etcdserver: permission denied"),
        (&*with("auth status"), "Authentication Status: true\nAuthRevision: 8"),
        (&*with("user list"), "root\nu"),
        (&*with("user get u"), "User: u\nRoles: r"),
        (&*with("role list"), "r"),
        (&*with("role get r"), "Role r\nKV Read:\n\ta\n\t[u, v) (prefix u)\nKV Write:\n\t[u, v) (prefix u)"),
        (&*with("role revoke-permission r a"), "Permission of key a is revoked from role r"),
        ("get a --user=u:secret", "Error: etcdserver: permission denied"),
    ])?;
    let (succeeded, said) = ctl.run(&["user", "passwd", "u", "--interactive=false", root], "new")?;
    ensure!(succeeded && said == "Password updated", "{said}");
    ctl.session(&[
        ("get u1 --user=u:secret", "Error: etcdserver: authentication failed, invalid user ID or password"),
        ("get u1 --user=u:new", "u1\n1"),
        (&*with("user revoke-role u r"), "Role r is revoked from user u"),
        (&*with("role delete r"), "Role r deleted"),
        (&*with("user delete u"), "User u deleted"),
        (&*with("auth disable"), "Authentication Disabled"),
        ("user delete root", "User root deleted"),
        ("role list", ""),
        ("get u1", "u1\n1"),
    ])
}

fn members(program: Program, stores: &mut Stores) -> Result<()> {
    let place = stores.place("new")?;
    let url = stores.peer_url(&place);
    let ctl = Ctl::to(program.clone(), stores);
    // etcdctl fills ids up to sixteen places, with blanks.
    let id_of = |said: &str| said.split_whitespace().nth(1).map(str::to_owned).context("an id");
    let moved = format!("--peer-urls={url}");
    // It is to be somewhere else first.
    let added = eventually("the cluster is healthy", || {
        ctl.ok(&["member", "add", "new", "--learner", "--peer-urls=https://127.0.0.1:1"]).map(Some)
    })?;
    let id = id_of(&added)?;
    // Later versions say what as.
    let is_added = added.contains("added to cluster") || added.contains("added as learner to cluster");
    ensure!(is_added && added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{added}");
    let updated = ctl.ok(&["member", "update", &id, &moved])?;
    ensure!(updated.starts_with(&*format!("Member {id:>16} updated in cluster")), "{updated}");
    let listed = ctl.ok(&["member", "list"])?;
    ensure!(listed.contains(&*format!("{id}, unstarted, , {url}, , true")), "{listed}");
    stores.join(place)?;
    let all = stores.endpoints();
    let all: Vec<&str> = all.split(',').collect();
    let ctl = Ctl::to(program, stores);
    let voters = ctl.at(&all[..all.len() - 1]);
    let promoted = eventually("the learner is in sync", || voters.ok(&["member", "promote", &id]).map(Some))?;
    ensure!(promoted.starts_with(&*format!("Member {id:>16} promoted in cluster")), "{promoted}");
    let moved = eventually("the new member can lead", || ctl.ok(&["move-leader", &id]).map(Some))?;
    ensure!(moved.starts_with("Leadership transferred from") && moved.ends_with(&*format!("to {id}")), "{moved}");
    let back = voters.ok(&["member", "list"])?;
    let first =
        back.lines().find(|line| line.contains(", m0,")).and_then(|line| line.split(',').next()).context("m0")?;
    eventually("leadership goes back", || ctl.ok(&["move-leader", first]).map(Some))?;
    let removed = eventually("the rest can go on", || voters.ok(&["member", "remove", &id]).map(Some))?;
    ensure!(removed.starts_with(&*format!("Member {id:>16} removed from cluster")), "{removed}");
    ensure!(voters.ok(&["put", "after", "1"])? == "OK");
    ensure!(!voters.ok(&["member", "list"])?.contains(&id));
    Ok(())
}

#[test]
fn etcdctl_walks_through_all_its_commands_against_one_member() -> Result<()> {
    programs()?.into_iter().try_for_each(|program| walk(program, 1))
}

#[test]
fn etcdctl_walks_through_all_its_commands_against_three_members() -> Result<()> {
    programs()?.into_iter().try_for_each(|program| walk(program, 3))
}

#[test]
fn etcdctl_measures_three_members_for_a_minute() -> Result<()> {
    let Some(newest) = programs()?.pop() else { return Ok(()) };
    let stores = Stores::start(Setup { n_members: 3, tls: true, ..Setup::default() })?;
    let ctl = Ctl::to(newest, &stores);
    // Whether it passes is up to the machine; that it comes to its end, and leaves a cluster that is well, is up to us.
    let (_, said) = ctl.run(&["check", "perf", "--load=s", "--auto-compact", "--auto-defrag"], "")?;
    ensure!(said.contains("Throughput") && said.contains("Defragmented"), "{said}");
    let health = eventually("all members are well", || ctl.ok(&["endpoint", "health"]).map(Some))?;
    ensure!(health.matches("is healthy").count() == 3, "{health}");
    Ok(())
}

#[test]
fn etcdctl_is_answered_at_urls_without_tls() -> Result<()> {
    for program in programs()? {
        let stores = Stores::start(Setup { n_members: 1, ..Setup::default() })?;
        let endpoint = format!("http://{}", stores.endpoints());
        let ctl = Ctl::to(program, &stores);
        let ctl = ctl.at(&[&endpoint]);
        ctl.session(&[("put a 1", "OK"), ("get a", "a\n1")])?;
        for what in ["health", "status", "hashkv"] {
            for form in ["simple", "table", "json", "fields"] {
                let said = ctl.ok(&["endpoint", what, "-w", form])?;
                ensure!(said.contains(&endpoint), "endpoint {what} -w {form}: {said}");
            }
        }
    }
    Ok(())
}
