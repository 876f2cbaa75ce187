//! The form of an https URL that a source may have: host, port and path; no user, no query, no fragment.

use std::fmt;

/// `https://host[:port]/path`, with the path's trailing slash cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    /// As written, in lower case; an IPv6 address in its brackets.
    host: String,
    port: Option<u16>,
    path: String,
}

impl HttpsUrl {
    /// Reads a URL; `None` if it is not of this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://")?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (host, port) = host_and_port(authority)?;
        if !is_printable(path) || path.contains(['?', '#']) {
            return None;
        }
        let path = path.trim_end_matches('/').to_owned();
        Some(Self { host, port, path })
    }

    /// The URL that a redirect names: a whole one, or a path of the same place.
    #[must_use]
    pub fn resolve(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Self::parse(&format!("https://{}{location}", self.place()));
        }
        Self::parse(location)
    }

    /// The host's name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(443)
    }

    /// Host, and port unless it is the usual one.
    #[must_use]
    pub fn place(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// Whether both are of one host and port.
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        (&self.host, self.port()) == (&other.host, other.port())
    }
}

/// The TCP port of a proxy that is written `http://host[:port]`, with nothing else in it; `None` if it is not.
#[must_use]
pub fn proxy_port(url: &str) -> Option<u16> {
    proxy_place(url).map(|(_, port)| port)
}

/// The host, without brackets, and the TCP port of a proxy that is written so; `None` if it is not.
#[must_use]
pub fn proxy_place(url: &str) -> Option<(String, u16)> {
    let place = url.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = host_and_port(place)?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.unwrap_or(80)))
}

/// The host in lower case, an IPv6 address in its brackets, and the port, of `host[:port]`.
pub(crate) fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok().filter(|p| *p != 0)?)),
        _ => (authority, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (bracketed && b"[]:".contains(&b));
    // No name begins with a hyphen, and a program that is given one takes it for an option.
    let named = !host.is_empty() && !host.starts_with('-') && host.bytes().all(plain);
    named.then(|| (host.to_ascii_lowercase(), port))
}

/// Whether a path holds nothing but visible ASCII.
pub(crate) fn is_printable(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_graphic())
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.place(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written_back() {
        for text in
            ["https://git.example/a/b.git", "https://127.0.0.1:8443/x", "https://[::1]:8443/x", "https://h"]
        {
            assert_eq!(HttpsUrl::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(HttpsUrl::parse("https://[::1]:8443/x").unwrap().host(), "::1");
        assert_eq!(HttpsUrl::parse("https://Git.Example/a/").unwrap().to_string(), "https://git.example/a");
    }

    #[test]
    fn users_queries_and_other_schemes_are_refused() {
        for bad in [
            "http://h/x",
            "https://",
            "https:///x",
            "https://u:p@h/x",
            "https://h/x?y",
            "https://h/x#y",
            "https://h:0/x",
            "https://h:99999/x",
            "https://h/a b",
            "ssh://h/x",
            "https://h:/x",
            "https://a,b/",
            "https://-oProxyCommand=x/",
        ] {
            assert_eq!(HttpsUrl::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_redirect_stays_within_its_origin_or_is_seen_not_to() {
        let url = HttpsUrl::parse("https://h:444/x").unwrap();
        assert!(url.resolve("/y").unwrap().same_origin(&url));
        assert!(!url.resolve("https://h/y").unwrap().same_origin(&url));
        assert!(url.resolve("//evil/y").is_none());
    }
}
