//! The credential of a source: who may use it for what, and its parts, read and checked.

use std::collections::BTreeMap;

use runtimed_api::git_url::GitUrl;
use runtimed_api::https_url::HttpsUrl;
use runtimed_api::ids::{Namespace, SecretName};
use runtimed_api::link::CredentialKind;
use runtimed_api::problem::Problem;
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::source::{Source, SourceKind};
use runtimed_api::run::spec::RunSpec;
use runtimed_api::session::SecretValue;
use zeroize::Zeroizing;

use super::{check, file, invalid, path_of, unusable};
use crate::config;

/// A credential for the fetch.
#[derive(Debug)]
pub struct Credential {
    /// What it is.
    pub kind: CredentialKind,
    /// The hosts it may be shown to.
    pub hosts: Vec<String>,
    /// JSON, as [`CredentialKind`] says.
    pub value: SecretValue,
    /// The password, or the private key.
    hidden: Zeroizing<String>,
}

impl Credential {
    /// What must not be shown of it.
    #[must_use]
    pub fn needles(&self) -> [&[u8]; 1] {
        [self.hidden.as_bytes()]
    }
}

/// Judges the credential of a source: it must be there for the namespace, of the kind that the URL needs, and for its host.
pub(super) fn judge(
    spec: &RunSpec,
    namespace: &Namespace,
    configured: &BTreeMap<SecretName, config::Secret>,
    submitted: &BTreeMap<SecretName, SecretValue>,
) -> Option<Refusal> {
    let source = spec.source.as_ref()?;
    let name = source.credential()?;
    let subject = if source.archive.is_some() { "spec.source.archive" } else { "spec.source.git" };
    let subject = format!("{subject}.credential");
    let refuse = |message: String| Some(Refusal::new(Rule::SOURCE_CREDENTIAL, subject.clone(), message));
    let Some((kind, host)) = needed(source) else {
        return refuse("a local path takes no credential".to_owned());
    };
    if submitted.contains_key(name) {
        // Host keys have to come from somebody who knows them, and a submission holds one value.
        return (kind == CredentialKind::GitSsh).then(|| {
            Refusal::new(Rule::SOURCE_CREDENTIAL, subject.clone(), "a credential for ssh cannot be submitted")
                .hint("ask the operator for a secret of kind git-ssh, or use an https URL")
        });
    }
    let known = configured.get(name);
    if let Some(refusal) = unusable(known, namespace, &subject) {
        return Some(refusal);
    }
    let known = known?;
    let fits = match kind {
        CredentialKind::GitHttps => known.kind == config::SecretKind::GitHttps,
        CredentialKind::GitSsh => known.kind == config::SecretKind::GitSsh,
    };
    if !fits {
        let wanted = if kind == CredentialKind::GitHttps { "git-https" } else { "git-ssh" };
        return refuse(format!("that secret is not of kind {wanted}, which the URL needs"));
    }
    if !known.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&host)) {
        return refuse(format!("that secret may not be shown to {host}"));
    }
    None
}

/// The kind of credential that a source's URL needs, and the host that it is shown to; `None` for what needs none.
fn needed(source: &Source) -> Option<(CredentialKind, String)> {
    match source.kind()? {
        SourceKind::Git(git) => match GitUrl::parse(&git.url).ok()? {
            GitUrl::Https(url) => Some((CredentialKind::GitHttps, url.host().to_owned())),
            GitUrl::Ssh(url) => Some((CredentialKind::GitSsh, url.host().to_owned())),
            GitUrl::Local(_) => None,
        },
        SourceKind::Archive(archive) => {
            let url = HttpsUrl::parse(archive.url.as_deref()?)?;
            Some((CredentialKind::GitHttps, url.host().to_owned()))
        }
        SourceKind::Inline(_) | SourceKind::Artifacts(_) | SourceKind::Upload(_) => None,
    }
}

/// Reads the credential of a source, if it names one: a submitted one, which is for the source's own host alone, or a
/// configured one.
///
/// # Errors
/// A part of it is missing or unreadable.
pub fn read(
    source: &Source,
    configured: &BTreeMap<SecretName, config::Secret>,
    submitted: &BTreeMap<SecretName, SecretValue>,
) -> Result<Option<Credential>, Problem> {
    let Some(name) = source.credential() else { return Ok(None) };
    if let Some(value) = submitted.get(name) {
        let Some((CredentialKind::GitHttps, host)) = needed(source) else { return Ok(None) };
        let value = check(value.expose()).map_err(|why| invalid(name, why))?;
        let text = std::str::from_utf8(value.expose()).map_err(|_| invalid(name, "it is not UTF-8"))?;
        let (username, password) = text.split_once(':').unwrap_or((TOKEN_USER, text));
        return https(name, vec![host], username, Zeroizing::new(password.to_owned())).map(Some);
    }
    match configured.get(name) {
        Some(known) => read_configured(name, known),
        None => Ok(None),
    }
}

/// Reads a configured credential; `None` for a secret that is none.
///
/// # Errors
/// A part of it is missing or unreadable.
pub fn read_configured(name: &SecretName, known: &config::Secret) -> Result<Option<Credential>, Problem> {
    let dir = path_of(&known.source);
    let part = |file_name: &str| -> Result<Zeroizing<String>, Problem> {
        let bytes = file(&dir.join(file_name)).map_err(|why| invalid(name, &why))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| invalid(name, "it is not UTF-8"))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            return Err(invalid(name, &format!("{file_name} is empty")));
        }
        Ok(Zeroizing::new(text.to_owned()))
    };
    match known.kind {
        config::SecretKind::Opaque => Ok(None),
        config::SecretKind::GitHttps if dir.join("token").exists() => {
            https(name, known.hosts.clone(), TOKEN_USER, part("token")?).map(Some)
        }
        config::SecretKind::GitHttps => {
            https(name, known.hosts.clone(), &part("username")?, part("password")?).map(Some)
        }
        config::SecretKind::GitSsh => {
            // The first is what Kubernetes calls it in a Secret of type kubernetes.io/ssh-auth.
            let key = if dir.join(SSH_KEY).exists() { part(SSH_KEY)? } else { part("key")? };
            let known_hosts = part("known_hosts")?;
            let json = serde_json::json!({ "key": *key, "known_hosts": *known_hosts });
            let value = json_value(name, &json)?;
            let hosts = known.hosts.clone();
            Ok(Some(Credential { kind: CredentialKind::GitSsh, hosts, value, hidden: key }))
        }
    }
}

/// What the large hosts take for any token.
const TOKEN_USER: &str = "x-access-token";
/// The private key's file in a Secret of type `kubernetes.io/ssh-auth`.
const SSH_KEY: &str = "ssh-privatekey";

fn https(
    name: &SecretName,
    hosts: Vec<String>,
    username: &str,
    password: Zeroizing<String>,
) -> Result<Credential, Problem> {
    let value = json_value(name, &serde_json::json!({ "username": username, "password": *password }))?;
    Ok(Credential { kind: CredentialKind::GitHttps, hosts, value, hidden: password })
}

fn json_value(name: &SecretName, json: &serde_json::Value) -> Result<SecretValue, Problem> {
    let json = serde_json::to_vec(json).map_err(|_| invalid(name, "it cannot be written as JSON"))?;
    Ok(SecretValue::new(json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn secret(dir: &Path, kind: config::SecretKind) -> config::Secret {
        let (namespaces, hosts) = (vec!["a".to_owned()], vec!["git.example".to_owned()]);
        config::Secret { source: format!("dir:{}", dir.display()), namespaces, kind, hosts }
    }

    fn spec(source: &str) -> RunSpec {
        let text = format!(r#"{{"runtime":"r","command":["true"],"source":{source}}}"#);
        runtimed_api::parse::json(text.as_bytes()).expect("a spec")
    }

    fn judged(source: &str, namespace: &str, submitted: bool) -> Option<Rule> {
        let dir = Path::new("/nowhere");
        let known = |name: &str, kind| (name.parse().expect("a name"), secret(dir, kind));
        let configured = BTreeMap::from([
            known("web", config::SecretKind::GitHttps),
            known("key", config::SecretKind::GitSsh),
            known("plain", config::SecretKind::Opaque),
        ]);
        let given = ("mine".parse().expect("a name"), SecretValue::new(b"a-long-token".to_vec()));
        let submitted = if submitted { BTreeMap::from([given]) } else { BTreeMap::new() };
        let namespace = namespace.parse().expect("a namespace");
        judge(&spec(source), &namespace, &configured, &submitted).map(|refusal| refusal.rule)
    }

    #[test]
    fn a_credential_fits_its_url_its_host_and_its_namespace() {
        let git = |url: &str, name: &str| format!(r#"{{"git":{{"url":"{url}","credential":"{name}"}}}}"#);
        let archive = |name: &str| {
            format!(r#"{{"archive":{{"url":"https://git.example/a.tar","credential":"{name}"}}}}"#)
        };
        for (source, namespace, submitted, rule) in [
            (git("https://git.example/r", "web"), "a", false, None),
            (git("https://Git.Example:444/r", "web"), "a", false, None),
            (archive("web"), "a", false, None),
            (git("git@git.example:r", "key"), "a", false, None),
            (git("https://git.example/r", "web"), "b", false, Some(Rule::SECRET_NAMESPACE)),
            (git("https://git.example/r", "none"), "a", false, Some(Rule::SECRET_UNKNOWN)),
            (git("https://git.example/r", "key"), "a", false, Some(Rule::SOURCE_CREDENTIAL)),
            (git("https://git.example/r", "plain"), "a", false, Some(Rule::SOURCE_CREDENTIAL)),
            (git("ssh://git.example/r", "web"), "a", false, Some(Rule::SOURCE_CREDENTIAL)),
            (archive("key"), "a", false, Some(Rule::SOURCE_CREDENTIAL)),
            (git("https://other.example/r", "web"), "a", false, Some(Rule::SOURCE_CREDENTIAL)),
            (git("https://git.example.evil/r", "web"), "a", false, Some(Rule::SOURCE_CREDENTIAL)),
            (git("/srv/r", "web"), "a", false, Some(Rule::SOURCE_CREDENTIAL)),
            (git("https://any.example/r", "mine"), "b", true, None),
            (git("ssh://any.example/r", "mine"), "b", true, Some(Rule::SOURCE_CREDENTIAL)),
        ] {
            assert_eq!(judged(&source, namespace, submitted), rule, "{source} in {namespace}");
        }
    }

    #[test]
    fn a_submitted_credential_is_for_the_urls_host_alone() {
        let spec = spec(r#"{"git":{"url":"https://git.example/r","credential":"mine"}}"#);
        for (text, json) in [
            ("a-long-token\n", r#"{"password":"a-long-token","username":"x-access-token"}"#),
            ("me:the:password", r#"{"password":"the:password","username":"me"}"#),
        ] {
            let value = SecretValue::new(text.as_bytes().to_vec());
            let submitted = BTreeMap::from([("mine".parse().expect("a name"), value)]);
            let source = spec.source.as_ref().expect("a source");
            let credential = read(source, &BTreeMap::new(), &submitted).expect("reads").expect("is one");
            assert_eq!(credential.hosts, ["git.example"]);
            assert_eq!(credential.value.expose(), json.as_bytes());
        }
    }

    #[test]
    fn a_key_without_host_keys_is_no_credential() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = "key".parse().expect("a name");
        let known = secret(dir.path(), config::SecretKind::GitSsh);
        fs::write(dir.path().join("ssh-privatekey"), "-----BEGIN\nsecret\n-----END\n").expect("written");
        let error = read_configured(&name, &known).expect_err("refused");
        assert!(error.message.contains("known_hosts") && !error.message.contains("BEGIN"), "{error}");
        fs::write(dir.path().join("known_hosts"), "\n").expect("written");
        assert!(read_configured(&name, &known).expect_err("refused").message.contains("empty"));
        fs::write(dir.path().join("known_hosts"), "git.example ssh-ed25519 AAAA\n").expect("written");
        let credential = read_configured(&name, &known).expect("reads").expect("is one");
        assert_eq!(credential.kind, CredentialKind::GitSsh);
        assert!(credential.needles()[0].starts_with(b"-----BEGIN"));
    }
}
