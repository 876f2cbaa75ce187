//! A git server for the tests: `git http-backend` behind TLS, and the ways in which a server can misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    /// Serves.
    Serve,
    /// Serves who shows this Authorization header, and asks others for one.
    Login(String),
    /// Answers the first request with a redirect to this place.
    Redirect(String),
    /// Serves, and breaks every pack off in the middle.
    Truncate,
    /// Answers everything with this status and a page.
    Page(u16),
    /// Serves a pack in which one bit is wrong.
    Corrupt,
    /// Answers everything with these bytes.
    File(Arc<Vec<u8>>),
    /// Answers everything with a redirect to this whole URL.
    Elsewhere(String),
}

/// A running server; it ends with the test's process.
pub(crate) struct Server {
    pub(crate) port: u16,
    authority: TempDir,
    /// The Authorization headers that were shown.
    pub(crate) shown: Arc<Mutex<Vec<Option<String>>>>,
    /// The bytes of each answer that held a pack.
    pub(crate) packs: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    /// Serves these bytes at every path.
    pub(crate) fn of_file(bytes: Vec<u8>) -> Self {
        Self::new(Path::new("/"), Behaviour::File(Arc::new(bytes)))
    }

    /// Serves the repositories beneath `root`.
    pub(crate) fn new(root: &Path, behaviour: Behaviour) -> Self {
        Self::listen("127.0.0.1:0", root, behaviour)
    }

    /// Another server, on the same port of another address of this machine.
    pub(crate) fn twin(&self, behaviour: Behaviour) -> Self {
        Self::listen(&format!("127.0.0.2:{}", self.port), Path::new("/"), behaviour)
    }

    fn listen(address: &str, root: &Path, behaviour: Behaviour) -> Self {
        let names = ["127.0.0.1", "127.0.0.2", "localhost"].map(str::to_owned);
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let authority = TempDir::new().unwrap();
        std::fs::write(authority.path().join("ca.pem"), certified.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let chain = vec![CertificateDer::from(certified.cert.der().to_vec())];
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let (config, root) = (Arc::new(config), root.to_owned());
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let packs = Arc::new(Mutex::new(Vec::new()));
        let seen = Seen { shown: Arc::clone(&shown), packs: Arc::clone(&packs) };
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (config, root, behaviour) = (Arc::clone(&config), root.clone(), behaviour.clone());
                let seen = seen.clone();
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    let stream = StreamOwned::new(connection, socket.unwrap());
                    // A client that does not trust the certificate hangs up.
                    let _served = serve(stream, &root, &behaviour, &seen);
                });
            }
        });
        Self { port, authority, shown, packs }
    }

    /// The certificate to trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.authority.path().join("ca.pem")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}/{path}", self.port)
    }
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// What a server takes note of.
#[derive(Clone)]
struct Seen {
    shown: Arc<Mutex<Vec<Option<String>>>>,
    packs: Arc<Mutex<Vec<usize>>>,
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn serve(stream: Tls, root: &Path, behaviour: &Behaviour, seen: &Seen) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream)? {
        let shown = request.header("authorization").map(str::to_owned);
        seen.shown.lock().unwrap().push(shown.clone());
        let is_pack = request.body.windows(13).any(|window| window == b"command=fetch");
        let answer = match behaviour {
            Behaviour::Login(expected) if shown.as_deref() != Some(expected) => {
                page(401, "WWW-Authenticate: Basic realm=\"git\"\r\n")
            }
            Behaviour::Redirect(to) if request.target.starts_with("/first/") => {
                page(302, &format!("Location: {to}/info/refs?service=git-upload-pack\r\n"))
            }
            Behaviour::Elsewhere(to) => page(302, &format!("Location: {to}\r\n")),
            Behaviour::File(bytes) => {
                let head = format!("HTTP/1.1 200 Said\r\nContent-Length: {}\r\n\r\n", bytes.len());
                [head.as_bytes(), bytes.as_slice()].concat()
            }
            Behaviour::Page(status) => page(*status, "Content-Type: text/html\r\n"),
            Behaviour::Truncate if is_pack => {
                let mut whole = backend(root, &request)?;
                whole.truncate(whole.len() - 40);
                stream.get_mut().write_all(&whole)?;
                return stream.get_mut().sock.shutdown(std::net::Shutdown::Both);
            }
            Behaviour::Corrupt if is_pack => {
                let mut whole = backend(root, &request)?;
                let at = whole.len() - 60;
                whole[at] ^= 0x10;
                whole
            }
            _ => backend(root, &request)?,
        };
        if is_pack {
            seen.packs.lock().unwrap().push(answer.len());
        }
        stream.get_mut().write_all(&answer)?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

fn page(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Said\r\n{headers}Content-Length: 5\r\n\r\nhello").into_bytes()
}

fn read(stream: &mut BufReader<Tls>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// The answer of git's own server program, see git-http-backend(1).
#[expect(clippy::disallowed_methods, reason = "the test serves with git's own program")]
fn backend(root: &Path, request: &Request) -> std::io::Result<Vec<u8>> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let mut child = std::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
        .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    child.stdin.take().unwrap().write_all(&request.body)?;
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let (headers, body) = (String::from_utf8_lossy(&output[..end]), &output[end + 4..]);
    let status = headers.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let mut answer =
        format!("HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    Ok(answer)
}
