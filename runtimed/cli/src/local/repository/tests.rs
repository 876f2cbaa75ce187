use super::*;
use crate::local::owner::Owner;
use crate::output::Format;
use crate::style::Style;

const QUIET: Output = Output { format: Format::Table, out: Style::PLAIN, err: Style::PLAIN, live: false };

fn commit(repository: &Repository, content: &str) -> Oid {
    let who = git2::Signature::now("A", "a@h.example").expect("a signature");
    let blob = repository.blob(content.as_bytes()).expect("a blob");
    let mut builder = repository.treebuilder(None).expect("a tree");
    builder.insert("file", blob, 0o100_644).expect("an entry");
    let tree = repository.find_tree(builder.write().expect("a tree")).expect("a tree");
    let parent = repository.head().ok().and_then(|head| head.peel_to_commit().ok());
    repository.commit(Some("HEAD"), &who, &who, content, &tree, parent.as_ref().as_slice()).expect("a commit")
}

fn source(url: &Path, reference: Option<&str>) -> GitSource {
    let (url, reference) = (url.display().to_string(), reference.map(str::to_owned));
    GitSource { url, reference, depth: None, sub_path: None, credential: None }
}

#[test]
fn only_the_wanted_commit_is_handed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let repository = Repository::init(dir.path()).expect("a repository");
    let (first, second) = (commit(&repository, "one"), commit(&repository, "two"));
    repository.reference("refs/tags/v1", first, true, "").expect("a tag");
    let branch = repository.head().expect("HEAD").name().expect("a name").to_owned();
    let short = branch.strip_prefix("refs/heads/").expect("a branch").to_owned();

    let id = first.to_string();
    for (wanted, commit, name) in [
        (None, second, Some(branch.as_str())),
        (Some("HEAD"), second, Some(branch.as_str())),
        (Some(short.as_str()), second, Some(branch.as_str())),
        (Some("v1"), first, Some("refs/tags/v1")),
        (Some("refs/tags/v1"), first, Some("refs/tags/v1")),
        (Some(id.as_str()), first, None),
    ] {
        let home = Home::make(Owner::Caller).expect("a home");
        let mut git = source(dir.path(), wanted);
        hand_over(&mut git, &home, &QUIET).expect("handed over");
        assert_eq!(git.url, home.path(SOURCE).display().to_string());
        let copy = Repository::open_bare(&git.url).expect("a repository");
        let head = copy.find_reference("HEAD").expect("HEAD").peel_to_commit().expect("a commit");
        assert_eq!(head.id(), commit, "{wanted:?}");
        assert!(head.tree().expect("a tree").get_name("file").is_some());
        let found: Vec<_> =
            copy.references().expect("refs").names().map(|name| name.expect("a name").to_owned()).collect();
        assert_eq!(found.first().map(String::as_str), name, "{wanted:?}");
        let other = if commit == first { second } else { first };
        assert!(copy.find_commit(other).is_err(), "{wanted:?}: only one commit");
        home.remove().expect("removed");
    }

    let home = Home::make(Owner::Caller).expect("a home");
    let mut git = GitSource { depth: Some(0), ..source(dir.path(), None) };
    hand_over(&mut git, &home, &QUIET).expect("handed over");
    let copy = Repository::open_bare(&git.url).expect("a repository");
    assert!(copy.find_commit(first).is_ok(), "all of the history");
    home.remove().expect("removed");
}

#[test]
fn what_is_wrong_with_a_source_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = Home::make(Owner::Caller).expect("a home");
    let refused = |url: &Path, reference| {
        let failure = hand_over(&mut source(url, reference), &home, &QUIET).expect_err("refused");
        (failure.exit(), failure.lines()[0].1.clone())
    };
    let (exit, why) = refused(&dir.path().join("none"), None);
    assert_eq!(exit, 120);
    assert!(why.contains("no git repository"), "{why}");
    let repository = Repository::init(dir.path()).expect("a repository");
    assert_eq!(refused(dir.path(), None), (121, "the repository has no commit yet".to_owned()));
    commit(&repository, "one");
    let (exit, why) = refused(dir.path(), Some("no-branch"));
    assert_eq!(exit, 121);
    assert!(why.contains("\"no-branch\""), "{why}");
    home.remove().expect("removed");
}

#[test]
fn what_is_a_path() {
    for path in [".", "..", "/a/b", "a/b", "./a:b", "file:///a"] {
        assert!(local(path).is_some(), "{path}");
    }
    for url in ["https://h/r", "ssh://h/r", "git@h:r", "h:r", "http://h"] {
        assert!(local(url).is_none(), "{url}");
    }
}
