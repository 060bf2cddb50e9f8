//! How many seats each level has: its share of all of them, and what levels lend each other.

use api::Value;

use super::timing::Course;

/// Bounds on the seats of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Limits {
    /// By its shares.
    pub nominal: usize,
    /// It keeps these.
    pub lower: usize,
    /// It gets no more than these.
    pub upper: usize,
}

/// What a level needed lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    pub is_exempt: bool,
    pub limits: Limits,
    /// Seats wanted since the last lending.
    pub course: Course,
    /// Average and deviation of that together, smoothed over time.
    pub smoothed: f64,
}

impl Demand {
    /// Most seats wanted at once.
    fn high(&self) -> usize {
        self.course.max.round() as usize
    }
}

/// Who gets what.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lending {
    /// By level, as the demands were given.
    pub seats: Vec<usize>,
    /// What each aims at.
    pub targets: Vec<f64>,
    /// Of its target everybody gets this much, within limits; nothing when there is not enough for what is kept.
    pub fraction: f64,
}

/// Exempt and limited levels name their shares in different places.
fn settings(object: &Value) -> &Value {
    match object["spec"]["type"].as_str() {
        Some("Exempt") => &object["spec"]["exempt"],
        _ => &object["spec"]["limited"],
    }
}

/// Limits of each level, in the order of the objects.
pub(super) fn nominal(levels: &[Value], seats: usize) -> Vec<Limits> {
    let shares = |object: &Value| {
        let default = if object["spec"]["type"] == "Exempt" { 0.0 } else { 30.0 };
        settings(object)["nominalConcurrencyShares"].as_f64().unwrap_or(default)
    };
    let sum: f64 = levels.iter().map(shares).sum();
    let limits = |object: &Value| {
        let nominal = if sum > 0.0 { (seats as f64 * shares(object) / sum).ceil() } else { 0.0 };
        let percent = |field: &str| settings(object)[field].as_f64().map(|percent| (nominal * percent / 100.0).round());
        let lendable = percent("lendablePercent").unwrap_or(0.0);
        let upper = percent("borrowingLimitPercent").map_or(nominal + seats as f64, |borrowed| nominal + borrowed);
        Limits { nominal: nominal as usize, lower: (nominal - lendable) as usize, upper: upper as usize }
    };
    levels.iter().map(limits).collect()
}

/// Divides the seats by demand, within limits: every level has the same fraction of what it wants, unless a limit says otherwise.
pub(super) fn lend(seats: usize, demands: &[Demand]) -> Lending {
    let exempt: f64 = demands.iter().filter(|d| d.is_exempt).map(|d| d.high().max(d.limits.lower) as f64).sum();
    let required = (seats as f64 - exempt).max(0.0);
    let limited = || demands.iter().filter(|demand| !demand.is_exempt);
    let wanted = |demand: &Demand| demand.limits.lower.max(demand.limits.nominal.min(demand.high())) as f64;
    // What is in use by right is kept, if there is enough for everybody's.
    let keeps_use = limited().map(wanted).sum::<f64>() <= required;
    let bounds = |demand: &Demand| {
        let lower = if keeps_use { wanted(demand) } else { demand.limits.lower as f64 };
        let target = lower.max(demand.smoothed).max(0.001);
        (lower, target, (demand.limits.upper as f64).max(lower))
    };
    let at = |fraction: f64, demand: &Demand| {
        let (lower, target, upper) = bounds(demand);
        (fraction * target).clamp(lower, upper)
    };
    let fraction = {
        let sum = |fraction: f64| limited().map(|demand| at(fraction, demand)).sum::<f64>();
        let (mut low, mut high) = (0.0, 1.0);
        while sum(high) < required && high < 1e12 {
            high *= 2.0;
        }
        for _ in 0..100 {
            let middle = f64::midpoint(low, high);
            if sum(middle) < required { low = middle } else { high = middle }
        }
        high
    };
    Lending {
        seats: demands.iter().map(|demand| at(fraction, demand).round() as usize).collect(),
        targets: demands.iter().map(|demand| bounds(demand).1).collect(),
        fraction: if keeps_use { fraction } else { 0.0 },
    }
}
