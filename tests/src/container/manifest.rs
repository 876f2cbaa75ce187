//! Containers as a kubelet makes them from a manifest: what the file says is what the container gets, so that no hardening is
//! written twice.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;
use tempfile::TempDir;

use super::{Container, Image, World, podman};
use crate::process::Server;

/// The first container of a workload, and all that its pod says.
#[derive(Debug, Clone)]
pub struct Workload {
    pod: Value,
    /// Files of ConfigMaps and Secrets, by object.
    files: BTreeMap<String, BTreeMap<String, String>>,
    arguments: Option<Vec<String>>,
    user: Option<(u32, u32)>,
    hosts: Option<PathBuf>,
    network: String,
    small: Option<(String, String)>,
    options: Vec<String>,
}

/// The documents of a YAML file.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn documents(file: &Path) -> Vec<Value> {
    use serde::Deserialize as _;
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let documents = yaml_serde::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).expect("a document")).collect()
}

/// The manifests of this repository.
#[must_use]
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/deploy")
}

impl Workload {
    /// The workload of a file of the manifests; the file's ConfigMaps are known to it.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn read(file: &str) -> Self {
        let documents = documents(&deploy().join(file));
        let pod = documents.iter().find_map(|document| document.pointer("/spec/template/spec"));
        let pod = pod.expect("the file has a workload").clone();
        let mut files = BTreeMap::new();
        for document in documents.iter().filter(|document| document["kind"] == "ConfigMap") {
            let name = document["metadata"]["name"].as_str().expect("a name").to_owned();
            let data = document["data"].as_object().expect("data");
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            files.insert(name, data.iter().map(|(key, value)| (key.clone(), text(value))).collect());
        }
        let (network, options) = ("none".to_owned(), Vec::new());
        Self { pod, files, arguments: None, user: None, hosts: None, network, small: None, options }
    }

    /// The content of a file of a ConfigMap or Secret, in the place of the manifest's or beside it.
    #[must_use]
    pub fn file(mut self, object: &str, key: &str, text: &str) -> Self {
        self.files.entry(object.to_owned()).or_default().insert(key.to_owned(), text.to_owned());
        self
    }

    /// Other arguments than the manifest's.
    #[must_use]
    pub fn arguments(mut self, words: &[&str]) -> Self {
        self.arguments = Some(words.iter().map(|word| (*word).to_owned()).collect());
        self
    }

    /// A user of the cluster's choice, in group 0, with a group for volumes: the overlay for OpenShift.
    #[must_use]
    pub fn random_user(mut self, uid: u32, fs_group: u32) -> Self {
        self.user = Some((uid, fs_group));
        self
    }

    /// Shares the network of another container.
    #[must_use]
    pub fn network_of(mut self, other: &Container) -> Self {
        self.network = format!("container:{}", other.name);
        self
    }

    /// The names that the pod resolves.
    #[must_use]
    pub fn hosts(mut self, file: PathBuf) -> Self {
        self.hosts = Some(file);
        self
    }

    /// An `EmptyDir` that is full at this size, such as `8m`.
    #[must_use]
    pub fn small(mut self, volume: &str, size: &str) -> Self {
        self.small = Some((volume.to_owned(), size.to_owned()));
        self
    }

    /// A further option of `podman run`.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Uid, gid and the group of volumes.
    fn identity(&self) -> (u64, u64, u32) {
        let context = &self.pod["securityContext"];
        let number =
            |field: &str| context[field].as_u64().unwrap_or_else(|| panic!("the pod has no {field}"));
        match self.user {
            Some((uid, group)) => (uid.into(), 0, group),
            None => {
                let group = u32::try_from(number("fsGroup")).expect("a gid");
                (number("runAsUser"), number("runAsGroup"), group)
            }
        }
    }

    /// What the manifest's security contexts come to.
    fn hardening(&self, world: World) -> Vec<String> {
        let container = &self.pod["containers"][0]["securityContext"];
        let (uid, gid, group) = self.identity();
        let mut options =
            vec![format!("--user={uid}:{gid}"), format!("--group-add={group}"), "--passwd=false".to_owned()];
        if container["readOnlyRootFilesystem"] == true {
            options.extend(["--read-only", "--read-only-tmpfs=false"].map(str::to_owned));
        }
        if container["allowPrivilegeEscalation"] == false {
            options.push("--security-opt=no-new-privileges".to_owned());
        }
        for capability in container["capabilities"]["drop"].as_array().into_iter().flatten() {
            options.push(format!("--cap-drop={}", capability.as_str().expect("a name")));
        }
        if self.pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault" {
            options.push(format!("--security-opt=seccomp={}", world.profile().display()));
        }
        options
    }

    fn environment(&self, name: &str) -> Vec<String> {
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        let mut options = Vec::new();
        for variable in self.pod["containers"][0]["env"].as_array().into_iter().flatten() {
            let key = variable["name"].as_str().expect("a name").to_owned();
            let mut value = match variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
                Some("metadata.name") => name.to_owned(),
                Some("status.podIP") => "127.0.0.1".to_owned(),
                Some(other) => panic!("the field {other} is not known here"),
                None => variable["value"].as_str().expect("a value").to_owned(),
            };
            for (earlier, text) in &known {
                value = value.replace(&format!("$({earlier})"), text);
            }
            options.push(format!("--env={key}={value}"));
            known.insert(key, value);
        }
        options
    }

    /// Makes the volumes in `dir` and says how they are mounted.
    fn volumes(&self, dir: &Path) -> (Vec<String>, Vec<Memory>) {
        let (_, _, group) = self.identity();
        let mut memory = Vec::new();
        let volumes = self.pod["volumes"].as_array().expect("volumes");
        let mut options = Vec::new();
        for mount in self.pod["containers"][0]["volumeMounts"].as_array().expect("mounts") {
            let text = |field: &str| mount[field].as_str();
            let (name, at) = (text("name").expect("a name"), text("mountPath").expect("a path"));
            let volume = volumes.iter().find(|volume| volume["name"] == name).expect("its volume is there");
            if let Some(empty) = volume.get("emptyDir") {
                let small = self.small.as_ref().filter(|(of, _)| of == name).map(|(_, size)| size.as_str());
                if let Some(size) = small.or((empty["medium"] == "Memory").then_some("512m")) {
                    let path = dir.join(name);
                    if !path.exists() {
                        memory.push(Memory::mount(&path, size, group));
                    }
                    let place = text("subPath").map_or(path.clone(), |sub| empty_dir(&path.join(sub), group));
                    options.push(format!("--volume={}:{at}", place.display()));
                    continue;
                }
                let sub = text("subPath").unwrap_or("whole");
                options
                    .push(format!("--volume={}:{at}", empty_dir(&dir.join(name).join(sub), group).display()));
            } else if volume.get("persistentVolumeClaim").is_some() {
                options.push(format!("--volume={}:{at}", empty_dir(&dir.join(name), group).display()));
            } else {
                let object = volume.pointer("/configMap/name").or(volume.pointer("/secret/secretName"));
                let object = object.and_then(Value::as_str).expect("a ConfigMap or a Secret");
                let mode = volume.pointer("/secret/defaultMode").and_then(Value::as_u64).unwrap_or(0o644);
                let files = self.files.get(object).unwrap_or_else(|| panic!("nothing is known of {object}"));
                // Of a Secret with a list only what the list names.
                let items = volume.pointer("/secret/items").and_then(Value::as_array);
                let listed =
                    |key: &str| items.is_none_or(|items| items.iter().any(|item| item["key"] == key));
                let files = files.iter().filter(|(key, _)| listed(key));
                let files = files.map(|(key, text)| (key.clone(), text.clone())).collect();
                let place = dir.join(name);
                fs::create_dir(&place).expect("made");
                publish(&place, &files, u32::try_from(mode).expect("a mode"), group);
                options.push(format!("--volume={}:{at}:ro", place.display()));
            }
        }
        (options, memory)
    }

    /// Starts the container.
    ///
    /// # Panics
    /// Something that the manifest says cannot be made.
    #[must_use]
    pub fn start(self, image: &Image, world: World) -> Container {
        let volumes = TempDir::with_prefix("runtimed-pod-").expect("a directory");
        fs::set_permissions(volumes.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let name = volumes.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        let termination = volumes.path().join("termination-log");
        fs::write(&termination, "").expect("written");
        fs::set_permissions(&termination, fs::Permissions::from_mode(0o666)).expect("set");
        let mut run = podman();
        run.args(["run", "--rm", "--interactive", "--log-driver=none", "--name", &name]);
        run.arg(format!("--network={}", self.network))
            .args(self.hardening(world))
            .args(self.environment(&name));
        let (options, memory) = self.volumes(volumes.path());
        run.args(options);
        run.arg(format!("--volume={}:/dev/termination-log", termination.display()));
        if let Some(hosts) = &self.hosts {
            run.arg(format!("--volume={}:/etc/hosts:ro", hosts.display()));
        }
        run.args(&self.options).arg(image.reference());
        let manifests = self.pod["containers"][0]["args"].as_array().into_iter().flatten();
        let words: Vec<String> = match self.arguments {
            Some(words) => words,
            None => manifests.map(|word| word.as_str().expect("text").to_owned()).collect(),
        };
        let server = Server::start(&name, run.args(words));
        Container { name, server, memory, volumes }
    }
}

/// An `EmptyDir` in memory, or of a size of its own: mounted on this machine as a kubelet does it, gone when dropped.
#[derive(Debug)]
pub(super) struct Memory(PathBuf);

impl Memory {
    fn mount(path: &Path, size: &str, group: u32) -> Self {
        fs::create_dir(path).expect("made");
        let data = CString::new(format!("size={size},mode=2777,gid={group}")).expect("a text");
        rustix::mount::mount(c"tmpfs", path, c"tmpfs", MountFlags::empty(), data.as_c_str())
            .expect("mounted");
        Self(path.to_owned())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Whatever still uses it keeps it for as long.
        let _gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A directory as a kubelet makes one: the root user's, open to everyone, handing on its group.
fn empty_dir(path: &Path, group: u32) -> PathBuf {
    fs::create_dir_all(path).expect("made");
    chown(path, Some(0), Some(group)).expect("owned");
    fs::set_permissions(path, fs::Permissions::from_mode(0o2777)).expect("set");
    path.to_owned()
}

/// Writes the files of a ConfigMap or Secret as a kubelet does, at first and on every rotation: into a fresh directory, to
/// which a link is then swapped.
///
/// # Panics
/// A file cannot be written.
pub fn publish(place: &Path, files: &BTreeMap<String, String>, mode: u32, group: u32) {
    let generation = fs::read_dir(place).expect("listed").count();
    let fresh = format!("..generation_{generation}");
    let dir = place.join(&fresh);
    fs::create_dir(&dir).expect("made");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("set");
    for (key, text) in files {
        let file = dir.join(key);
        fs::write(&file, text).expect("written");
        chown(&file, Some(0), Some(group)).expect("owned");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
        let link = place.join(key);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(key), link).expect("linked");
        }
    }
    symlink(&fresh, place.join("..data_tmp")).expect("linked");
    fs::rename(place.join("..data_tmp"), place.join("..data")).expect("swapped");
}

impl Container {
    /// Whether its first process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let inspected = podman().args(["inspect", "--format", "{{.State.Running}}", &self.name]).output();
        inspected.is_ok_and(|inspected| inspected.stdout.starts_with(b"true"))
    }

    /// What its first process wrote to its standard error.
    #[must_use]
    pub fn said(&self) -> String {
        self.server.said()
    }

    /// The first line of its first process's output.
    ///
    /// # Panics
    /// It ended without one.
    pub fn first_line(&mut self) -> String {
        self.server.first_line().unwrap_or_else(|said| panic!("{said}"))
    }

    /// Where the volume of this name is on this machine.
    #[must_use]
    pub fn place(&self, volume: &str) -> PathBuf {
        self.volumes.path().join(volume)
    }

    /// What the container left as its termination message.
    ///
    /// # Panics
    /// It was not started from a manifest.
    #[must_use]
    pub fn termination_message(&self) -> String {
        fs::read_to_string(self.volumes.path().join("termination-log")).expect("a message")
    }

    /// A command of this machine in the container's network, as a port-forward is.
    ///
    /// # Panics
    /// The container does not run.
    #[must_use]
    pub fn forwarded(&self, program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
        let inspected = podman()
            .args(["inspect", "--format", "{{.State.Pid}}", &self.name])
            .output()
            .expect("podman runs");
        let pid = String::from_utf8_lossy(&inspected.stdout).trim().to_owned();
        assert!(
            pid.parse::<u32>().is_ok_and(|pid| pid > 0),
            "{} does not run: {}",
            self.name,
            self.server.said()
        );
        let mut enter = crate::process::command("nsenter");
        enter.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").arg(program);
        enter
    }
}
