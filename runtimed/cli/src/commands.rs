//! What each word of the command line does.

mod artifacts;
mod logs;
mod patch;
mod run;
mod runs;
mod version;

use clap::CommandFactory as _;
use runtimed_api::exit::Exit;
use runtimed_api::ids::Namespace;
use runtimed_client::controller::Controller;

use crate::args::{Args, Command};
use crate::context::{Environment, Settings};
use crate::failure::Failure;
use crate::output::Output;
use crate::{document, local};

pub use artifacts::keep;
pub use run::{finish, submit};

/// A controller, and the namespace that is spoken of.
#[derive(Debug, Clone)]
pub struct Session {
    /// Whom to ask.
    pub controller: Controller,
    /// Where.
    pub namespace: Namespace,
}

/// Does what the command line asks, and gives the exit code.
///
/// # Errors
/// See [`Failure`].
pub async fn run(args: Args, build: &str, output: &Output) -> Result<u8, Failure> {
    let global = &args.global;
    let session = || {
        let settings = Settings::of(global, &Environment::of_process())?;
        let controller = settings.controller()?;
        Ok::<_, Failure>(Session { controller, namespace: settings.namespace })
    };
    let done = match args.command {
        Command::Local(local) => return Box::pin(local::run(&local, global, build, output)).await,
        Command::Run(words) => return Box::pin(run::run(&session()?, &words, output)).await,
        Command::Rerun(words) => return run::rerun(&session()?, &words, output).await,
        Command::Get(words) => runs::get(&session()?, &words.run, output).await,
        Command::List(words) => runs::list(&session()?, &words, output).await,
        Command::Wait(words) => return runs::wait(&session()?, &words, output).await,
        Command::Logs(words) => logs::logs(&session()?, words).await,
        Command::Cancel(words) => runs::cancel(&session()?, &words, output).await,
        Command::Delete(words) => runs::delete(&session()?, &words, output).await,
        Command::Outputs(words) => runs::outputs(&session()?, &words.run, output).await,
        Command::Artifacts(words) => artifacts::artifacts(&session()?, words, output).await,
        Command::Patch(words) => patch::patch(session, words, output).await,
        Command::Validate(words) => {
            let run = document::run(&words.file)?;
            runtimed_api::policy::judge_shape(&run).map_err(Failure::rules)?;
            output.note("valid", &words.file.display().to_string());
            Ok(())
        }
        Command::Runtimes => runs::runtimes(&session()?, output).await,
        Command::Version(words) => version::version(build, words.json, output),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "runtimectl", &mut script);
            output.text(&String::from_utf8_lossy(&script))
        }
    };
    done.map(|()| Exit::Ok.code())
}
