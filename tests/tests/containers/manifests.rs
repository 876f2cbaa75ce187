//! The manifests themselves: what each pod must be, and that the overlay's patches apply.

use std::path::Path;

use runtimed_tests::container::manifest::{deploy, documents};
use serde_json::Value;

const WORKLOADS: [&str; 3] = ["controller/controller.yaml", "runtime/runtime.yaml", "job/job.yaml"];

fn pods() -> Vec<(String, Value)> {
    let mut pods = Vec::new();
    for file in WORKLOADS {
        for document in documents(&deploy().join(file)) {
            if let Some(pod) = document.pointer("/spec/template/spec") {
                pods.push((file.to_owned(), pod.clone()));
            }
        }
    }
    assert_eq!(pods.len(), WORKLOADS.len());
    pods
}

#[test]
fn every_pod_is_hardened() {
    for (file, pod) in pods() {
        assert_eq!(pod["automountServiceAccountToken"], false, "{file}");
        assert_eq!(pod["enableServiceLinks"], false, "{file}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{file}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{file}");
        for container in pod["containers"].as_array().expect("containers") {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{file}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{file}");
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]), "{file}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{file}");
            for mount in container["volumeMounts"].as_array().expect("mounts") {
                let at = mount["mountPath"].as_str().expect("a path");
                let own = [
                    "/tmp",
                    "/home/worker",
                    "/workspace",
                    "/var/lib/runtimed",
                    "/var/lib/runtimed-controller",
                ];
                assert!(own.contains(&at) || mount["readOnly"] == true, "{file}: {at}");
                assert!(
                    !["/etc", "/usr", "/opt"].iter().any(|granted| at.starts_with(granted)),
                    "{file}: Runs read {at}"
                );
            }
        }
    }
}

#[test]
fn the_grace_of_a_pod_fits_the_drain() {
    let documents = documents(&deploy().join("runtime/runtime.yaml"));
    let grace =
        documents[0].pointer("/spec/template/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
    let text = documents[1]["data"]["runtime.toml"].as_str().expect("a configuration");
    let config: toml::Table = text.parse().expect("TOML");
    let drain = config["drain"]["grace"].as_str().and_then(|text| text.strip_suffix('s')).expect("seconds");
    assert!(grace.expect("a grace") >= drain.parse::<u64>().expect("a number") + 30);
    assert_eq!(
        documents[0]
            .pointer("/spec/template/metadata/annotations/cluster-autoscaler.kubernetes.io~1safe-to-evict"),
        Some(&"false".into())
    );
}

/// Without kustomize, by its rules: each resource is there and is no directory that holds who asks for it, and each operation
/// of each patch finds what it changes in each target.
#[test]
fn the_overlay_applies() {
    let read = |dir: &Path| documents(&dir.join("kustomization.yaml")).remove(0);
    let mut pending = vec![deploy().join("openshift"), deploy().join("job")];
    let mut resources: Vec<Value> = Vec::new();
    let mut patches: Vec<Value> = Vec::new();
    while let Some(dir) = pending.pop() {
        let kustomization = read(&dir);
        patches.extend(kustomization["patches"].as_array().into_iter().flatten().cloned());
        for resource in kustomization["resources"].as_array().expect("resources") {
            let path = dir.join(resource.as_str().expect("a path"));
            assert!(path.exists(), "{}", path.display());
            let real = |path: &Path| path.canonicalize().expect("it is there");
            assert!(!real(&dir).starts_with(real(&path)), "a cycle: {}", path.display());
            if path.is_dir() { pending.push(path) } else { resources.extend(documents(&path)) }
        }
    }
    assert_eq!(patches.len(), 1);
    for patch in patches {
        let kind = &patch["target"]["kind"];
        let operations: Vec<Value> =
            yaml_serde::from_str(patch["patch"].as_str().expect("operations")).expect("YAML");
        let mut targets = 0;
        for target in resources.iter().filter(|resource| resource["kind"] == *kind) {
            targets += 1;
            for operation in &operations {
                assert_eq!(operation["op"], "remove");
                let path = operation["path"].as_str().expect("a path");
                assert!(target.pointer(path).is_some(), "{path} of {}", target["metadata"]["name"]);
            }
        }
        assert_eq!(targets, 2, "both Deployments");
    }
}
