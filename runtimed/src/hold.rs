//! Until when the commands of Runs may go on: one timer of the kernel, which every worker watches.
//!
//! A daemon that is stopped, starved or stuck ends no Run, and the controller hands its Runs on all the same. So the
//! moment at which it had to have ended them is not kept in the daemon alone: each answered renewal sets the timer, and
//! when it expires every worker kills its tree, whatever became of the daemon. It counts the time that a machine sleeps.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// The timer. It is set for no time at first, when nothing can be held.
#[derive(Debug)]
pub struct Hold {
    timer: OwnedFd,
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
        Ok(Self { timer: timerfd_create(TimerfdClockId::Boottime, flags)? })
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
        let sent = Moment::now();
        hold.until(sent, Duration::from_secs(3600));
        assert!(!expires_within(&hold, Duration::from_millis(5)));
        hold.until(sent, Duration::ZERO);
        assert!(expires_within(&hold, Duration::from_secs(30)));
        assert!(expires_within(&hold, Duration::ZERO), "whoever looks later sees it too");
        hold.until(Moment::now(), Duration::from_secs(3600));
        assert!(!expires_within(&hold, Duration::ZERO));
    }
}
