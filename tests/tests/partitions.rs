//! Masters in network namespaces: partitions, deaf links, slow links and stalled disks. Skipped where there are no namespaces.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use quarterdeck_tests::endpoints::Endpoints;
use quarterdeck_tests::lab::{Lab, leader};
use quarterdeck_tests::{Server, eventually};

/// What is acknowledged at all is acknowledged within this time: an election and a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a master without a majority is watched not acknowledging.
const SILENCE: Duration = Duration::from_secs(4);
/// Of what each master sends, when links are slow.
const DELAY: Duration = Duration::from_millis(40);

/// A client of some masters of a lab.
async fn client(lab: &Lab, servers: &[Server], of: &[usize]) -> Result<Endpoints> {
    let urls: Vec<_> = of.iter().map(|at| format!("https://{}:6443", lab.address(*at))).collect();
    Endpoints::new(&servers[0].kubeconfig, &urls).await
}

async fn write(client: &Endpoints, name: &str, patience: Duration) -> Result<Duration> {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    let map = &map;
    let ask =
        |client| async move { Api::<ConfigMap>::default_namespaced(client).create(&PostParams::default(), map).await };
    let begun = Instant::now();
    match client.request(patience, ask).await {
        (Ok(_), _) => Ok(begun.elapsed()),
        (Err(kube::Error::Api(status)), true) if status.code == 409 => Ok(begun.elapsed()),
        (Err(error), _) => Err(error).with_context(|| format!("writing {name}")),
    }
}

async fn is_there(client: &Endpoints, name: &str) -> Result<bool> {
    let ask = |client| async move { Api::<ConfigMap>::default_namespaced(client).get_opt(name).await };
    Ok(client.request(PATIENCE, ask).await.0?.is_some())
}

fn place(name: &str) -> Result<usize> {
    name.strip_prefix('m').and_then(|number| number.parse().ok()).context("a master's name")
}

/// Members that one master knows of, and the term it is in.
fn term(lab: &Lab, at: usize) -> Result<u64> {
    lab.status(at)?["store"]["term"].as_u64().context("a term")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_masters_go_on_through_partitions_deaf_links_slow_links_and_stalled_disks() -> Result<()> {
    let Some(mut lab) = Lab::new(3)? else { return Ok(()) };
    let mut has_disks = true;
    for at in 0..3 {
        has_disks = has_disks && lab.disk(at)?;
    }
    let servers = lab.form()?;
    let everybody = client(&lab, &servers, &[0, 1, 2]).await?;
    write(&everybody, "before", PATIENCE).await?;

    // The leader alone on its side: it acknowledges nothing, the others go on.
    let cut = place(&leader(&servers[0])?)?;
    let others: Vec<usize> = (0..3).filter(|at| *at != cut).collect();
    lab.cut(cut)?;
    let majority = client(&lab, &servers, &others).await?;
    write(&majority, "by-the-majority", PATIENCE).await?;
    let alone = lab.status(cut)?;
    ensure!(alone["store"]["errors"].to_string().contains("no leader") || term(&lab, cut)? > 0, "{alone}");
    lab.heal(cut)?;
    let healed = client(&lab, &servers, &[cut]).await?;
    ensure!(is_there(&healed, "by-the-majority").await?, "the one that was cut off has caught up");
    write(&healed, "through-the-healed", PATIENCE).await?;

    // A follower that the leader's messages do not reach asks for elections in vain: it cannot unseat a leader that works.
    let deaf_to = place(&leader(&servers[0])?)?;
    let deaf = (deaf_to + 1) % 3;
    let before = term(&lab, deaf_to)?;
    lab.lose(deaf_to, deaf)?;
    let begun = Instant::now();
    let rest = client(&lab, &servers, &[deaf_to, (deaf_to + 2) % 3]).await?;
    for n in 0.. {
        write(&rest, &format!("past-a-deaf-one-{n}"), PATIENCE).await?;
        if begun.elapsed() > SILENCE {
            break;
        }
    }
    ensure!(term(&lab, deaf_to)? <= before + 1, "a deaf follower unseats leaders");
    lab.find(deaf_to, deaf)?;
    eventually("the deaf one hears again", || {
        Ok((lab.status(deaf)?["store"]["leaderId"] == lab.status(deaf_to)?["store"]["leaderId"]).then_some(()))
    })?;

    // Slow links: slower, and nothing else.
    if lab.delay(0, DELAY)? {
        lab.delay(1, DELAY)?;
        lab.delay(2, DELAY)?;
        for n in 0..5 {
            let took = write(&everybody, &format!("slowly-{n}"), PATIENCE).await?;
            ensure!(took >= 2 * DELAY, "acknowledged before another master can have answered: {took:?}");
        }
        for at in 0..3 {
            lab.undelay(at)?;
        }
    }

    // A leader whose disk stalls hands over, lives on, and follows when the disk is back.
    if has_disks {
        let slow = place(&leader(&servers[0])?)?;
        lab.stall(slow)?;
        let rest = client(&lab, &servers, &[(slow + 1) % 3, (slow + 2) % 3]).await?;
        let stalled = write(&rest, "past-a-stalled-disk", PATIENCE).await;
        lab.unstall(slow)?;
        stalled?;
        let same = client(&lab, &servers, &[slow]).await?;
        ensure!(is_there(&same, "past-a-stalled-disk").await?, "the one whose disk stalled goes on");
    }
    for name in ["before", "by-the-majority", "through-the-healed", "past-a-deaf-one-0"] {
        ensure!(is_there(&everybody, name).await?, "{name} was acknowledged");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_masters_take_the_loss_of_two_and_wait_when_a_third_is_gone() -> Result<()> {
    let Some(lab) = Lab::new(5)? else { return Ok(()) };
    let servers = lab.form()?;
    let first = place(&leader(&servers[0])?)?;
    let second = (first + 1) % 5;
    let left: Vec<usize> = (0..5).filter(|at| ![first, second].contains(at)).collect();
    lab.cut(first)?;
    lab.cut(second)?;
    let rest = client(&lab, &servers, &left).await?;
    write(&rest, "by-three-of-five", PATIENCE).await?;

    let third = left[0];
    lab.cut(third)?;
    let minority = client(&lab, &servers, &left[1..]).await?;
    ensure!(write(&minority, "by-two-of-five", SILENCE).await.is_err(), "two of five acknowledged a write");
    lab.heal(third)?;
    write(&minority, "by-three-again", PATIENCE).await?;
    lab.heal(first)?;
    lab.heal(second)?;
    let back = client(&lab, &servers, &[first]).await?;
    ensure!(is_there(&back, "by-three-again").await?, "those that were gone have caught up");
    Ok(())
}
