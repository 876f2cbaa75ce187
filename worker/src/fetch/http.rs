//! The two requests of git's smart protocol over https, through rustls, and the download of a file.
//!
//! No cookie and no cache; a proxy where the operator names one; redirects only of the first request, and only within the same origin, because the
//! credential goes with it. See gitprotocol-http(5).

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use runtimed_api::https_url::HttpsUrl;
use runtimed_api::problem::Code;
use ureq::http::{Response, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// To connect, with name and TLS.
const CONNECT: Duration = Duration::from_secs(20);
/// Until the server has begun to answer; it may have to make a pack first.
const ANSWER: Duration = Duration::from_secs(300);
/// Without a byte of the answer.
const SILENCE: Duration = Duration::from_secs(60);
/// For a whole answer.
const WHOLE: Duration = Duration::from_secs(3600);
/// Redirects of the first request.
const REDIRECTS: usize = 3;
/// Bytes of an answer that is no pack.
const MAX_ANSWER: u64 = 64 << 20;
/// Bytes of a pack.
const MAX_PACK: u64 = 16 << 30;
/// Servers tell git from a browser by its name.
const USER_AGENT: &str = concat!("git/2 (runtimed ", env!("CARGO_PKG_VERSION"), ")");

/// A connection to one repository.
pub(super) struct Http {
    agent: Agent,
    url: HttpsUrl,
    authorization: Option<Zeroizing<String>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A client that checks servers with `authorities`, a bundle of certificates in PEM form, and reaches them through
/// `proxy` where one is named. TLS goes through it: the proxy learns the host's name and nothing else.
pub(super) fn client(authorities: &[u8], proxy: Option<&str>) -> Result<Agent, Failure> {
    let roots: Vec<_> = parse_pem(authorities)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if roots.is_empty() {
        let message = "there is no certificate authority to check the server with";
        return Err(Failure::fault(Code::SourceUnreachable, message)
            .lasting()
            .hint("put the ca-certificates package into the image, or set [tls] ca_file"));
    }
    let proxy = proxy.map(Proxy::new).transpose().map_err(|error| {
        Failure::fault(Code::SourceUnreachable, format!("the proxy cannot be used: {error}")).lasting()
    })?;
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .https_only(true)
        .proxy(proxy)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .tls_config(tls)
        .user_agent(USER_AGENT)
        .accept_encoding("identity")
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(SILENCE))
        .timeout_recv_body(Some(WHOLE))
        .build();
    Ok(config.new_agent())
}

impl Http {
    pub(super) fn new(agent: Agent, url: HttpsUrl, authorization: Option<Zeroizing<String>>) -> Self {
        Self { agent, url, authorization }
    }

    /// Asks which protocol the server speaks; from here the URL is the one that answered.
    pub(super) fn advertisement(&mut self) -> Result<impl Read + use<>, Failure> {
        const SUFFIX: &str = "/info/refs?service=git-upload-pack";
        for _ in 0..=REDIRECTS {
            let request = self.agent.get(format!("{}{SUFFIX}", self.url)).header("Git-Protocol", "version=2");
            let answer = match &self.authorization {
                Some(value) => request.header("Authorization", value.as_str()).call(),
                None => request.call(),
            };
            let answer = answer.map_err(|error| unreachable(&self.url, &error))?;
            if !answer.status().is_redirection() {
                let body = self.accept(answer, "application/x-git-upload-pack-advertisement")?;
                return Ok(body.into_with_config().limit(MAX_ANSWER).reader());
            }
            self.url = self.redirected(&answer, SUFFIX)?;
        }
        Err(self.failed("it redirects again and again"))
    }

    /// Sends one command of the protocol's second version.
    pub(super) fn command(&self, request: &[u8]) -> Result<impl Read + use<>, Failure> {
        let post = self
            .agent
            .post(format!("{}/git-upload-pack", self.url))
            .header("Git-Protocol", "version=2")
            .header("Content-Type", "application/x-git-upload-pack-request")
            .header("Accept", "application/x-git-upload-pack-result");
        let answer = match &self.authorization {
            Some(value) => post.header("Authorization", value.as_str()).send(request),
            None => post.send(request),
        };
        let answer = answer.map_err(|error| unreachable(&self.url, &error))?;
        let body = self.accept(answer, "application/x-git-upload-pack-result")?;
        Ok(body.into_with_config().limit(MAX_PACK).reader())
    }

    fn accept(&self, answer: Response<Body>, expected: &str) -> Result<Body, Failure> {
        refused(&self.url, answer.status(), self.authorization.is_some())?;
        if answer.body().mime_type() != Some(expected) {
            return Err(self.failed("it answers, but not as a git server does").lasting());
        }
        Ok(answer.into_body())
    }

    fn redirected(&self, answer: &Response<Body>, suffix: &str) -> Result<HttpsUrl, Failure> {
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let target = location.and_then(|location| self.url.resolve(location.strip_suffix(suffix)?));
        match target {
            Some(target) if target.same_origin(&self.url) => Ok(target),
            _ => Err(self
                .failed("it redirects to another place, and a credential must not follow there")
                .lasting()
                .hint("give the URL that it redirects to")),
        }
    }

    fn failed(&self, why: &str) -> Failure {
        failed(&self.url, why)
    }
}

pub(super) fn failed(url: &HttpsUrl, why: &str) -> Failure {
    Failure::fault(Code::SourceFailed, format!("cannot fetch from {url}: {why}"))
}

/// What a status other than 200 means.
pub(super) fn refused(url: &HttpsUrl, status: StatusCode, login_given: bool) -> Result<(), Failure> {
    Err(match status {
        StatusCode::OK => return Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if login_given => {
            Failure::fault(Code::SourceCredential, format!("{url} does not accept the credential ({status})"))
                .hint("check that the secret is current and may read this repository")
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::fault(
            Code::SourceCredential,
            format!("{url} asks for a credential, and the Run names none ({status})"),
        )
        .hint("name a secret of kind git-https in the source's `credential`"),
        StatusCode::NOT_FOUND | StatusCode::GONE => failed(
            url,
            &format!("there is no such repository or file, or not for this credential ({status})"),
        )
        .lasting(),
        StatusCode::TOO_MANY_REQUESTS => failed(url, &format!("it is asked too often ({status})")),
        status if status.is_server_error() => failed(url, &format!("the server failed ({status})")),
        status => failed(url, &format!("it answers {status}")).lasting(),
    })
}

/// What the connection's error means; its own text is used where it holds nothing that the remote chose.
pub(super) fn unreachable(url: &HttpsUrl, error: &ureq::Error) -> Failure {
    let place = url.place();
    let unreachable =
        |why: String| Failure::fault(Code::SourceUnreachable, format!("cannot reach {place}: {why}"));
    match error {
        ureq::Error::HostNotFound => unreachable("its name cannot be resolved".to_owned()),
        ureq::Error::Timeout(timeout) => unreachable(format!("no answer in time ({timeout})")),
        ureq::Error::Rustls(error) => untrusted(&place, error),
        ureq::Error::ConnectProxyFailed(why) => unreachable(format!("the proxy does not lead there: {why}")),
        ureq::Error::Io(error) => match tls_error(error) {
            Some(error) => untrusted(&place, error),
            None => unreachable(error.to_string()),
        },
        error => unreachable(error.to_string()),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn untrusted(place: &str, error: &rustls::Error) -> Failure {
    let failure = Failure::fault(Code::SourceUnreachable, format!("cannot trust {place}: {error}"));
    match error {
        rustls::Error::InvalidCertificate(_) => {
            failure.lasting().hint("if its authority is your own, name its certificate in [tls] ca_file")
        }
        _ => failure,
    }
}
