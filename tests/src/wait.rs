//! Waiting for what nothing tells of, and looking at processes.

use std::time::Duration;

/// Looks until something holds.
///
/// # Panics
/// It does not within a minute; `what` says what was waited for.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            looks.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "{what}");
}

/// How many processes have this word among their arguments.
///
/// # Panics
/// There is no `/proc`.
#[must_use]
pub fn processes_with(word: &str) -> usize {
    let of = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let lines = std::fs::read_dir("/proc").expect("/proc").flatten().map(of);
    lines.filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())).count()
}
