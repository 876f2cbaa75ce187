//! `runtimectl patch`: gets a Patch, and checks or applies patches on a person's own repository.

mod onto;
mod vouched;

use std::fs;

use runtimed_api::ids::RunName;
use runtimed_api::runtime::PatchPolicy;

use super::Session;
use super::runs::unwritable;
use crate::args::{Patch, PatchOn};
use crate::compose::{MAX_PATCH, Prior, prior};
use crate::document;
use crate::failure::Failure;
use crate::output::Output;
use onto::Onto;

/// A patch, and how the person named it.
#[derive(Debug)]
struct Named {
    name: String,
    bytes: Vec<u8>,
}

pub(super) async fn patch(
    session: impl Fn() -> Result<Session, Failure>,
    words: Patch,
    output: &Output,
) -> Result<(), Failure> {
    match words {
        Patch::Get { run, to } => {
            let bytes = of_run(&session()?, &run, output).await?;
            match to {
                Some(to) => fs::write(&to, &bytes).map_err(|error| unwritable(&to, &error)),
                None => output.bytes(&bytes),
            }
        }
        Patch::Check(on) => {
            let (patches, policy) = read(session, &on, output).await?;
            Onto::open(&on.repo)?.check(&patches, &policy, output).map(drop)
        }
        Patch::Apply(on) => {
            let (patches, policy) = read(session, &on, output).await?;
            let onto = Onto::open(&on.repo)?;
            onto.recover(output)?;
            let checked = onto.check(&patches, &policy, output)?;
            onto.apply(&checked, output)
        }
    }
}

/// The bytes of the patches, each named as a file or as a Run, and the rules to warn by. A controller is asked only where
/// something is named that is there.
async fn read(
    session: impl Fn() -> Result<Session, Failure>,
    on: &PatchOn,
    output: &Output,
) -> Result<(Vec<Named>, PatchPolicy), Failure> {
    let mut patches = Vec::new();
    for name in &on.patches {
        let bytes = match prior(name)? {
            Prior::File(file) => document::read_at_most(&file, MAX_PATCH)?,
            Prior::Run(run) => of_run(&session()?, &run, output).await?,
        };
        patches.push(Named { name: name.clone(), bytes });
    }
    let Some(runtime) = &on.runtime else { return Ok((patches, PatchPolicy::default())) };
    let known = session()?.controller.runtimes().await?;
    let found = known.into_iter().find(|known| known.metadata.name == *runtime).ok_or_else(|| {
        Failure::usage(format!("Runtime {runtime} does not exist or is not visible to you"))
            .hint("`runtimectl runtimes` lists them")
    })?;
    Ok((patches, found.spec.patches))
}

/// The Patch of a Run, with the controller's word that it is that.
async fn of_run(session: &Session, run: &RunName, output: &Output) -> Result<Vec<u8>, Failure> {
    let patch = session.controller.patch(&session.namespace, run).await?;
    let bytes: Vec<u8> = patch.bytes().await?.into();
    vouched::verify(session, run, &bytes, output).await?;
    Ok(bytes)
}
