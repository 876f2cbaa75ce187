//! What leads ssh through a proxy: this very program, executed by ssh, below the fetch and under its policy.
//!
//! ssh has its `ProxyCommand` executed by the user's shell, which is what `SHELL` names, as `SHELL -c "exec COMMAND"`. So no
//! shell is needed: `SHELL` names this program, which knows that one command. It opens a tunnel and passes its
//! descriptor back (`ProxyUseFdpass`), so that nothing stands between ssh and the connection. See ssh_config(5).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_api::git_url::SshUrl;
use runtimed_api::https_url;
use runtimed_api::problem::Code;
use runtimed_sandbox::passing;

use crate::failure::Failure;

/// How ssh is told to use it.
pub(super) const OPTIONS: [&str; 2] = ["ProxyCommand=connect", "ProxyUseFdpass=yes"];
/// The arguments that ssh then gives it.
pub(crate) const ARGUMENTS: [&str; 2] = ["-c", "exec connect"];
/// What its complaints begin with.
pub(super) const FAILED: &str = "the proxy cannot be used";

/// `http://host:port`.
const PROXY: &str = "RUNTIMED_CONNECT_THROUGH";
/// `host:port`.
const TARGET: &str = "RUNTIMED_CONNECT_TO";
/// For each of the proxy's addresses, and for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of its answer.
const MAX_ANSWER: usize = 8 * 1024;

/// This program, by a path.
pub(crate) fn connector() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().ok().filter(|path| path.is_file());
    here.ok_or_else(|| {
        let message =
            "ssh cannot be led through the proxy: the worker's program has no path that its uid can reach";
        Failure::fault(Code::SourceUnreachable, message)
            .lasting()
            .hint("install runtimed-worker where everybody may execute it, or use an https URL")
    })
}

/// What ssh's environment has to say.
pub(super) fn variables(connector: &Path, proxy: &str, to: &SshUrl) -> [(&'static str, OsString); 3] {
    let host = if to.host().contains(':') { format!("[{}]", to.host()) } else { to.host().to_owned() };
    let target = format!("{host}:{}", to.port());
    [("SHELL", connector.into()), (PROXY, proxy.into()), (TARGET, target.into())]
}

/// Opens the tunnel that the environment names, and passes it to whoever has the other end of standard output.
///
/// # Errors
/// One sentence, for ssh's standard error.
pub(crate) fn run() -> Result<(), String> {
    let named =
        |name| std::env::var(name).map_err(|_| "this command is ssh's, and not for people".to_owned());
    let (proxy, target) = (named(PROXY)?, named(TARGET)?);
    let failed = |error: io::Error| format!("{FAILED}: {error}");
    let (host, port) = https_url::proxy_place(&proxy).ok_or("the proxy is not written http://host:port")?;
    let addresses = (host.as_str(), port).to_socket_addrs().map_err(failed)?;
    let mut found = Err(io::Error::other("its name has no address"));
    for address in addresses {
        found = TcpStream::connect_timeout(&address, PATIENCE);
        if found.is_ok() {
            break;
        }
    }
    let mut tunnel = found.map_err(failed)?;
    open(&mut tunnel, &target).map_err(failed)?;
    passing::send(io::stdout().as_fd(), &[0], &[tunnel.as_fd()]).map_err(|error| error.to_string())?;
    Ok(())
}

/// `CONNECT`, see RFC 9110, section 9.3.6. Not a byte is read beyond the answer's head: the rest is the server's.
fn open(tunnel: &mut TcpStream, target: &str) -> io::Result<()> {
    tunnel.set_read_timeout(Some(PATIENCE))?;
    tunnel.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte)?;
        answer.extend_from_slice(&byte);
        if answer.len() > MAX_ANSWER {
            return Err(io::Error::other("its answer does not end"));
        }
    }
    // ssh waits as long as its own options say.
    tunnel.set_read_timeout(None)?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next()) {
        (Some(b"HTTP/1.0" | b"HTTP/1.1"), Some([b'2', _, _])) => Ok(()),
        _ => Err(io::Error::other(format!("it answers {:?}", String::from_utf8_lossy(line)))),
    }
}
