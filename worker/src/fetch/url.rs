//! The form of an https URL that a fetch takes: host, port and path; no user, no query, no fragment.

use std::fmt;

/// `https://host[:port]/path`, with the path's trailing slash cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpsUrl {
    /// As written, in lower case; an IPv6 address in its brackets.
    host: String,
    port: Option<u16>,
    path: String,
}

impl HttpsUrl {
    /// Reads a URL; `None` if it is not of this form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://")?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok().filter(|p| *p != 0)?)),
            _ => (authority, None),
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain =
            |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (bracketed && b"[]:".contains(&b));
        let printable = path.bytes().all(|b| b.is_ascii_graphic()) && !path.contains(['?', '#']);
        if host.is_empty() || !host.bytes().all(plain) || !printable {
            return None;
        }
        let path = path.trim_end_matches('/').to_owned();
        Some(Self { host: host.to_ascii_lowercase(), port, path })
    }

    /// The URL that a redirect names: a whole one, or a path of the same place.
    pub(super) fn resolve(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Self::parse(&format!("https://{}{location}", self.place()));
        }
        Self::parse(location)
    }

    /// The host's name or address, without brackets.
    pub(super) fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The TCP port.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(443)
    }

    /// Host, and port unless it is the usual one.
    pub(super) fn place(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    pub(super) fn same_origin(&self, other: &Self) -> bool {
        (&self.host, self.port()) == (&other.host, other.port())
    }
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
