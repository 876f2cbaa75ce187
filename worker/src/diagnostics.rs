//! Short lines on descriptor 2, for the daemon's log. What goes there is ours: no secret, nothing that a Run has made.

use std::io::Write;

/// Bytes of one line.
const MAX_LINE: usize = 1000;

/// Writes one line. That nobody reads it is no reason to fail.
pub(crate) fn say(message: &str) {
    let mut line = format!("runtimed-worker: {}", message.replace('\n', " "));
    line.truncate(line.floor_char_boundary(MAX_LINE));
    line.push('\n');
    std::io::stderr().write_all(line.as_bytes()).unwrap_or_default();
}
