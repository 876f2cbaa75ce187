//! What there is to attack: a neighbour's tree, a state, servers, and the daemon itself.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use anyhow::Context as _;
use runtimed_sandbox::tree::{Root, Tree};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::secrets;

/// Where everything is, for the program that makes the attempts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Words {
    /// The process that plays the daemon.
    pub(super) daemon: i32,
    /// A neighbour's tree, with a `file` and a `socket` in it.
    pub(super) neighbour: PathBuf,
    /// The state directory.
    pub(super) state: PathBuf,
    pub(super) roots: Vec<PathBuf>,
    /// Files that the configuration calls secret.
    pub(super) secrets: Vec<PathBuf>,
    /// A server of TCP on loopback.
    pub(super) port: u16,
    /// An abstract unix socket.
    pub(super) name: String,
}

/// The scene, for as long as it is looked at.
#[derive(Debug)]
pub(super) struct Scene {
    words: Words,
    neighbour: Tree,
    _servers: (TcpListener, UnixListener, UnixListener),
}

impl Scene {
    /// Makes it.
    pub(super) fn set(config: &Config, workspace: &Root, state: PathBuf) -> anyhow::Result<Self> {
        let neighbour = workspace.create()?;
        let at = neighbour.path();
        fs::write(at.join("file"), "a neighbour's\n").context("the neighbour's file cannot be made")?;
        fs::write(state.join("file"), "the daemon's\n").context("the state's file cannot be made")?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port can be had")?;
        let name = format!("runtimed-selftest-{}", std::process::id());
        let abstract_socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let socket =
            UnixListener::bind(at.join("socket")).context("the neighbour's socket cannot be made")?;
        let roots = [&config.roots.tmp, &config.roots.home, &config.roots.workspace];
        let token = config.controller.as_ref().map(|controller| controller.token_file.clone());
        let words = Words {
            daemon: rustix::process::getpid().as_raw_pid(),
            neighbour: at,
            state,
            roots: roots.into_iter().cloned().collect(),
            secrets: token
                .into_iter()
                .chain(config.secrets.values().map(|secret| secrets::path_of(&secret.source)))
                .collect(),
            port: tcp.local_addr()?.port(),
            name,
        };
        Ok(Self { words, neighbour, _servers: (tcp, abstract_socket, socket) })
    }

    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    /// Removes it.
    pub(super) fn strike(self) -> anyhow::Result<()> {
        self.neighbour.remove()?;
        Ok(())
    }
}
