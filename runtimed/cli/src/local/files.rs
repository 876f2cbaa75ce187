//! What controller and daemon are told: tokens, the Runtime, the daemon's configuration.

use std::path::{Path, PathBuf};

use runtimed_api::digest::Digest;
use runtimed_api::ids::RuntimeName;
use runtimed_api::run::ApiVersion;
use runtimed_api::run::network::NetworkMode;
use runtimed_api::runtime::{Ceiling, PatchPolicy, Runtime, RuntimeKind, RuntimeMetadata, RuntimeSpec};
use runtimed_api::session::SecretText;
use runtimed_api::tokens::{DaemonToken, PersonToken, Role, Tokens};
use serde::Serialize;

use super::home::Home;
use crate::failure::Failure;

/// Where the handed-over repository is, below the directory.
pub(super) const SOURCE: &str = "source.git";

/// What was written where, and the person's token, which is in no file.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tokens: PathBuf,
    pub(super) runtimes: PathBuf,
    pub(super) data: PathBuf,
    pub(super) person: SecretText,
    daemon: Daemon,
}

/// The daemon's configuration, in the words of its `runtime.toml`.
#[derive(Debug, Serialize)]
struct Daemon {
    runtime: RuntimeName,
    name: &'static str,
    slots: u32,
    roots: Roots,
    state: State,
    controller: Controller,
    http: Http,
    worker: Worker,
    drain: Drain,
    ceiling: Ceiling,
    patches: PatchPolicy,
}

#[derive(Debug, Serialize)]
struct Roots {
    tmp: PathBuf,
    home: PathBuf,
    workspace: PathBuf,
}

#[derive(Debug, Serialize)]
struct State {
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct Controller {
    url: String,
    token_file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Http {
    listen: &'static str,
}

#[derive(Debug, Serialize)]
struct Worker {
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Drain {
    grace: &'static str,
}

/// Writes everything but the daemon's configuration, which needs the controller's address.
pub(super) fn write(home: &Home, runtime: &RuntimeName, worker: &Path) -> Result<Files, Failure> {
    let (person, daemon) = (token()?, token()?);
    let tokens = Tokens {
        people: vec![PersonToken {
            hash: Digest::of(person.expose().as_bytes()),
            subject: "local".to_owned(),
            namespaces: vec!["*".to_owned()],
            runtimes: vec!["*".to_owned()],
            role: Role::Admin,
        }],
        daemons: vec![DaemonToken { hash: Digest::of(daemon.expose().as_bytes()), runtime: runtime.clone() }],
    };
    let ceiling = Ceiling {
        network: NetworkMode::Full,
        watch: true,
        local_paths: vec![home.path(SOURCE).display().to_string()],
        ..Ceiling::default()
    };
    let patches = PatchPolicy::default();
    let spec = RuntimeSpec {
        description: Some("this machine".to_owned()),
        namespaces: vec!["*".to_owned()],
        ceiling: ceiling.clone(),
        patches: patches.clone(),
        ..RuntimeSpec::default()
    };
    let document = Runtime {
        api_version: ApiVersion::default(),
        kind: RuntimeKind::default(),
        metadata: RuntimeMetadata { name: runtime.clone() },
        spec,
    };
    let runtimes = home.directory("runtimes")?;
    let yaml = yaml_serde::to_string(&document).map_err(|error| Failure::fault(error.to_string()))?;
    home.file("runtimes/local.yaml", yaml.as_bytes())?;
    let tokens = toml::to_string(&tokens).map_err(|error| Failure::fault(error.to_string()))?;
    Ok(Files {
        tokens: home.file("tokens.toml", tokens.as_bytes())?,
        runtimes,
        data: home.directory("controller")?,
        person,
        daemon: Daemon {
            runtime: runtime.clone(),
            name: "local",
            slots: 1,
            roots: Roots {
                tmp: home.root("tmp")?,
                home: home.root("home")?,
                workspace: home.root("workspace")?,
            },
            state: State { dir: home.directory("state")? },
            controller: Controller {
                url: String::new(),
                token_file: home.file("daemon.token", daemon.expose().as_bytes())?,
            },
            http: Http { listen: "127.0.0.1:0" },
            worker: Worker { path: worker.to_owned() },
            // Nobody waits for a Run that was left.
            drain: Drain { grace: "2s" },
            ceiling,
            patches,
        },
    })
}

impl Files {
    /// Writes the configuration of the daemon for a controller at `url`.
    pub(super) fn write_daemon(&mut self, home: &Home, url: &str) -> Result<PathBuf, Failure> {
        url.clone_into(&mut self.daemon.controller.url);
        let text = toml::to_string(&self.daemon).map_err(|error| Failure::fault(error.to_string()))?;
        home.file("runtime.toml", text.as_bytes())
    }
}

/// 256 random bits in hex.
fn token() -> Result<SecretText, Failure> {
    use std::fmt::Write as _;
    let mut bytes = zeroize::Zeroizing::new([0_u8; 32]);
    let failed = |error: String| Failure::fault(format!("no random numbers: {error}"));
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failed(error.to_string()))?;
    if got != bytes.len() {
        return Err(failed(format!("{got} bytes of {}", bytes.len())));
    }
    Ok(SecretText::new(bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })))
}
