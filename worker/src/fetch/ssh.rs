//! git over ssh, through the OpenSSH client.
//!
//! ssh is executed below the fetch child, under the same policy: it reaches the source's port, reads libraries and the
//! two files made for it here, and nothing of the machine's or a user's configuration of ssh counts. It expects the
//! host keys that the credential names and no others, and has one key to show. Both files are gone as soon as the server
//! has let it in, and the supervisor looks that they are before anything else starts.

pub(crate) mod connector;
mod keys;

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_api::git_url::SshUrl;
use runtimed_api::problem::Code;
use runtimed_sandbox::process::Signal;
use runtimed_sandbox::spawn::{Child, Executable, Spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

pub(crate) use self::connector::connector;
use self::keys::Keys;
pub(crate) use self::keys::{KeyPlace, SshKeys, place};
use super::protocol::unusable;
use crate::failure::{Failure, storage};

/// Where the client is looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A connection to one repository.
#[derive(Debug)]
pub(super) struct Ssh {
    process: Child,
    stdin: Option<PipeWriter>,
    stdout: PipeReader,
    stderr: PipeReader,
    keys: Option<Keys>,
    place: String,
}

/// The client that will be executed.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    let found = Executable::path_lookup("ssh".as_ref(), PATH.as_ref(), Path::new("/"));
    found.map(|found| found.path().to_owned()).map_err(|_| {
        Failure::fault(Code::SourceUnreachable, "the image has no ssh, which this source is fetched with")
            .lasting()
            .hint("put the openssh-client package into the image, or use an https URL")
    })
}

impl Ssh {
    /// Starts the client. `keys` is a directory of this fetch alone; `through` a proxy, and what leads there.
    pub(super) fn connect(
        url: &SshUrl,
        login: &SshKeys,
        keys: &Path,
        through: Option<(&str, &Path)>,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| storage("start ssh", &error);
        let executable = Executable::open(&program()?).map_err(|errno| failed(errno.into()))?;
        let keys = Keys::write(keys, login)?;
        let (stdin_end, stdin) = io::pipe().map_err(failed)?;
        let (stdout, stdout_end) = io::pipe().map_err(failed)?;
        let (stderr, stderr_end) = io::pipe().map_err(failed)?;
        // Read when ssh has failed: it must not be waited for then.
        rustix::fs::fcntl_setfl(&stderr, OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let mut spawn = Spawn::new(&executable, arguments(url, &keys, through.is_some()));
        if let Some((proxy, connector)) = through {
            for (name, value) in connector::variables(connector, proxy, url) {
                spawn = spawn.env(name, value);
            }
        }
        let process = spawn
            .env("PATH", PATH)
            .env("GIT_PROTOCOL", "version=2")
            .fd(0, stdin_end)
            .fd(1, stdout_end)
            .fd(2, stderr_end)
            .death_signal(Signal::KILL)
            .spawn()
            .map_err(|error| {
                Failure::fault(Code::SourceUnreachable, format!("ssh cannot be started: {error}"))
            })?;
        let place = format!("{}:{}", url.host(), url.port());
        Ok(Self { process, stdin: Some(stdin), stdout, stderr, keys: Some(keys), place })
    }

    /// What the server says next.
    pub(super) fn answer(&mut self) -> impl Read + '_ {
        &mut self.stdout
    }

    /// Sends a command; what the server says to it.
    pub(super) fn command(&mut self, request: &[u8]) -> Result<impl Read + '_, Failure> {
        let sent = match &mut self.stdin {
            Some(stdin) => stdin.write_all(request),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(|error| self.explain(&error))?;
        Ok(&mut self.stdout)
    }

    /// Removes the key and the host keys: ssh has read both by now, and asks for neither when it renews its own.
    pub(super) fn forget_keys(&mut self) -> Result<(), Failure> {
        self.keys.take().map_or(Ok(()), Keys::remove)
    }

    /// Why an answer broke off: what ssh, or the server through it, says on its standard error.
    pub(super) fn explain(&mut self, error: &io::Error) -> Failure {
        self.stdin = None;
        let broke_off = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        if broke_off {
            ended_within(&self.process, LAST_WORDS);
        }
        let mut words = Vec::new();
        // Not all of it may be there, or any: then there is nothing to explain it with.
        (&self.stderr).take(MAX_WORDS).read_to_end(&mut words).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        if broke_off || !words.trim().is_empty() { self.meaning(&words) } else { unusable(error) }
    }

    fn meaning(&self, words: &str) -> Failure {
        let (place, has) = (&self.place, |known: &[&str]| known.iter().any(|known| words.contains(known)));
        let said: String = words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect();
        if has(&["No user exists for uid"]) {
            return Failure::fault(
                Code::SourceUnreachable,
                "ssh does not run under a user id that has no entry in the image's /etc/passwd",
            )
            .lasting()
            .hint(
                "give the uid an entry in the image, run the pod under one that has it, or use an https URL",
            );
        }
        if has(&["Host key verification failed", "host key is known", "REMOTE HOST IDENTIFICATION"]) {
            return Failure::fault(
                Code::SourceCredential,
                format!("{place} shows a host key that the credential's known_hosts does not have"),
            )
            .lasting()
            .hint("compare the server's keys with known_hosts; a port other than 22 is written [host]:port there");
        }
        if has(&["Load key", "invalid format", "error in libcrypto", "incorrect passphrase"]) {
            return Failure::fault(Code::SourceCredential, "ssh cannot read the credential's key")
                .lasting()
                .hint("use a private key in OpenSSH's or PEM form, without a passphrase");
        }
        if has(&["Permission denied", "Too many authentication failures"]) {
            return Failure::fault(
                Code::SourceCredential,
                format!("{place} does not accept the credential's key"),
            )
            .hint("check that the public key is registered there, and for the user of the URL");
        }
        let unreachable = [
            "Could not resolve",
            "Connection refused",
            "timed out",
            "unreachable",
            "No route",
            connector::FAILED,
        ];
        if has(&unreachable) {
            return Failure::fault(Code::SourceUnreachable, format!("cannot reach {place}: {said}"));
        }
        let said = if said.is_empty() { "the connection broke off".to_owned() } else { said };
        Failure::fault(Code::SourceFailed, format!("cannot fetch from {place}: {said}"))
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // All that is wanted has arrived, or nothing will: a server that holds the connection open holds nobody up. It may
        // have ended in this very moment.
        self.process.signal(Signal::KILL).unwrap_or_default();
        self.process.wait().ok();
    }
}

/// How long a client that has closed its output may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bytes of its words.
const MAX_WORDS: u64 = 16 * 1024;

fn ended_within(process: &Child, patience: Duration) {
    let pidfd = process.pidfd();
    let timeout = Timespec::try_from(patience).ok();
    // Interrupted or not: what it said until now is read either way.
    poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], timeout.as_ref()).unwrap_or_default();
}

/// Each option that could take a key, a host key, a host or a program from elsewhere is given, so that no default counts.
const OPTIONS: [&str; 26] = [
    "AddKeysToAgent=no",
    "BatchMode=yes",
    "CanonicalizeHostname=no",
    "CheckHostIP=no",
    "ClearAllForwardings=yes",
    "ConnectTimeout=20",
    "ControlMaster=no",
    "ControlPath=none",
    "EscapeChar=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    "GlobalKnownHostsFile=/dev/null",
    "HostbasedAuthentication=no",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "KbdInteractiveAuthentication=no",
    "LogLevel=ERROR",
    "PasswordAuthentication=no",
    "PermitLocalCommand=no",
    "PreferredAuthentications=publickey",
    "SendEnv=GIT_PROTOCOL",
    "ServerAliveInterval=15",
    "StrictHostKeyChecking=yes",
    "Tunnel=no",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
];

fn arguments(url: &SshUrl, keys: &Keys, proxied: bool) -> Vec<String> {
    let mut arguments: Vec<String> = ["ssh", "-F", "/dev/null", "-T", "-a", "-x"].map(str::to_owned).into();
    let proxy = if proxied { connector::OPTIONS } else { ["ProxyCommand=none", "ProxyUseFdpass=no"] };
    for option in OPTIONS.into_iter().chain(proxy) {
        arguments.extend(["-o".to_owned(), option.to_owned()]);
    }
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    arguments.extend(["-o".to_owned(), format!("UserKnownHostsFile={}", path(keys.known_hosts()))]);
    arguments.extend(["-i".to_owned(), path(keys.key())]);
    arguments.extend(["-p".to_owned(), url.port().to_string(), "-l".to_owned(), url.user().to_owned()]);
    // Nothing behind the two hyphens is an option, whatever it looks like.
    arguments.extend(["--".to_owned(), url.host().to_owned()]);
    arguments.push(format!("git-upload-pack {}", quoted(url.path())));
    arguments
}

/// In quotes for the server's shell, as git does it: `!` is special to some shells even there.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''").replace('!', "'\\!'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::git_url::GitUrl;

    #[test]
    fn the_servers_shell_gets_the_path_as_one_word() {
        assert_eq!(quoted("/a b/c.git"), "'/a b/c.git'");
        assert_eq!(quoted("/a';x!'"), "'/a'\\'';x'\\!''\\'''");
    }

    #[test]
    fn the_host_comes_after_the_options() {
        let Ok(GitUrl::Ssh(url)) = GitUrl::parse("ssh://me@h:2222/-x") else { panic!("a URL") };
        let arguments = arguments(&url, &Keys::at(Path::new("/k")), false);
        let end = arguments.iter().position(|word| word == "--").unwrap();
        assert_eq!(arguments[end + 1..], ["h", "git-upload-pack '/-x'"]);
        assert!(arguments.windows(2).any(|pair| pair == ["-i", "/k/key"]));
        assert!(arguments.iter().any(|word| word == "UserKnownHostsFile=/k/known_hosts"));
        assert!(arguments.iter().any(|word| word == "StrictHostKeyChecking=yes"));
    }
}
