//! The wiring: what is opened, in which order, and how it ends.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runtimed_api::parse;
use runtimed_client::listen::{self, Listener, Signals, TlsFiles};
use runtimed_store::{BlobStore, StoreConfig};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::api::{App, router};
use crate::arrivals::Arrivals;
use crate::audit::Audit;
use crate::auth::{AttemptTokens, Authority};
use crate::cli::ServeArgs;
use crate::engine::{self, Clock, Parts, Quota};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::runtimes::Catalogue;
use crate::seal::Sealer;
use crate::signing::Signing;
use crate::store::{SqliteStore, Store};
use crate::uploads::Uploads;

/// Why the controller does not serve, or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The command line, or a file named on it.
    #[error("{0}")]
    Usage(String),
    /// A second signal.
    #[error("aborted by a second signal")]
    Aborted,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl ServeError {
    fn usage(error: impl ToString) -> Self {
        Self::Usage(error.to_string())
    }

    fn failed(error: impl ToString) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Descriptors that are asked for at most.
const MAX_DESCRIPTORS: u64 = 65_536;
/// The shortest and the longest lease.
const LEASES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(600));

/// Serves until a signal.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), ServeError> {
    let lease = args.lease.get();
    if lease < LEASES.0 || lease > LEASES.1 {
        return Err(ServeError::Usage(format!("--lease {} is outside 100ms to 10m", args.lease)));
    }
    let authority = Authority::open(&args.tokens).map_err(ServeError::usage)?;
    let runtimes = Catalogue::open(&args.runtimes).map_err(ServeError::usage)?;
    let _lock = claim(&args.data)?;
    let key = |path: &Path| Key::open(path).map_err(ServeError::failed);
    let tokens = AttemptTokens::under(key(&args.data.join("attempts.key"))?);
    let default_key = args.data.join("secrets.key");
    let secrets_key = args.secrets_key.as_deref().unwrap_or(&default_key);
    let sealer = Sealer::under(&key(secrets_key)?).map_err(ServeError::failed)?;
    let overlap = SignedDuration::try_from(args.signing_overlap.get()).unwrap_or(SignedDuration::MAX);
    let signing = Signing::open(&args.data, args.signing_key.as_deref(), overlap, Timestamp::now());
    let signing = Arc::new(signing.map_err(ServeError::usage)?);
    let audit = args.data.join("audit");
    let audit = Audit::open(&audit).map_err(|error| unusable(&audit, &error))?;
    let blobs = match &args.store {
        Some(file) => store(file)?,
        None => {
            let blobs = args.data.join("blobs");
            make(&blobs).map_err(|error| unusable(&blobs, &error))?;
            BlobStore::local(&blobs).map_err(ServeError::failed)?
        }
    };
    let tls = args.tls_cert.clone().zip(args.tls_key.clone()).map(|(cert, key)| TlsFiles { cert, key });
    let listener = Listener::bind(args.listen, tls.as_ref()).map_err(ServeError::usage)?;
    let listener = listener.with_room_for(connections());
    let database = args.data.join("controller.db");
    let database = Arc::new(SqliteStore::open(&database).map_err(ServeError::failed)?);
    let store: Arc<dyn Store> = Arc::<SqliteStore>::clone(&database);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| ServeError::Failed(format!("cannot start threads: {error}")))?;
    let metrics = Metrics::default();
    let parts = Parts {
        store,
        blobs,
        tokens,
        sealer,
        signing,
        metrics,
        lease,
        clock: Clock::start(),
        quota: Quota { active: args.max_active, submissions: args.max_submissions, kept: args.keep_runs },
        keep_uploads: args.keep_uploads.get(),
        uploads: Arc::new(Uploads::new(args.max_uploads)),
    };
    let daemon_ca = args.daemon_ca.clone();
    let ended = runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServeError::failed)?;
        let stopping = CancellationToken::new();
        let serving = until_stopped(listener, parts, authority, runtimes, audit, daemon_ca, stopping.clone());
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = signals.next() => {}
            () = listen::stdin_closed(), if args.until_stdin_closes => {}
        }
        tracing::info!("stopping: requests may go on for {} s", listen::DRAIN.as_secs());
        stopping.cancel();
        tokio::select! {
            ended = &mut serving => ended?,
            () = signals.next() => return Err(ServeError::Aborted),
        }
        // What was deleted last would lie in its log until the next start.
        if let Err(error) = database.empty_log().await {
            tracing::warn!(%error, "the database's log could not be emptied");
        }
        Ok(())
    });
    // What still runs after an abort is not waited for: the store is consistent at every instant.
    runtime.shutdown_background();
    ended
}

/// The store of a file in TOML.
fn store(file: &std::path::Path) -> Result<BlobStore, ServeError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        ServeError::Usage(format!("cannot read the --store file {}: {error}", file.display()))
    })?;
    let failed = |why: String| ServeError::Usage(format!("{}: {}", file.display(), why.trim()));
    let document = toml::Deserializer::parse(&text).map_err(|error| failed(error.to_string()))?;
    let config: StoreConfig = parse::from(document).map_err(|error| failed(error.to_string()))?;
    config.open().map_err(ServeError::usage)
}

async fn until_stopped(
    listener: Listener,
    parts: Parts,
    authority: Authority,
    runtimes: Catalogue,
    audit: Audit,
    daemon_ca: Option<std::path::PathBuf>,
    stopping: CancellationToken,
) -> Result<(), ServeError> {
    let (engine, task) = engine::start(parts.clone()).await.map_err(ServeError::failed)?;
    let app = App {
        engine: engine.clone(),
        store: parts.store,
        blobs: parts.blobs,
        authority,
        tokens: parts.tokens,
        signing: parts.signing,
        runtimes,
        audit,
        metrics: parts.metrics,
        arrivals: Arrivals::default(),
        uploads: parts.uploads,
        lease: parts.lease,
        clock: parts.clock,
        daemon_ca,
        stopping: stopping.clone(),
        daemons: Mutex::new(HashMap::new()),
    };
    announce(&listener)
        .map_err(|error| ServeError::Failed(format!("the address cannot be printed on stdout: {error}")))?;
    let shutdown = async {
        stopping.cancelled().await;
        engine.drain().await;
    };
    let served = listen::serve(listener, router(app), shutdown).await;
    // The last of its handles: the engine concludes what is under way and ends.
    drop(engine);
    task.await.map_err(|error| ServeError::Failed(format!("the engine failed: {error}")))?;
    served.map_err(ServeError::failed)
}

/// How many connections there may be: an idle daemon has one for its renewals and one a slot, and each takes a descriptor.
/// As many descriptors are asked for as the process may have; a quarter stays for files and for connections to daemons.
fn connections() -> usize {
    let limits = getrlimit(Resource::Nofile);
    let most = limits.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limits.maximum });
    let had = if raised.is_ok() { most } else { limits.current.unwrap_or(most) };
    usize::try_from(had / 4 * 3).unwrap_or(usize::MAX)
}

/// Tells whoever started it where it listens: one line of JSON on stdout, when requests are taken.
fn announce(listener: &Listener) -> io::Result<()> {
    let url = listener.url();
    tracing::info!(%url, "listening");
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::json!({ "listening": url }))?;
    out.flush()
}

/// Claims the data directory for this process alone, for as long as the answer lives.
fn claim(data: &Path) -> Result<File, ServeError> {
    make(data).map_err(|error| unusable(data, &error))?;
    let path = data.join("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| unusable(data, &error))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::Failed(format!(
            "another controller works on {}: stop it, or give another --data",
            data.display()
        ))),
        Err(error) => Err(unusable(data, &error.into())),
    }
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn unusable(directory: &Path, error: &io::Error) -> ServeError {
    let user = rustix::process::geteuid().as_raw();
    ServeError::Usage(format!(
        "the data directory {} cannot be used by user {user}: {error}; give --data a directory it may write",
        directory.display()
    ))
}
