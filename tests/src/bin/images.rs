//! Builds every image as a release is built, and shows a Run in each, on other distributions as well.
//!
//! ```text
//! cargo build --workspace --bins && target/debug/images
//! ```
//!
//! It makes a release build and installs packages from the distribution's archive, so it takes minutes; it needs root, podman,
//! runc, mmdebstrap and a static busybox. What the images are is looked at as well: sizes, labels, what `check` finds.

#![expect(clippy::print_stdout, reason = "it prints what it saw")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use runtimed_tests::container::manifest::Workload;
use runtimed_tests::container::ours;
use runtimed_tests::container::{Image, World, available, podman};

const PREFIX: &str = "localhost/runtimed-release";
const TAG: &str = "shown";
/// What `base` may add to its distribution, in bytes.
const BASE_MOST: u64 = 30_000_000;

/// Of each image, a Run that needs what the image is for.
const RUNS: [(&str, &str); 3] = [
    ("bash", "git --version && make --version | head -n 1 && echo works"),
    (
        "python",
        "python3 -m venv $HOME/venv && $HOME/venv/bin/python -c 'import ssl, sqlite3, subprocess; print(subprocess.run([\"git\", \"--version\"]).returncode)' && $HOME/venv/bin/pip --version && test $PYTHONDONTWRITEBYTECODE = 1 && echo works",
    ),
    (
        "agent",
        "printf 'int main(void){return 0;}' > a.c && gcc -o a a.c && ./a && ssh -V 2>&1 && rg --version | head -n 1 && jq --version && python3 --version && case $PATH in /opt/agents/bin:*) ;; *) exit 3 ;; esac && test $(cat $ORKA_TRANSACTION_TOKEN_FILE) = $(cat $RUNTIMED_TRANSACTION_TOKEN_FILE) && test $ORKA_WORKSPACE = $RUNTIMED_WORKSPACE && echo kept > $KRUNTIME_ARTIFACTS_DIR/x && echo a=1 >> $KRUNTIME_OUTPUTS && echo works",
    ),
];

/// Builds every image as a release is built, and shows a Run in each.
#[derive(Debug, Parser)]
struct Args {
    /// Take the programs from here, where `images/build` linked them earlier, instead of building them.
    #[arg(long)]
    binaries: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    available().map_err(anyhow::Error::msg)?;
    ours::build(PREFIX, TAG, args.binaries.as_deref(), &["base", "bash", "python", "agent", "controller"]);
    let distribution = size(Image::base().reference())?;
    for (name, most) in [("base", BASE_MOST), ("controller", BASE_MOST)] {
        let ours = size(&reference(name))?.saturating_sub(distribution);
        println!("{name}: {:.1} MB over its distribution", megabytes(ours));
        ensure!(ours <= most, "{name} is larger than {:.0} MB", megabytes(most));
    }
    for name in ["python", "agent"] {
        println!("{name}: {:.0} MB over its distribution", megabytes(size(&reference(name))? - distribution));
    }
    for (name, line) in RUNS {
        shows_a_run(name, &reference(name), &["sh", "-c", line])?;
    }
    let dir = tempfile::TempDir::with_prefix("runtimed-test-")?;
    shows_a_run(
        "busybox, without a C library",
        &on_busybox(dir.path())?,
        &["sh", "-c", "busybox | head -n 1; echo works"],
    )?;
    let nothing = on_nothing(dir.path())?;
    shows_a_run("an image with nothing else", &nothing, &["/usr/local/bin/runtimed", "version"])?;
    for other in ["busybox", "nothing"] {
        podman().args(["rmi", &reference(other)]).output().context("podman runs")?;
    }
    Ok(())
}

fn reference(name: &str) -> String {
    format!("{PREFIX}/{name}:{TAG}")
}

fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is shown to one digit")]
    let bytes = bytes as f64;
    bytes / 1e6
}

fn size(image: &str) -> anyhow::Result<u64> {
    let said = podman().args(["image", "inspect", "--format", "{{.Size}}", image]).output()?;
    String::from_utf8_lossy(&said.stdout).trim().parse().with_context(|| format!("{image} has no size"))
}

/// A worker Job as the manifest makes it, with the image's own configuration, in both kinds of pod.
fn shows_a_run(what: &str, image: &str, command: &[&str]) -> anyhow::Result<()> {
    let dir = tempfile::TempDir::with_prefix("runtimed-test-")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    fs::write(dir.path().join("token"), "a-token-for-the-images\n")?;
    for world in World::ALL {
        let mut words =
            vec!["job", "--set", "secrets.transaction.source=file:/run/runtimed/transaction/token"];
        words.extend(["--set", "secrets.transaction.namespaces=[\"*\"]", "--secret", "transaction", "--"]);
        words.extend(command);
        let mut job = Workload::read("job/job.yaml")
            .option("--env=RUNTIMED_CONFIG=/etc/runtimed/runtime.toml")
            .option("--env=RUNTIMED_STATE_DIR=/var/lib/runtimed")
            .option(format!("--volume={}:/run/runtimed/transaction:ro", dir.path().display()))
            .arguments(&words)
            .start(&Image::named(image), world);
        let first = job.first_line();
        let ended = job.wait(Duration::from_secs(120));
        let summary = job.termination_message();
        ensure!(ended.success(), "{what}, {}: {ended}\n{summary}\n{}", world.name(), job.said());
        println!("{what}, {}: a Run works; it begins with {:?}", world.name(), first.trim_end());
    }
    Ok(())
}

/// The Containerfile of docs/CUSTOMIZING.md for other distributions, on one that has busybox and nothing of a C library.
fn on_busybox(dir: &Path) -> anyhow::Result<String> {
    let text = include_str!("../../../docs/CUSTOMIZING.md");
    let (_, text) =
        text.split_once("## Into yours\n\n```dockerfile\n").context("the section is not there")?;
    let (text, _) = text.split_once("```").context("it does not end")?;
    let (_, rest) = text.split_once("\nCOPY --from=").context("it takes nothing of ours")?;
    let rest =
        format!("COPY --from={rest}").replace("registry.example/runtimed/base:0.1.0", &reference("base"));
    let context = dir.join("busybox");
    fs::create_dir(&context)?;
    fs::copy("/bin/busybox", context.join("busybox")).context("install busybox-static")?;
    fs::write(context.join("runtime.toml"), "runtime = \"busybox\"\n")?;
    let distribution = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"mkdir\", \"-m\", \"1777\", \"/tmp\"]\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCOPY --from={} /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/\n",
        reference("base")
    );
    made("busybox", &context, &format!("{distribution}{rest}"))
}

/// The two programs and what they need, and nothing else.
fn on_nothing(dir: &Path) -> anyhow::Result<String> {
    let context = dir.join("nothing");
    for (at, mode) in [("tmp", 0o1777), ("home", 0o755), ("home/worker", 0o770), ("workspace", 0o770)] {
        let at = context.join("root").join(at);
        fs::create_dir_all(&at)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(context.join("root"), fs::Permissions::from_mode(0o755))?;
    fs::write(context.join("runtime.toml"), "runtime = \"nothing\"\n")?;
    let base = reference("base");
    let text = format!(
        "FROM scratch\nCOPY root/ /\nCOPY --from={base} /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/\nCOPY --from={base} /usr/local/bin/runtimed /usr/local/bin/runtimed-worker /usr/local/bin/\nCOPY runtime.toml /etc/runtimed/runtime.toml\nENV PATH=/usr/local/bin\nRUN [\"runtimed\", \"check\", \"--image\", \"--strict\"]\nUSER 1000:0\nWORKDIR /workspace\nENTRYPOINT [\"runtimed\"]\nCMD [\"serve\"]\n"
    );
    made("nothing", &context, &text)
}

fn made(name: &str, context: &Path, text: &str) -> anyhow::Result<String> {
    fs::write(context.join("Containerfile"), text)?;
    let image = reference(name);
    let built =
        podman().args(["build", "--isolation=chroot", "--quiet", "-t", &image]).arg(context).output()?;
    ensure!(
        built.status.success(),
        "{name}: {}{}",
        String::from_utf8_lossy(&built.stdout),
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(image)
}
