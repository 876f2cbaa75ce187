//! Where a server is, and the connection policy under which it is spoken to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// The longest time that a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the servers' own bound for idle connections ([`crate::listen::HEADER_TIMEOUT`]), so that a request is
/// never sent on a connection that the server is just closing.
const POOL_IDLE: Duration = Duration::from_secs(5);
/// A peer that vanished without a word, as a powered-off node does, is noticed after this long, streams included.
const DEAD_PEER: Duration = Duration::from_secs(30);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host[:port][/path]`, or `http://` and a loopback address.
    pub url: String,
    /// The only certificate authorities that are trusted, in PEM; the system's without it.
    pub ca_file: Option<PathBuf>,
}

/// An endpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not a URL of the documented form.
    #[error("{url:?} is not a server's address: write https://host:port")]
    Url {
        /// What was given, cut to 200 characters.
        url: String,
    },
    /// A user or password in the URL, which would be shown and stored.
    #[error("the server's address holds a user or password: leave it out and give a token in a file")]
    Credential,
    /// Plain HTTP to another machine.
    #[error("{url} would carry the token unencrypted: use https, plain http is for loopback alone")]
    Plain {
        /// What was given.
        url: String,
    },
    /// The file of certificate authorities.
    #[error("the certificate authorities of {} cannot be used: {why}", file.display())]
    Authorities {
        /// Which file; empty for the system's.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The TLS library refused the configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl Endpoint {
    /// An endpoint whose certificate the system's authorities vouch for.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ca_file: None }
    }

    /// Whether the server is on this machine, so that plain HTTP will do.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.parse().is_ok_and(|url| is_loopback(&url))
    }

    /// Checks the URL.
    pub(crate) fn parse(&self) -> Result<Url, EndpointError> {
        let shown = || self.url.chars().take(200).collect();
        let url = Url::parse(&self.url).map_err(|_| EndpointError::Url { url: shown() })?;
        // Checked before anything repeats the URL.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::Credential);
        }
        let whole = url.has_host() && url.query().is_none() && url.fragment().is_none();
        match url.scheme() {
            "https" if whole => Ok(url),
            "http" if whole && is_loopback(&url) => Ok(url),
            "http" if whole => Err(EndpointError::Plain { url: shown() }),
            _ => Err(EndpointError::Url { url: shown() }),
        }
    }

    /// The HTTP client for it.
    pub(crate) fn client(&self, url: &Url) -> Result<Client, EndpointError> {
        self.build(url, Client::builder())
    }

    /// The HTTP client for the library of a store, under the same policy. A request is given up after so much silence.
    ///
    /// # Errors
    /// The URL or the authorities cannot be used.
    pub fn store_client(&self, stall: Duration) -> Result<Client, EndpointError> {
        self.build(&self.parse()?, Client::builder().read_timeout(stall))
    }

    fn build(&self, url: &Url, builder: ClientBuilder) -> Result<Client, EndpointError> {
        let builder = builder
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .tcp_keepalive(DEAD_PEER / 2)
            .tcp_user_timeout(DEAD_PEER)
            .user_agent(concat!("runtimed/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(self.tls(url)?);
        // A proxy cannot reach this machine's loopback, and must not see what is said there.
        let builder = if is_loopback(url) { builder.no_proxy() } else { builder };
        builder.build().map_err(|error| EndpointError::Tls(error.to_string()))
    }

    fn tls(&self, url: &Url) -> Result<ClientConfig, EndpointError> {
        let mut roots = RootCertStore::empty();
        // The system's authorities take milliseconds to read, for nothing where no TLS is spoken.
        if url.scheme() == "https" {
            for certificate in self.authorities()? {
                roots.add(certificate).map_err(|error| self.unusable(error.to_string()))?;
            }
        }
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| EndpointError::Tls(error.to_string()))
            .map(|builder| builder.with_root_certificates(roots).with_no_client_auth())
    }

    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
        let found: Vec<_> = match &self.ca_file {
            Some(file) => CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(|error| self.unusable(error.to_string()))?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        if found.is_empty() {
            return Err(self.unusable("it holds no certificate in PEM".to_owned()));
        }
        Ok(found)
    }

    fn unusable(&self, why: String) -> EndpointError {
        let file = self.ca_file.clone().unwrap_or_else(|| PathBuf::from("the system"));
        EndpointError::Authorities { file, why }
    }
}

fn is_loopback(url: &Url) -> bool {
    // IPv6 literals are in brackets there.
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for good in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:8", "https://h.example/base"] {
            assert!(Endpoint::new(good).parse().is_ok(), "{good}");
        }
        for plain in ["http://10.0.0.1", "http://h.example:80", "http://127.0.0.1.example"] {
            assert!(matches!(Endpoint::new(plain).parse(), Err(EndpointError::Plain { .. })), "{plain}");
        }
        assert!(Endpoint::new("https://127.0.0.1:1").is_loopback());
        assert!(!Endpoint::new("https://127.evil.example").is_loopback());
        for bad in ["", "h.example", "ftp://h.example", "https://", "https://h.example/?a=b", "h:1"] {
            assert!(matches!(Endpoint::new(bad).parse(), Err(EndpointError::Url { .. })), "{bad}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_not_repeated() {
        let error = Endpoint::new("http://me:hunter22@h.example").parse().expect_err("refused");
        assert!(matches!(error, EndpointError::Credential));
        assert!(!format!("{error} {error:?}").contains("hunter22"));
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "nothing\n").expect("written");
        let endpoint = Endpoint { url: "https://h.example".to_owned(), ca_file: Some(file) };
        let url = endpoint.parse().expect("a URL");
        let error = endpoint.client(&url).expect_err("refused");
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
}
