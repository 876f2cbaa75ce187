//! How a daemon sets its Runs apart: what its configuration asks for, and what the pod allows.

use anyhow::anyhow;
use runtimed_api::enforcement::Tier;
use runtimed_sandbox::support::{self, Missing, Support};

use crate::config::{Config, TierChoice};
use crate::exclusive::{self, Fitness};

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
    pub fn choose(config: &Config) -> anyhow::Result<Self> {
        let choice = config.sandbox.tier;
        let fitness = exclusive::fitness(config, &Support::probe().mounts);
        // Found out by making one, which takes some milliseconds.
        let asked = matches!(choice, TierChoice::Auto | TierChoice::Namespaces);
        let views = if asked { support::views() } else { Err(Missing::SwitchedOff) };
        Self::of(choice, views, &fitness)
    }

    /// The tier for a pod in which views are, or are not, to be had, and that is, or is not, one for a Run alone.
    ///
    /// # Errors
    /// As [`Isolation::choose`].
    pub fn of(choice: TierChoice, views: Result<bool, Missing>, fitness: &Fitness) -> anyhow::Result<Self> {
        let plain = |tier| Self { tier, own_proc: false, missing: None };
        match (choice, views) {
            (TierChoice::Base, _) => Ok(plain(Tier::Base)),
            (TierChoice::Exclusive, _) => match &fitness.possible {
                Ok(()) => Ok(plain(Tier::Exclusive)),
                Err(why) => Err(anyhow!(
                    "[sandbox] tier = \"Exclusive\" is not possible in this pod: {why}; mend that, or set it to \"Auto\""
                )),
            },
            (_, Ok(own_proc)) => Ok(Self { own_proc, ..plain(Tier::Namespaces) }),
            (TierChoice::Namespaces, Err(missing)) => Err(anyhow!(
                "[sandbox] tier = \"Namespaces\" is not possible in this pod: {missing}; set it to \"Auto\", or give \
                 the pod user namespaces"
            )),
            (TierChoice::Auto, Err(missing)) => {
                let tier = if fitness.evident { Tier::Exclusive } else { Tier::Base };
                Ok(Self { missing: Some(missing), ..plain(tier) })
            }
        }
    }

    /// The same for a daemon beside the real one, which must not take the Run's directories: with base's rules.
    #[must_use]
    pub fn beside(self) -> Self {
        if self.tier == Tier::Exclusive { Self { tier: Tier::Base, ..self } } else { self }
    }
}
