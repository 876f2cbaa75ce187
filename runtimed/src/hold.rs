//! Until when the commands of Runs may go on: one timer of the kernel, which every worker watches.
//!
//! A daemon that is stopped, starved or stuck ends no Run, and the controller hands its Runs on all the same. So the
//! moment at which it had to have ended them is not kept in the daemon alone: each answered renewal sets the timer, and
//! when it expires every worker kills its tree, whatever became of the daemon. It counts the time that a machine sleeps.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_gettime, timerfd_settime,
};
use tokio::sync::Notify;

/// The timer. It is set for no time at first, when nothing can be held.
#[derive(Debug)]
pub struct Hold {
    timer: OwnedFd,
    /// It was set once.
    set: AtomicBool,
    renewed: Notify,
}

/// A moment, on the clock that the daemon waits by and on the one that counts sleep.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// On the daemon's own clock.
    pub at: Instant,
    boot: Timespec,
}

impl Moment {
    /// Now, or a little before: the clock that counts sleep is asked first.
    #[must_use]
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::Boottime);
        Self { at: Instant::now(), boot }
    }
}

impl Hold {
    /// A timer.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self { timer, set: AtomicBool::new(false), renewed: Notify::new() })
    }

    /// Lets commands go on until so long after `moment`. One that is over already ends them now.
    pub fn until(&self, moment: Moment, after: Duration) {
        let after = Timespec::try_from(after).ok();
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = after.and_then(|after| moment.boot.checked_add(after)).unwrap_or(never);
        let times = Itimerspec { it_interval: never, it_value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &times) {
            // The time that was set before stays: commands end too early rather than too late.
            tracing::error!(%error, "the workers cannot be told of a renewal");
        }
        self.set.store(true, Ordering::Release);
        self.renewed.notify_waiters();
    }

    /// Whether the time is over, so that a command would be ended as it begins: this process was stopped, perhaps, and
    /// goes on. Not before the timer is set for the first time.
    #[must_use]
    pub fn is_over(&self) -> bool {
        // A timer that has expired has no time left (timerfd_gettime(2)).
        let left = timerfd_gettime(&self.timer).map(|times| times.it_value);
        self.set.load(Ordering::Acquire) && left.is_ok_and(|left| left.tv_sec == 0 && left.tv_nsec == 0)
    }

    /// Returns when the time is not over.
    pub async fn begins(&self) {
        loop {
            let mut renewed = std::pin::pin!(self.renewed.notified());
            // Registered before the look, so that no renewal falls between the two.
            renewed.as_mut().enable();
            if !self.is_over() {
                return;
            }
            renewed.await;
        }
    }

    /// What the workers watch.
    #[must_use]
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn expires_within(hold: &Hold, patience: Duration) -> bool {
        let timer = hold.timer();
        let timeout = Timespec::try_from(patience).expect("a time");
        poll(&mut [PollFd::from_borrowed_fd(timer, PollFlags::IN)], Some(&timeout)).expect("polled") > 0
    }

    #[test]
    fn it_expires_for_all_who_watch_and_a_renewal_sets_it_anew() {
        let hold = Hold::new().expect("made");
        assert!(!expires_within(&hold, Duration::from_millis(5)), "nothing was held yet");
        assert!(!hold.is_over());
        let sent = Moment::now();
        hold.until(sent, Duration::from_secs(3600));
        assert!(!expires_within(&hold, Duration::from_millis(5)));
        hold.until(sent, Duration::ZERO);
        assert!(expires_within(&hold, Duration::from_secs(30)));
        assert!(expires_within(&hold, Duration::ZERO), "whoever looks later sees it too");
        assert!(hold.is_over());
        hold.until(Moment::now(), Duration::from_secs(3600));
        assert!(!expires_within(&hold, Duration::ZERO));
        assert!(!hold.is_over());
    }

    #[tokio::test]
    async fn what_begins_waits_for_a_renewal() {
        let hold = Hold::new().expect("made");
        hold.begins().await;
        hold.until(Moment::now(), Duration::ZERO);
        let mut begins = std::pin::pin!(hold.begins());
        assert!(futures_util::poll!(&mut begins).is_pending());
        hold.until(Moment::now(), Duration::from_secs(3600));
        begins.await;
    }
}
