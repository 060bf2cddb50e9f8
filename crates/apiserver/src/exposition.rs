//! Metrics as text, in the format that upstream writes (Prometheus' text format 0.0.4). The library writes OpenMetrics, which names a
//! counter's family without `_total` and ends with a mark; parsers of the older format lose the counters' types by that.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a registry.
pub fn text(registry: &Registry) -> String {
    let mut open_metrics = String::new();
    // Writing into a String cannot fail.
    let _infallible = encode(&mut open_metrics, registry);
    let mut out = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // The help of a family comes before its type, which says whether it is a counter.
        let type_line = if line.starts_with("# HELP ") { lines.peek().copied() } else { Some(line) };
        let counter = type_line.and_then(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
        match counter {
            Some(family) if !family.ends_with("_total") => {
                out.push_str(&line.replacen(family, &format!("{family}_total"), 1));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn counters_are_families_by_their_whole_name() {
        let mut registry = Registry::default();
        let (counter, gauge) = (Counter::<u64>::default(), Gauge::<i64>::default());
        registry.register("a_requests", "Requests", counter.clone());
        registry.register("a_size", "Size", gauge.clone());
        counter.inc();
        assert_eq!(
            text(&registry),
            "# HELP a_requests_total Requests.\n# TYPE a_requests_total counter\na_requests_total 1\n\
             # HELP a_size Size.\n# TYPE a_size gauge\na_size 0\n"
        );
    }
}
