//! The fetch: brings a source from where it is into the worker's object store, and writes nowhere else.
//!
//! It runs in a child of its own, whose policy has the network and the credential, and nothing of the Run.

pub(crate) mod archive;
mod carrier;
mod credential;
mod download;
mod http;
mod local;
mod mirror;
mod packet;
mod protocol;
mod reference;
pub(crate) mod ssh;
pub(crate) mod store;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use git2::Oid;
use runtimed_api::git_url::GitUrl;
use runtimed_api::https_url::{self, HttpsUrl};
use runtimed_api::ids::TreeId;
use runtimed_api::link::{Assign, Source};
use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_api::run::source::{ArchiveSource, GitSource};

use self::carrier::Carrier;
use self::http::Http;
use self::local::Local;
use self::mirror::Mirror;
use self::protocol::{Base, Server};
use self::reference::Reference;
use self::ssh::Ssh;
use crate::failure::{Failure, storage};
use crate::report::{Content, Fetched};

pub(crate) use self::credential::{Sealed, read_sealed};

/// What a fetch has to reach.
#[derive(Debug)]
pub(crate) enum Place {
    /// A repository on this machine, at this path.
    Local(PathBuf),
    /// A server, or the proxy to it, at this TCP port.
    Https(u16),
    /// A server, or the proxy to it, at this TCP port, through these programs.
    Ssh(u16, Vec<PathBuf>),
}

/// Where the source leads; `None` where nothing has to be fetched.
pub(crate) fn place(assign: &Assign) -> Result<Option<Place>, Failure> {
    let https = |url: &HttpsUrl| match assign.proxy.as_deref() {
        Some(proxy) => proxy_port(proxy).map(Place::Https),
        None => Ok(Place::Https(url.port())),
    };
    Ok(Some(match &assign.source {
        Source::Empty
        | Source::Inline(_)
        | Source::UploadedArchive(_)
        | Source::Artifacts(_)
        | Source::Upload(_) => return Ok(None),
        Source::Archive(archive) => https(&archive_url(archive)?)?,
        Source::Git(git) => match git_url(git)? {
            GitUrl::Local(path) => Place::Local(path.into()),
            GitUrl::Https(url) => https(&url)?,
            GitUrl::Ssh(url) => match assign.proxy.as_deref() {
                Some(proxy) => Place::Ssh(proxy_port(proxy)?, vec![ssh::program()?, ssh::connector()?]),
                None => Place::Ssh(url.port(), vec![ssh::program()?]),
            },
        },
    }))
}

/// What the fetch child is given beside the assignment.
#[derive(Debug)]
pub(crate) struct Given {
    /// The bundle of certificates to check an https server with.
    pub(crate) authorities: Option<OwnedFd>,
    /// What opens the source.
    pub(crate) credential: Option<Sealed>,
    /// What leads ssh through a proxy.
    pub(crate) connector: Option<PathBuf>,
}

/// The body of the fetch child.
pub(crate) fn fetch(assign: &Assign, given: &Given) -> Result<Fetched, Failure> {
    let content = match &assign.source {
        Source::Git(source) => Content::Commit(commit(assign, source, given)?),
        Source::Archive(source) => Content::Tree(archive(assign, source, given)?),
        Source::Empty
        | Source::Inline(_)
        | Source::UploadedArchive(_)
        | Source::Artifacts(_)
        | Source::Upload(_) => {
            return Err(Failure::fault(Code::WorkerFailed, "there is nothing to fetch"));
        }
    };
    Ok(Fetched { content, notes: Vec::new() })
}

fn commit(assign: &Assign, source: &GitSource, given: &Given) -> Result<TreeId, Failure> {
    let reference = Reference::new(source.reference.as_deref());
    let depth = source.depth.unwrap_or(1);
    let store = store::open_or_create(&assign.trees)?;
    let commit = match git_url(source)? {
        GitUrl::Local(path) => {
            let local = Local::open(Path::new(&path))?;
            let wanted = local.find(&reference)?;
            let settings = store.path().join("packing");
            store::receive(&store, &wanted, |pack| local.fetch(wanted.id, depth, &settings, pack))?
        }
        GitUrl::Https(url) => {
            let authorization =
                given.credential.as_ref().map(|sealed| sealed.authorization(url.host())).transpose()?;
            let client = http::client(&bundle(given)?, assign.proxy.as_deref())?;
            let http = Http::new(client, url, authorization);
            from_server(Carrier::Https(http), &store, &reference, depth, assign)?
        }
        GitUrl::Ssh(url) => {
            let login = given.credential.as_ref().ok_or_else(|| {
                Failure::fault(Code::SourceCredential, "ssh needs a credential, and the Run names none")
            })?;
            let keys = ssh::place(&assign.trees);
            let through = assign.proxy.as_deref().zip(given.connector.as_deref());
            let ssh = Ssh::connect(&url, &login.ssh_keys(url.host())?, &keys, through)?;
            from_server(Carrier::Ssh(ssh), &store, &reference, depth, assign)?
        }
    };
    if let Reference::Commit(wanted) = reference
        && wanted != commit
    {
        return Err(reference::missing(&Reference::Commit(wanted)));
    }
    wire_id(commit)
}

/// The server is asked first, with this Run's credential, even where everything is there already: what it does not give
/// to this Run, the Run does not get from elsewhere.
fn from_server(
    carrier: Carrier,
    store: &git2::Repository,
    reference: &Reference,
    depth: u32,
    assign: &Assign,
) -> Result<Oid, Failure> {
    let mut server = Server::connect(carrier)?;
    let wanted = server.find(reference)?;
    let mirror = assign.mirror.as_ref().map(|about| Mirror::new(about, &assign.trees));
    let base = match &mirror {
        Some(mirror) => mirror.lend(store, wanted.id, depth)?,
        None => Base::default(),
    };
    let commit = store::receive(store, &wanted, |pack| server.fetch(wanted.id, depth, &base, pack))?;
    if let Some(mirror) = &mirror {
        mirror.keep(store, wanted.id, commit, depth);
    }
    Ok(commit)
}

fn archive(assign: &Assign, source: &ArchiveSource, given: &Given) -> Result<TreeId, Failure> {
    let url = archive_url(source)?;
    let client = http::client(&bundle(given)?, assign.proxy.as_deref())?;
    let store = store::open_or_create(&assign.trees)?;
    let path = store.path().join("archive");
    let making = |error: std::io::Error| storage("store the archive", &error);
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(making)?;
    // Without a name from here on: whatever happens, it is gone with this child.
    std::fs::remove_file(&path).map_err(making)?;
    let found = download::download(&client, url, given.credential.as_ref(), &mut file)?;
    if source.digest.is_some_and(|digest| digest != found) {
        return Err(archive::other_bytes());
    }
    std::io::Seek::rewind(&mut file).map_err(making)?;
    let tree = archive::tree(&store, file)?;
    TreeId::try_from(tree.to_string()).map_err(|error| Failure::fault(Code::SourceFailed, error.to_string()))
}

fn wire_id(id: Oid) -> Result<TreeId, Failure> {
    TreeId::try_from(id.to_string()).map_err(|error| Failure::fault(Code::SourceFailed, error.to_string()))
}

fn git_url(source: &GitSource) -> Result<GitUrl, Failure> {
    GitUrl::parse(&source.url)
        .map_err(|why| Failure::refused(Rule::SOURCE_URL, "spec.source.git.url", why.to_string()))
}

fn archive_url(source: &ArchiveSource) -> Result<HttpsUrl, Failure> {
    source.url.as_deref().and_then(HttpsUrl::parse).ok_or_else(|| {
        let message = "not an https URL without user, query and fragment";
        Failure::refused(Rule::SOURCE_URL, "spec.source.archive.url", message)
    })
}

/// The port of a proxy that is written `http://host:port`.
fn proxy_port(proxy: &str) -> Result<u16, Failure> {
    https_url::proxy_port(proxy).ok_or_else(|| {
        let message = "the proxy is not written http://host:port";
        Failure::fault(Code::SourceUnreachable, message).lasting().hint("correct [proxy] url")
    })
}

/// Bytes of a bundle of certificates.
const MAX_BUNDLE: u64 = 16 << 20;

fn bundle(given: &Given) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let authorities = given.authorities.as_ref();
    let read =
        authorities.map_or(Ok(0), |fd| File::from(fd.try_clone()?).take(MAX_BUNDLE).read_to_end(&mut bytes));
    read.map_err(|error| storage("read the certificate authorities", &error))?;
    Ok(bytes)
}
