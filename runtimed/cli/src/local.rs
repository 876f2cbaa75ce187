//! `runtimectl local`: controller and daemon on loopback, for one Run.
//!
//! ```text
//! runtimectl local ──stdin──► runtimed-controller serve      both end when their standard input does, so that
//!        │         ──stdin──► runtimed serve                 they cannot outlive this process, however it ends
//!        │                        └──► runtimed-worker
//!        └── the Run: submitted, followed and shown through the controller, as any other
//! ```

mod files;
mod home;
mod owner;
mod repository;
mod servers;
mod siblings;

use runtimed_api::exit::Exit;
use runtimed_api::ids::RuntimeName;

use crate::args::{Global, Local};
use crate::attach::{Attached, End};
use crate::commands::{self, Session, finish};
use crate::compose::{Composed, Prior};
use crate::context::default_namespace;
use crate::failure::Failure;
use crate::output::Output;
use crate::signals::Interrupts;

use home::Home;
use owner::Owner;
use servers::Servers;
use siblings::Siblings;

/// Does all of it, and gives the Run's exit code.
///
/// # Errors
/// See [`Failure`]. Nothing is left behind in any case but a kill of this process itself.
pub async fn run(words: &Local, global: &Global, build: &str, output: &Output) -> Result<u8, Failure> {
    let remote = [global.server.is_some(), global.context.is_some(), global.token_file.is_some()];
    if remote.contains(&true) {
        return Err(Failure::usage(
            "`local` brings its own controller: --server, --context and --token-file do not go with it",
        )
        .hint("leave them out, or use `runtimectl run`"));
    }
    let namespace = global.namespace.clone().map_or_else(default_namespace, Ok)?;
    let runtime: RuntimeName = "local".parse().map_err(|error| Failure::fault(format!("{error}")))?;
    let composed = Composed::of(&words.compose, &namespace, Some(runtime))?;
    if let Some(Prior::Run(run)) = composed.patches.iter().find(|patch| matches!(patch, Prior::Run(_))) {
        return Err(Failure::usage(format!("there is no file {run}, and here is no earlier Run either"))
            .hint("give the path of a patch; `runtimectl run` knows Runs by name"));
    }
    if composed.sourceless {
        output.note("note", "no source is given, so the workspace is empty; --git . gives this repository");
    }
    let siblings = Siblings::find(build).await?;
    let mut interrupts = Interrupts::new()?;
    let home = Home::make(Owner::of_process(words.user))?;
    let ended = Box::pin(inside(&home, &siblings, words, composed, namespace, output, &mut interrupts)).await;
    let removed = home.remove();
    let code = ended?;
    removed.map(|()| code)
}

/// What happens while the directory is there.
async fn inside(
    home: &Home,
    siblings: &Siblings,
    words: &Local,
    mut composed: Composed,
    namespace: runtimed_api::ids::Namespace,
    output: &Output,
    interrupts: &mut Interrupts,
) -> Result<u8, Failure> {
    if let Some(git) = composed.git_mut() {
        repository::hand_over(git, home, output)?;
    }
    let mut files = files::write(home, &composed.submission.run.spec.runtime, &siblings.worker)?;
    let mut servers = tokio::select! {
        servers = Servers::start(siblings, home, &mut files, words.verbose) => servers?,
        () = interrupts.next() => return Err(Failure::cancelled("interrupted before the Run was submitted")),
    };
    let session = Session { controller: servers.controller(&files)?, namespace };
    let ended = tokio::select! {
        ended = serve(&session, words, composed, output, interrupts) => ended,
        failure = servers.one_ends() => Err(failure),
    };
    let stopped = servers.stop().await;
    let code = ended?;
    stopped.map(|()| code)
}

/// The Run, from its submission to what is shown of it.
async fn serve(
    session: &Session,
    words: &Local,
    composed: Composed,
    output: &Output,
    interrupts: &mut Interrupts,
) -> Result<u8, Failure> {
    let run = commands::submit(session, composed).await?;
    let attached = Attached::to(&session.controller, &session.namespace, &run)?;
    match attached.stay(run, output, interrupts).await? {
        End::Over(run) => {
            if let Some(dir) = &words.out {
                commands::keep(session, &run, dir, output).await?;
            }
            finish(session, &run, false, output).await
        }
        End::Detached => Ok(Exit::Cancelled.code()),
    }
}
