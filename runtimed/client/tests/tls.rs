//! TLS on a real listener.

use std::fs;
use std::future;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use axum::routing::get;
use axum::{Json, Router};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtimed_client::controller::Controller;
use runtimed_client::listen::{ListenError, Listener, TlsFiles, serve};
use runtimed_client::{ClientError, Endpoint};
use tokio::net::TcpStream;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// Writes a certificate for 127.0.0.1, its key, and its authority's certificate.
fn write(dir: &Path) -> TlsFiles {
    let authority = authority();
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let files = TlsFiles { cert: dir.join("tls.crt"), key: dir.join("tls.key") };
    fs::write(&files.cert, certificate.pem()).expect("written");
    fs::write(&files.key, key.serialize_pem()).expect("written");
    fs::write(dir.join("ca.crt"), authority.pem()).expect("written");
    files
}

fn start(files: &TlsFiles) -> (String, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), Some(files)).expect("bound");
    let found = (listener.url(), listener.local_addr());
    let router = Router::new().route("/v1/runtimes", get(async || Json(Vec::<()>::new())));
    tokio::spawn(serve(listener, router, future::pending()));
    found
}

#[test]
fn both_families_can_have_one_port_on_every_interface() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = write(dir.path());
    let every = |listener: Result<Listener, ListenError>| listener.expect("bound").local_addr();
    let first = Listener::bind("0.0.0.0:0".parse().expect("an address"), Some(&files)).expect("bound");
    let wanted = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, first.local_addr().port(), 0, 0);
    assert_eq!(every(Listener::bind_ipv6_alone(wanted, Some(&files))), SocketAddr::from(wanted));
}

#[tokio::test]
async fn a_server_is_trusted_for_its_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let (url, address) = start(&write(dir.path()));
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    // A peer that begins no handshake holds up nobody.
    let _silent = TcpStream::connect(address).await.expect("connected");

    let endpoint = Endpoint { url: url.clone(), ca_file: Some(dir.path().join("ca.crt")) };
    let controller = Controller::new(&endpoint).expect("a client");
    assert!(controller.runtimes().await.expect("an answer").is_empty());

    let other = tempfile::tempdir().expect("a directory");
    write(other.path());
    let endpoint = Endpoint { url, ca_file: Some(other.path().join("ca.crt")) };
    let error =
        Controller::new(&endpoint).expect("a client").runtimes().await.expect_err("another authority");
    assert!(matches!(&error, ClientError::Unreachable { why, .. } if why.contains("certificate")), "{error}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = write(dir.path());
    let other = tempfile::tempdir().expect("a directory");
    let mismatched = TlsFiles { cert: files.cert.clone(), key: write(other.path()).key };
    let missing = TlsFiles { cert: dir.path().join("none.crt"), key: files.key.clone() };
    for files in [mismatched, missing] {
        let bound = Listener::bind("127.0.0.1:0".parse().expect("an address"), Some(&files));
        let error = bound.expect_err("refused");
        assert!(matches!(error, ListenError::Certificate { .. }), "{error:?}");
        assert!(error.to_string().contains("cannot be used"), "{error}");
    }
}
