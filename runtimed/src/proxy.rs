//! Through what sources are reached, and how programs are told of it.

use std::collections::BTreeMap;

use runtimed_api::https_url::proxy_port;
use runtimed_api::run::network::{Network, NetworkMode};

use crate::config;

/// The names under which programs look for a proxy.
const URL_NAMES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// The names under which they look for what needs none.
const DIRECT_NAMES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// A command's own servers are never behind a proxy.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The proxy for `host`, as `http://host:port`: the configured one, or else that of the daemon's environment.
///
/// # Errors
/// The environment's cannot be used: a login in it would have to be kept from where everybody looks.
pub fn of(
    configured: &config::Proxy,
    environment: &BTreeMap<String, String>,
    host: &str,
) -> Result<Option<String>, String> {
    match effective(configured, environment) {
        Some((_, direct)) if is_direct(&direct, host) => Ok(None),
        Some((url, _)) if proxy_port(&url).is_some() => Ok(Some(url)),
        Some(_) => Err("HTTPS_PROXY is not http://host:port without a login".to_owned()),
        None => Ok(None),
    }
}

/// The variables by which a command's programs find the proxy. None where its network does not lead there, for then
/// they would only miss what they reach without it; and none for a proxy with a login.
pub fn variables(
    configured: &config::Proxy,
    environment: &BTreeMap<String, String>,
    network: &Network,
) -> BTreeMap<String, String> {
    let Some((url, direct)) = effective(configured, environment) else { return BTreeMap::new() };
    let Some(port) = proxy_port(&url) else { return BTreeMap::new() };
    let reached = match network.mode {
        NetworkMode::None => false,
        NetworkMode::Ports => network.ports.contains(&port),
        NetworkMode::Full => true,
    };
    if !reached {
        return BTreeMap::new();
    }
    let direct = direct.iter().map(String::as_str).chain(LOOPBACK).filter(|host| !host.is_empty());
    let direct = direct.collect::<Vec<_>>().join(",");
    let urls = URL_NAMES.map(|name| (name.to_owned(), url.clone()));
    urls.into_iter().chain(DIRECT_NAMES.map(|name| (name.to_owned(), direct.clone()))).collect()
}

/// The configured proxy, or that of the daemon's environment, and the hosts that are reached without it.
fn effective(
    configured: &config::Proxy,
    environment: &BTreeMap<String, String>,
) -> Option<(String, Vec<String>)> {
    let variable = |names: &[&str]| {
        names.iter().find_map(|name| environment.get(*name)).filter(|value| !value.is_empty()).cloned()
    };
    if let Some(url) = &configured.url {
        return Some((url.clone(), configured.no_proxy.clone()));
    }
    let url = variable(&["HTTPS_PROXY", "https_proxy"])?;
    let direct = variable(&DIRECT_NAMES).unwrap_or_default();
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    Some((url, direct.split(',').map(|host| host.trim().to_owned()).collect()))
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
        let configured = config::Proxy { url: url.map(str::to_owned), no_proxy, ssh: false };
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
    fn a_command_is_told_of_the_proxy_that_it_can_reach() {
        let configured = config::Proxy {
            url: Some("http://proxy.example:8080".to_owned()),
            no_proxy: vec!["git.corp".to_owned()],
            ssh: false,
        };
        let network = |mode, ports: &[u16]| Network { mode, ports: ports.to_vec(), ..Network::default() };
        let told = |network: &Network| variables(&configured, &BTreeMap::new(), network);
        for reached in [network(NetworkMode::Full, &[]), network(NetworkMode::Ports, &[443, 8080])] {
            let told = told(&reached);
            assert_eq!(told["https_proxy"], "http://proxy.example:8080");
            assert_eq!(told["NO_PROXY"], "git.corp,localhost,127.0.0.1,::1");
            assert_eq!(told.len(), 6);
        }
        for closed in [network(NetworkMode::None, &[]), network(NetworkMode::Ports, &[443])] {
            assert!(told(&closed).is_empty());
        }
        let with_login = BTreeMap::from([("HTTPS_PROXY".to_owned(), "http://me:password@p:1".to_owned())]);
        let full = network(NetworkMode::Full, &[]);
        assert!(variables(&config::Proxy::default(), &with_login, &full).is_empty());
    }

    #[test]
    fn a_login_is_no_part_of_a_proxy() {
        for bad in
            ["http://me:password@proxy:1", "socks5://proxy:1", "https://proxy:1", "http://", "http://p/x"]
        {
            assert!(proxy_port(bad).is_none(), "{bad}");
        }
        let environment = BTreeMap::from([("https_proxy".to_owned(), "http://me:password@p:1".to_owned())]);
        let error = of(&config::Proxy::default(), &environment, "h").expect_err("refused");
        assert!(!error.contains("password"), "{error}");
    }
}
