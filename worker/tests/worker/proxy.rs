//! A source through a proxy, which learns the host's name and nothing else.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use runtimed_api::link::{Assign, Credential, CredentialKind, Down, Source};

use crate::git::Repository;
use crate::harness::{Daemon, sealed};
use crate::server::{Behaviour, Server};
use crate::source::at;
use crate::tinyproxy::Tinyproxy;

/// A proxy that connects its clients to where they want, and keeps what they said to itself.
struct Proxy {
    port: u16,
    said: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// `answer` is what it says to those that it does not connect; without it it connects them.
    fn new(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, heard) = (client.unwrap(), Arc::clone(&heard));
                std::thread::spawn(move || connect(&client, answer, &heard).unwrap_or_default());
            }
        });
        Self { port, said }
    }
}

fn connect(client: &TcpStream, answer: Option<&str>, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if from.read_line(&mut request)? == 0 {
            return Ok(());
        }
    }
    let place = request.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
    heard.lock().unwrap().push(request);
    let mut to = client.try_clone()?;
    if let Some(answer) = answer {
        return to.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
    let server = TcpStream::connect(place)?;
    to.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut up, mut down) = (server.try_clone()?, server);
    std::thread::spawn(move || std::io::copy(&mut from, &mut up));
    std::io::copy(&mut down, &mut to).map(drop)
}

fn fetching(server: &Server, port: u16) -> Daemon {
    let mut daemon = Daemon::new();
    let about = Credential { kind: CredentialKind::GitHttps, hosts: vec!["127.0.0.1".to_owned()] };
    daemon.send_with(
        &Down::Credential(about),
        &[sealed(br#"{"username":"me","password":"the password"}"#).as_fd()],
    );
    let assign = Assign {
        ca_file: Some(server.authority().to_str().unwrap().to_owned()),
        proxy: Some(format!("http://127.0.0.1:{port}")),
        ..daemon.assignment(Source::Git(at(&server.url("bare.git"), None)))
    };
    daemon.send(&Down::Assign(Box::new(assign)));
    daemon
}

fn served() -> (Repository, Server) {
    let repository = Repository::new();
    let server = Server::new(repository.bare().parent().unwrap(), Behaviour::Serve);
    (repository, server)
}

#[test]
fn a_fetch_goes_through_the_proxy_and_tells_it_nothing() {
    let (repository, server) = served();
    let proxy = Proxy::new(None);
    let mut daemon = fetching(&server, proxy.port);
    assert_eq!(daemon.baseline().commit.unwrap().as_str(), repository.id("main"));
    let said = proxy.said.lock().unwrap().clone();
    assert!(!said.is_empty());
    for request in &said {
        assert!(request.starts_with(&format!("CONNECT 127.0.0.1:{} ", server.port)), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
    }
    assert!(server.shown.lock().unwrap().iter().all(Option::is_some));
}

#[test]
fn behind_a_proxy_the_server_itself_cannot_be_reached() {
    // The kernel allows the proxy's port alone, so that a fetch that went past it would not arrive.
    let (_repository, server) = served();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let problem = fetching(&server, closed).fault().problem;
    assert_eq!(problem.code.to_string(), "source-unreachable");
    assert!(server.shown.lock().unwrap().is_empty());
}

#[test]
fn a_proxy_that_refuses_is_told() {
    let (_repository, server) = served();
    let proxy = Proxy::new(Some("403 Forbidden"));
    let problem = fetching(&server, proxy.port).fault().problem;
    assert_eq!(problem.code.to_string(), "source-unreachable");
    assert!(problem.message.contains("proxy"), "{problem:?}");
    assert!(server.shown.lock().unwrap().is_empty());
}

#[test]
fn a_proxy_that_is_not_ours_leads_there() {
    let (repository, server) = served();
    let proxy = Tinyproxy::new(server.port);
    let mut daemon = fetching(&server, proxy.port);
    assert_eq!(daemon.baseline().commit.unwrap().as_str(), repository.id("main"));
    let asked = format!("CONNECT 127.0.0.1:{} ", server.port);
    assert!(proxy.said().contains(&asked), "{}", proxy.said());
}

#[test]
fn where_it_leads_to_other_ports_alone_the_fetch_says_so() {
    let (_repository, server) = served();
    // What the proxy's operator has not allowed.
    let proxy = Tinyproxy::new(if server.port == 443 { 444 } else { 443 });
    let problem = fetching(&server, proxy.port).fault().problem;
    assert_eq!(problem.code.to_string(), "source-unreachable");
    assert!(problem.message.contains("proxy"), "{problem:?}");
    assert!(server.shown.lock().unwrap().is_empty());
}
