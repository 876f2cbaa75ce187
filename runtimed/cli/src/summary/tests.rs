use super::*;

fn run(json: &str) -> Run {
    serde_json::from_str(json).expect("a Run")
}

/// A Run that has everything.
const FULL: &str = r#"{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run",
"metadata":{"name":"fix-typo","namespace":"default","creationTimestamp":"2026-01-02T03:04:05Z"},
"spec":{"runtime":"local","command":["make"]},
"status":{"phase":"Succeeded","since":"2026-01-02T03:04:06Z","requestedBy":"me","fence":1,"finishedAt":"2026-01-02T03:04:06.24Z",
"attempts":[{"number":1,"fence":1,"daemon":"d-1","startedAt":"2026-01-02T03:04:05.002Z","result":{
"end":"Completed","outcome":{"verdict":{"kind":"Exited","code":0},"leaked":2,"cpuMicros":821000,"maxRss":50331648},
"steps":[{"step":"Accept","micros":420},{"step":"Source","micros":82140},{"step":"Run","micros":812000},{"step":"Scrub","micros":900}],
"commit":"0123456789abcdef0123456789abcdef01234567","baseline":"0123456789abcdef0123456789abcdef01234567",
"enforcement":{"tier":"Base","profile":"Strict","protections":[
{"name":"files","state":"active","mechanism":"landlock"},
{"name":"tcp","state":"active","mechanism":"landlock"},
{"name":"other-processes","state":"active","mechanism":"landlock, seccomp"},
{"name":"watch","state":"degraded","mechanism":"seccomp","why":"the Run asked for inotify"},
{"name":"loopback","state":"unavailable","mechanism":"none","why":"neighbours share the pod's network"}]},
"envDeliveries":{"llm":"API_KEY"},
"scrub":{"staged":1,"removed":1,"medium":"tmpfs","verified":true},
"patch":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2150,"files":3,"insertions":12,"deletions":4,
"base":"0123456789abcdef0123456789abcdef01234567","result":"1123456789abcdef0123456789abcdef01234567"},
"artifacts":{"manifest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","count":2,"bytes":1200000,"skipped":1},
"outputs":{"VERSION":"1.2\n3","LONG":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
"log":{"bytes":100,"records":3,"dropped":2048},"warnings":["output \u001b[31mred was refused"]}}]}}"#;

const MANIFEST: &str = r#"{"files":[
{"path":"dist/app.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1199000,"contentType":"application/x-tar"},
{"path":"report.json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1000,"contentType":"application/json","redacted":true}],
"skipped":[{"path":"link","reason":"a symlink is not followed"}]}"#;

#[test]
fn everything_that_a_run_can_have() {
    let manifest: Manifest = serde_json::from_str(MANIFEST).expect("a manifest");
    let extras = Extras { manifest: Some(&manifest), commands: true };
    insta::assert_snapshot!(render(&run(FULL), extras, Style::PLAIN));
}

#[test]
fn a_run_that_waits() {
    let pending = r#"{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run","metadata":{"name":"a"},
        "spec":{"runtime":"bash","command":["make"]},"status":{"phase":"Pending","since":"2026-01-02T03:04:06Z",
        "reason":"2 daemons, 0 free slots","requestedBy":"me","fence":0}}"#;
    insta::assert_snapshot!(render(&run(pending), Extras::default(), Style::PLAIN));
}

#[test]
fn a_refused_run_and_a_fault() {
    let refused = r#"{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run","metadata":{"name":"a"},
        "spec":{"runtime":"bash","command":["make"]},"status":{"phase":"Refused","since":"2026-01-02T03:04:06Z",
        "requestedBy":"me","fence":1,"refusals":[{"rule":"patch.symlink-escapes","subject":"patch 1: a/link",
        "message":"it leads out of the workspace","hint":"leave the link out"}],
        "attempts":[
        {"number":1,"fence":1,"daemon":"d-1","startedAt":"2026-01-02T03:04:05Z","result":{"end":"Lost","reason":"the daemon went away"}},
        {"number":2,"fence":2,"daemon":"d-2","startedAt":"2026-01-02T03:04:05Z","result":{"end":"Fault",
        "fault":{"code":"storage-full","whose":"operator","retryable":true,"message":"no room on /workspace","hint":"free some"}}}]}}"#;
    insta::assert_snapshot!(render(&run(refused), Extras::default(), Style::PLAIN));
}
