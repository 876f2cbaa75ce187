//! How a daemon sets its Runs apart: what its configuration asks for, and what the pod allows.

use anyhow::anyhow;
use runtimed_api::enforcement::Tier;
use runtimed_sandbox::support::{self, Missing};

use crate::config::TierChoice;

/// How a daemon sets its Runs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isolation {
    /// By which means.
    pub tier: Tier,
    /// With [`Tier::Namespaces`]: a `/proc` can be mounted.
    pub own_proc: bool,
    /// Why there are no namespaces, where it was asked and there are none.
    pub missing: Option<Missing>,
}

impl Isolation {
    /// Chooses the tier for this pod. Asks the kernel, so this process has one thread yet.
    ///
    /// # Errors
    /// The tier that is asked for is not there.
    pub fn choose(choice: TierChoice) -> anyhow::Result<Self> {
        if choice == TierChoice::Base {
            return Ok(Self { tier: Tier::Base, own_proc: false, missing: None });
        }
        Self::of(choice, support::views())
    }

    /// The tier for a pod in which views are, or are not, to be had.
    ///
    /// # Errors
    /// As [`Isolation::choose`].
    pub fn of(choice: TierChoice, views: Result<bool, Missing>) -> anyhow::Result<Self> {
        let base = Self { tier: Tier::Base, own_proc: false, missing: None };
        match (views, choice) {
            (_, TierChoice::Base) => Ok(base),
            (Ok(own_proc), _) => Ok(Self { tier: Tier::Namespaces, own_proc, missing: None }),
            (Err(missing), TierChoice::Namespaces) => Err(anyhow!(
                "[sandbox] tier = \"Namespaces\" cannot be had in this pod: {missing}; set it to \"Auto\", or give \
                 the pod user namespaces"
            )),
            (Err(missing), _) => Ok(Self { missing: Some(missing), ..base }),
        }
    }
}
