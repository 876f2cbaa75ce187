//! Steps 6, 7 and 9: the source, the prior patches, and the command's start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtimed_api::link::{Assign, Down, Start, Up};
use runtimed_api::policy::Granted;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::step::Step;
use tokio::time::Instant;

use super::memory::phase_memory;
use super::{Conversation, PROMPT, out_of_turn, seal};
use crate::attempt::given::{self, Given};
use crate::attempt::intent::confinement;
use crate::attempt::prior::prior_patches;
use crate::attempt::source::{Sourced, source};
use crate::attempt::workspace::{StagedEnv, Workspace};
use crate::attempt::{Attempt, Ended};
use crate::environ;

/// How long source and patches may take together.
const PREPARE: Duration = Duration::from_secs(900);

impl Conversation {
    /// Steps 6 and 7.
    pub(super) async fn prepare(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &Workspace,
    ) -> Result<(), Ended> {
        attempt.enter(Step::Source);
        let patches = prior_patches(attempt, workspace).await?;
        let config = &attempt.daemon.config;
        let Sourced { source, proxy, mirror } = source(attempt, workspace).await?;
        let Given { any, inputs } = given::give(attempt, granted, workspace).await?;
        let mirrored = mirror.is_some();
        let ca_file = config.ca_file().map(|path| path.to_string_lossy().into_owned());
        let assign = Assign {
            attempt: attempt.key().clone(),
            trees: workspace.trees(),
            guard_pid: std::process::id(),
            source,
            patches,
            patch_policy: config.patches.clone(),
            inputs,
            confinement: confinement(attempt, granted, any),
            ca_file,
            proxy,
            mirror,
            memory: phase_memory(granted.limits.memory),
        };
        self.send(&Down::Assign(Box::new(assign)), None).await?;
        let up = self.next(attempt, Instant::now() + PREPARE, "prepare the workspace").await;
        if mirrored {
            // Whatever became of the fetch, it may have filled its mirror. Nobody waits for this.
            let daemon = Arc::clone(&attempt.daemon);
            tokio::task::spawn_blocking(move || daemon.mirrors.trim());
        }
        let up = up?;
        let Up::Baseline(baseline) = up else { return Err(out_of_turn(&up)) };
        let result = &mut attempt.result;
        result.baseline = baseline.tree;
        result.commit = baseline.commit;
        result.steps.extend(
            baseline
                .steps
                .into_iter()
                .filter(|time| matches!(time.step, Step::Source | Step::Patches))
                .take(2),
        );
        result.warnings.extend(baseline.notes.into_iter().take(100));
        // What the worker has timed is not counted again.
        attempt.clock.lap(Step::Source);
        Ok(())
    }

    /// Step 9.
    pub(super) async fn start(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &Workspace,
        staged: StagedEnv,
    ) -> Result<(), Ended> {
        attempt.enter(Step::Run);
        let spec = &attempt.lease.run.spec;
        let daemon = &attempt.daemon;
        let places = workspace.places(daemon.isolation.tier);
        let mut env = environ::environment(
            attempt.key(),
            &places,
            &daemon.config.run,
            &granted.network,
            given::variables(attempt, granted, &places),
            &daemon.environment,
            &spec.env,
        );
        env.extend(staged.plain);
        environ::add_aliases(&mut env, daemon.config.aliases.iter().chain(&attempt.runtime.spec.aliases));
        let sealed = if staged.secret.is_empty() {
            None
        } else {
            let plain: BTreeMap<&str, &str> =
                staged.secret.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let json = serde_json::to_vec(&plain).map(zeroize::Zeroizing::new);
            let json =
                json.map_err(|_| Problem::new(Code::Internal, "the variables cannot be written as JSON"))?;
            Some(seal(&json)?)
        };
        let directory = spec.source.as_ref().and_then(|source| source.sub_path().map(str::to_owned));
        let start = Start {
            command: spec.command.clone(),
            directory: directory.unwrap_or_default(),
            env,
            secret_env: sealed.is_some(),
            staged: staged.any,
        };
        self.send(&Down::Start(start), sealed.as_ref()).await?;
        let deadline = Instant::now() + PROMPT;
        let up = self.next(attempt, deadline, "confine the command").await?;
        let Up::Enforced(enforced) = up else { return Err(out_of_turn(&up)) };
        attempt.result.enforcement = Some(enforced.enforcement);
        let up = self.next(attempt, deadline, "start the command").await?;
        let Up::Started(_) = up else { return Err(out_of_turn(&up)) };
        Ok(())
    }
}
