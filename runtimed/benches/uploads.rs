//! How fast results get from a workspace to the store: 19,000 small files into S3 beside the AWS CLI, and one of 4 GB beside
//! `sha256sum` and `cp`; and how much memory that takes.
//!
//! `cargo bench -p runtimed --bench uploads [-- [many|large] DIRECTORY]`, with an S3 server: `S3_SERVER` is the path of `s3s-fs`
//! (`cargo install s3s-fs --version 0.14.1 --features binary`), and `aws` is in the PATH (`pip install awscli`). Either is left out
//! where it is not there, and said so.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measures")]
#![expect(clippy::disallowed_methods, reason = "peers and servers of the measurement are programs")]

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use runtimed::artifacts::{MAX_UPLOADS, Places, collect};
use runtimed::redact::Redactor;
use runtimed_api::link::layout;
use runtimed_api::manifest::Manifest;
use runtimed_store::{Begun, BlobStore, Place, StoreConfig};

const FILES: usize = 19_000;
const LARGE: u64 = 4_000_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    let one = words.next_if(|word| ["many", "large"].contains(&word.as_str()));
    let given = words.next().map(PathBuf::from);
    let dir = tempfile::tempdir_in(given.unwrap_or_else(std::env::temp_dir)).expect("a directory");
    let dir = dir.path();
    println!("memory at the beginning: {} MB at most", peak());
    if one.as_deref() != Some("large") {
        many(&runtime, dir);
    }
    if one.as_deref() != Some("many") {
        large(&runtime, dir);
    }
}

/// Small files, of which no two are the same.
fn many(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let (tree, spool) = (dir.join("tree"), dir.join("spool"));
    let files = tree.join(layout::ARTIFACTS);
    for index in 0..FILES {
        let place = files.join(format!("{:03}", index % 190));
        if index < 190 {
            fs::create_dir_all(&place).expect("made");
        }
        let line = format!("{index:08} the quick brown fox\n");
        fs::write(place.join(format!("{index}.txt")), &line.repeat(36)[..1024]).expect("written");
    }
    let (manifest, took) = collected(&tree, &spool);
    assert_eq!(manifest.files.len(), FILES);
    println!("{FILES} files of 1 KB collected and hashed: {:.0} a second", rate(FILES, took));
    let Some(server) = S3::start(dir) else {
        println!("no S3 server: set S3_SERVER");
        return;
    };
    let store = server.store(dir);
    let place = Place::of_run(&"many".parse().expect("a uid"));
    let began = Instant::now();
    runtime.block_on(put_all(&store, &place, &manifest, &spool));
    let ours = began.elapsed();
    println!("into S3: {:.0} a second; memory {} MB at most", rate(FILES, ours), peak());
    let mut aws = Command::new("aws");
    aws.args(["--endpoint-url", &server.url, "s3", "cp", "--recursive", "--only-show-errors"]);
    aws.arg(&files).arg("s3://results/peer").envs([
        ("AWS_ACCESS_KEY_ID", S3::KEY),
        ("AWS_SECRET_ACCESS_KEY", S3::KEY),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ]);
    let began = Instant::now();
    match aws.status() {
        Ok(status) if status.success() => {
            let theirs = began.elapsed();
            println!("aws s3 cp --recursive: {:.0} a second", rate(FILES, theirs));
            let of = |took: Duration| theirs.as_secs_f64() / took.as_secs_f64();
            println!("ratio {:.1}; with the collecting before it {:.1}", of(ours), of(ours + took));
        }
        other => println!("no AWS CLI: {other:?}"),
    }
}

/// One file that is larger than what a disk's cache hides.
fn large(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let (tree, spool, kept) = (dir.join("large"), dir.join("large-spool"), dir.join("kept"));
    fs::create_dir_all(tree.join(layout::ARTIFACTS)).expect("made");
    fs::create_dir_all(&kept).expect("made");
    let file = tree.join(layout::ARTIFACTS).join("image");
    let mut to = File::create(&file).expect("made");
    let (mut piece, mut state) = (vec![0; 1 << 20], 1_u64);
    for _ in 0..LARGE.div_ceil(1 << 20) {
        for word in piece.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_le_bytes());
        }
        to.write_all(&piece).expect("written");
    }
    to.set_len(LARGE).and_then(|()| to.sync_all()).expect("written");
    let began = Instant::now();
    run(Command::new("sha256sum").arg(&file).stdout(Stdio::null()));
    run(Command::new("cp").arg(&file).arg(dir.join("copy")));
    let peer = began.elapsed();
    fs::remove_file(dir.join("copy")).expect("removed");
    rustix::fs::sync();
    let (manifest, took) = collected(&tree, &spool);
    assert_eq!(manifest.files.len(), 1);
    let share = |took: Duration| peer.as_secs_f64() / took.as_secs_f64();
    println!("4 GB: sha256sum and cp {:.0} MB/s", mb_per_s(peer));
    println!("collected: {:.0} MB/s, ratio {:.2}; memory {} MB at most", mb_per_s(took), share(took), peak());
    fs::remove_dir_all(&tree).expect("removed");
    rustix::fs::sync();
    let store = BlobStore::local(&kept).expect("a store");
    let place = Place::of_run(&"large".parse().expect("a uid"));
    let began = Instant::now();
    runtime.block_on(put_all(&store, &place, &manifest, &spool));
    let took = began.elapsed();
    println!(
        "into a directory, synced: {:.0} MB/s, ratio {:.2}; memory {} MB at most",
        mb_per_s(took),
        share(took),
        peak()
    );
}

fn collected(tree: &Path, spool: &Path) -> (Manifest, Duration) {
    fs::DirBuilder::new().mode(0o700).create(spool).expect("made");
    let places = Places { tree: File::open(tree).expect("opens"), workspace: None };
    let began = Instant::now();
    let redactor = Redactor::default();
    let manifest =
        collect(&places, &[], &redactor, spool, u64::MAX, &AtomicBool::new(false)).expect("collects");
    (manifest, began.elapsed())
}

async fn put_all(store: &BlobStore, place: &Place, manifest: &Manifest, spool: &Path) {
    let put = manifest.files.iter().map(|file| async move {
        let path = spool.join(file.digest.hex());
        store.put_file(place, &file.digest, file.size, &path, &mut Begun::default()).await.expect("kept");
    });
    futures_util::stream::iter(put).buffer_unordered(MAX_UPLOADS).collect::<Vec<()>>().await;
}

fn run(command: &mut Command) {
    assert!(command.status().expect("it runs").success());
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mb_per_s(took: Duration) -> f64 {
    LARGE as f64 / took.as_secs_f64() / 1e6
}

/// The most memory that this process has had, in MB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// A server, ended with this.
struct S3 {
    server: Child,
    url: String,
}

impl S3 {
    const KEY: &str = "a-key-for-the-bench";

    fn start(dir: &Path) -> Option<Self> {
        let program = std::env::var_os("S3_SERVER")?;
        let root = dir.join("s3");
        fs::create_dir_all(root.join("results")).expect("made");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let port = free.port().to_string();
        let mut start = Command::new(program);
        start.args(["--host", "127.0.0.1", "--port", &port, "--access-key", Self::KEY]);
        start.args(["--secret-key", Self::KEY]).arg(root).env("RUST_LOG", "error");
        let server = start.stdout(Stdio::null()).spawn().expect("the server starts");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(free).is_err() {
            assert!(Instant::now() < deadline, "the S3 server does not listen");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Some(Self { server, url: format!("http://{free}") })
    }

    fn store(&self, dir: &Path) -> BlobStore {
        let credentials = dir.join("credentials");
        fs::create_dir(&credentials).expect("made");
        for name in ["access-key-id", "secret-access-key"] {
            fs::write(credentials.join(name), Self::KEY).expect("written");
        }
        let config = StoreConfig::S3 {
            bucket: "results".to_owned(),
            prefix: String::new(),
            region: None,
            endpoint: Some(self.url.clone()),
            ca_file: None,
            credentials_dir: Some(credentials),
        };
        config.open().expect("a store")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Gone already is as good.
        let _gone = self.server.kill();
        let _gone = self.server.wait();
    }
}
