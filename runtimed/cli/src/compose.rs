//! Makes a Run of what the command line says: a file, flags over it, a command.

mod here;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName, RuntimeName, SecretName};
use runtimed_api::policy;
use runtimed_api::run::source::{ArchiveSource, GitSource, Source};
use runtimed_api::run::spec::{Artifacts, Input, PriorPatch, RunSpec, SecretUse};
use runtimed_api::run::{ApiVersion, Metadata, Run, RunKind};
use runtimed_api::session::{SecretValue, Submission};
use runtimed_client::controller::Controller;
use zeroize::Zeroizing;

use crate::args::{Compose, Rerun};
use crate::document;
use crate::failure::Failure;

/// The largest secret that can be brought, in bytes.
const MAX_SECRET: u64 = 64 * 1024;
/// The largest patch that is uploaded, in bytes: the default of a Runtime's own bound.
pub const MAX_PATCH: u64 = 64 * 1024 * 1024;

/// The largest archive that is uploaded, in bytes; the controller takes no larger one.
const MAX_ARCHIVE: u64 = 64 * 1024 * 1024;

/// The longest start of a generated name.
const MAX_START: usize = 57;

/// A Run that can be submitted once its prior patches are uploaded.
#[derive(Debug)]
pub struct Composed {
    /// What is asked for, and the secrets that are brought.
    pub submission: Submission,
    /// Prior patches after those that the file names, in order.
    pub patches: Vec<Prior>,
    /// What the source names, to be uploaded first: a work tree or an archive.
    pub upload: Option<Vec<u8>>,
    /// The command starts in an empty workspace, and nobody said that it should.
    pub sourceless: bool,
}

/// A prior patch as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prior {
    /// Bytes to upload, from this file.
    File(PathBuf),
    /// An earlier Run's.
    Run(RunName),
}

impl Composed {
    /// Puts the file and the flags together and judges the form of the result.
    ///
    /// # Errors
    /// A file on the command line cannot be used, the parts contradict each other, or the Run breaks a rule of form.
    pub fn of(
        compose: &Compose,
        namespace: &Namespace,
        default_runtime: Option<RuntimeName>,
    ) -> Result<Self, Failure> {
        let mut run = match &compose.file {
            Some(file) => document::run(file)?,
            None => blank(compose, default_runtime)?,
        };
        if let Some(name) = &compose.name {
            run.metadata.name = Some(name.clone());
            run.metadata.generate_name = None;
        }
        if run.metadata.name.is_none() && run.metadata.generate_name.is_none() {
            run.metadata.generate_name = Some("run-".to_owned());
        }
        match &run.metadata.namespace {
            Some(own) if own != namespace => {
                return Err(Failure::usage(format!(
                    "the Run is for the namespace {own}, not for {namespace}"
                ))
                .hint(format!("give -n {own}, or leave metadata.namespace out")));
            }
            _ => run.metadata.namespace = Some(namespace.clone()),
        }
        if let Some(runtime) = &compose.runtime {
            run.spec.runtime = runtime.clone();
        }
        if !compose.command.is_empty() {
            run.spec.command.clone_from(&compose.command);
        }
        if let Some(url) = &compose.git {
            run.spec.source =
                Some(Source { git: Some(git(&run, url, compose.reference.as_ref())), ..Source::default() });
        }
        let mut upload = None;
        if compose.here {
            let (source, bytes) = here::pack()?;
            run.spec.source = Some(Source { upload: Some(source), ..Source::default() });
            upload = Some(bytes);
        }
        if let Some(file) = &compose.archive {
            let bytes = document::read_at_most(file, MAX_ARCHIVE)?;
            let source = archive(&run, Digest::of(&bytes));
            run.spec.source = Some(Source { archive: Some(source), ..Source::default() });
            upload = Some(bytes);
        }
        run.spec.inputs.extend(compose.input.iter().map(|run| Input { run: run.clone() }));
        let mut submission = Submission { run, secrets: BTreeMap::new() };
        for (name, file) in &compose.secret {
            bring(&mut submission, name, file)?;
        }
        policy::judge_shape(&submission.run).map_err(Failure::rules)?;
        let patches = compose.prior_patch.iter().map(|given| prior(given)).collect::<Result<_, _>>()?;
        let sourceless = submission.run.spec.source.is_none();
        Ok(Self { submission, patches, upload, sourceless })
    }

    /// What a Run asked for, once more; on top of what it changed, if so asked.
    ///
    /// # Errors
    /// It changed nothing, or its patch was not kept; a secret cannot be read.
    pub fn again(run: Run, words: &Rerun) -> Result<Self, Failure> {
        let Run { api_version, kind, metadata, mut spec, status } = run;
        if words.on_top {
            let result = status.iter().flat_map(|status| status.attempts.iter().rev()).find_map(|attempt| {
                let result = attempt.result.as_ref()?;
                result.patch.as_ref().map(|patch| (result, patch))
            });
            let Some((result, patch)) = result else {
                return Err(Failure::refused(format!(
                    "the Run {} has changed nothing to start from",
                    words.run
                ))
                .hint("leave --on-top out, or `runtimectl wait` for its end"));
            };
            if let Some(withheld) = &patch.withheld {
                return Err(Failure::rules(vec![withheld.clone()]));
            }
            // A branch may have moved since, and the patch is for this commit.
            if let (Some(git), Some(commit)) =
                (spec.source.as_mut().and_then(|source| source.git.as_mut()), &result.commit)
            {
                git.reference = Some(commit.as_str().to_owned());
            }
            spec.prior_patches.push(PriorPatch { run: Some(words.run.clone()), digest: None });
        }
        if !words.command.is_empty() {
            spec.command.clone_from(&words.command);
        }
        let start = metadata.generate_name.unwrap_or_else(|| {
            let name: String = words.run.as_str().chars().take(MAX_START - 1).collect();
            format!("{}-", name.trim_end_matches('-'))
        });
        let metadata = Metadata {
            generate_name: words.name.is_none().then_some(start),
            name: words.name.clone(),
            namespace: metadata.namespace,
            labels: metadata.labels,
            ..Metadata::default()
        };
        let run = Run { api_version, kind, metadata, spec, status: None };
        let mut submission = Submission { run, secrets: BTreeMap::new() };
        for (name, file) in &words.secret {
            bring(&mut submission, name, file)?;
        }
        policy::judge_shape(&submission.run).map_err(Failure::rules)?;
        Ok(Self { submission, patches: Vec::new(), upload: None, sourceless: false })
    }

    /// The Run's git source, if it has one.
    #[must_use]
    pub fn git_mut(&mut self) -> Option<&mut GitSource> {
        self.submission.run.spec.source.as_mut()?.git.as_mut()
    }
}

impl Prior {
    /// Uploads it if it is a file, and gives the words by which a Run names it.
    ///
    /// # Errors
    /// The file cannot be read, or the controller does not take it.
    pub async fn resolve(
        &self,
        controller: &Controller,
        namespace: &Namespace,
    ) -> Result<PriorPatch, Failure> {
        Ok(match self {
            Self::Run(run) => PriorPatch { run: Some(run.clone()), digest: None },
            Self::File(file) => {
                let bytes = document::read_at_most(file, MAX_PATCH)?;
                let digest = controller.put_patch(namespace, bytes.into()).await?;
                PriorPatch { run: None, digest: Some(digest) }
            }
        })
    }
}

/// A Run of the command line alone.
fn blank(compose: &Compose, default_runtime: Option<RuntimeName>) -> Result<Run, Failure> {
    if compose.command.is_empty() {
        return Err(Failure::usage("neither a file nor a command is given")
            .hint("give -f run.yaml, or a command after --, such as: -- make test"));
    }
    let runtime = compose.runtime.clone().or(default_runtime).ok_or_else(|| {
        Failure::usage("no Runtime is named").hint("give --runtime NAME; `runtimectl runtimes` lists them")
    })?;
    let spec = RunSpec {
        runtime,
        source: None,
        prior_patches: Vec::new(),
        inputs: Vec::new(),
        command: Vec::new(),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        network: None,
        limits: runtimed_api::run::limits::Limits::default(),
        tier: None,
        watch: false,
        artifacts: Artifacts::default(),
        retry: None,
        ttl_after_finished: None,
    };
    let (api_version, kind) = (ApiVersion::default(), RunKind::default());
    Ok(Run { api_version, kind, metadata: Metadata::default(), spec, status: None })
}

/// The source that the flags name; what the file says of the same kind of source stays where no flag speaks of it.
fn git(run: &Run, url: &str, reference: Option<&String>) -> GitSource {
    let of_file = run.spec.source.as_ref().and_then(|source| source.git.clone());
    let mut git = of_file.unwrap_or_else(|| GitSource {
        url: String::new(),
        reference: None,
        depth: None,
        sub_path: None,
        credential: None,
    });
    url.clone_into(&mut git.url);
    git.reference = reference.cloned().or(git.reference);
    git
}

/// An uploaded archive; where the file says in which of its directories the command starts, it stays so.
fn archive(run: &Run, digest: Digest) -> ArchiveSource {
    let of_file = run.spec.source.as_ref().and_then(|source| source.archive.as_ref());
    let sub_path = of_file.and_then(|archive| archive.sub_path.clone());
    ArchiveSource { url: None, digest: Some(digest), sub_path, credential: None }
}

/// Reads a secret, and has the command receive it if the file does not say how.
fn bring(submission: &mut Submission, name: &SecretName, file: &Path) -> Result<(), Failure> {
    let about = |failure: Failure| failure.hint(format!("the secret {name} is read from there: NAME=FILE"));
    let bytes = Zeroizing::new(document::read_at_most(file, MAX_SECRET).map_err(about)?);
    if bytes.trim_ascii().is_empty() {
        return Err(about(Failure::usage(format!("{} is empty", file.display()))));
    }
    if submission.secrets.insert(name.clone(), SecretValue::new(bytes.to_vec())).is_some() {
        return Err(Failure::usage(format!("the secret {name} is given twice")));
    }
    let spec = &mut submission.run.spec;
    let credential = spec.source.as_ref().and_then(|source| source.credential());
    if credential != Some(name) && !spec.secrets.iter().any(|secret| secret.name == *name) {
        spec.secrets.push(SecretUse { name: name.clone(), env: None, file: None, mode: None });
    }
    Ok(())
}

/// A file if there is one of that path, else a Run.
///
/// # Errors
/// It is neither.
pub fn prior(given: &str) -> Result<Prior, Failure> {
    let path = Path::new(given);
    if path.exists() {
        return Ok(Prior::File(path.to_owned()));
    }
    given.parse().map(Prior::Run).map_err(|_| {
        Failure::usage(format!("{given} is neither a file nor the name of a Run"))
            .hint("give the path of a patch, or the name of the Run that captured it")
    })
}

#[cfg(test)]
mod tests;
