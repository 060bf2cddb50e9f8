//! Values over time: how long each was, as a histogram and as moments.
//!
//! Upstream observes a value "at the end of every nanosecond": a histogram's counts are nanoseconds, its sum is the integral. Here as
//! there that is worked out when the value changes, and when somebody looks.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A number, as a fraction of another, over time. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct TimingRatio(Arc<Mutex<Timing>>);

#[derive(Debug)]
struct Timing {
    /// Upper bounds of the buckets; what is above them all has one of its own.
    bounds: &'static [f64],
    /// Nanoseconds by bucket.
    spent: Vec<u64>,
    /// Of the ratio, in nanoseconds.
    integral: f64,
    numerator: f64,
    denominator: f64,
    since: Instant,
}

impl TimingRatio {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(Mutex::new(Timing {
            bounds,
            spent: vec![0; bounds.len() + 1],
            integral: 0.0,
            numerator: 0.0,
            denominator: 1.0,
            since: Instant::now(),
        })))
    }

    /// The number is so much more, or less, from `now` on.
    pub(super) fn add(&self, more: f64, now: Instant) {
        let mut timing = self.0.lock();
        timing.advance(now);
        timing.numerator += more;
    }

    /// What it is a fraction of from `now` on; more than nothing.
    pub(super) fn of(&self, denominator: f64, now: Instant) {
        let mut timing = self.0.lock();
        timing.advance(now);
        timing.denominator = denominator;
    }
}

impl Timing {
    fn advance(&mut self, now: Instant) {
        let nanos = u64::try_from(now.saturating_duration_since(self.since).as_nanos()).unwrap_or(0);
        let ratio = self.numerator / self.denominator;
        let bucket = self.bounds.iter().position(|bound| ratio <= *bound).unwrap_or(self.bounds.len());
        self.spent[bucket] = self.spent[bucket].saturating_add(nanos);
        self.integral += ratio * nanos as f64;
        self.since = self.since.max(now);
    }

    /// By upper bound, the last one without.
    fn buckets(&self) -> Vec<(f64, u64)> {
        self.bounds.iter().copied().chain([f64::MAX]).zip(self.spent.iter().copied()).collect()
    }
}

impl EncodeMetric for TimingRatio {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (integral, buckets) = {
            let mut timing = self.0.lock();
            timing.advance(Instant::now());
            (timing.integral, timing.buckets())
        };
        let count = buckets.iter().map(|(_, nanos)| nanos).sum();
        encoder.encode_histogram::<NoLabelSet>(integral, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for TimingRatio {
    const TYPE: MetricType = MetricType::Histogram;
}

/// A number's moments since they were last asked for.
#[derive(Debug)]
pub(super) struct Meter(Mutex<Moments>);

#[derive(Debug)]
struct Moments {
    value: f64,
    max: f64,
    since: Instant,
    seconds: f64,
    /// Of the value, and of its square.
    integrals: [f64; 2],
}

/// What a number was like over a while.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Course {
    pub seconds: f64,
    pub average: f64,
    pub deviation: f64,
    pub max: f64,
}

impl Default for Meter {
    fn default() -> Self {
        let since = Instant::now();
        Self(Mutex::new(Moments { value: 0.0, max: 0.0, since, seconds: 0.0, integrals: [0.0; 2] }))
    }
}

impl Meter {
    pub(super) fn add(&self, more: f64, now: Instant) {
        let mut moments = self.0.lock();
        moments.advance(now);
        moments.value += more;
        moments.max = moments.max.max(moments.value);
    }

    /// The course until `now`, from where another begins.
    pub(super) fn take(&self, now: Instant) -> Course {
        let mut moments = self.0.lock();
        moments.advance(now);
        let Moments { seconds, integrals: [first, second], max, .. } = *moments;
        (moments.seconds, moments.integrals, moments.max) = (0.0, [0.0; 2], moments.value);
        if seconds <= 0.0 {
            return Course { max, ..Course::default() };
        }
        let average = first / seconds;
        Course { seconds, average, deviation: (second / seconds - average * average).max(0.0).sqrt(), max }
    }
}

impl Moments {
    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        self.seconds += seconds;
        self.integrals[0] += self.value * seconds;
        self.integrals[1] += self.value * self.value * seconds;
        self.since = self.since.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_holds_the_time_of_its_ratios() {
        let ratio = TimingRatio::new(&[0.0, 0.5, 1.0]);
        let start = ratio.0.lock().since;
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        ratio.of(4.0, at(0));
        ratio.add(2.0, at(1));
        ratio.add(4.0, at(3));
        ratio.add(-6.0, at(6));
        let timing = ratio.0.lock();
        let seconds = |seconds: u64| seconds * 1_000_000_000;
        assert_eq!(timing.buckets(), [(0.0, seconds(1)), (0.5, seconds(2)), (1.0, 0), (f64::MAX, seconds(3))]);
        assert!((timing.integral / 1e9 - (0.5 * 2.0 + 1.5 * 3.0)).abs() < 1e-9);
    }

    #[test]
    fn a_course_is_weighted_by_time() {
        let meter = Meter::default();
        let start = meter.0.lock().since;
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        meter.add(4.0, at(0));
        meter.add(-2.0, at(1));
        let course = meter.take(at(2));
        assert_eq!(course, Course { seconds: 2.0, average: 3.0, deviation: 1.0, max: 4.0 });
        assert_eq!(meter.take(at(3)), Course { seconds: 1.0, average: 2.0, deviation: 0.0, max: 2.0 });
    }
}
