//! Time from the start of the process until it says that it is ready (which is when /readyz is 200).

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use quarterdeck_tests::Durable;

use crate::Options;
use crate::objects::{config_map, create_all};
use crate::place;
use crate::process::resident_bytes;
use crate::report::{Report, milliseconds, percentile};

/// Starts of each sort; the median counts.
const STARTS: usize = 5;

pub(crate) fn empty(report: &mut Report) -> Result<()> {
    let mut durable = Vec::new();
    let mut ephemeral = Vec::new();
    for _ in 0..STARTS {
        let place = Durable::new()?;
        durable.push(place::durable(&place)?.1);
        let (mut server, time) = place::ephemeral()?;
        // Asked to stop, so that it removes its temporary directory.
        ensure!(server.process.terminate()?, "the server did not end well");
        ephemeral.push(time);
    }
    let text = |samples: &mut [_]| format!("{:.0} ms", milliseconds(percentile(samples, 50)));
    report.add("ready, empty directory", text(&mut durable), "< 500 ms");
    report.add("ready, `--ephemeral`", text(&mut ephemeral), "< 500 ms");
    Ok(())
}

pub(crate) async fn full(options: &Options, report: &mut Report) -> Result<()> {
    let place = Durable::new()?;
    let (mut server, _) = place::durable(&place)?;
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    let time = create_all(&api, (0..options.objects).map(|n| config_map(format!("object-{n}")))).await?;
    let rate = options.objects as f64 / time.as_secs_f64();
    report.add("creates, 32 at a time, durable", format!("{rate:.0} /s"), "");
    ensure!(server.process.terminate()?, "the server did not end well");
    let (mut server, time) = place::durable(&place)?;
    let what = format!("ready, {} objects", options.objects);
    report.add(&what, format!("{:.0} ms", milliseconds(time)), "< 1000 ms");
    let resident = resident_bytes(server.process.id())? as f64 / 1e6;
    report.add(&format!("resident memory, {} objects", options.objects), format!("{resident:.0} MB"), "");
    server.process.kill();
    let (_server, time) = place::durable(&place)?;
    report.add(&format!("{what}, after kill -9"), format!("{:.0} ms", milliseconds(time)), "< 1000 ms");
    Ok(())
}
