//! How long a broken connection is tried again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// Waits in a row: some 30 seconds in all.
const TRIES: u32 = 11;

/// How long a broken connection is tried again: waits that double, and come to an end unless there is progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    tried: u32,
}

impl Patience {
    /// There was progress.
    pub fn renew(&mut self) {
        self.tried = 0;
    }

    /// How long to wait before the next try; `None` at the end.
    pub fn next_wait(&mut self) -> Option<Duration> {
        if self.tried == TRIES {
            return None;
        }
        let wait = FIRST.saturating_mul(1 << self.tried).min(LONGEST);
        self.tried += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_within_a_minute_unless_renewed() {
        let mut patience = Patience::default();
        let waits: Vec<_> = std::iter::from_fn(|| patience.next_wait()).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        let all: Duration = waits.iter().sum();
        assert!((Duration::from_secs(20)..Duration::from_secs(60)).contains(&all), "{all:?}");
        patience.renew();
        assert_eq!(patience.next_wait(), Some(FIRST));
    }
}
