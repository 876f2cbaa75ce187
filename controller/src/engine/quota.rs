//! How much one namespace may ask for, so that it cannot take the controller from the others.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use runtimed_api::ids::Namespace;
use runtimed_api::problem::{Code, Problem};
use tokio::time::Instant;

/// What one namespace may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Runs that are not over at most.
    pub active: usize,
    /// Submissions in a minute at most; any number without it.
    pub submissions: Option<NonZeroU32>,
    /// Finished Runs that are kept at most, the newest; all without it, until their time is over.
    pub kept: Option<usize>,
}

/// A submission that is refused, and when it may be tried again.
#[derive(Debug)]
pub struct Denied {
    /// Why.
    pub problem: Problem,
    /// Not before, if that is known.
    pub after: Option<Duration>,
}

impl From<Problem> for Denied {
    fn from(problem: Problem) -> Self {
        Self { problem, after: None }
    }
}

/// How fast each namespace submits: a bucket that holds a minute's worth and is filled evenly.
#[derive(Debug, Default)]
pub(super) struct Pace {
    buckets: HashMap<Namespace, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
}

/// Buckets are looked through for full ones, which say nothing, when there are this many.
const MANY: usize = 4096;

impl Pace {
    /// Takes one submission.
    pub(super) fn take(
        &mut self,
        namespace: &Namespace,
        a_minute: NonZeroU32,
        now: Instant,
    ) -> Result<(), Denied> {
        let most = f64::from(a_minute.get());
        let each = 60.0 / most;
        let filled = |bucket: &Bucket| {
            (bucket.left + now.saturating_duration_since(bucket.filled).as_secs_f64() / each).min(most)
        };
        if self.buckets.len() >= MANY {
            self.buckets.retain(|_, bucket| filled(bucket) < most);
        }
        let bucket =
            self.buckets.entry(namespace.clone()).or_insert_with(|| Bucket { left: most, filled: now });
        *bucket = Bucket { left: filled(bucket), filled: now };
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let after = Duration::from_secs_f64((1.0 - bucket.left) * each);
        let message = format!("namespace {namespace} submits more than {a_minute} Runs a minute");
        let problem = Problem::new(Code::RateLimited, message).hint("submit more slowly");
        Err(Denied { problem, after: Some(after) })
    }
}

/// What a namespace is told that has as many Runs as it may.
pub(super) fn too_many_active(namespace: &Namespace, most: usize) -> Denied {
    let message = format!("namespace {namespace} has {most} Runs that are not over, and may have no more");
    Problem::new(Code::RateLimited, message).hint("try again when some of them have ended").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_a_minutes_worth_and_then_its_pace() {
        let [ours, other]: [Namespace; 2] = ["ours", "other"].map(|name| name.parse().expect("a name"));
        let (mut pace, a_minute) = (Pace::default(), NonZeroU32::new(30).expect("some"));
        let start = Instant::now();
        assert!((0..30).all(|_| pace.take(&ours, a_minute, start).is_ok()));
        let denied = pace.take(&ours, a_minute, start).expect_err("denied");
        assert_eq!(denied.problem.code, Code::RateLimited);
        let after = denied.after.expect("known");
        assert!(after > Duration::from_millis(1900) && after <= Duration::from_secs(2), "{after:?}");
        assert!(pace.take(&other, a_minute, start).is_ok());
        assert!(pace.take(&ours, a_minute, start + Duration::from_millis(1900)).is_err());
        assert!(pace.take(&ours, a_minute, start + Duration::from_millis(2001)).is_ok());
        assert!(pace.take(&ours, a_minute, start + Duration::from_millis(2002)).is_err());
    }
}
