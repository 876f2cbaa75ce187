use super::*;
use crate::run::source::{GitSource, Source};

fn run(yaml_like: &str) -> Run {
    let text = format!(
        r#"{{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run","metadata":{{"name":"x"}},"spec":{{"runtime":"bash","command":["true"]{yaml_like}}}}}"#
    );
    crate::parse::json(text.as_bytes()).expect("a Run")
}

fn rules(result: Result<(), Vec<Refusal>>) -> Vec<Rule> {
    result.err().unwrap_or_default().into_iter().map(|refusal| refusal.rule).collect()
}

fn shape(extra: &str) -> Vec<Rule> {
    rules(judge_shape(&run(extra)))
}

fn ceiling(extra: &str, ceiling: &Ceiling) -> Vec<Rule> {
    rules(judge(&run(extra).spec, &Defaults::default(), ceiling, &[8410]).map(drop))
}

#[test]
fn the_smallest_run_is_granted_the_defaults() {
    assert_eq!(shape(""), []);
    let granted = judge(&run("").spec, &Defaults::default(), &Ceiling::default(), &[]).expect("granted");
    assert_eq!(granted.network.mode, NetworkMode::None);
    assert_eq!(granted.limits, Limits::BUILT_IN);
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../x", "/x", "a/../../x", ".git/hooks/x", "a/.GIT/config", "", "a\\u0000b"] {
        let inline = format!(r#","source":{{"inline":{{"files":[{{"path":"{path}","content":""}}]}}}}"#);
        assert_eq!(shape(&inline), [Rule::SPEC_PATH], "{path:?}");
    }
    for path in ["../x", "/x"] {
        let sub = format!(r#","source":{{"git":{{"url":"https://h/r","subPath":"{path}"}}}}"#);
        assert_eq!(shape(&sub), [Rule::SPEC_PATH], "{path:?}");
        assert_eq!(shape(&format!(r#","artifacts":{{"paths":["{path}"]}}"#)), [Rule::SPEC_PATH], "{path:?}");
    }
}

#[test]
fn globs_are_globs() {
    for glob in ["[", "a{b", "[z-a]"] {
        assert_eq!(shape(&format!(r#","artifacts":{{"paths":["{glob}"]}}"#)), [Rule::SPEC_GLOB], "{glob:?}");
    }
    assert_eq!(shape(r#","artifacts":{"paths":["dist/**/*.{a,b}","[a-z]?"]}"#), []);
}

#[test]
fn choices_have_exactly_one_field() {
    assert_eq!(shape(r#","source":{}"#), [Rule::SOURCE_KIND]);
    assert_eq!(shape(r#","priorPatches":[{}]"#), [Rule::PATCH_KIND]);
    assert_eq!(
        shape(r#","source":{"git":{"url":"https://h/r"},"inline":{"files":[]}}"#),
        [Rule::SOURCE_KIND]
    );
}

#[test]
fn our_variables_are_ours() {
    assert_eq!(shape(r#","env":{"RUNTIMED_RUN":"x"}"#), [Rule::SPEC_ENV]);
    assert_eq!(shape(r#","env":{"A B":"x"}"#), [Rule::SPEC_ENV]);
    assert_eq!(shape(r#","secrets":[{"name":"a","env":"RUNTIMED_X"}]"#), [Rule::SECRET_NAME]);
    assert_eq!(shape(r#","secrets":[{"name":"a","file":"../x"}]"#), [Rule::SECRET_NAME]);
    assert_eq!(shape(r#","secrets":[{"name":"a","file":".."}]"#), [Rule::SECRET_NAME]);
    assert_eq!(shape(r#","secrets":[{"name":"a"},{"name":"b","file":"a"}]"#), [Rule::SECRET_TWICE]);
}

#[test]
fn the_network_is_held_to_the_ceiling() {
    let most = Ceiling { ports: Some(vec![443]), ..Ceiling::default() };
    assert_eq!(ceiling(r#","network":{"mode":"Ports","ports":[443]}"#, &most), []);
    assert_eq!(ceiling(r#","network":{"mode":"Ports","ports":[80]}"#, &most), [Rule::NETWORK_PORT]);
    assert_eq!(ceiling(r#","network":{"mode":"Full"}"#, &most), [Rule::NETWORK_MODE]);
    assert_eq!(ceiling(r#","network":{"mode":"Ports","listen":[8410]}"#, &most), [Rule::NETWORK_PORT]);
    assert_eq!(ceiling(r#","network":{"mode":"Ports","hosts":["x"]}"#, &most), [Rule::NETWORK_HOSTS]);
    assert_eq!(
        ceiling(r#","network":{"mode":"None","ports":[1]}"#, &Ceiling::default()),
        [Rule::NETWORK_SHAPE]
    );
    assert_eq!(ceiling(r#","watch":true"#, &most), [Rule::WATCH]);
}

#[test]
fn limits_are_held_to_the_ceiling() {
    let limits = Limits { timeout: Some(crate::duration::Span::from_secs(60)), ..Limits::default() };
    let most = Ceiling { limits, ..Ceiling::default() };
    assert_eq!(ceiling(r#","limits":{"timeout":"2m"}"#, &most), [Rule::LIMIT_CEILING]);
    assert_eq!(ceiling(r#","limits":{"timeout":"0s"}"#, &most), [Rule::LIMIT_ZERO]);
    // A Run that says nothing gets the ceiling, not more.
    let granted = judge(&run("").spec, &Defaults::default(), &most, &[]).expect("granted");
    assert_eq!(granted.limits.timeout, most.limits.timeout);
}

#[test]
fn a_git_source_is_https_or_an_allowed_path() {
    let most = Ceiling { local_paths: vec!["/srv/git".to_owned()], ..Ceiling::default() };
    let judged = |url: &str, reference: Option<&str>| {
        let mut run = run("");
        let git = GitSource {
            url: url.to_owned(),
            reference: reference.map(str::to_owned),
            depth: None,
            sub_path: None,
            credential: None,
        };
        run.spec.source = Some(Source { git: Some(git), ..Source::default() });
        rules(judge(&run.spec, &Defaults::default(), &most, &[]).map(drop))
    };
    for good in ["https://h/r.git", "/srv/git/r.git", "/srv/git"] {
        assert_eq!(judged(good, Some("main")), [], "{good}");
    }
    for bad in ["ssh://h/r", "h:r"] {
        assert_eq!(judged(bad, None), [Rule::SOURCE_CREDENTIAL], "{bad}");
    }
    for bad in
        ["http://h/r", "--upload-pack=x", "ext::sh -c x", "https://", "ssh://-h/r", "-h:r", "file:///x"]
    {
        assert_eq!(judged(bad, None), [Rule::SOURCE_URL], "{bad}");
    }
    assert_eq!(judged("https://user:pass@h/r", None), [Rule::SOURCE_URL]);
    for bad in ["/srv/gitx", "/srv/git/../../etc", "/"] {
        assert_eq!(judged(bad, None), [Rule::SOURCE_LOCAL_PATH], "{bad}");
    }
    for bad in ["--upload-pack=x", "a..b", "a b", "refs/heads/", "x.lock", "@{1}", "a//b", ".x", ""] {
        assert_eq!(judged("https://h/r", Some(bad)), [Rule::SOURCE_REF], "{bad}");
    }
}
