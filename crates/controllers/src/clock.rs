//! The present, for shells: plans get it as an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Now, in the whole seconds the API keeps.
pub(crate) fn now() -> Time {
    let second = Timestamp::now().as_second();
    Time(Timestamp::from_second(second).unwrap_or_default())
}

/// Seconds from one time to a later one; negative when it is earlier.
pub(crate) fn seconds_between(earlier: &Time, later: &Time) -> i64 {
    later.0.as_second() - earlier.0.as_second()
}
