//! The thread that owns the journal's file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use rustix::fs::FallocateFlags;
use tokio::sync::oneshot;

use super::format;
use super::state::{Record, State};

/// Past this many bytes the file is written anew, if what it says has become much shorter.
const COMPACT_AT: u64 = 4 * 1024 * 1024;

/// Appends that wait for the disk; more wait at the door.
const QUEUE: usize = 1024;

/// The journal cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// It cannot be opened.
    #[error("cannot use the journal {path}: {why}")]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It could not be written. Nothing is promised any more: the daemon must stop taking work.
    #[error("cannot write the journal: {0}")]
    Write(String),
}

/// How much of what was journaled is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// All that was promised.
    All,
    /// What came before the file's first damage: a crash leaves half a record, which was not promised yet; a disk may lose
    /// more.
    Beginning,
}

/// The way to append.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: mpsc::SyncSender<Append>,
}

struct Append {
    records: Vec<Record>,
    /// `None`: nobody waits, and the next sync will do.
    done: Option<oneshot::Sender<Result<(), JournalError>>>,
}

impl Journal {
    /// Opens the journal in `dir`, or makes it, and says what was in it, and whether that is all: of a file that is damaged
    /// only the beginning is known.
    ///
    /// # Errors
    /// The file cannot be opened, or a newer daemon wrote it.
    pub fn open(dir: &Path) -> Result<(Self, State, Known), JournalError> {
        let path = dir.join("journal");
        let failed = |error: io::Error| JournalError::Open { path: path.clone(), why: error.to_string() };
        let (mut state, mut known) = (State::default(), Known::All);
        match fs::read(&path) {
            Ok(bytes) => {
                let (records, sound) = format::read::<Record>(&bytes)
                    .map_err(|why| JournalError::Open { path: path.clone(), why })?;
                // A crash tears the last group of records and no more. What is cut off is kept for a person to look at.
                if sound < bytes.len() {
                    tracing::warn!(bytes = bytes.len() - sound, "the journal's end is torn, and cut off");
                    known = Known::Beginning;
                    fs::copy(&path, dir.join("journal.torn")).map_err(failed)?;
                }
                records.into_iter().for_each(|record| state.apply(record));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Written anew at every start: a torn tail goes, and the file does not grow from start to start.
        let Rewritten { file, length: sound, durable } = rewrite(dir, &state).map_err(failed)?;
        durable.map_err(failed)?;
        let (queue, appends) = mpsc::sync_channel(QUEUE);
        let mut writer = Writer {
            dir: dir.to_owned(),
            file,
            sound,
            compact_at: COMPACT_AT.max(sound * 2),
            state: state.clone(),
            suspect: false,
        };
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&appends))
            .map_err(failed)?;
        Ok((Self { queue }, state, known))
    }

    /// Appends, and returns when the records are on disk.
    ///
    /// # Errors
    /// They are not.
    pub async fn append(&self, records: Vec<Record>) -> Result<(), JournalError> {
        let (done, answer) = oneshot::channel();
        let gone = || JournalError::Write("the journal's thread has ended".to_owned());
        // The bound of the queue is far above the number of slots, so that a full one means a stuck disk: then waiting
        // here, which holds up this worker thread of the runtime, is the back-pressure there is.
        self.queue.send(Append { records, done: Some(done) }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Appends what may be lost in a crash without harm: it would be learnt again.
    pub fn note(&self, record: Record) {
        // A full queue or a broken journal loses the note, and that is what a note allows.
        let _lost = self.queue.try_send(Append { records: vec![record], done: None });
    }
}

struct Writer {
    dir: PathBuf,
    file: File,
    /// The end of what is sound and promised.
    sound: u64,
    /// The file is written anew when it has grown past this.
    compact_at: u64,
    state: State,
    /// The file may not hold what was written to it: it is written anew before anything more is promised.
    suspect: bool,
}

impl Writer {
    fn run(&mut self, appends: &mpsc::Receiver<Append>) {
        let mut bytes = Vec::new();
        let (mut records, mut waiting) = (Vec::new(), Vec::new());
        while let Ok(first) = appends.recv() {
            bytes.clear();
            for append in std::iter::once(first).chain(appends.try_iter().take(QUEUE)) {
                let begun = bytes.len();
                let encoded = append.records.iter().try_for_each(|record| format::append(&mut bytes, record));
                if let Err(why) = encoded {
                    // A record that cannot be encoded is this append's own trouble, not the others'.
                    bytes.truncate(begun);
                    if let Some(done) = append.done {
                        let _gone = done.send(Err(JournalError::Write(why)));
                    }
                    continue;
                }
                records.extend(append.records);
                waiting.extend(append.done);
            }
            let result = self.commit(&bytes, !waiting.is_empty());
            if result.is_ok() {
                records.drain(..).for_each(|record| self.state.apply(record));
                self.compact();
            }
            records.clear();
            for done in waiting.drain(..) {
                let _gone = done.send(result.clone());
            }
        }
    }

    /// Puts `bytes` at the end, whole or not at all: after a full disk has room again, the journal goes on.
    fn commit(&mut self, bytes: &[u8], sync: bool) -> Result<(), JournalError> {
        let failed = |error: io::Error| JournalError::Write(error.to_string());
        if self.suspect {
            self.renew().map_err(failed)?;
        }
        if let Err(error) = self.file.write_all_at(bytes, self.sound) {
            let undone = self.file.set_len(self.sound).and_then(|()| self.file.sync_data());
            self.suspect = undone.is_err();
            return Err(failed(error));
        }
        if sync && let Err(error) = self.file.sync_data() {
            // The kernel says this once and takes the pages for written from then on (fsync(2)), those of earlier notes
            // too: that a later sync succeeds says nothing about them.
            self.suspect = true;
            return Err(failed(error));
        }
        self.sound += bytes.len() as u64;
        Ok(())
    }

    /// Writes the file anew.
    fn renew(&mut self) -> io::Result<()> {
        let Rewritten { file, length, durable } = rewrite(&self.dir, &self.state)?;
        self.file = file;
        self.sound = length;
        self.compact_at = COMPACT_AT.max(length * 2);
        // After a crash it could be the old file again: nothing is promised in the new one until that is sure.
        self.suspect = durable.is_err();
        durable
    }

    fn compact(&mut self) {
        if self.sound <= self.compact_at {
            return;
        }
        if let Err(error) = self.renew() {
            // Unless the new file is there and suspect, the old one is as good as before, only longer.
            tracing::warn!(%error, "the journal cannot be written anew yet");
            self.compact_at = self.sound + COMPACT_AT;
        }
    }
}

/// A file in the place of the old one.
struct Rewritten {
    file: File,
    length: u64,
    /// A crash leaves this one and not the old.
    durable: io::Result<()>,
}

/// Writes the whole state as a new file in the place of the old: a crash leaves one or the other.
fn rewrite(dir: &Path, state: &State) -> io::Result<Rewritten> {
    let mut bytes = format::MAGIC.to_vec();
    for record in state.records() {
        format::append(&mut bytes, &record).map_err(io::Error::other)?;
    }
    let fresh = dir.join("journal.new");
    let file =
        OpenOptions::new().create(true).truncate(true).write(true).read(true).mode(0o600).open(&fresh)?;
    // Room for what comes, taken now: a log that fills the file system must not silence the journal. Where that cannot be
    // had, a full disk is found out at the append.
    let reserved = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, COMPACT_AT);
    if let Err(error) = reserved {
        tracing::debug!(%error, "no room is reserved for the journal");
    }
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join("journal"))?;
    let durable = File::open(dir).and_then(|dir| dir.sync_all());
    Ok(Rewritten { file, length: bytes.len() as u64, durable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::ids::{AttemptKey, AttemptNumber, Fence};

    fn key(fence: u64) -> AttemptKey {
        AttemptKey {
            namespace: "default".parse().expect("a namespace"),
            name: "x".parse().expect("a name"),
            uid: "u".parse().expect("a uid"),
            attempt: AttemptNumber(1),
            fence: Fence(fence),
        }
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_append_and_not_the_journal() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = rewrite(dir.path(), &State::default()).expect("made");
        let mut writer = Writer {
            dir: dir.path().to_owned(),
            file: made.file,
            sound: made.length,
            compact_at: u64::MAX,
            state: State::default(),
            suspect: false,
        };
        // A descriptor that takes nothing and cannot be cut, as that of a disk that fails.
        writer.file = File::open("/dev/null").expect("opens");
        assert!(writer.commit(b"lost", true).is_err() && writer.suspect);
        // A directory in the place of the new file: as long as it cannot be written anew, nothing is promised.
        let fresh = dir.path().join("journal.new");
        fs::create_dir(&fresh).expect("made");
        assert!(writer.commit(b"lost too", true).is_err() && writer.suspect);
        fs::remove_dir(&fresh).expect("removed");
        writer.commit(b"kept", true).expect("goes on");
        let bytes = fs::read(dir.path().join("journal")).expect("reads");
        assert_eq!(bytes, [&format::MAGIC[..], b"kept"].concat());
    }

    #[tokio::test]
    async fn a_restart_finds_what_was_appended_and_is_not_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let (journal, state, known) = Journal::open(dir.path()).expect("opens");
        assert_eq!(known, Known::All);
        assert_eq!(state, State::default());
        for fence in 1..=3 {
            let accepted = Record::Accepted { attempt: key(fence), tree: "t".to_owned() };
            journal.append(vec![accepted]).await.expect("appends");
        }
        journal
            .append(vec![Record::Staging { attempt: key(2), files: vec!["token".to_owned()] }])
            .await
            .expect("appends");
        drop(journal);
        let (_journal, state, _) = Journal::open(dir.path()).expect("opens again");
        assert_eq!(state.attempts.len(), 3);
        assert_eq!(state.attempts[&key(2)].staged, ["token"]);
        // A torn end is cut off, and kept aside.
        let mut torn = fs::read(dir.path().join("journal")).expect("reads");
        torn.extend_from_slice(b"half a record");
        fs::write(dir.path().join("journal"), torn).expect("written");
        // The rewritten file says the same.
        let (_journal, again, known) = Journal::open(dir.path()).expect("opens a third time");
        assert_eq!((again, known), (state, Known::Beginning));
        assert!(dir.path().join("journal.torn").exists());
    }
    /// As a daemon of many Runs leaves it: written anew again and again, and never longer than twice what it has to say.
    #[tokio::test]
    async fn a_journal_that_has_grown_is_written_anew_and_says_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = rewrite(dir.path(), &State::default()).expect("made");
        let mut writer = Writer {
            dir: dir.path().to_owned(),
            file: made.file,
            sound: made.length,
            compact_at: COMPACT_AT,
            state: State::default(),
            suspect: false,
        };
        let (queue, appends) = mpsc::sync_channel(QUEUE);
        let staging = |fence| Record::Staging { attempt: key(fence), files: vec!["f".repeat(1 << 20)] };
        let appending = thread::spawn(move || {
            for fence in 1..=20 {
                let accepted = Record::Accepted { attempt: key(fence), tree: "t".to_owned() };
                let finished = Record::Reported { attempt: key(fence), sequence: 2, finished: true };
                let released = Record::Released { attempt: key(fence) };
                let records = match fence {
                    7 | 20 => vec![accepted, staging(fence)],
                    _ => vec![accepted, staging(fence), finished, released],
                };
                queue.send(Append { records, done: None }).expect("queued");
            }
        });
        writer.run(&appends);
        appending.join().expect("ends");
        let length = fs::metadata(dir.path().join("journal")).expect("there").len();
        assert!(length < 6 << 20, "{length} bytes of 20 MiB");
        drop(writer);
        let (_journal, state, known) = Journal::open(dir.path()).expect("opens");
        assert_eq!(known, Known::All);
        assert_eq!(state.attempts.keys().cloned().collect::<Vec<_>>(), [key(7), key(20)]);
        assert!(state.attempts.values().all(|open| open.staged[0].len() == 1 << 20));
    }

    /// Whoever waits while the disk is busy shares the next sync.
    #[tokio::test]
    async fn appends_that_wait_are_committed_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = rewrite(dir.path(), &State::default()).expect("made");
        let mut writer = Writer {
            dir: dir.path().to_owned(),
            file: made.file,
            sound: made.length,
            compact_at: u64::MAX,
            state: State::default(),
            suspect: false,
        };
        // What a disk that fails says once, all of the group hear.
        writer.file = File::open("/dev/null").expect("opens");
        let (queue, appends) = mpsc::sync_channel(QUEUE);
        let answers: Vec<_> = (1..=100)
            .map(|fence| {
                let (done, answer) = oneshot::channel();
                let records = vec![Record::Accepted { attempt: key(fence), tree: "t".to_owned() }];
                queue.send(Append { records, done: Some(done) }).expect("queued");
                answer
            })
            .collect();
        drop(queue);
        writer.run(&appends);
        for answer in answers {
            answer.await.expect("answered").expect_err("one write was tried for all, and failed");
        }
    }
}
