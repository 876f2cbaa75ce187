//! Through what an https source is reached.

use std::collections::BTreeMap;

use runtimed_api::https_url::HttpsUrl;

use crate::config;

/// The proxy for `host`, as `http://host:port`: the configured one, or else that of the daemon's environment.
///
/// # Errors
/// The environment's cannot be used: a login in it would have to be kept from where everybody looks.
pub fn of(
    configured: &config::Proxy,
    environment: &BTreeMap<String, String>,
    host: &str,
) -> Result<Option<String>, String> {
    let variable = |names: [&str; 2]| {
        names.into_iter().find_map(|name| environment.get(name)).filter(|value| !value.is_empty()).cloned()
    };
    if let Some(url) = &configured.url {
        return Ok((!is_direct(&configured.no_proxy, host)).then(|| url.clone()));
    }
    let Some(url) = variable(["HTTPS_PROXY", "https_proxy"]) else { return Ok(None) };
    let direct = variable(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let direct: Vec<_> = direct.split(',').map(|host| host.trim().to_owned()).collect();
    if is_direct(&direct, host) {
        return Ok(None);
    }
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    if is_plain(&url) {
        Ok(Some(url))
    } else {
        Err("HTTPS_PROXY is not http://host:port without a login".to_owned())
    }
}

/// Whether a proxy is written `http://host:port`, and nothing else is in it.
pub(crate) fn is_plain(url: &str) -> bool {
    let rest = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    rest.is_some_and(|rest| {
        !rest.contains(['/', '@']) && HttpsUrl::parse(&format!("https://{rest}")).is_some()
    })
}

fn is_direct(direct: &[String], host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    direct.iter().any(|entry| {
        let entry = entry.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        entry == "*" || (!entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}"))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(url: Option<&str>, no_proxy: &str, environment: &[(&str, &str)], host: &str) -> Option<String> {
        let no_proxy = no_proxy.split(',').map(str::to_owned).collect();
        let configured = config::Proxy { url: url.map(str::to_owned), no_proxy };
        let environment = environment.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        of(&configured, &environment, host).expect("a proxy that can be used")
    }

    #[test]
    fn the_configured_one_counts_before_the_environments() {
        let environment = [("HTTPS_PROXY", "proxy.env:3128"), ("NO_PROXY", "localhost, .corp")];
        let configured = Some("http://proxy.example:8080");
        assert_eq!(found(configured, "", &environment, "h").as_deref(), configured);
        assert_eq!(found(None, "", &environment, "h").as_deref(), Some("http://proxy.env:3128"));
        assert_eq!(found(None, "", &environment, "git.corp"), None);
        assert_eq!(found(None, "", &[], "h"), None);
        for direct in ["git.example", "*", "*.example", ".example", "Example"] {
            assert_eq!(found(configured, direct, &[], "git.example"), None, "{direct}");
        }
        assert!(found(configured, "it.example,ample", &[], "git.example").is_some());
    }

    #[test]
    fn a_login_is_no_part_of_a_proxy() {
        for bad in
            ["http://me:password@proxy:1", "socks5://proxy:1", "https://proxy:1", "http://", "http://p/x"]
        {
            assert!(!is_plain(bad), "{bad}");
        }
        let environment = BTreeMap::from([("https_proxy".to_owned(), "http://me:password@p:1".to_owned())]);
        let error = of(&config::Proxy::default(), &environment, "h").expect_err("refused");
        assert!(!error.contains("password"), "{error}");
    }
}
