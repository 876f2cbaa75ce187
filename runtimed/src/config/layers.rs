//! File, environment and flags, joined into one configuration that knows where each value comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use runtimed_api::parse::{self, Unreadable};
use serde::Serialize;
use toml::{Table, Value};

use super::{Config, ConfigError};

/// How a variable of the environment is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It is the text.
    Text,
    /// As TOML.
    Toml,
    /// Texts with commas between them.
    List,
}

use Form::{List, Text, Toml};

/// Variables of the environment, the keys that they set, and how they are written.
///
/// A fixed list and not a pattern: Kubernetes puts variables of its own into every container, named after Services.
pub const VARIABLES: &[(&str, &str, Form)] = &[
    ("RUNTIMED_RUNTIME", "runtime", Text),
    ("RUNTIMED_NAME", "name", Text),
    ("RUNTIMED_SLOTS", "slots", Toml),
    ("RUNTIMED_STATE_DIR", "state.dir", Text),
    ("RUNTIMED_CONTROLLER_URL", "controller.url", Text),
    ("RUNTIMED_CONTROLLER_TOKEN_FILE", "controller.token_file", Text),
    ("RUNTIMED_CONTROLLER_CA_FILE", "controller.ca_file", Text),
    ("RUNTIMED_HTTP_LISTEN", "http.listen", Text),
    ("RUNTIMED_HTTP_ADDRESS", "http.address", Text),
    ("RUNTIMED_HTTP_TLS_CERT", "http.tls_cert", Text),
    ("RUNTIMED_HTTP_TLS_KEY", "http.tls_key", Text),
    ("RUNTIMED_HTTP_TOKENS_FILE", "http.tokens_file", Text),
    ("RUNTIMED_HTTP_METRICS_TOKEN_FILE", "http.metrics_token_file", Text),
    ("RUNTIMED_DRAIN_GRACE", "drain.grace", Text),
    ("RUNTIMED_TLS_CA_FILE", "tls.ca_file", Text),
    ("RUNTIMED_PROXY_URL", "proxy.url", Text),
    ("RUNTIMED_PROXY_NO_PROXY", "proxy.no_proxy", List),
    ("RUNTIMED_MIRROR_MAX", "mirror.max", Text),
];

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Built in.
    Default,
    /// `runtime.toml`.
    File,
    /// A variable of the environment.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// What is laid over the file.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// The environment, of which [`VARIABLES`] are looked at.
    pub environment: BTreeMap<String, String>,
    /// `KEY=VALUE` of the command line: the value is TOML, or text where it is none.
    pub flags: Vec<String>,
}

impl Overlay {
    /// This process's environment, and these flags.
    #[must_use]
    pub fn of_process(flags: Vec<String>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self { environment: std::env::vars_os().filter_map(text).collect(), flags }
    }
}

/// A configuration, and where its values come from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The configuration.
    pub config: Config,
    /// The origin of each key that is not left to its default.
    origins: BTreeMap<String, Origin>,
}

/// One value as it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key, with dots.
    pub key: String,
    /// The value; `-` where there is none. Of variables for commands only that they are set.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl Effective {
    /// Reads the file, lays the rest over it, and checks the whole.
    ///
    /// # Errors
    /// See [`Config::read`].
    pub fn read(path: &Path, over: &Overlay) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let content = |why: String| ConfigError::Content { path: path.to_owned(), why };
        let mut table: Table =
            text.parse().map_err(|error: toml::de::Error| content(error.to_string().trim().to_owned()))?;
        let mut origins = BTreeMap::new();
        mark("", &Value::Table(table.clone()), Origin::File, &mut origins);
        for (variable, key, form) in VARIABLES {
            let Some(given) = over.environment.get(*variable).filter(|given| !given.is_empty()) else {
                continue;
            };
            let value = match form {
                Text => Value::String(given.clone()),
                Toml => value(given),
                List => {
                    let each = given.split(',').map(|one| Value::String(one.trim().to_owned()));
                    Value::Array(each.collect())
                }
            };
            put(&mut table, key, value).map_err(|why| ConfigError::Over(format!("{variable}: {why}")))?;
            origins.insert((*key).to_owned(), Origin::Environment);
        }
        for flag in &over.flags {
            let (key, given) = flag.split_once('=').ok_or_else(|| {
                ConfigError::Over(format!("--set {flag}: it must be KEY=VALUE, such as slots=4"))
            })?;
            let given = value(given);
            origins.retain(|marked, _| !marked.starts_with(&format!("{key}.")));
            mark(key, &given, Origin::Flag, &mut origins);
            put(&mut table, key, given).map_err(|why| ConfigError::Over(format!("--set {key}: {why}")))?;
        }
        let config: Config = parse::from(table).map_err(|Unreadable(why)| {
            let key = why.split(": ").next().unwrap_or_default();
            match origins.get(key) {
                Some(Origin::Flag) => ConfigError::Over(format!("--set {why}")),
                Some(Origin::Environment) => {
                    let variable = VARIABLES.iter().find(|(_, of, _)| *of == key).map(|(name, ..)| *name);
                    ConfigError::Over(format!("{}: {why}", variable.unwrap_or("the environment")))
                }
                _ => content(why),
            }
        })?;
        config.check().map_err(content)?;
        Ok(Self { config, origins })
    }

    /// Every value with its key and origin, in the order of keys.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        // A configuration is made of what JSON has.
        let whole = serde_json::to_value(&self.config).unwrap_or_default();
        flatten("", &whole, &mut |key, value| {
            let origin = self.origins.get(key).copied().unwrap_or(Origin::Default);
            let value = match value {
                _ if key.starts_with("run.env.") => "(set)".to_owned(),
                serde_json::Value::Null => "-".to_owned(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            settings.push(Setting { key: key.to_owned(), value, origin });
        });
        settings
    }
}

/// A value as TOML, or as text where it is none.
fn value(given: &str) -> Value {
    let document = format!("value = {given}");
    let parsed = document.parse::<Table>().ok().filter(|table| table.len() == 1);
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(given.to_owned()))
}

/// Sets a key with dots, making tables on its way.
fn put(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    match key.split_once('.') {
        None if key.is_empty() => Err("the key is empty".to_owned()),
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            let inner = inner.as_table_mut().ok_or_else(|| format!("{first} is not a table"))?;
            put(inner, rest, value)
        }
    }
}

/// Notes the origin of each value below `key`.
fn mark(key: &str, value: &Value, origin: Origin, origins: &mut BTreeMap<String, Origin>) {
    match value.as_table() {
        Some(table) => table.iter().for_each(|(name, value)| mark(&join(key, name), value, origin, origins)),
        None => drop(origins.insert(key.to_owned(), origin)),
    }
}

fn flatten(key: &str, value: &serde_json::Value, each: &mut impl FnMut(&str, &serde_json::Value)) {
    match value.as_object() {
        Some(object) => object.iter().for_each(|(name, value)| flatten(&join(key, name), value, each)),
        None => each(key, value),
    }
}

fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "runtime = \"bash\"\nslots = 2\n[controller]\nurl = \"http://127.0.0.1:1\"\ntoken_file = \"/t\"\n[run]\nenv = { KEY = \"hunter22\" }\n";

    fn read(over: &Overlay) -> Result<Effective, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("runtime.toml");
        fs::write(&path, FILE).expect("written");
        Effective::read(&path, over)
    }

    fn over(environment: &[(&str, &str)], flags: &[&str]) -> Overlay {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Overlay {
            environment: environment.iter().map(pair).collect(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        }
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let environment = [
            ("RUNTIMED_SLOTS", "3"),
            ("RUNTIMED_NAME", "7"),
            ("RUNTIMED_CONTROLLER_PORT", "tcp://10.0.0.1"),
            ("RUNTIMED_TLS_CA_FILE", "/ca.pem"),
            ("RUNTIMED_PROXY_URL", "http://proxy.example:3128"),
            ("RUNTIMED_PROXY_NO_PROXY", "git.corp, *.corp"),
            ("RUNTIMED_MIRROR_MAX", "2Gi"),
        ];
        let effective =
            read(&over(&environment, &["slots=4", "ceiling.network=None", "http.listen=127.0.0.1:9"]))
                .expect("reads");
        let settings = effective.settings();
        let of = |key: &str| {
            let found = settings.iter().find(|setting| setting.key == key).expect("a setting");
            (found.value.as_str(), found.origin)
        };
        assert_eq!(of("slots"), ("4", Origin::Flag));
        assert_eq!(of("name"), ("7", Origin::Environment));
        assert_eq!(of("runtime"), ("bash", Origin::File));
        assert_eq!(of("tls.ca_file"), ("/ca.pem", Origin::Environment));
        assert_eq!(of("proxy.url"), ("http://proxy.example:3128", Origin::Environment));
        assert_eq!(of("proxy.no_proxy"), (r#"["git.corp","*.corp"]"#, Origin::Environment));
        assert_eq!(of("mirror.max"), ("2Gi", Origin::Environment));
        assert_eq!(of("ceiling.network"), ("None", Origin::Flag));
        assert_eq!(of("http.listen"), ("127.0.0.1:9", Origin::Flag));
        assert_eq!(of("drain.grace"), ("15s", Origin::Default));
        assert_eq!(of("state.dir"), ("-", Origin::Default));
        assert_eq!(of("run.env.KEY"), ("(set)", Origin::File), "values of variables are not shown");
    }

    #[test]
    fn what_is_wrong_in_a_layer_is_told() {
        for (over, word) in [
            (over(&[("RUNTIMED_SLOTS", "many")], &[]), "RUNTIMED_SLOTS: slots: invalid type"),
            (over(&[], &["slots=many"]), "--set slots: invalid type"),
            (over(&[], &["slots"]), "KEY=VALUE"),
            (over(&[], &["slot=3"]), "did you mean `slots`?"),
            (over(&[], &["runtime.name=x"]), "runtime is not a table"),
            (over(&[], &["slots=0"]), "1 to 256"),
        ] {
            let error = read(&over).expect_err("refused").to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
            let of_the_file = !error.starts_with("RUNTIMED_") && !error.starts_with("--set");
            assert_eq!(error.contains("runtime.toml"), of_the_file, "{error}");
        }
    }
}
