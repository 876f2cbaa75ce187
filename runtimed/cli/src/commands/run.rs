//! `runtimectl run`: submit, stay, show what became of it.

use runtimed_api::exit::{self, Exit};
use runtimed_api::run::Run;

use super::Session;
use crate::args;
use crate::attach::{Attached, End};
use crate::compose::Composed;
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::signals::Interrupts;
use crate::summary::{self, Extras};

pub(super) async fn run(session: &Session, words: &args::Run, output: &Output) -> Result<u8, Failure> {
    let composed = Composed::of(&words.compose, &session.namespace, None)?;
    if composed.sourceless {
        output.note("note", "no source is given, so the workspace is empty; --here or --git URL gives one");
    }
    Box::pin(begin(session, composed, words.detach, output)).await
}

/// `runtimectl rerun`: what a Run asked for, as another Run.
pub(super) async fn rerun(session: &Session, words: &args::Rerun, output: &Output) -> Result<u8, Failure> {
    let run = session.controller.get(&session.namespace, &words.run).await?;
    Box::pin(begin(session, Composed::again(run, words)?, words.detach, output)).await
}

/// Submits a Run, and stays with it unless it is to be detached.
async fn begin(session: &Session, composed: Composed, detach: bool, output: &Output) -> Result<u8, Failure> {
    // From here on an interrupt ends the Run as well, and not this process alone.
    let mut interrupts = Interrupts::new()?;
    let submitted = submit(session, composed);
    let run = tokio::select! {
        run = submitted => run?,
        () = interrupts.next() => return Err(Failure::cancelled("interrupted before the Run was submitted")),
    };
    let attached = Attached::to(&session.controller, &session.namespace, &run)?;
    if detach {
        output.result(&run, |_| format!("{}\n", attached.name))?;
        return Ok(Exit::Ok.code());
    }
    output.note("submitted", &format!("{}/{}", attached.namespace, attached.name));
    match attached.stay(run, output, &mut interrupts).await? {
        End::Over(run) => finish(session, &run, true, output).await,
        End::Detached => {
            let Attached { namespace, name, .. } = &attached;
            Err(Failure::cancelled(format!("left {namespace}/{name} alone; its cancellation is under way"))
                .hint(format!("see how it ends: runtimectl wait {name} -n {namespace}")))
        }
    }
}

/// Uploads the source and the prior patches, and submits the Run.
///
/// # Errors
/// A patch cannot be read, or the controller does not take it or the Run.
pub async fn submit(session: &Session, composed: Composed) -> Result<Run, Failure> {
    let Composed { mut submission, patches, upload, .. } = composed;
    if let Some(bytes) = upload {
        session.controller.put_source(&session.namespace, bytes.into()).await?;
    }
    for patch in patches {
        let patch = patch.resolve(&session.controller, &session.namespace).await?;
        submission.run.spec.prior_patches.push(patch);
    }
    Ok(session.controller.submit(&session.namespace, &submission).await?)
}

/// Shows a Run that is over, and gives its exit code. `commands`: the controller is still there to be asked.
///
/// # Errors
/// Nobody reads the result.
pub async fn finish(session: &Session, run: &Run, commands: bool, output: &Output) -> Result<u8, Failure> {
    if output.format == Format::Table {
        let last = run.status.as_ref().and_then(|status| status.attempts.last()?.result.as_ref());
        let listed = last.is_some_and(|result| result.artifacts.is_some());
        let manifest = match run.metadata.name.as_ref().filter(|_| listed) {
            // A summary without the list is better than none.
            Some(name) => session.controller.manifest(&session.namespace, name).await.ok(),
            None => None,
        };
        let extras = Extras { manifest: manifest.as_ref(), commands };
        output.say(&format!("\n{}", summary::render(run, extras, output.err)));
    } else {
        output.result(run, |_| String::new())?;
    }
    Ok(run.status.as_ref().and_then(exit::of).unwrap_or(Exit::Fault.code()))
}
