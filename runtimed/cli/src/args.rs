//! The command line's words.

mod runs;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args as Flags, CommandFactory as _, Parser, Subcommand, ValueEnum as _};
use clap_complete::Shell;
use runtimed_api::ids::Namespace;

use crate::output::Format;

pub use runs::{Compose, Get, List, Local, Logs, Names, Rerun, Run, Wait};

/// Runs work in hardened Kubernetes pods, and shows what became of it.
#[derive(Debug, Parser)]
#[command(
    name = "runtimectl",
    version,
    after_help = EXIT_CODES,
    after_long_help = long_help(),
    max_term_width = 100
)]
pub struct Args {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Default, Flags)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The controller, `https://host:port` [env: RUNTIMECTL_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// The namespace [env: RUNTIMECTL_NAMESPACE] [default: default]
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    pub namespace: Option<Namespace>,
    /// A file that holds your token [env: RUNTIMECTL_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The controller's certificate authorities, in PEM [env: RUNTIMECTL_CA_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A context of the configuration [env: RUNTIMECTL_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The form of the result [default: table]; of the two commands that get files: where to write
    #[arg(long, short = 'o', global = true, value_name = "FORM", value_parser = FormOrPlace)]
    pub output: Option<OsString>,
}

/// Shows the forms in the help and to a shell, and takes paths as well.
#[derive(Clone)]
struct FormOrPlace;

impl TypedValueParser for FormOrPlace {
    type Value = OsString;

    fn parse_ref(
        &self,
        _: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<OsString, clap::Error> {
        Ok(value.to_owned())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::value_variants().iter().filter_map(Format::to_possible_value)))
    }
}

impl Args {
    /// The form of the result. Of a command that gets files `-o` says where to write them, and that is put where the command
    /// looks for it.
    ///
    /// # Errors
    /// It is no form, or the place is said twice.
    pub fn settle(&mut self) -> Result<Format, clap::Error> {
        let Some(said) = self.global.output.take() else { return Ok(Format::default()) };
        let place = match &mut self.command {
            Command::Artifacts(Artifacts {
                command: Some(ArtifactsCommand::Get { dir, stdout, .. }),
                ..
            }) => Some((dir, *stdout)),
            Command::Patch(Patch::Get { to, .. }) => Some((to, false)),
            _ => None,
        };
        match place {
            Some((place @ None, false)) => {
                *place = Some(PathBuf::from(said));
                Ok(Format::default())
            }
            Some(_) => {
                let twice = "'-o' says where to write, and another option has said it: use one of them";
                Err(Self::command().error(ErrorKind::ArgumentConflict, twice))
            }
            None => said.to_str().and_then(|said| Format::from_str(said, false).ok()).ok_or_else(|| {
                let why = format!(
                    "invalid value '{}' for '--output <FORM>': use table, json or yaml",
                    said.display()
                );
                Self::command().error(ErrorKind::InvalidValue, why)
            }),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one Run on this machine: controller and daemon come and go with it
    #[command(after_help = runs::LOCAL_EXAMPLES)]
    Local(Box<Local>),
    /// Submit a Run, show its log, and exit with its exit code
    #[command(after_help = runs::RUN_EXAMPLES)]
    Run(Box<Run>),
    /// Submit what a Run asked for once more, as another Run
    #[command(after_help = runs::RERUN_EXAMPLES)]
    Rerun(Rerun),
    /// Show a Run
    Get(Get),
    /// List Runs, the newest first
    List(List),
    /// Wait until a Run is over, and exit with its exit code
    Wait(Wait),
    /// Show a Run's log
    Logs(Logs),
    /// End Runs; their logs and results so far are kept
    Cancel(Names),
    /// Delete Runs, and what they left; one that goes on is cancelled first
    Delete(Names),
    /// Show a Run's outputs, as KEY=VALUE lines
    Outputs(Get),
    /// List a Run's artifacts, or get them
    Artifacts(Artifacts),
    /// Get, check or apply a Run's patch
    #[command(subcommand)]
    Patch(Patch),
    /// Check a file that describes a Run, without submitting it
    Validate(Validate),
    /// List the Runtimes that you may use
    Runtimes,
    /// Print the version and the build
    Version(Version),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  runtimectl completion bash > ~/.local/share/bash-completion/completions/runtimectl"
    )]
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// `runtimectl artifacts`.
#[derive(Debug, Flags)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Artifacts {
    /// The Run whose artifacts to list
    #[arg(required = true)]
    pub run: Option<runtimed_api::ids::RunName>,
    /// Or what else to do.
    #[command(subcommand)]
    pub command: Option<ArtifactsCommand>,
}

/// `runtimectl artifacts …`.
#[derive(Debug, Subcommand)]
pub enum ArtifactsCommand {
    /// Get artifacts: all of them, or those of the paths given
    #[command(
        after_help = "Examples:\n  runtimectl artifacts get fix-typo -o out\n  runtimectl artifacts get fix-typo report.json --stdout | jq ."
    )]
    Get {
        /// The Run
        run: runtimed_api::ids::RunName,
        /// Their paths, as `runtimectl artifacts RUN` lists them
        paths: Vec<String>,
        /// Where to write them, as `-o DIR` says too; made if it is not there [default: .]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Write the one artifact to standard output
        #[arg(long, requires = "paths", conflicts_with = "dir")]
        stdout: bool,
    },
}

/// `runtimectl patch …`.
#[derive(Debug, Subcommand)]
pub enum Patch {
    /// Get the Patch that a Run captured
    Get {
        /// The Run
        run: runtimed_api::ids::RunName,
        /// Write it here, as `-o FILE` says too, instead of to standard output
        #[arg(long, short = 'O', value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Say whether patches apply to a repository's files, and which rules they break; nothing is written
    Check(PatchOn),
    /// Apply patches to a repository's working tree, if they apply as a whole
    Apply(PatchOn),
}

/// Patches, and what they are for.
#[derive(Debug, Flags)]
#[command(
    after_help = "Examples:\n  runtimectl patch check fix-typo\n  runtimectl patch apply fix.patch --repo ~/src/project\n  runtimectl patch apply plan-7xk2 fix-typo"
)]
pub struct PatchOn {
    /// Files, or the Runs that captured the patches; each applies to the result of the one before
    #[arg(value_name = "FILE|RUN", required = true)]
    pub patches: Vec<String>,
    /// The repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub repo: PathBuf,
    /// Warn by the rules of this Runtime instead of the default ones
    #[arg(long)]
    pub runtime: Option<runtimed_api::ids::RuntimeName>,
}

/// `runtimectl validate`.
#[derive(Debug, Flags)]
pub struct Validate {
    /// The file, YAML or JSON; `-` is standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    pub file: PathBuf,
}

/// `runtimectl version`.
#[derive(Debug, Flags)]
pub struct Version {
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The table of exit codes, for the end of the help text.
const EXIT_CODES: &str = "Exit codes: 0-119 and 128+n are the command's own; 120-125 are ours, see --help.";

fn long_help() -> String {
    format!(
        "Exit codes:\n{}\n\nA configuration, $XDG_CONFIG_HOME/runtimectl/config.toml, names contexts:\n  \
         current = \"team\"\n  [contexts.team]\n  server = \"https://runtimed.example\"\n  namespace = \"team-a\"\n  \
         token_file = \"team.token\"",
        runtimed_api::exit::Exit::table()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_help_text_shows_the_exit_codes() {
        insta::assert_snapshot!(Args::command().render_long_help());
    }

    #[test]
    fn words_and_flags() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("runtimectl local -- true").is_ok());
        assert!(
            parse("runtimectl run --name a --git https://h/r --ref main -n team -o json -- make test")
                .is_ok()
        );
        assert!(parse("runtimectl artifacts fix-typo").is_ok());
        assert!(parse("runtimectl artifacts get fix-typo a b --dir out").is_ok());
        for bad in [
            "runtimectl",
            "runtimectl run --name A_B -- true",
            "runtimectl run --ref main -- true",
            "runtimectl artifacts",
            "runtimectl frobnicate",
            "runtimectl get",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
    #[test]
    fn the_output_is_a_form_or_for_files_a_place() {
        let settled = |line: &str| {
            let mut args = Args::try_parse_from(line.split(' ')).expect(line);
            args.settle().map(|form| (form, args.command))
        };
        for (line, wanted) in [
            ("runtimectl get a -o json", Format::Json),
            ("runtimectl -o yaml artifacts a", Format::Yaml),
            ("runtimectl patch check a -o table", Format::Table),
            ("runtimectl list", Format::Table),
        ] {
            assert_eq!(settled(line).expect(line).0, wanted, "{line}");
        }
        let Ok((_, Command::Artifacts(Artifacts { command: Some(ArtifactsCommand::Get { dir, .. }), .. }))) =
            settled("runtimectl artifacts get a b -o out")
        else {
            panic!("it gets artifacts")
        };
        assert_eq!(dir, Some(PathBuf::from("out")));
        let Ok((_, Command::Patch(Patch::Get { to, .. }))) = settled("runtimectl patch get a -o fix.patch")
        else {
            panic!("it gets a patch")
        };
        assert_eq!(to, Some(PathBuf::from("fix.patch")));
        for bad in [
            "runtimectl get a -o out",
            "runtimectl artifacts a -o out",
            "runtimectl patch get a -o b --to c",
            "runtimectl artifacts get a -o b --dir c",
            "runtimectl artifacts get a b -o c --stdout",
        ] {
            settled(bad).expect_err(bad);
        }
    }
}
