//! One attempt of one Run: the supervisor and its phase children.
//!
//! The daemon executes `runtimed-worker` for each attempt and speaks to it over one inherited socket, whose protocol is
//! [`runtimed_api::link`]. The worker's first process, the [`supervisor`], has one thread, waits in one place, and parses
//! nothing that a Run or a remote has made. Whatever must be parsed is parsed by phase children, one after the other, each
//! forked with a policy of its own:
//!
//! | child | reaches | writes |
//! |---|---|---|
//! | fetch | the source, with its credential | the worker's private directory |
//! | apply | nothing | the workspace and the private directory |
//! | the command | what the Run's policy says | its own directories |
//! | capture | nothing | the descriptor that takes the Patch |
//!
//! They are siblings: what has parsed a hostile remote is dead before the first secret is staged, and nothing of the
//! command can reach the process that reports its exit.
#![forbid(unsafe_code)]

mod baseline;
mod capture;
mod command;
mod diagnostics;
mod events;
mod failure;
mod fetch;
mod files;
mod inherited;
mod link;
mod phase;
mod policies;
mod report;
mod supervisor;
mod tree;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use runtimed_api::exit::Exit;

use self::fetch::ssh::connector;
use self::supervisor::Birth;

/// Names the build; the daemon refuses another.
pub const BUILD_ID: &str = env!("RUNTIMED_BUILD_ID");

/// The whole program, given its arguments without its name.
///
/// `version --json` prints the build id. `attempt NAME` serves the link, and `attempt NAME namespaces UID GID` as the first of
/// a process namespace, which its starter, of that uid and gid, has made; the name, that of the attempt's trees, is there for
/// a later daemon to find it by. Without arguments it serves a link too; without a link it says, in one sentence, what it is
/// for. `-c "exec connect"` is what ssh gives it to be led through a proxy. The exit code is 0 when the daemon has been told
/// everything, 120 for wrong use, 125 otherwise.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.collect();
    let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let exit = match (arguments.len(), words.as_slice()) {
        (0, _) | (2, ["attempt", _]) => supervisor::run(Birth::Ordinary),
        (5, ["attempt", _, "namespaces", uid, gid]) => match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => supervisor::run(Birth::OwnProcesses { uid, gid }),
            _ => Exit::Usage,
        },
        (2, words) if *words == connector::ARGUMENTS => match connector::run() {
            Ok(()) => Exit::Ok,
            Err(why) => {
                diagnostics::say(&why);
                Exit::Fault
            }
        },
        (2, ["version", "--json"]) => {
            let line = serde_json::json!({ "build": BUILD_ID });
            writeln!(std::io::stdout(), "{line}").map_or(Exit::Fault, |()| Exit::Ok)
        }
        _ => {
            diagnostics::say(
                "the only arguments are `version --json`: runtimed starts this program itself, and \
                 `runtimectl local` is the command for people",
            );
            Exit::Usage
        }
    };
    ExitCode::from(exit.code())
}
