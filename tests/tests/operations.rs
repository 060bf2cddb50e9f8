//! docs/operations.md, typed command by command on empty machines.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::lab::Lab;
use quarterdeck_tests::machines::{self, Machine};
use quarterdeck_tests::page::{Block, Page};
use quarterdeck_tests::{Process, eventually, has_program};
use serde_json::Value;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
const NETWORK: &str = "192.168.0";
const HOSTS: &str = "192.168.0.1 api.example";
/// The host of the bucket, after the three masters.
const BUCKET_HOST: usize = 3;
const BUCKET_PORT: u16 = 9000;
/// The service that stands for S3 takes the first part of a name for a bucket's.
const BUCKET_ADDRESS: &str = "192.168.0.4";

/// The operator: types the page, with his own addresses, tokens and times.
struct Operator<'a> {
    lab: &'a Lab,
    machines: [Machine; 3],
    token: String,
    moment: String,
}

impl Operator<'_> {
    fn text(&self, block: &Block) -> String {
        let bucket = format!("http://{BUCKET_ADDRESS}:{BUCKET_PORT}");
        block
            .text
            .replace("quarterdeck1.…", &self.token)
            .replace("=…", "=test")
            .replace("https://s3.example", &bucket)
            .replace("2026-01-02T03:04:05Z", &self.moment)
            .replace("BASE64_OF_32_BYTES", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
    }

    fn at(&mut self, name: &str) -> Result<&mut Machine> {
        self.machines.iter_mut().find(|machine| machine.name() == name).with_context(|| format!("a machine {name}"))
    }

    /// Types a block where it says.
    fn types(&mut self, block: &Block) -> Result<String> {
        let names: Vec<&str> = block.machines.iter().map(String::as_str).collect();
        self.types_on(block, &names)
    }

    /// Types a block on some machines only; what the last one printed.
    fn types_on(&mut self, block: &Block, names: &[&str]) -> Result<String> {
        let text = self.text(block);
        eprintln!("{}: {names:?}: {text}", block.section);
        if block.serves {
            self.serve(&text, names)?;
            return Ok(String::new());
        }
        let mut printed = String::new();
        for name in names {
            printed = self.at(name)?.run(&text)?;
        }
        Ok(printed)
    }

    /// New servers at the same time; those that run are restarted one after the other.
    fn serve(&mut self, command: &str, names: &[&str]) -> Result<()> {
        let chosen = self.machines.iter_mut().filter(|machine| names.contains(&machine.name()));
        let (running, new): (Vec<_>, Vec<_>) = chosen.partition(|machine| machine.is_serving());
        std::thread::scope(|scope| -> Result<()> {
            let starting: Vec<_> = new.into_iter().map(|machine| scope.spawn(move || machine.serve(command))).collect();
            starting.into_iter().try_for_each(|one| one.join().expect("no panic"))
        })?;
        running.into_iter().try_for_each(|machine| machine.serve(command))
    }

    /// An empty machine in place of another.
    fn replace(&mut self, name: &str) -> Result<()> {
        let at = self.machines.iter().position(|machine| machine.name() == name).context("the machine")?;
        self.machines[at].switch_off();
        self.machines[at] = Machine::new(self.lab, at, name, HOSTS)?;
        Ok(())
    }

    fn creates_token(&mut self, page: &Page) -> Result<()> {
        let printed = self.types(page.block("Form", "token create")?)?;
        self.token = printed.lines().last().context("a token on the last line")?.to_owned();
        Ok(())
    }

    /// Waits until so many members vote, and returns all, as m1 or another sees them.
    fn voters(&mut self, name: &str, wanted: usize) -> Result<Vec<Value>> {
        let machine = self.at(name)?;
        eventually("members that vote", || {
            let listed = machine.json(&format!("{ADMIN}; quarterdeck member ls -o json"))?;
            let members = listed["items"].as_array().context("items")?.clone();
            let votes = |member: &&Value| member["state"] == "started" && member["role"] != "learner";
            Ok((members.iter().filter(votes).count() == wanted).then_some(members))
        })
    }

    fn has(&mut self, name: &str, config_map: &str) -> Result<bool> {
        let found = self.at(name)?.run(&format!("{ADMIN}; kubectl get configmaps -o name"))?;
        Ok(found.lines().any(|line| line == format!("configmap/{config_map}")))
    }

    fn revision_of(&mut self, name: &str, config_map: &str) -> Result<i64> {
        let created = self.at(name)?.json(&format!("{ADMIN}; kubectl create configmap {config_map} -o json"))?;
        created["metadata"]["resourceVersion"].as_str().context("a resourceVersion")?.parse().context("a number")
    }

    /// Passes over at least a whole second; the one in the middle.
    fn lets_a_second_pass(&mut self) -> Result<String> {
        let machine = self.at("m1")?;
        let mut seconds: Vec<String> = Vec::new();
        eventually("time that passes", || {
            let now = machine.run("date -u +%Y-%m-%dT%H:%M:%SZ")?.trim().to_owned();
            if seconds.last() != Some(&now) {
                seconds.push(now);
            }
            Ok((seconds.len() > 3).then_some(()))
        })?;
        Ok(seconds[2].clone())
    }
}

const ADMIN: &str = "export KUBECONFIG=/var/lib/quarterdeck/admin.kubeconfig";

/// A bucket on a host of its own.
fn bucket(lab: &Lab) -> Result<Process> {
    let mut command = lab.command(BUCKET_HOST, "moto_server");
    command.args(["-H", "0.0.0.0", "-p", &BUCKET_PORT.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let service = Process::spawn(&mut command)?;
    eventually("a bucket", || {
        let url = format!("http://127.0.0.1:{BUCKET_PORT}/backups");
        let made = lab.command(BUCKET_HOST, "curl").args(["-sf", "-X", "PUT", &url]).stdout(Stdio::null()).status()?;
        Ok(made.success().then_some(()))
    })?;
    Ok(service)
}

#[test]
fn the_page_about_operations_is_literally_true() -> Result<()> {
    let page = Page::read(Path::new(PAGE))?;
    if !machines::are_possible() || !["kubectl", "moto_server", "curl", "openssl"].iter().all(|name| has_program(name))
    {
        return Ok(());
    }
    let Some(lab) = Lab::isolated(4, NETWORK)? else { return Ok(()) };
    let machine = |at: usize| Machine::new(&lab, at, &format!("m{}", at + 1), HOSTS);
    let machines = [machine(0)?, machine(1)?, machine(2)?];
    let mut operator = Operator { lab: &lab, machines, token: String::new(), moment: String::new() };
    let operator = &mut operator;
    let _bucket = bucket(&lab)?;

    three_masters_form(operator, &page)?;
    one_is_lost_and_replaced(operator, &page)?;
    operator.types(page.block("Certificates", "certs check")?)?;
    all_are_lost_and_brought_back(operator, &page)?;
    secrets_are_sealed_and_requests_recorded(operator, &page)?;
    the_last_one_goes_on_alone(operator, &page)?;
    a_witness_makes_two_masters_enough(operator, &page)?;
    page.check_all_typed()
}

fn three_masters_form(operator: &mut Operator<'_>, page: &Page) -> Result<()> {
    operator.types(page.block("Form", "export NAME")?)?;
    operator.types(first(page)?)?;
    operator.creates_token(page)?;
    operator.types(join(page)?)?;
    operator.voters("m1", 3)?;
    operator.types(page.block("Form", "member ls")?)?;
    operator.types(page.block("Form", "--tls-san")?)?;
    operator.types(page.block("Form", "quarterdeck kubeconfig")?)?;
    operator.revision_of("m1", "first")?;
    Ok(())
}

fn first(page: &Page) -> Result<&Block> {
    page.block_that("Form", |text| text.ends_with("--advertise-address $ADDRESS"))
}

fn join(page: &Page) -> Result<&Block> {
    page.block_that("Form", |text| text.contains("--join") && !text.contains("--witness"))
}

fn one_is_lost_and_replaced(operator: &mut Operator<'_>, page: &Page) -> Result<()> {
    operator.replace("m2")?;
    let printed = operator.types(page.block("Lose one", "member replace")?)?;
    let command = printed.lines().last().context("the command for the new machine")?.to_owned();
    operator.types_on(page.block("Form", "export NAME")?, &["m2"])?;
    let command = format!("{command} --data-dir /var/lib/quarterdeck --advertise-address $ADDRESS");
    operator.serve(&command, &["m2"])?;
    operator.voters("m1", 3)?;
    ensure!(operator.has("m2", "first")?, "the replacement has what was there before");
    Ok(())
}

fn all_are_lost_and_brought_back(operator: &mut Operator<'_>, page: &Page) -> Result<()> {
    const KEY: &str = "/etc/quarterdeck-backup.key";
    operator.types(page.block("Back up", "openssl rand")?)?;
    let key = std::fs::read(operator.at("m1")?.file(KEY))?;
    let put_key = |operator: &mut Operator<'_>, name: &str| -> Result<()> {
        Ok(std::fs::write(operator.at(name)?.file(KEY), &key)?)
    };
    put_key(operator, "m2")?;
    put_key(operator, "m3")?;
    let credentials = page.block("Back up", "export AWS")?;
    operator.types(credentials)?;
    let with_backup = page.block("Back up", "quarterdeck server")?;
    operator.types(with_backup)?;
    operator.voters("m1", 3)?;
    operator.types(page.block("Back up", "snapshot ls")?)?;

    operator.revision_of("m1", "before")?;
    operator.moment = operator.lets_a_second_pass()?;
    operator.at("m1")?.run(&format!("{ADMIN}; kubectl delete configmap before"))?;
    let after = operator.revision_of("m1", "after")?;
    let machine = operator.at("m1")?;
    eventually("the change in the bucket", || {
        let listed = machine.json(&format!("{ADMIN}; quarterdeck snapshot ls -o json"))?;
        let mut reached =
            listed["items"].as_array().into_iter().flatten().filter_map(|item| item["toRevision"].as_i64());
        Ok(reached.any(|revision| revision >= after).then_some(()))
    })?;
    operator.types(page.block("Bring back", "--dry-run")?)?;

    // Two disks are gone; the third machine is only switched off.
    operator.replace("m1")?;
    operator.at("m2")?.switch_off();
    operator.replace("m3")?;
    let names = page.block("Form", "export NAME")?;
    for name in ["m1", "m3"] {
        operator.types_on(names, &[name])?;
        operator.types_on(credentials, &[name])?;
        put_key(operator, name)?;
    }
    operator.types(page.block("Bring back", "--data-dir")?)?;
    operator.types_on(with_backup, &["m1"])?;
    ensure!(operator.has("m1", "before")? && !operator.has("m1", "after")?, "the state is that of {}", operator.moment);

    let lab = operator.lab;
    operator.at("m2")?.switch_on(lab)?;
    operator.types_on(with_backup, &["m2"])?;
    ensure!(operator.has("m2", "before")? && !operator.has("m2", "after")?, "the one with old data has joined again");
    operator.creates_token(page)?;
    operator.types_on(join(page)?, &["m3"])?;
    operator.voters("m3", 3)?;
    ensure!(operator.has("m3", "before")?, "the empty one has joined");
    operator.revision_of("m3", "later")?;
    Ok(())
}

fn secrets_are_sealed_and_requests_recorded(operator: &mut Operator<'_>, page: &Page) -> Result<()> {
    for name in ["m1", "m2", "m3"] {
        for shown in &page.files {
            let text = shown.text.replace("BASE64_OF_32_BYTES", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
            std::fs::write(operator.at(name)?.file(&format!("/root/{}", shown.name)), text)?;
        }
    }
    operator.at("m1")?.run(&format!("{ADMIN}; kubectl create secret generic plain --from-literal=a=b"))?;
    operator.types(page.block("Encryption at rest", "--encryption-provider-config")?)?;
    operator.types(page.block("Encryption at rest", "kubectl replace")?)?;
    // Without the key nobody reads what was sealed: the next restart keeps the flag.
    let audit = page.block("Audit log", "--audit-policy-file")?;
    let both = format!("{} --encryption-provider-config encryption.yaml", operator.text(audit));
    operator.serve(&both, &["m1", "m2", "m3"])?;
    operator.revision_of("m1", "recorded")?;
    let log = std::fs::read_to_string(operator.at("m1")?.file("/var/log/quarterdeck/audit.log"))?;
    ensure!(log.contains("\"recorded\""), "the request is in the audit log");
    Ok(())
}

fn the_last_one_goes_on_alone(operator: &mut Operator<'_>, page: &Page) -> Result<()> {
    operator.at("m1")?.switch_off();
    operator.at("m2")?.switch_off();
    operator.at("m3")?.stop()?;
    let alone = operator.text(page.block("Lose one", "--force-new-cluster")?);
    operator.serve(&format!("{alone} --encryption-provider-config encryption.yaml"), &["m3"])?;
    operator.voters("m3", 1)?;
    ensure!(operator.has("m3", "recorded")?, "it has what was acknowledged");
    Ok(())
}

fn a_witness_makes_two_masters_enough(operator: &mut Operator<'_>, page: &Page) -> Result<()> {
    for name in ["m1", "m2", "m3"] {
        operator.replace(name)?;
    }
    operator.types(page.block("Form", "export NAME")?)?;
    operator.types(first(page)?)?;
    operator.creates_token(page)?;
    operator.types_on(join(page)?, &["m2"])?;
    operator.types(page.block("Form", "--witness")?)?;
    let members = operator.voters("m1", 3)?;
    ensure!(members.iter().any(|member| member["role"] == "witness"), "{members:?}");
    operator.revision_of("m2", "before")?;
    operator.at("m1")?.switch_off();
    let machine = operator.at("m2")?;
    eventually("a write without the lost master", || {
        machine.run(&format!("{ADMIN}; kubectl create configmap after")).map(Some)
    })?;
    Ok(())
}
