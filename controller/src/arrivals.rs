//! Large results on their way from daemons, whose connections may break: what has arrived of one is kept for some minutes, so
//! that its daemon sends only the rest.
//!
//! It is known in memory alone: after a restart of the controller each begins anew.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, poll_fn};
use runtimed_api::digest::Digest;
use runtimed_api::ids::RunUid;
use runtimed_store::{BlobError, BlobStore, Incoming, MAX_BLOB, Place};
use tokio::sync::{Mutex as Turn, Notify};
use tokio::time::Instant;

/// How long a daemon may stay away: several of its tries, between which it waits half a minute at most.
const KEPT: Duration = Duration::from_secs(300);
/// How long whoever asks what has arrived waits for the connection before its own to be given up.
const GIVING_UP: Duration = Duration::from_secs(5);
/// Results that are kept so at once. Of each a file is open; one more is stored like a small one, whole or not at all.
const MOST: usize = 256;

/// What is on its way.
#[derive(Debug, Clone)]
pub struct Arrivals {
    kept: Duration,
    of: Arc<Mutex<HashMap<Name, Arc<Arrival>>>>,
}

/// Of which Run, and which.
type Name = (RunUid, Digest);

#[derive(Debug, Default)]
struct Arrival {
    /// Has whoever is bringing it give up.
    give_up: Notify,
    /// What has arrived, and when its connection broke. Held by whoever is bringing more.
    left: Turn<Option<(Instant, Incoming)>>,
    /// Whether somebody looks that it is not kept for longer.
    watched: AtomicBool,
}

/// A result that is not kept, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// The rest of it was sent, and what is before that is not there.
    #[error("{0} bytes of it have arrived: send it from there")]
    Elsewhere(u64),
    /// It could not be stored.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Default for Arrivals {
    fn default() -> Self {
        Self::new(KEPT)
    }
}

impl Arrivals {
    /// Each is kept for so long after its connection broke.
    fn new(kept: Duration) -> Self {
        Self { kept, of: Arc::default() }
    }

    /// Takes what of a result comes after its first `from` bytes, and keeps it when that was the rest of it. Gives its size.
    ///
    /// # Errors
    /// As many have not arrived, or it cannot be stored. What has arrived when the connection breaks is kept for some minutes.
    pub async fn take<E: fmt::Display>(
        &self,
        blobs: &BlobStore,
        uid: &RunUid,
        digest: &Digest,
        from: u64,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<u64, ArrivalError> {
        let place = Place::of_run(uid);
        let name = (uid.clone(), *digest);
        let Some(arrival) = self.arrival(&name) else {
            return whole(blobs, &place, digest, from, body).await;
        };
        // Two that bring the same do not wait for each other.
        let Ok(mut left) = arrival.left.try_lock() else {
            return whole(blobs, &place, digest, from, body).await;
        };
        let incoming = match left.take() {
            Some((_, incoming)) if from == incoming.arrived() => incoming,
            None if from == 0 => blobs.incoming(&place, digest),
            Some((_, incoming)) if from == 0 => {
                incoming.abort().await;
                blobs.incoming(&place, digest)
            }
            Some((since, incoming)) => {
                let arrived = incoming.arrived();
                *left = Some((since, incoming));
                return Err(ArrivalError::Elsewhere(arrived));
            }
            None => {
                self.forget(&name, &arrival);
                return Err(ArrivalError::Elsewhere(0));
            }
        };
        let (mut body, mut given_up) = (pin!(body), pin!(arrival.give_up.notified()));
        let body = poll_fn(|context| {
            if given_up.as_mut().poll(context).is_ready() {
                return Poll::Ready(Some(Err("its daemon has begun again".to_owned())));
            }
            body.as_mut().poll_next(context).map_err(|error| error.to_string())
        });
        let (taken, more) = incoming.take(MAX_BLOB, body).await;
        *left = more.map(|incoming| (Instant::now(), incoming));
        if left.is_none() {
            self.forget(&name, &arrival);
        } else if !arrival.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(self.clone().expire(name, Arc::clone(&arrival)));
        }
        Ok(taken?)
    }

    /// How many bytes of a result have arrived: its first, which its daemon need not send again. Whoever is bringing more of it
    /// is given up, for its daemon would not ask if that went well.
    pub async fn arrived(&self, uid: &RunUid, digest: &Digest) -> u64 {
        let arrival = self.of().get(&(uid.clone(), *digest)).cloned();
        let Some(arrival) = arrival else { return 0 };
        arrival.give_up.notify_waiters();
        let left = tokio::time::timeout(GIVING_UP, arrival.left.lock()).await;
        left.map_or(0, |left| left.as_ref().map_or(0, |(_, incoming)| incoming.arrived()))
    }

    fn arrival(&self, name: &Name) -> Option<Arc<Arrival>> {
        let mut of = self.of();
        if !of.contains_key(name) && of.len() >= MOST {
            return None;
        }
        Some(Arc::clone(of.entry(name.clone()).or_default()))
    }

    fn forget(&self, name: &Name, arrival: &Arc<Arrival>) {
        let mut of = self.of();
        if of.get(name).is_some_and(|known| Arc::ptr_eq(known, arrival)) {
            of.remove(name);
        }
    }

    /// Gives up what nobody has gone on with for so long.
    async fn expire(self, name: Name, arrival: Arc<Arrival>) {
        let mut due = Instant::now() + self.kept;
        loop {
            tokio::time::sleep_until(due).await;
            // Whoever has it is bringing more. Nobody is to find it taken by this.
            let Ok(mut left) = arrival.left.try_lock() else {
                due += self.kept;
                continue;
            };
            let Some((since, incoming)) = left.take() else { return };
            due = since + self.kept;
            if due <= Instant::now() {
                self.forget(&name, &arrival);
                return incoming.abort().await;
            }
            *left = Some((since, incoming));
        }
    }

    fn of(&self) -> MutexGuard<'_, HashMap<Name, Arc<Arrival>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores it whole, or not at all.
async fn whole<E: fmt::Display>(
    blobs: &BlobStore,
    place: &Place,
    digest: &Digest,
    from: u64,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<u64, ArrivalError> {
    if from > 0 {
        return Err(ArrivalError::Elsewhere(0));
    }
    Ok(blobs.put(place, digest, MAX_BLOB, body).await?)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use runtimed_store::PART;

    use super::*;

    struct Scene {
        blobs: BlobStore,
        arrivals: Arrivals,
        uid: RunUid,
        bytes: Bytes,
        digest: Digest,
        dir: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let blobs = BlobStore::local(dir.path()).expect("a store");
            let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
            let (digest, bytes) = (Digest::of(&bytes), Bytes::from(bytes));
            let uid = "0190-a".parse().expect("a uid");
            Self { blobs, arrivals: Arrivals::default(), uid, bytes, digest, dir }
        }

        async fn take(
            &self,
            from: u64,
            body: impl Stream<Item = Result<Bytes, String>> + Send,
        ) -> Result<u64, ArrivalError> {
            self.arrivals.take(&self.blobs, &self.uid, &self.digest, from, body).await
        }

        /// The bytes of a range, after which the connection breaks or not.
        fn body(&self, range: std::ops::Range<usize>, breaks: bool) -> Vec<Result<Bytes, String>> {
            let end = breaks.then(|| Err("cut".to_owned()));
            [Ok(self.bytes.slice(range))].into_iter().chain(end).collect()
        }

        async fn until(&self, files: impl Fn(usize) -> bool) {
            let looked = async {
                while !files(self.files()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), looked).await.expect("soon");
        }

        fn files(&self) -> usize {
            let run = self.dir.path().join("runs").join(self.uid.as_str());
            std::fs::read_dir(run).map_or(0, Iterator::count)
        }
    }

    #[tokio::test]
    async fn a_daemon_goes_on_where_its_connection_broke() {
        let scene = Scene::new();
        let arrived = async || scene.arrivals.arrived(&scene.uid, &scene.digest).await;
        assert_eq!(arrived().await, 0);
        let broken = scene.take(0, stream::iter(scene.body(0..PART + 5, true))).await;
        assert!(matches!(broken, Err(ArrivalError::Blob(BlobError::Broken(_)))), "{broken:?}");
        let from = arrived().await;
        assert_eq!(from, PART as u64);
        // What is sent from elsewhere changes nothing.
        let elsewhere = scene.take(5, stream::iter(scene.body(5..20_000_000, false))).await;
        assert!(matches!(elsewhere, Err(ArrivalError::Elsewhere(at)) if at == from), "{elsewhere:?}");
        let size = scene.take(from, stream::iter(scene.body(PART..20_000_000, false))).await.expect("kept");
        assert_eq!(size, 20_000_000);
        assert!(scene.arrivals.of().is_empty());
        assert_eq!(scene.files(), 1);
        // From the beginning once more, beside what had arrived.
        let broken = scene.take(0, stream::iter(scene.body(0..PART + 5, true))).await;
        assert!(broken.is_err() && arrived().await == from);
        scene.take(0, stream::iter(scene.body(0..20_000_000, false))).await.expect("kept");
        assert_eq!((arrived().await, scene.files()), (0, 1));
    }

    #[tokio::test]
    async fn a_connection_that_hangs_is_given_up_for_the_next() {
        let scene = std::sync::Arc::new(Scene::new());
        let (first, second) = (Arc::clone(&scene), Arc::clone(&scene));
        let hangs = stream::iter(scene.body(0..PART + 5, false));
        let hangs = futures_util::StreamExt::chain(hangs, stream::pending());
        let hung = tokio::spawn(async move { first.take(0, hangs).await });
        // The part has arrived once its file is there.
        scene.until(|files| files > 0).await;
        // Another that brings the same meanwhile needs no turn.
        scene.take(0, stream::iter(scene.body(0..20_000_000, false))).await.expect("kept");
        assert_eq!(second.arrivals.arrived(&second.uid, &second.digest).await, PART as u64);
        assert!(hung.await.expect("no panic").is_err());
        let rest = stream::iter(scene.body(PART..20_000_000, false));
        assert_eq!(scene.take(PART as u64, rest).await.expect("kept"), 20_000_000);
    }

    #[tokio::test]
    async fn what_nobody_goes_on_with_is_removed() {
        let mut scene = Scene::new();
        scene.arrivals = Arrivals::new(Duration::from_millis(100));
        let broken = scene.take(0, stream::iter(scene.body(0..PART, true))).await;
        assert!(broken.is_err());
        scene.until(|files| files == 0).await;
        assert_eq!(scene.arrivals.arrived(&scene.uid, &scene.digest).await, 0);
        assert!(scene.arrivals.of().is_empty());
        let rest = scene.take(PART as u64, stream::iter(scene.body(PART..20_000_000, false))).await;
        assert!(matches!(rest, Err(ArrivalError::Elsewhere(0))), "{rest:?}");
        assert!(scene.arrivals.of().is_empty());
    }
}
