use std::fs;

use crate::place::{Place, SECRET, ended};

#[test]
fn every_value_has_its_origin_and_no_secret_is_shown() {
    let place = Place::new();
    let mut check = place.runtimed("check");
    check.env("RUNTIMED_SLOTS", "3").args([
        "--json",
        "--set",
        "drain.grace=9s",
        "--set",
        "run.env.KEY=hunter22",
    ]);
    let (code, out, err) = ended(&mut check);
    assert_eq!(code, 0, "{out}{err}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let origin = |key: &str| {
        let settings = report["configuration"].as_array().expect("a list");
        let found = settings.iter().find(|setting| setting["key"] == key).expect("a setting");
        (found["value"].clone(), found["origin"].clone())
    };
    assert_eq!(origin("slots"), ("3".into(), "environment".into()));
    assert_eq!(origin("drain.grace"), ("9s".into(), "flag".into()));
    assert_eq!(origin("runtime"), ("test".into(), "file".into()));
    assert_eq!(origin("upload.deadline"), ("15m".into(), "default".into()));
    assert!(!out.contains("hunter22") && !out.contains(SECRET), "{out}");
    let files = report["posture"]["protections"].as_array().expect("a list");
    assert!(files.iter().any(|one| one["name"] == "files" && one["state"] == "active"), "{out}");
}

#[test]
fn errors_and_warnings_have_exit_codes() {
    let place = Place::new();
    let code = |words: &[&str]| ended(place.runtimed("check").args(words));
    // Whatever this machine is like, a secret that nobody may use is worth a warning.
    let (strict, out, _) = code(&["--strict", "--set", "secrets.transaction.namespaces=[]"]);
    assert_eq!(strict, 2, "{out}");
    assert!(out.contains("config.ineffective") && out.contains("no Run may use it"), "{out}");
    let (unknown, out, _) = code(&["--set", "slot=3"]);
    assert_eq!(unknown, 1, "{out}");
    assert!(out.contains("did you mean `slots`?"), "{out}");
    fs::write(place.path("secret"), "short").expect("written");
    let (unusable, out, _) = code(&[]);
    assert_eq!(unusable, 1, "{out}");
    assert!(out.contains("shorter than 8 bytes") && !out.contains("= short"), "{out}");
    let (usage, _, _) = code(&["--no-such-option"]);
    assert_eq!(usage, 120);
}
