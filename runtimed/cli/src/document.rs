//! Reading what a person named on the command line.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use runtimed_api::run::Run;
use runtimed_api::{MAX_OBJECT_BYTES, parse};

use crate::failure::Failure;

/// Reads a Run from YAML or JSON; `-` is standard input.
///
/// # Errors
/// A usage error: the file cannot be read, is too large, or is no Run; the sentence says where.
pub fn run(file: &Path) -> Result<Run, Failure> {
    let bytes = read(file)?;
    let wrong = |why: &str| Failure::usage(format!("{}: {}", file.display(), why.trim()));
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not UTF-8 text"))?;
    let mut documents = yaml_serde::Deserializer::from_str(text);
    let first = documents.next().ok_or_else(|| wrong("it is empty"))?;
    let run = parse::from(first).map_err(|error| wrong(&error.to_string()))?;
    if documents.next().is_some() {
        return Err(wrong("it holds more than one document").hint("write one Run a file"));
    }
    Ok(run)
}

/// Reads a file of at most the size of a stored object.
///
/// # Errors
/// As for [`read_at_most`].
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    read_at_most(file, MAX_OBJECT_BYTES as u64)
}

/// Reads a file, or standard input for `-`, of at most `most` bytes.
///
/// # Errors
/// A usage error: it cannot be read, or is larger.
pub fn read_at_most(file: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: io::Error| {
        let what =
            if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
        Failure::usage(format!("{what} cannot be read: {}", cause(&error)))
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    if file == Path::new("-") {
        io::stdin().lock().take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        let file = File::open(file).map_err(unreadable)?;
        file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if bytes.len() as u64 > most {
        return Err(Failure::usage(format!(
            "{} is larger than {}",
            file.display(),
            crate::table::size(most)
        )));
    }
    Ok(bytes)
}

/// Why a file operation failed, without the number that nobody reads.
#[must_use]
pub fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Run, Failure> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("run.yaml");
        std::fs::write(&file, text).expect("written");
        run(&file)
    }

    const GOOD: &str = "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {name: a}\nspec:\n  runtime: bash\n  command: [ls]\n";

    #[test]
    fn a_run_is_read() {
        assert_eq!(read_text(GOOD).expect("a Run").spec.command, ["ls"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, words) in [
            (format!("{GOOD}  limits: {{tiemout: 1s}}\n"), "did you mean `timeout`?"),
            (GOOD.replace("[ls]", "ls"), "run.yaml: spec.command: invalid type"),
            (GOOD.replace("  runtime: bash\n", ""), "run.yaml: spec: missing field `runtime`"),
            ("root:x:0:0\nbin:x:1:1\n".to_owned(), "run.yaml: expected a mapping of fields"),
            (format!("{GOOD}---\n{GOOD}"), "more than one document"),
            (String::new(), "missing field"),
            ("a: [".to_owned(), "run.yaml"),
            ("x".repeat(300_000), "larger than 256 KiB"),
        ] {
            let failure = read_text(&text).expect_err("refused");
            assert_eq!(failure.exit(), 120);
            let line = &failure.lines()[0].1;
            assert!(line.contains(words) && !line.contains('\n'), "{words}: {line}");
        }
        let failure = run(Path::new("/nowhere/run.yaml")).expect_err("refused");
        assert_eq!(failure.lines()[0].1, "/nowhere/run.yaml cannot be read: No such file or directory");
    }
}
