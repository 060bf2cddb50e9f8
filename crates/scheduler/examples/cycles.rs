//! Prints how many scheduling cycles per second the engine makes: simple pods onto 1,000 nodes, without an API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::engine::{Engine, Event, Outcome};
use scheduler::profile::{Profile, ProfileConfig};
use serde_json::json;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let nodes = numbers.next().transpose()?.unwrap_or(1000);
    let pods = numbers.next().transpose()?.unwrap_or(3000);
    let mut engine = Engine::new(vec![Profile::new(&ProfileConfig::default())?], 1);
    for index in 0..nodes {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": format!("node-{index}"), "labels": {
                "kubernetes.io/hostname": format!("node-{index}"),
                "topology.kubernetes.io/zone": format!("zone-{}", index % 3)}},
            "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"}},
        }))?;
        engine.handle(Event::NodeApplied(Arc::new(node)), Duration::ZERO);
    }
    for index in 0..pods {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{index}"), "namespace": "default", "uid": format!("uid-{index}"),
                "labels": {"app": "bench"}},
            "spec": {"containers": [{"name": "c", "image": "pause",
                "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
        }))?;
        engine.handle(Event::PodApplied(Arc::new(pod)), Duration::ZERO);
    }
    let started = Instant::now();
    let mut bound = 0u32;
    while let Some(outcome) = engine.schedule_next(started.elapsed()) {
        if let Outcome::Bind { pod, node } = outcome {
            bound += 1;
            engine.handle(Event::BindingFinished { pod, node, result: Ok(()) }, started.elapsed());
        }
    }
    let elapsed = started.elapsed();
    println!(
        "{bound} pods onto {nodes} nodes in {elapsed:.2?}: {:.0} cycles/s, {:.1} us per cycle",
        f64::from(bound) / elapsed.as_secs_f64(),
        elapsed.as_secs_f64() * 1e6 / f64::from(bound.max(1))
    );
    Ok(())
}
