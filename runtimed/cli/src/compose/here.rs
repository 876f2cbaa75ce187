//! `--here`: the work tree of the person's own repository, as one pack.
//!
//! Tracked files as they lie there, and untracked ones that no rule ignores; nothing of the history, no configuration, no
//! hook. The person's repository is only read: new objects stay in memory.

use git2::{Buf, Index, IndexAddOption, ObjectType, Oid, Repository, Signature, Time};
use runtimed_api::digest::Digest;
use runtimed_api::ids::TreeId;
use runtimed_api::run::source::UploadSource;

use crate::failure::Failure;
use crate::table::one_line;

/// The largest pack that is sent, in bytes; the controller takes no larger one.
const MAX_PACK: usize = 64 * 1024 * 1024;
/// Above every other store of a repository, so that it takes each write.
const MEMORY_PRIORITY: i32 = 1000;

/// Packs the work tree that the current directory is in.
pub(super) fn pack() -> Result<(UploadSource, Vec<u8>), Failure> {
    let repository = Repository::discover(".").map_err(|error| {
        Failure::usage(format!(
            "the current directory is in no git repository: {}",
            one_line(error.message())
        ))
        .hint("--here sends the repository that you are in; --git URL names another one")
    })?;
    if repository.is_bare() {
        return Err(Failure::usage("the repository here has no working tree"));
    }
    let (pack, commit, head) = packed(&repository).map_err(|error| {
        Failure::fault(format!("the work tree cannot be packed: {}", one_line(error.message())))
    })?;
    if pack.len() > MAX_PACK {
        let mib = pack.len().div_ceil(1 << 20);
        return Err(Failure::usage(format!(
            "the work tree is {mib} MiB when packed, and 64 MiB may be sent"
        ))
        .hint("ignore what the Run does not need with .gitignore, or use --git URL"));
    }
    let id = |oid: Oid| oid.to_string().parse::<TreeId>().map_err(|error| Failure::fault(error.to_string()));
    let source =
        UploadSource { digest: Digest::of(&pack), commit: id(commit)?, head: head.map(id).transpose()? };
    Ok((source, pack))
}

fn packed(repository: &Repository) -> Result<(Vec<u8>, Oid, Option<Oid>), git2::Error> {
    let odb = repository.odb()?;
    odb.add_new_mempack_backend(MEMORY_PRIORITY)?;
    let mut index: Index = repository.index()?;
    index.add_all(["*"], IndexAddOption::DEFAULT, None)?;
    index.update_all(["*"], None)?;
    let tree = repository.find_tree(index.write_tree_to(repository)?)?;
    let head = repository.head().and_then(|head| head.peel_to_commit()).ok().map(|commit| commit.id());
    // The same files make the same commit: neither who sends them nor when is in it.
    let who = Signature::new("runtimectl", "runtimectl@localhost", &Time::new(0, 0))?;
    let of = head.map_or_else(|| "no commit".to_owned(), |head| head.to_string());
    let message = format!("The work tree at {of}\n");
    let commit = repository.commit_create_buffer(&who, &who, &message, &tree, &[])?;
    let commit = odb.write(ObjectType::Commit, &commit)?;
    let mut builder = repository.packbuilder()?;
    builder.insert_tree(tree.id())?;
    builder.insert_object(commit, None)?;
    let mut pack = Buf::new();
    builder.write_buf(&mut pack)?;
    Ok((pack.to_vec(), commit, head))
}
