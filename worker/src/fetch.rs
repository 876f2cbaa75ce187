//! The fetch: brings one commit of a git repository into the worker's object store, and writes nowhere else.
//!
//! It runs in a child of its own, whose policy has the network and the credential, and nothing of the Run.

mod credential;
mod http;
mod local;
mod packet;
mod protocol;
mod reference;
pub(crate) mod store;
mod url;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use runtimed_api::ids::TreeId;
use runtimed_api::link::Trees;
use runtimed_api::problem::Code;
use runtimed_api::run::source::GitSource;
use runtimed_api::{policy, rule::Rule};

use self::http::Http;
use self::local::Local;
use self::protocol::Server;
use self::reference::Reference;
use self::url::HttpsUrl;
use crate::failure::{Failure, storage};
use crate::report::Fetched;

pub(crate) use self::credential::{Sealed, read_sealed};

/// Where a fetch goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// A repository on this machine, at this path.
    Local(PathBuf),
    /// A server, at this port.
    Https {
        /// Its TCP port.
        port: u16,
    },
}

/// Where the source's URL leads.
pub(crate) fn place(source: &GitSource) -> Result<Place, Failure> {
    if policy::is_local(&source.url) {
        return Ok(Place::Local(source.url.clone().into()));
    }
    Ok(Place::Https { port: https_url(source)?.port() })
}

/// The body of the fetch child. `authorities` is the bundle of certificates to check an https server with.
pub(crate) fn fetch(
    source: &GitSource,
    trees: &Trees,
    authorities: Option<&OwnedFd>,
    credential: Option<&Sealed>,
) -> Result<Fetched, Failure> {
    let reference = Reference::new(source.reference.as_deref());
    let depth = source.depth.unwrap_or(1);
    let store = store::open_or_create(trees)?;
    let commit = if policy::is_local(&source.url) {
        let local = Local::open(Path::new(&source.url))?;
        let wanted = local.find(&reference)?;
        let settings = store.path().join("packing");
        store::receive(&store, &wanted, |pack| local.fetch(wanted.id, depth, &settings, pack))?
    } else {
        let url = https_url(source)?;
        let authorization = credential.map(|sealed| sealed.authorization(url.host())).transpose()?;
        let server = Server::connect(Http::new(url, &bundle(authorities)?, authorization)?)?;
        let wanted = server.find(&reference)?;
        store::receive(&store, &wanted, |pack| server.fetch(wanted.id, depth, pack))?
    };
    if let Reference::Commit(wanted) = reference
        && wanted != commit
    {
        return Err(reference::missing(&Reference::Commit(wanted)));
    }
    let commit = TreeId::try_from(commit.to_string())
        .map_err(|error| Failure::fault(Code::SourceFailed, error.to_string()))?;
    Ok(Fetched { commit, notes: Vec::new() })
}

fn https_url(source: &GitSource) -> Result<HttpsUrl, Failure> {
    HttpsUrl::parse(&source.url).ok_or_else(|| {
        let message = "not an https URL without user, query and fragment";
        Failure::refused(Rule::SOURCE_URL, "spec.source.git.url", message).hint("use https://host/path")
    })
}

/// Bytes of a bundle of certificates.
const MAX_BUNDLE: u64 = 16 << 20;

fn bundle(authorities: Option<&OwnedFd>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read =
        authorities.map_or(Ok(0), |fd| File::from(fd.try_clone()?).take(MAX_BUNDLE).read_to_end(&mut bytes));
    read.map_err(|error| storage("read the certificate authorities", &error))?;
    Ok(bytes)
}
