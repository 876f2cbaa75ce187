//! The Run of a job: from a file, a variable, or parts; and the lease that a controller would have made of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, AttemptNumber, Fence, Namespace, RunName};
use runtimed_api::run::Run;
use runtimed_api::run::spec::PriorPatch;
use runtimed_api::runtime::{Runtime, RuntimeKind, RuntimeMetadata, RuntimeSpec};
use runtimed_api::session::{Lease, LeasedPatch, SecretText};
use runtimed_api::trace::TraceContext;
use runtimed_api::{API_VERSION, MAX_OBJECT_BYTES, environment, parse};
use serde_json::{Value, json};

use super::JobArgs;
use crate::args::Failure;
use crate::config::Config;
use crate::upstream::Given;

/// The parts of a Run, for those who have no object of it. Each has the meaning of the field of the same name.
#[derive(Debug, Default, Args)]
pub(super) struct Parts {
    /// The Run's name (default: the host's name, which is the pod's).
    #[arg(long, env = "RUNTIMED_JOB_NAME", hide_env_values = true)]
    name: Option<String>,
    /// Its namespace: what its secrets are configured for.
    #[arg(long, env = "RUNTIMED_JOB_NAMESPACE", hide_env_values = true)]
    namespace: Option<String>,
    /// A git repository to work on.
    #[arg(long, env = "RUNTIMED_JOB_GIT_URL", value_name = "URL", hide_env_values = true)]
    git_url: Option<String>,
    /// Its branch, tag or commit.
    #[arg(long, env = "RUNTIMED_JOB_GIT_REF", value_name = "REF", hide_env_values = true)]
    git_ref: Option<String>,
    /// The configured secret that opens it.
    #[arg(long, env = "RUNTIMED_JOB_GIT_CREDENTIAL", value_name = "NAME", hide_env_values = true)]
    git_credential: Option<String>,
    /// A configured secret that the command may read; several are separated by commas.
    #[arg(
        long,
        env = "RUNTIMED_JOB_SECRETS",
        value_name = "NAME",
        value_delimiter = ',',
        hide_env_values = true
    )]
    secret: Vec<String>,
    /// Variables for the command, as a JSON object.
    #[arg(long, env = "RUNTIMED_JOB_ENV", value_name = "JSON", hide_env_values = true)]
    env: Option<String>,
    /// `None`, `Full`, or the ports that may be connected to, separated by commas.
    #[arg(long, env = "RUNTIMED_JOB_NETWORK", value_name = "MODE|PORTS", hide_env_values = true)]
    network: Option<String>,
    /// How long it may take, such as 30m.
    #[arg(long, env = "RUNTIMED_JOB_TIMEOUT", value_name = "SPAN", hide_env_values = true)]
    timeout: Option<String>,
    /// A glob of files to keep; several are separated by commas.
    #[arg(
        long,
        env = "RUNTIMED_JOB_ARTIFACTS",
        value_name = "GLOB",
        value_delimiter = ',',
        hide_env_values = true
    )]
    artifact: Vec<String>,
    /// The command as a JSON array of strings, where it is not given as arguments.
    #[arg(long, env = "RUNTIMED_JOB_COMMAND", value_name = "JSON", hide_env_values = true)]
    command_json: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Parts {
    fn are_given(&self) -> bool {
        let texts = [
            &self.name,
            &self.namespace,
            &self.git_url,
            &self.git_ref,
            &self.git_credential,
            &self.env,
            &self.network,
            &self.timeout,
            &self.command_json,
        ];
        let lists = [&self.secret, &self.artifact, &self.command];
        texts.iter().any(|text| text.is_some()) || lists.iter().any(|list| !list.is_empty())
    }

    /// The Run as an object, which is then read like any other.
    fn object(&self, runtime: &str) -> anyhow::Result<Value> {
        let command = match &self.command_json {
            Some(_) if !self.command.is_empty() => bail!("the command is given as arguments and as JSON"),
            Some(text) => parse::json::<Vec<String>>(text.as_bytes())
                .context("--command-json must be a JSON array of strings")?,
            None => self.command.clone(),
        };
        let mut metadata = json!({});
        for (key, value) in [("name", &self.name), ("namespace", &self.namespace)] {
            if let Some(value) = value {
                metadata[key] = json!(value);
            }
        }
        let mut spec = json!({ "runtime": runtime, "command": command });
        if let Some(url) = &self.git_url {
            let mut git = json!({ "url": url });
            for (key, value) in [("ref", &self.git_ref), ("credential", &self.git_credential)] {
                if let Some(value) = value {
                    git[key] = json!(value);
                }
            }
            spec["source"] = json!({ "git": git });
        } else if self.git_ref.is_some() || self.git_credential.is_some() {
            bail!("a ref or a credential needs the repository: --git-url or RUNTIMED_JOB_GIT_URL");
        }
        if let Some(env) = &self.env {
            let env: BTreeMap<String, String> =
                parse::json(env.as_bytes()).context("the variables are no JSON object of texts")?;
            spec["env"] = json!(env);
        }
        if !self.secret.is_empty() {
            spec["secrets"] = self.secret.iter().map(|name| json!({ "name": name })).collect();
        }
        if let Some(network) = &self.network {
            spec["network"] = match network.as_str() {
                "None" | "Full" => json!({ "mode": network }),
                ports => {
                    let ports: Result<Vec<u16>, _> =
                        ports.split(',').map(|port| port.trim().parse()).collect();
                    let ports =
                        ports.map_err(|_| anyhow!("network {network:?} is not None, Full or ports"))?;
                    json!({ "mode": "Ports", "ports": ports })
                }
            };
        }
        if let Some(timeout) = &self.timeout {
            spec["limits"] = json!({ "timeout": timeout });
        }
        if !self.artifact.is_empty() {
            spec["artifacts"] = json!({ "paths": self.artifact });
        }
        Ok(json!({ "apiVersion": API_VERSION, "kind": "Run", "metadata": metadata, "spec": spec }))
    }
}

/// What the job was given, or nothing if it is to lease.
pub(super) fn given(config: &Config, args: JobArgs) -> Result<Option<Given>, Failure> {
    let ways = [args.file.is_some(), args.run.is_some(), args.lease, args.parts.are_given()];
    let count = ways.into_iter().filter(|way| *way).count();
    if count != 1 {
        let what = if count == 0 { "no Run is given" } else { "the Run is given in more than one way" };
        return Err(Failure::usage(anyhow!(
            "{what}: use one of --file, --run, --lease, and a command with its parts; see `runtimed job --help`"
        )));
    }
    if args.lease {
        if args.patch.is_empty() && args.results.is_none() {
            return Ok(None);
        }
        return Err(Failure::usage(anyhow!(
            "patches and results of a leased Run are the controller's: leave --patch and --results out"
        )));
    }
    let mut run = run(config, &args).map_err(Failure::usage)?;
    let (leased, patches) = patches(config, &run, &args.patch).map_err(Failure::usage)?;
    run.spec.prior_patches =
        leased.iter().map(|patch| PriorPatch { run: None, digest: Some(patch.digest) }).collect();
    Ok(Some(of(config, run, leased, patches, args.results, trace()).map_err(Failure::usage)?))
}

/// A Run of a command alone.
///
/// # Errors
/// The name is none.
pub(crate) fn given_command(config: &Config, name: &str, command: Vec<String>) -> anyhow::Result<Given> {
    let parts = Parts { name: Some(name.to_owned()), command, ..Parts::default() };
    let run = parse::from(&parts.object(config.runtime.as_str())?)?;
    of(config, run, Vec::new(), BTreeMap::new(), None, None)
}

/// The trace that whoever started this process is in.
fn trace() -> Option<TraceContext> {
    let state = std::env::var(environment::TRACESTATE).ok();
    TraceContext::read(&std::env::var(environment::TRACEPARENT).ok()?, state.as_deref())
}

fn of(
    config: &Config,
    run: Run,
    leased: Vec<LeasedPatch>,
    patches: BTreeMap<Digest, Bytes>,
    results: Option<PathBuf>,
    trace: Option<TraceContext>,
) -> anyhow::Result<Given> {
    let lease = lease(run, leased, trace)?;
    let runtime = Runtime {
        api_version: runtimed_api::run::ApiVersion::default(),
        kind: RuntimeKind::default(),
        metadata: RuntimeMetadata { name: config.runtime.clone() },
        spec: RuntimeSpec { namespaces: vec!["*".to_owned()], ..RuntimeSpec::default() },
    };
    Ok(Given::new(runtime, lease, patches, results))
}

fn run(config: &Config, args: &JobArgs) -> anyhow::Result<Run> {
    let yaml = |text: &str| parse::from(yaml_serde::Deserializer::from_str(text));
    let mut run: Run = match (&args.file, &args.run) {
        (Some(file), _) => {
            let bytes = bounded(file, MAX_OBJECT_BYTES as u64)?;
            let text =
                std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", file.display()))?;
            yaml(text).with_context(|| format!("{} is not a valid Run", file.display()))?
        }
        (None, Some(text)) => yaml(text).context("--run is not a valid Run")?,
        (None, None) => {
            let object = args.parts.object(config.runtime.as_str())?;
            parse::from(&object).context("the parts do not make a valid Run")?
        }
    };
    if run.spec.runtime != config.runtime {
        bail!("the Run is for the Runtime {}, and this is {}", run.spec.runtime, config.runtime);
    }
    if run.metadata.name.is_none() {
        run.metadata.name = Some(name_of_host()?);
    }
    Ok(run)
}

/// The host's name as far as it can be a Run's: a pod's is one as it stands.
fn name_of_host() -> anyhow::Result<RunName> {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let name: String = host.chars().map(|c| if allowed(c) { c } else { '-' }).take(63).collect();
    Ok(name.trim_matches('-').parse().or_else(|_| "job".parse())?)
}

/// The prior patches in their order, and their bytes.
fn patches(
    config: &Config,
    run: &Run,
    files: &[PathBuf],
) -> anyhow::Result<(Vec<LeasedPatch>, BTreeMap<Digest, Bytes>)> {
    let mut bytes = BTreeMap::new();
    let mut given = Vec::new();
    for file in files {
        let content = bounded(file, config.patches.max_bytes.0)?;
        let digest = Digest::of(&content);
        let label = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        given.push(LeasedPatch { digest, label, base: None, result: None, statement: None });
        bytes.insert(digest, Bytes::from(content));
    }
    // Without a list of its own the Run takes the files in their order.
    let leased = if run.spec.prior_patches.is_empty() {
        given
    } else {
        let of = |wanted: &PriorPatch| {
            let digest = wanted.digest.with_context(
                || "a job knows no earlier Runs: name prior patches by digest, and give each with --patch",
            )?;
            let found = given.iter().find(|patch| patch.digest == digest).cloned();
            found.with_context(|| format!("the Run asks for the patch {digest}: give it with --patch"))
        };
        run.spec.prior_patches.iter().map(of).collect::<anyhow::Result<_>>()?
    };
    if leased.len() > 16 {
        bail!("{} prior patches are more than 16", leased.len());
    }
    Ok((leased, bytes))
}

/// The lease that a controller would have made of it.
fn lease(run: Run, patches: Vec<LeasedPatch>, trace: Option<TraceContext>) -> anyhow::Result<Lease> {
    let default = || "default".parse::<Namespace>();
    let namespace = run.metadata.namespace.clone().map_or_else(default, Ok)?;
    let name = run.metadata.name.clone().context("the Run has no name")?;
    let random = random_token()?;
    let attempt = AttemptKey {
        namespace,
        name,
        uid: random[..32].parse()?,
        attempt: AttemptNumber(1),
        fence: Fence(1),
    };
    Ok(Lease {
        attempt,
        run,
        requested_by: "job".to_owned(),
        token: SecretText::new(random_token()?),
        read_token: SecretText::new(random_token()?),
        secrets: BTreeMap::new(),
        patches,
        trace,
        given_millis: None,
    })
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A file of at most so many bytes.
fn bounded(file: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("{} cannot be read", file.display()))?;
    if bytes.len() as u64 > most {
        bail!("{} is larger than {most} bytes", file.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts { command: vec!["make".to_owned(), "test".to_owned()], ..Parts::default() }
    }

    #[test]
    fn parts_make_the_same_run_as_an_object() {
        let given = Parts {
            name: Some("fix".to_owned()),
            git_url: Some("https://git.example/app.git".to_owned()),
            git_ref: Some("main".to_owned()),
            secret: vec!["transaction".to_owned()],
            network: Some("443, 80".to_owned()),
            timeout: Some("30m".to_owned()),
            env: Some(r#"{"LEVEL":"debug"}"#.to_owned()),
            ..parts()
        };
        let object = given.object("bash").expect("an object");
        let run: Run = parse::from(&object).expect("a Run");
        let text = "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: { name: fix }\nspec:\n  runtime: bash\n  command: [make, test]\n  source: { git: { url: 'https://git.example/app.git', ref: main } }\n  secrets: [ { name: transaction } ]\n  network: { mode: Ports, ports: [443, 80] }\n  limits: { timeout: 30m }\n  env: { LEVEL: debug }\n";
        let written: Run = parse::from(yaml_serde::Deserializer::from_str(text)).expect("a Run");
        assert_eq!(run, written);
    }

    #[test]
    fn parts_that_contradict_each_other_are_refused() {
        for (bad, word) in [
            (Parts { git_ref: Some("main".to_owned()), ..parts() }, "needs the repository"),
            (Parts { network: Some("all".to_owned()), ..parts() }, "not None, Full or ports"),
            (Parts { command_json: Some("[]".to_owned()), ..parts() }, "as arguments and as JSON"),
            (Parts { env: Some("A=b".to_owned()), ..parts() }, "no JSON object"),
        ] {
            let error = bad.object("bash").expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn any_host_has_a_name() {
        assert!(name_of_host().is_ok());
    }
}
