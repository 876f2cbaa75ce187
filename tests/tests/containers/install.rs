//! The Secrets of a cluster, made by the very commands of docs/OPERATIONS.md: what is written there is what is run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use runtimed_tests::container::manifest::Workload;
use runtimed_tests::process::command;

/// The files of each Secret, by name.
pub(crate) type Secrets = BTreeMap<String, BTreeMap<String, String>>;

/// What a cluster does with the two kinds of Secrets: it keeps each file under its key, in a directory of the Secret's name.
const KUBECTL: &str = r#"
kubectl() {
    while [ "$1" != create ]; do shift; done
    shift
    [ "$1" = namespace ] && return
    local secret="secrets/$3" word file
    [ "$1 $2" = "secret generic" ] || [ "$1 $2" = "secret tls" ]
    shift 3
    mkdir -p "$secret"
    for word in "$@"; do
        file="${word#--*=}"
        case "$word" in
            --cert=*) cp "$file" "$secret/tls.crt" ;;
            --key=*) cp "$file" "$secret/tls.key" ;;
            --from-file=*=*) cp "${file#*=}" "$secret/${file%%=*}" ;;
            --from-file=*) cp "$file" "$secret/$(basename "$file")" ;;
            *) echo "$word is not known here" >&2; return 1 ;;
        esac
    done
}
"#;

/// Follows the section "Install" in `dir`, up to where a cluster is needed. It leaves `me.token` there.
pub(crate) fn secrets(dir: &Path) -> Secrets {
    write_certificates(dir);
    let steps = steps();
    let mut bash = command("bash");
    let ended =
        bash.args(["-euc", &format!("{KUBECTL}{steps}")]).current_dir(dir).output().expect("bash runs");
    assert!(ended.status.success(), "{steps}: {}", String::from_utf8_lossy(&ended.stderr));
    let made = fs::read_dir(dir.join("secrets")).expect("Secrets").flatten();
    made.map(|secret| (name(&secret), files(&secret.path()))).collect()
}

/// A workload with all of them, of which it mounts its own.
pub(crate) fn with(workload: Workload, secrets: &Secrets) -> Workload {
    let each = secrets.iter().flat_map(|(secret, files)| files.iter().map(move |file| (secret, file)));
    each.fold(workload, |workload, (secret, (key, text))| workload.file(secret, key, text))
}

/// The commands between the images and the cluster.
fn steps() -> String {
    let text = include_str!("../../../docs/OPERATIONS.md");
    let (_, install) = text.split_once("## Install\n").expect("the section");
    let (_, block) = install.split_once("```sh\n").expect("its commands");
    let (block, _) = block.split_once("```").expect("their end");
    let (_, block) = block.split_once("kubectl create namespace runtimed\n").expect("the first one");
    let (steps, rest) = block.split_once("kubectl apply -k controller/deploy").expect("the manifests");
    assert!(rest.contains("runtimed check --strict") && rest.contains("runtimed selftest"), "{rest}");
    steps.to_owned()
}

fn name(entry: &fs::DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

fn files(dir: &Path) -> BTreeMap<String, String> {
    let text = |entry: &fs::DirEntry| fs::read_to_string(entry.path()).expect("text");
    fs::read_dir(dir).expect("listed").flatten().map(|entry| (name(&entry), text(&entry))).collect()
}

/// What one's own authority gives: a certificate and a key for each server, and its own certificate.
pub(crate) fn write_certificates(dir: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Of the same name as what it signs it would be taken for a certificate that signs itself.
    params.distinguished_name.push(DnType::CommonName, "an authority");
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    fs::write(dir.join("ca.crt"), authority.pem()).expect("written");
    for (server, of) in [("controller", "runtimed-controller"), ("daemon", "localhost")] {
        let key = KeyPair::generate().expect("a key");
        let names = ["127.0.0.1", of].map(str::to_owned);
        let signed =
            CertificateParams::new(names).expect("names").signed_by(&key, &authority).expect("signed");
        fs::write(dir.join(format!("{server}.crt")), signed.pem()).expect("written");
        fs::write(dir.join(format!("{server}.key")), key.serialize_pem()).expect("written");
    }
}
