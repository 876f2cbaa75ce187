//! What the daemon says of itself.

/// Logs to stderr: as JSON lines for the cluster's log stack, or as text on a terminal.
pub(crate) fn start_log(otherwise: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("RUNTIMED_LOG").unwrap_or_else(|_| EnvFilter::new(otherwise));
    // A stderr that nobody reads, or that is full, must not end the daemon: what cannot be written is lost.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let started = if rustix::termios::isatty(rustix::stdio::stderr()) {
        log.compact().try_init()
    } else {
        log.json().flatten_event(true).with_span_list(false).try_init()
    };
    // A test that drives several daemons in one process has started it already.
    if let Err(error) = started {
        tracing::debug!(%error, "the log was started before");
    }
}
