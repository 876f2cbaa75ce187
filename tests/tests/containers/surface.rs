//! What is in the images, and what must not be.

use std::process::Output;

use runtimed_tests::container::ours::ours;
use runtimed_tests::container::{Image, podman};

use crate::needed;

/// A command as root in a container that may be changed, as a step of a Containerfile is.
fn step(image: &Image, script: &str) -> Output {
    let mut run = podman();
    run.args([
        "run",
        "--rm",
        "--network=none",
        "--user=0:0",
        "--entrypoint=/bin/sh",
        image.reference(),
        "-c",
        script,
    ]);
    run.output().expect("podman runs")
}

fn said(image: &Image, script: &str) -> String {
    let output = step(image, script);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {out}{err}");
    out.into_owned()
}

#[test]
fn the_images_hold_what_production_needs_and_nothing_else() {
    if !needed() {
        return;
    }
    for (name, programs) in [
        ("base", vec!["runtimed", "runtimed-worker"]),
        ("bash", vec!["runtimed", "runtimed-worker"]),
        ("controller", vec!["runtimed-controller"]),
    ] {
        let image = ours(name);
        let ours = said(&image, "ls /usr/local/bin");
        assert_eq!(ours.split_whitespace().collect::<Vec<_>>(), programs, "{name}: no developer command");
        assert_eq!(said(&image, "find / -xdev -type f -perm /6000"), "", "{name}: no setuid file");
        let any = "find / -xdev \\( -path /tmp -o -path /home/worker -o -path /workspace \\) -prune -o \\( -type f -o -type d \\) \\( -perm -0002 -o -group 0 -perm -0020 \\) -print";
        let writable = said(&image, any);
        let expected = if name == "controller" { "/var/lib/runtimed-controller\n" } else { "" };
        assert_eq!(writable, expected, "{name}: no path beside its own directories");
        let sbom: serde_json::Value =
            serde_json::from_str(&said(&image, "cat /usr/share/runtimed/sbom.spdx.json")).expect("JSON");
        assert_eq!(sbom["spdxVersion"], "SPDX-2.3");
        assert!(sbom["packages"].as_array().is_some_and(|packages| packages.len() > 100));
        let labels = podman().args(["inspect", "--format", "{{json .Labels}}", image.reference()]).output();
        let labels = String::from_utf8_lossy(&labels.expect("podman runs").stdout).into_owned();
        for label in ["title", "licenses", "version", "revision"] {
            assert!(labels.contains(&format!("org.opencontainers.image.{label}")), "{name}: {labels}");
        }
    }
}

#[test]
fn the_help_lists_what_production_needs_and_nothing_else() {
    if !needed() {
        return;
    }
    let commands = |image: &Image, program: &str| {
        let help = said(image, &format!("{program} --help"));
        let (_, rest) = help.split_once("Commands:\n").expect("a list of commands");
        let lines = rest.lines().take_while(|line| !line.is_empty());
        let first = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        first.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(commands(&ours("base"), "runtimed"), ["serve", "job", "check", "selftest", "version", "help"]);
    let controller = commands(&ours("controller"), "runtimed-controller");
    assert!(controller.contains(&"serve".to_owned()), "{controller:?}");
    let development = ["local", "run", "get", "patch", "completion"];
    assert!(controller.iter().all(|command| !development.contains(&command.as_str())), "{controller:?}");
}

#[test]
fn an_image_that_was_customised_badly_is_found() {
    if !needed() {
        return;
    }
    let image = ours("base");
    let good = step(&image, "runtimed check --image --strict");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
    for (id, code, change) in [
        ("image.setuid", 2, "cp /bin/true /opt/x && chmod u+s /opt/x"),
        ("image.writable", 2, "mkdir /srv/shared && chmod 777 /srv/shared"),
        ("image.writable", 2, "chmod g+w /etc/passwd"),
        ("image.roots", 1, "chmod 0700 /workspace"),
        ("image.roots", 1, "rmdir /home/worker"),
        ("image.own-files", 1, "chown 1000 /usr/local/bin/runtimed-worker"),
        ("image.own-files", 1, "chmod g+w /etc/runtimed/runtime.toml"),
        ("worker.unusable", 1, "rm /usr/local/bin/runtimed-worker"),
        (
            "worker.unusable",
            1,
            "printf '#!/bin/sh\\necho {\\\\\"build\\\\\":\\\\\"other\\\\\"}\\n' > /usr/local/bin/runtimed-worker",
        ),
        ("image.authorities", 2, "rm /etc/ssl/certs/ca-certificates.crt"),
        ("config.invalid", 1, "echo slot=3 >> /etc/runtimed/runtime.toml"),
        (
            "image.secret",
            1,
            "mkdir -p /opt/s && echo a-secret-token > /opt/s/t && printf '[secrets.x]\\nsource = \"file:/opt/s/t\"\\nnamespaces = [\"*\"]\\n' >> /etc/runtimed/runtime.toml",
        ),
    ] {
        let checked = step(&image, &format!("({change}) && runtimed check --image --strict --json"));
        let out = String::from_utf8_lossy(&checked.stdout);
        assert!(
            out.contains(&format!("\"id\":\"{id}\"")),
            "{change}: {out}{}",
            String::from_utf8_lossy(&checked.stderr)
        );
        assert_eq!(checked.status.code(), Some(code), "{change}: {out}");
    }
}
