//! What the types of the configuration do not say: values that are out of bounds, or contradict each other.

use runtimed_api::https_url::proxy_port;

use super::{Config, SecretKind};

impl Config {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=256).contains(&self.slots) {
            return Err(format!("slots = {}: it must be 1 to 256", self.slots));
        }
        if self.http.tls_cert.is_some() != self.http.tls_key.is_some() {
            return Err("[http] tls_cert and tls_key go together".to_owned());
        }
        for root in [&self.roots.tmp, &self.roots.home, &self.roots.workspace] {
            if !root.is_absolute() {
                return Err(format!("[roots] {} is not an absolute path", root.display()));
            }
        }
        if let Some(url) = &self.proxy.url
            && proxy_port(url).is_none()
        {
            return Err("[proxy] url: it is written \"http://host:port\", without a login".to_owned());
        }
        for (name, secret) in &self.secrets {
            let scheme = match secret.kind {
                SecretKind::Opaque => "file:/",
                SecretKind::GitHttps | SecretKind::GitSsh => "dir:/",
            };
            if !secret.source.starts_with(scheme) {
                return Err(format!(
                    "[secrets.{name}] source: a secret of this kind is written \"{scheme}…\""
                ));
            }
            if secret.kind != SecretKind::Opaque && secret.hosts.is_empty() {
                return Err(format!(
                    "[secrets.{name}] hosts: a git credential needs the hosts it may be shown to"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LEAST, read};

    #[test]
    fn values_that_contradict_each_other_are_errors() {
        for (bad, word) in [
            (format!("slots = 0\n{LEAST}"), "slots"),
            (format!("{LEAST}[http]\ntls_cert = \"/c\"\n"), "tls_key"),
            (format!("{LEAST}[secrets.a]\nsource = \"/x\"\n"), "secrets.a"),
            (format!("{LEAST}[secrets.a]\nsource = \"dir:/x\"\nkind = \"git-https\"\n"), "hosts"),
            (format!("{LEAST}[roots]\ntmp = \"tmp\"\n"), "absolute"),
        ] {
            let error = read(&bad).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
