//! `runtimectl artifacts`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use futures_util::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtimed_api::digest::Digest;
use runtimed_api::ids::RunName;
use runtimed_api::manifest::{Artifact, Manifest};
use runtimed_api::run::Run;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::Session;
use super::runs::unwritable;
use crate::args::{Artifacts, ArtifactsCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Ink, Style};
use crate::table::{Table, one_line, size};

pub(super) async fn artifacts(session: &Session, words: Artifacts, output: &Output) -> Result<(), Failure> {
    match words.command {
        Some(ArtifactsCommand::Get { run, paths, dir, stdout }) => {
            let manifest = session.controller.manifest(&session.namespace, &run).await?;
            let chosen = choose(&manifest, &run, &paths)?;
            match chosen.as_slice() {
                [one] if stdout => {
                    let hidden = ProgressBar::hidden();
                    fetch(session, &run, one, tokio::io::stdout(), Failure::from, &hidden).await
                }
                _ if stdout => Err(Failure::usage("--stdout takes one path")),
                all => save_all(session, &run, all, dir.as_deref().unwrap_or(Path::new(".")), output).await,
            }
        }
        None => {
            let run = words.run.ok_or_else(|| Failure::usage("no Run is named"))?;
            let manifest = session.controller.manifest(&session.namespace, &run).await?;
            output.result(&manifest, |style| table(&manifest, style))
        }
    }
}

fn table(manifest: &Manifest, style: Style) -> String {
    let mut table = Table::new(&["PATH", "SIZE", "TYPE", "DIGEST"]);
    for file in &manifest.files {
        table.row([
            (Ink::Plain, file.path.clone()),
            (Ink::Plain, size(file.size)),
            (Ink::Plain, file.content_type.clone()),
            (Ink::Dim, file.digest.to_string()),
        ]);
    }
    for skipped in &manifest.skipped {
        table.row([
            (Ink::Warn, skipped.path.clone()),
            (Ink::Warn, "skipped".to_owned()),
            (Ink::Dim, skipped.reason.clone()),
        ]);
    }
    table.render(style)
}

fn choose<'m>(manifest: &'m Manifest, run: &RunName, paths: &[String]) -> Result<Vec<&'m Artifact>, Failure> {
    if paths.is_empty() {
        return Ok(manifest.files.iter().collect());
    }
    let find = |path: &String| {
        manifest.files.iter().find(|file| file.path == *path).ok_or_else(|| {
            Failure::refused(format!("{run} has no artifact {path}"))
                .hint(format!("`runtimectl artifacts {run}` lists them, and says why a file was skipped"))
        })
    };
    paths.iter().map(find).collect()
}

async fn save_all(
    session: &Session,
    run: &RunName,
    files: &[&Artifact],
    dir: &Path,
    output: &Output,
) -> Result<(), Failure> {
    let bar = bar(output, files.iter().map(|file| file.size).sum());
    for file in files {
        let relative = inside(&file.path)?;
        no_links(dir, &relative)?;
        let to = dir.join(relative);
        bar.set_message(one_line(&file.path));
        save(session, run, file, &to, &bar).await?;
        let said = format!("{} ({})", one_line(&to.to_string_lossy()), size(file.size));
        bar.suspend(|| output.note("saved", &said));
    }
    bar.finish_and_clear();
    Ok(())
}

/// How far all files together are, on a terminal alone.
fn bar(output: &Output, bytes: u64) -> ProgressBar {
    if !output.live {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Keeps what a Run that is over has left: its patch as `patch.diff`, its artifacts below `artifacts/`.
///
/// # Errors
/// The directory cannot be written, or the controller does not give them.
pub async fn keep(session: &Session, run: &Run, dir: &Path, output: &Output) -> Result<(), Failure> {
    let result = run.status.as_ref().and_then(|status| status.attempts.last()?.result.as_ref());
    let (Some(result), Some(name)) = (result, &run.metadata.name) else { return Ok(()) };
    fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
    if result.patch.as_ref().is_some_and(|patch| patch.digest.is_some()) {
        let to = dir.join("patch.diff");
        let bytes = session.controller.patch(&session.namespace, name).await?.bytes().await?;
        fs::write(&to, bytes).map_err(|error| unwritable(&to, &error))?;
        output.note("saved", &to.display().to_string());
    }
    if result.artifacts.is_some() {
        let manifest = session.controller.manifest(&session.namespace, name).await?;
        let all: Vec<_> = manifest.files.iter().collect();
        save_all(session, name, &all, &dir.join("artifacts"), output).await?;
    }
    Ok(())
}

/// The path below a directory: who runs the command decides where files go, not who made the list.
fn inside(path: &str) -> Result<PathBuf, Failure> {
    let relative = Path::new(path);
    let plain = relative.components().all(|component| matches!(component, Component::Normal(_)));
    if path.is_empty() || !plain || path.contains('\0') {
        return Err(Failure::fault(format!(
            "the artifact {} has a path that leads elsewhere",
            one_line(path)
        )));
    }
    Ok(relative.to_owned())
}

/// A link that lies in the destination must not lead a Run's file elsewhere. The destination itself may be one: a person
/// named it.
fn no_links(dir: &Path, relative: &Path) -> Result<(), Failure> {
    let mut place = dir.to_owned();
    for component in relative.parent().into_iter().flat_map(Path::components) {
        place.push(component);
        if fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
            let shown = one_line(&place.to_string_lossy());
            return Err(Failure::usage(format!(
                "{shown} is a symbolic link, which would lead the file elsewhere"
            ))
            .hint("give -o an empty directory"));
        }
    }
    Ok(())
}

/// Writes beside the destination first, so that a broken download leaves nothing there.
async fn save(
    session: &Session,
    run: &RunName,
    file: &Artifact,
    to: &Path,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let parent = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| unwritable(parent, &error))?;
    let broken = |error: io::Error| unwritable(to, &error);
    // A temporary file is private; what a person saves has the mode that any new file has.
    let mode = fs::Permissions::from_mode(if file.executable { 0o777 } else { 0o666 });
    let new = tempfile::Builder::new().permissions(mode).tempfile_in(parent).map_err(broken)?;
    let write = new.reopen().map_err(broken)?;
    fetch(session, run, file, tokio::fs::File::from_std(write), broken, bar).await?;
    new.persist(to).map_err(|error| unwritable(to, &error.error))?;
    Ok(())
}

async fn fetch(
    session: &Session,
    run: &RunName,
    file: &Artifact,
    mut to: impl AsyncWrite + Unpin,
    broken: impl Fn(io::Error) -> Failure,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut bytes = session.controller.artifact(&session.namespace, run, &file.path).await?;
    let mut hash = Sha256::new();
    while let Some(piece) = bytes.try_next().await? {
        hash.update(&piece);
        to.write_all(&piece).await.map_err(&broken)?;
        bar.inc(piece.len() as u64);
    }
    to.flush().await.map_err(&broken)?;
    let digest = Digest::from_bytes(hash.finalize().into());
    if digest != file.digest {
        return Err(Failure::fault(format!(
            "the artifact {} arrived with the digest {digest}, and {} was kept",
            one_line(&file.path),
            file.digest
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_destination_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("d")).unwrap();
        fs::create_dir(dir.path().join("e")).unwrap();
        assert!(no_links(dir.path(), Path::new("d/f")).is_err());
        assert!(no_links(dir.path(), Path::new("e/d/f")).is_ok());
        assert!(no_links(dir.path(), Path::new("f")).is_ok());
    }

    #[test]
    fn a_path_stays_inside() {
        assert_eq!(inside("a/b c").expect("inside"), Path::new("a/b c"));
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a\0b", "."] {
            assert!(inside(bad).is_err(), "{bad:?}");
        }
    }
}
