//! Which controller, which namespace, which token: a flag, else the environment, else a context of the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runtimed_api::environment as names;
use runtimed_api::ids::Namespace;
use runtimed_api::parse;
use runtimed_api::session::SecretText;
use runtimed_api::trace::TraceContext;
use runtimed_client::Endpoint;
use runtimed_client::controller::Controller;
use serde::Deserialize;

use crate::args::Global;
use crate::document;
use crate::failure::Failure;

/// The largest token that is read, in bytes; a JSON web token is a tenth of it.
const MAX_TOKEN: u64 = 64 * 1024;

/// The configuration: `$XDG_CONFIG_HOME/runtimectl/config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The context that is used when none is named.
    pub current: Option<String>,
    /// The contexts.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// One place to send Runs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The controller's URL.
    pub server: Option<String>,
    /// The namespace.
    pub namespace: Option<Namespace>,
    /// A file with the token; relative to the configuration's directory.
    pub token_file: Option<PathBuf>,
    /// The controller's certificate authorities; relative to the configuration's directory.
    pub ca_file: Option<PathBuf>,
}

/// What the environment says. A value of its own, so that tests need not change theirs.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    /// A value that is set and not empty.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The trace that this process is a part of.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::read(self.get(names::TRACEPARENT)?, self.get(names::TRACESTATE))
    }

    /// The configuration's file, if there is a place for one.
    #[must_use]
    pub fn config_file(&self) -> Option<PathBuf> {
        let absolute = |name| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(home.join("runtimectl/config.toml"))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// The effective settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The controller's URL, if any is named.
    pub server: Option<String>,
    /// The namespace.
    pub namespace: Namespace,
    /// A file with the token.
    pub token_file: Option<PathBuf>,
    /// The controller's certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// The trace that this process is a part of: `TRACEPARENT` and `TRACESTATE`.
    pub trace: Option<TraceContext>,
}

impl Settings {
    /// Reads the configuration if there is one, and settles what holds.
    ///
    /// # Errors
    /// The configuration is not readable, or a name in flags, environment or configuration is none.
    pub fn of(global: &Global, environment: &Environment) -> Result<Self, Failure> {
        let (file, config) = match environment.config_file() {
            Some(file) if file.exists() => {
                let config = read(&file)?;
                (file, config)
            }
            other => (other.unwrap_or_default(), Config::default()),
        };
        let named = global.context.as_deref().or_else(|| environment.get("RUNTIMECTL_CONTEXT"));
        let context = match named.or(config.current.as_deref()) {
            None => Context::default(),
            Some(name) => config.contexts.get(name).cloned().ok_or_else(|| {
                let known: Vec<_> = config.contexts.keys().map(String::as_str).collect();
                Failure::usage(format!("{} has no context {name:?}", file.display())).hint(format!(
                    "it has: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ))
            })?,
        };
        let directory = file.parent().unwrap_or(Path::new(""));
        let path = |flag: &Option<PathBuf>, variable, context: Option<PathBuf>| {
            flag.clone()
                .or_else(|| environment.get(variable).map(PathBuf::from))
                .or_else(|| context.map(|path| directory.join(path)))
        };
        let namespace = match (&global.namespace, environment.get("RUNTIMECTL_NAMESPACE")) {
            (Some(namespace), _) => Some(namespace.clone()),
            (None, Some(text)) => {
                Some(text.parse().map_err(|error| Failure::usage(format!("RUNTIMECTL_NAMESPACE: {error}")))?)
            }
            (None, None) => context.namespace,
        };
        Ok(Self {
            server: global
                .server
                .clone()
                .or_else(|| environment.get("RUNTIMECTL_SERVER").map(str::to_owned))
                .or(context.server),
            namespace: namespace.map_or_else(default_namespace, Ok)?,
            token_file: path(&global.token_file, "RUNTIMECTL_TOKEN_FILE", context.token_file),
            ca_file: path(&global.ca_file, "RUNTIMECTL_CA_FILE", context.ca_file),
            trace: environment.trace(),
        })
    }

    /// The controller that these settings lead to.
    ///
    /// # Errors
    /// No server is named, or its URL, certificate authorities or token cannot be used.
    pub fn controller(&self) -> Result<Controller, Failure> {
        let Some(url) = self.server.clone() else {
            return Err(Failure::usage("no controller is named").hint(
                "give --server URL, set RUNTIMECTL_SERVER, or add a context to the configuration; \
                 `runtimectl local -- CMD` needs none",
            ));
        };
        let mut controller = Controller::new(&Endpoint { url, ca_file: self.ca_file.clone() })?;
        if let Some(trace) = &self.trace {
            controller = controller.with_trace(trace.clone());
        }
        match &self.token_file {
            None => Ok(controller),
            Some(file) => Ok(controller.with_token(token(file)?)),
        }
    }
}

/// The namespace where none is named.
///
/// # Errors
/// None: the name is one.
pub fn default_namespace() -> Result<Namespace, Failure> {
    "default".parse().map_err(|error| Failure::fault(format!("{error}")))
}

fn read(file: &Path) -> Result<Config, Failure> {
    let text = document::read(file)?;
    let wrong = |why: String| Failure::usage(format!("{}: {}", file.display(), why.trim()));
    let text = std::str::from_utf8(&text).map_err(|_| wrong("it is not UTF-8 text".to_owned()))?;
    let document = toml::Deserializer::parse(text).map_err(|error| wrong(error.to_string()))?;
    parse::from(document).map_err(|error| wrong(error.to_string()))
}

/// Reads a token: the file's text without the white space around it.
fn token(file: &Path) -> Result<SecretText, Failure> {
    let bytes = zeroize::Zeroizing::new(document::read_at_most(file, MAX_TOKEN)?);
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!("{} holds no token", file.display()))
            .hint("it should hold the token as one line of visible ASCII"));
    }
    Ok(SecretText::new(text.to_owned()))
}

#[cfg(test)]
mod tests;
