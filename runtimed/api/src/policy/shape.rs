//! What must hold of a Run whatever the Runtime: names, bounds, paths.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use globset::{Glob, GlobBuilder};

use crate::rule::{Refusal, Rule};
use crate::run::Metadata;
use crate::run::source::SourceKind;
use crate::run::spec::{RunSpec, SecretUse};

/// Bytes of the command and of the environment together, and of each; Linux takes some 2 MiB, a stored Run less.
const MAX_TEXT: usize = 128 * 1024;

pub(super) fn metadata(metadata: &Metadata) -> Vec<Refusal> {
    let mut out = Vec::new();
    let mut refuse = |rule, subject: &str, message: &str| out.push(Refusal::new(rule, subject, message));
    match (&metadata.name, &metadata.generate_name) {
        (Some(_), None) => {}
        (None, Some(start)) => {
            // Five characters are added, and the whole must be a name.
            if format!("{start}xxxxx").parse::<crate::ids::RunName>().is_err() {
                refuse(
                    Rule::SPEC_NAME,
                    "metadata.generateName",
                    "it is not the start of a name: use at most 57 of a-z, 0-9 and '-', not '-' at the start",
                );
            }
        }
        (None, None) => refuse(Rule::SPEC_NAME, "metadata", "either name or generateName is needed"),
        (Some(_), Some(_)) => refuse(Rule::SPEC_NAME, "metadata", "name and generateName exclude each other"),
    }
    if metadata.uid.is_some() || metadata.creation_timestamp.is_some() {
        refuse(Rule::SPEC_STATUS, "metadata", "uid and creationTimestamp are the controller's to give");
    }
    let long = |text: &String| text.len() > 63;
    if metadata.labels.len() > 32 || metadata.labels.iter().any(|(key, value)| long(key) || long(value)) {
        refuse(
            Rule::SPEC_LABELS,
            "metadata.labels",
            "at most 32 labels, keys and values of at most 63 bytes",
        );
    }
    out
}

pub(super) fn spec(spec: &RunSpec) -> Vec<Refusal> {
    let mut out = Vec::new();
    command(spec, &mut out);
    environment(spec, &mut out);
    secrets(&spec.secrets, &mut out);
    if spec.prior_patches.len() > 16 {
        out.push(Refusal::new(Rule::PATCH_TOO_MANY, "spec.priorPatches", "more than 16 prior patches"));
    }
    for (index, patch) in spec.prior_patches.iter().enumerate() {
        if patch.run.is_some() == patch.digest.is_some() {
            out.push(Refusal::new(
                Rule::PATCH_KIND,
                format!("spec.priorPatches[{index}]"),
                "exactly one of run and digest is needed",
            ));
        }
    }
    if spec.inputs.len() > 16 {
        out.push(Refusal::new(Rule::SPEC_TOO_MANY, "spec.inputs", "more than 16 inputs"));
    }
    let mut inputs = BTreeSet::new();
    for (index, input) in spec.inputs.iter().enumerate() {
        if !inputs.insert(&input.run) {
            let message = format!("the artifacts of {} are asked for twice", input.run);
            out.push(Refusal::new(Rule::INPUT_TWICE, format!("spec.inputs[{index}]"), message));
        }
    }
    if let Some(source) = &spec.source {
        match source.kind() {
            Some(SourceKind::Inline(inline)) => {
                if inline.files.len() > 256 {
                    out.push(Refusal::new(Rule::SPEC_TOO_MANY, "spec.source.inline", "more than 256 files"));
                }
                let mut seen = BTreeSet::new();
                for file in &inline.files {
                    relative(&file.path, "spec.source.inline.files", &mut out);
                    if !seen.insert(&file.path) {
                        out.push(Refusal::new(
                            Rule::SPEC_PATH,
                            "spec.source.inline.files",
                            format!("{:?} is there twice", clip(&file.path)),
                        ));
                    }
                }
            }
            Some(SourceKind::Git(git)) => {
                if let Some(path) = &git.sub_path {
                    relative(path, "spec.source.git.subPath", &mut out);
                }
            }
            Some(SourceKind::Archive(archive)) => {
                if let Some(path) = &archive.sub_path {
                    relative(path, "spec.source.archive.subPath", &mut out);
                }
            }
            Some(SourceKind::Artifacts(_) | SourceKind::Upload(_)) => {}
            None => out.push(Refusal::new(
                Rule::SOURCE_KIND,
                "spec.source",
                "exactly one of git, inline, archive, artifacts and upload is needed",
            )),
        }
    }
    if spec.artifacts.paths.len() > 64 {
        out.push(Refusal::new(Rule::SPEC_TOO_MANY, "spec.artifacts.paths", "more than 64 globs"));
    }
    for path in &spec.artifacts.paths {
        relative(path, "spec.artifacts.paths", &mut out);
        if glob(path).is_err() {
            out.push(
                Refusal::new(
                    Rule::SPEC_GLOB,
                    "spec.artifacts.paths",
                    format!("{:?} is not a valid glob", clip(path)),
                )
                .hint("close each bracket and brace, or write `\\[` for the character itself"),
            );
        }
    }
    if let Some(retry) = &spec.retry
        && !(1..=100).contains(&retry.max_attempts)
    {
        out.push(Refusal::new(Rule::SPEC_RETRY, "spec.retry.maxAttempts", "it must be 1 to 100"));
    }
    out
}

/// Reads an artifact glob; `*` does not cross directories, as in gitignore files.
///
/// # Errors
/// It is no glob.
pub fn glob(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(true).build()
}

fn command(spec: &RunSpec, out: &mut Vec<Refusal>) {
    let total: usize = spec.command.iter().map(String::len).sum();
    let message = match spec.command.first() {
        None => "a command is needed",
        Some(program) if program.is_empty() => "the program's name is empty",
        Some(_) if spec.command.len() > 1024 || total > MAX_TEXT => {
            "at most 1024 arguments and 128 KiB in all"
        }
        Some(_) if spec.command.iter().any(|word| word.contains('\0')) => "an argument holds a NUL byte",
        Some(_) => return,
    };
    out.push(Refusal::new(Rule::SPEC_COMMAND, "spec.command", message));
}

fn environment(spec: &RunSpec, out: &mut Vec<Refusal>) {
    let total: usize = spec.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if spec.env.len() > 256 || total > MAX_TEXT {
        out.push(Refusal::new(Rule::SPEC_ENV, "spec.env", "at most 256 variables and 128 KiB in all"));
    }
    for (name, value) in &spec.env {
        let subject = format!("spec.env.{}", clip(name));
        if !is_variable(name) {
            out.push(Refusal::new(
                Rule::SPEC_ENV,
                subject,
                "a name is letters, digits and '_', no digit first",
            ));
        } else if is_ours(name) {
            out.push(Refusal::new(Rule::SPEC_ENV, subject, "RUNTIMED_* is set by runtimed alone"));
        } else if value.contains('\0') {
            out.push(Refusal::new(Rule::SPEC_ENV, subject, "the value holds a NUL byte"));
        }
    }
}

fn secrets(secrets: &[SecretUse], out: &mut Vec<Refusal>) {
    if secrets.len() > 32 {
        out.push(Refusal::new(Rule::SPEC_TOO_MANY, "spec.secrets", "more than 32 secrets"));
    }
    let (mut names, mut files, mut variables) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for secret in secrets {
        let subject = format!("spec.secrets.{}", secret.name);
        let file = secret.file.as_deref().unwrap_or(secret.name.as_str());
        let plain = !file.is_empty()
            && file.len() <= 128
            && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && file.bytes().any(|b| b != b'.');
        if !plain {
            out.push(Refusal::new(
                Rule::SECRET_NAME,
                &subject,
                "a file's name is 1 to 128 letters, digits, '.', '_' and '-'",
            ));
        }
        if let Some(variable) = &secret.env {
            if !is_variable(variable) || is_ours(variable) {
                out.push(Refusal::new(
                    Rule::SECRET_NAME,
                    &subject,
                    "a variable's name is letters, digits and '_', no digit first, and not RUNTIMED_*",
                ));
            }
            if !variables.insert(variable) {
                out.push(Refusal::new(Rule::SECRET_TWICE, &subject, "two secrets under one variable"));
            }
        }
        if !names.insert(&secret.name) || !files.insert(file) {
            out.push(Refusal::new(
                Rule::SECRET_TWICE,
                &subject,
                "a secret, or its file's name, is there twice",
            ));
        }
    }
}

/// A path that stays where it is put: relative, no `..`, no NUL, and no `.git` in it.
fn relative(path: &str, subject: &str, out: &mut Vec<Refusal>) {
    let plain = |component: Component<'_>| match component {
        Component::Normal(name) => !name.eq_ignore_ascii_case(".git"),
        Component::CurDir => true,
        Component::ParentDir | Component::RootDir | Component::Prefix(_) => false,
    };
    let inside = !path.is_empty()
        && path.len() <= 1024
        && !path.contains('\0')
        && Path::new(path).components().all(plain);
    if !inside {
        out.push(
            Refusal::new(Rule::SPEC_PATH, subject, format!("{:?} leads out of the workspace", clip(path)))
                .hint("use a path relative to the workspace, without `..` and `.git`"),
        );
    }
}

fn is_variable(name: &str) -> bool {
    name.len() <= 256
        && name
            .bytes()
            .enumerate()
            .all(|(i, b)| b == b'_' || b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit()))
        && !name.is_empty()
}

fn is_ours(name: &str) -> bool {
    name.starts_with("RUNTIMED_")
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}
