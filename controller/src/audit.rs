//! Who did what: a line of JSON for each change that somebody asked for, and for each refusal.
//!
//! `audit/audit.jsonl` in the data directory; at 16 MiB it becomes `audit-TIME.jsonl` and a new one is begun, and of those
//! the newest eight are kept. A line is written before its request is answered, and not synchronised: a crash of the machine
//! may lose the last seconds, one of the controller loses nothing.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtimed_api::problem::Code;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// At this many bytes a new file is begun.
const FILE: u64 = 16 * 1024 * 1024;
/// Full files that are kept.
const KEPT: usize = 8;
/// Entries that wait for the disk; more make the askers wait.
const QUEUE: usize = 1024;
/// Refusals of one subject that are written in a second, and of nobody known: what is refused must not push out what was done.
const REFUSALS: u32 = 10;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When it was answered.
    pub at: Timestamp,
    /// Who: the subject of a person's token, `daemon of RUNTIME`, or nothing for a token that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was asked.
    pub method: String,
    /// Of what.
    pub path: String,
    /// The Run that a submission made or found, or that a rejected report is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The HTTP status of the answer; of a report that was rejected within one, the status of its code.
    pub status: u16,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Refusals of the same subject before this one that were not written.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Writes the audit. Clones write the same.
#[derive(Debug, Clone)]
pub struct Audit {
    directory: PathBuf,
    entries: mpsc::Sender<(Entry, oneshot::Sender<()>)>,
}

impl Audit {
    /// Begins to write in this directory, which is made when it is not there.
    ///
    /// # Errors
    /// It cannot be made, or the file in it cannot be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut writer = Writer::open(directory)?;
        let (entries, mut incoming) = mpsc::channel::<(Entry, oneshot::Sender<()>)>(QUEUE);
        thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Some((entry, written)) = incoming.blocking_recv() {
                writer.take(entry);
                // Whoever asked may not wait any more.
                let _gone = written.send(());
            }
        })?;
        Ok(Self { directory: directory.to_owned(), entries })
    }

    /// Writes an entry, and returns when it is written.
    pub async fn write(&self, entry: Entry) {
        let (written, done) = oneshot::channel();
        // The thread lives as long as this does.
        if self.entries.send((entry, written)).await.is_ok() {
            drop(done.await);
        }
    }

    /// The newest entries, newest first.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn newest(&self, limit: usize) -> io::Result<Vec<Entry>> {
        let mut files = full(&self.directory)?;
        files.push(current(&self.directory));
        let mut found: Vec<Entry> = Vec::new();
        for file in files.iter().rev() {
            let mut of_file: VecDeque<Entry> = VecDeque::new();
            let wanted = limit.saturating_sub(found.len());
            for line in BufReader::new(File::open(file)?).split(b'\n') {
                // A line that a crash cut off is none.
                let Ok(entry) = serde_json::from_slice(&line?) else { continue };
                if of_file.len() == wanted {
                    of_file.pop_front();
                }
                of_file.push_back(entry);
            }
            found.extend(of_file.into_iter().rev());
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

struct Writer {
    directory: PathBuf,
    file: File,
    size: u64,
    /// The second that is counted, and the refusals in it.
    second: Instant,
    refusals: HashMap<Option<String>, Refusals>,
}

/// The refusals of one subject.
#[derive(Default)]
struct Refusals {
    /// In this second.
    count: u32,
    /// Those since the last that was written.
    suppressed: u32,
}

impl Writer {
    fn open(directory: &Path) -> io::Result<Self> {
        let path = current(directory);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        let directory = directory.to_owned();
        Ok(Self { directory, file, size, second: Instant::now(), refusals: HashMap::new() })
    }

    fn take(&mut self, mut entry: Entry) {
        if entry.subject.is_none() || entry.code.is_some() {
            if self.second.elapsed() >= Duration::from_secs(1) {
                self.second = Instant::now();
                self.refusals.retain(|_, of| {
                    of.count = 0;
                    of.suppressed > 0
                });
            }
            let of = self.refusals.entry(entry.subject.clone()).or_default();
            of.count += 1;
            if of.count > REFUSALS {
                of.suppressed = of.suppressed.saturating_add(1);
                return;
            }
            entry.suppressed = std::mem::take(&mut of.suppressed);
        }
        if let Err(error) = self.append(&entry) {
            // The controller's own log is the next best place.
            tracing::error!(%error, ?entry, "the audit cannot be written");
        }
    }

    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.size + line.len() as u64 > FILE {
            self.turn()?;
        }
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// Begins a new file, and removes what is too old.
    fn turn(&mut self) -> io::Result<()> {
        let name = format!("audit-{}.jsonl", Timestamp::now().as_microsecond());
        fs::rename(current(&self.directory), self.directory.join(name))?;
        let refusals = std::mem::take(&mut self.refusals);
        *self = Self { refusals, ..Self::open(&self.directory)? };
        let full = full(&self.directory)?;
        for old in full.iter().take(full.len().saturating_sub(KEPT)) {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

fn current(directory: &Path) -> PathBuf {
    directory.join("audit.jsonl")
}

/// The full files, oldest first.
fn full(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_full = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("audit-"))
    };
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory)?.flatten().map(|entry| entry.path()).filter(is_full).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, subject: Option<&str>) -> Entry {
        Entry {
            at: Timestamp::UNIX_EPOCH,
            subject: subject.map(str::to_owned),
            method: "POST".to_owned(),
            path: path.to_owned(),
            run: None,
            status: 201,
            code: None,
            suppressed: 0,
        }
    }

    fn reader(directory: &Path) -> Audit {
        Audit { directory: directory.to_owned(), entries: mpsc::channel(1).0 }
    }

    #[test]
    fn files_are_turned_and_bounded_and_read_newest_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = Writer::open(dir.path()).expect("opens");
        let long = "x".repeat(1024 * 1024);
        for number in 0..200 {
            writer.append(&entry(&format!("{number}/{long}"), Some("alice"))).expect("written");
        }
        let files = fs::read_dir(dir.path()).expect("listed").flatten();
        let sizes: Vec<u64> = files.map(|file| file.metadata().expect("there").len()).collect();
        assert_eq!(sizes.len(), KEPT + 1);
        assert!(sizes.iter().all(|size| *size <= FILE), "{sizes:?}");
        let read = reader(dir.path()).newest(40).expect("read");
        let numbers: Vec<_> = read.iter().map(|entry| entry.path.split('/').next().unwrap_or("")).collect();
        let expected: Vec<String> = (160..200).rev().map(|number| number.to_string()).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn refusals_do_not_push_out_what_was_done() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = Writer::open(dir.path()).expect("opens");
        let refused = || Entry { code: Some(Code::Forbidden), ..entry("/", Some("mallory")) };
        for _ in 0..1000 {
            writer.take(entry("/", None));
            writer.take(refused());
        }
        writer.take(entry("/", Some("alice")));
        let read = reader(dir.path()).newest(5000).expect("read");
        assert!(read.len() < 200, "{}", read.len());
        assert_eq!(read.first().and_then(|entry| entry.subject.as_deref()), Some("alice"));
        // What was left out is counted in the next that is written.
        writer.second -= Duration::from_secs(1);
        writer.take(refused());
        let read = reader(dir.path()).newest(1).expect("read");
        assert!(read.first().is_some_and(|entry| entry.suppressed > 800), "{read:?}");
    }

    #[test]
    fn a_line_that_a_crash_cut_off_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = Writer::open(dir.path()).expect("opens");
        writer.append(&entry("/one", Some("alice"))).expect("written");
        writer.file.write_all(b"{\"at\":\"2026").expect("written");
        assert_eq!(reader(dir.path()).newest(9).expect("read").len(), 1);
    }
}
