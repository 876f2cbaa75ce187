//! Remote addresses that may be shown.

use std::borrow::Cow;

/// The address without what may be secret in it: over http everything between `://` and `@`, the query and the
/// fragment; elsewhere the password only, for an ssh address needs its user. Local and scp-like addresses stay.
#[must_use]
pub fn without_credentials(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else { return Cow::Borrowed(url) };
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = if is_http { path.split(['?', '#']).next().unwrap_or_default() } else { path };
    let (user, host) = match authority.rsplit_once('@') {
        None => ("", authority),
        Some((_, host)) if is_http => ("", host),
        Some((info, host)) => (info.split(':').next().unwrap_or_default(), host),
    };
    let at = if user.is_empty() { "" } else { "@" };
    Cow::Owned(format!("{scheme}://{user}{at}{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left() {
        for (url, shown) in [
            ("https://git.example/a.git", "https://git.example/a.git"),
            ("https://user:pass@git.example:8443/a.git", "https://git.example:8443/a.git"),
            ("HTTPS://token@git.example/a.git?access_token=x#y", "HTTPS://git.example/a.git"),
            ("https://a@b:c@git.example/x@y", "https://git.example/x@y"),
            ("https://git.example?token=x", "https://git.example"),
            ("ssh://git:pass@git.example/a.git", "ssh://git@git.example/a.git"),
            ("git@git.example:a.git", "git@git.example:a.git"),
            ("/srv/a.git", "/srv/a.git"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
