//! How fast whole states leave a member: so fast that the disks, the network and the processors have time for everybody's writes.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dial::SILENCE_MAX;
use super::snapshot::CHUNK_BYTES;

/// Bytes a second of all the states that a member sends at a time, where nothing else was said: 2 GiB, etcd's default quota,
/// take a minute, and a tenth of a core encodes that much.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 32 << 20;
/// A slower state would look like a connection that died: a frame every second, with room for rows larger than a frame.
pub(crate) const SNAPSHOT_BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// A member that needs another state so soon after one was behind again before it could go on: each of them is twice as fast.
const HASTE_WITHIN: Duration = Duration::from_secs(300);
const HASTE_MAX: u32 = 6;
const _: () = assert!(SNAPSHOT_BYTES_PER_SECOND_MIN * SILENCE_MAX.as_secs() > 4 * CHUNK_BYTES as u64);

/// Gives every byte its time. Who sends waits its turn, so that several states together are no faster than one.
#[derive(Debug)]
pub(super) struct Pace {
    /// 0 is no limit.
    bytes_per_second: u64,
    /// When all that was let through so far has had its time.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(None) }
    }

    /// How long to wait before sending so many bytes. Time in which nothing was sent is not made up for.
    fn turn(&self, n_bytes: usize, now: Instant) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let takes = Duration::from_secs_f64(n_bytes as f64 / self.bytes_per_second as f64);
        let mut free_at = self.free_at.lock();
        let begins = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(begins + takes);
        begins - now
    }

    pub(super) async fn wait(&self, n_bytes: usize) {
        let wait = self.turn(n_bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// How fast one member's states have to be for the log not to run away from it.
#[derive(Debug, Default)]
pub(super) struct Haste(Mutex<Option<(Instant, u32)>>);

impl Haste {
    /// For the state that is about to be sent: how many times its speed is doubled.
    fn next(&self, now: Instant) -> u32 {
        let mut last = self.0.lock();
        let doubled = match *last {
            Some((sent, doubled)) if now.saturating_duration_since(sent) < HASTE_WITHIN => (doubled + 1).min(HASTE_MAX),
            _ => 0,
        };
        *last = Some((now, doubled));
        doubled
    }

    pub(super) fn begin(&self) -> u32 {
        self.next(Instant::now())
    }

    /// The time counts from when the state was there.
    pub(super) fn end(&self) {
        if let Some((sent, _)) = &mut *self.0.lock() {
            *sent = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_share_the_bytes_of_a_second_and_idle_time_is_lost() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let pace = Pace::new(1000);
        assert_eq!(pace.turn(500, start), Duration::ZERO);
        assert_eq!(pace.turn(250, start), Duration::from_millis(500), "behind the first");
        assert_eq!(pace.turn(250, after(600)), Duration::from_millis(150));
        assert_eq!(pace.turn(100, after(5000)), Duration::ZERO);
        assert_eq!(pace.turn(100, after(5000)), Duration::from_millis(100), "four idle seconds are no credit");
        let haste = Haste::default();
        let doubled = [0, 100, 200, 300, 400, 500, 600, 700, 700 + 300].map(|at| haste.next(after(at * 1000)));
        assert_eq!(doubled, [0, 1, 2, 3, 4, 5, 6, 6, 0]);
        let unlimited = Pace::new(0);
        assert_eq!([unlimited.turn(usize::MAX, start), unlimited.turn(usize::MAX, start)], [Duration::ZERO; 2]);
    }
}
