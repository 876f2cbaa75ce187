use std::fs;

use super::*;

const CONFIG: &str = r#"
current = "near"
[contexts.near]
server = "https://near.example"
token_file = "near.token"
[contexts.far]
server = "https://far.example"
namespace = "team-a"
"#;

struct Home(tempfile::TempDir);

impl Home {
    fn with(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("runtimectl")).expect("made");
        fs::write(dir.path().join("runtimectl/config.toml"), config).expect("written");
        Self(dir)
    }

    fn environment(&self, more: &[(&str, &str)]) -> Environment {
        let home = ("XDG_CONFIG_HOME", self.0.path().to_str().expect("UTF-8"));
        more.iter().chain([&home]).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_context() {
    let home = Home::with(CONFIG);
    let none = Global::default();
    let settings = Settings::of(&none, &home.environment(&[])).expect("settled");
    assert_eq!(settings.server.as_deref(), Some("https://near.example"));
    assert_eq!(settings.namespace.as_str(), "default");
    assert_eq!(settings.token_file, Some(home.0.path().join("runtimectl/near.token")));

    let variables = [("RUNTIMECTL_CONTEXT", "far"), ("RUNTIMECTL_SERVER", "https://env.example")];
    let settings = Settings::of(&none, &home.environment(&variables)).expect("settled");
    assert_eq!(settings.server.as_deref(), Some("https://env.example"));
    assert_eq!(settings.namespace.as_str(), "team-a");

    let flags = Global { server: Some("https://flag.example".to_owned()), ..Global::default() };
    let settings = Settings::of(&flags, &home.environment(&variables)).expect("settled");
    assert_eq!(settings.server.as_deref(), Some("https://flag.example"));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let refused = |config: &str, variables: &[(&str, &str)]| {
        let home = Home::with(config);
        let failure = Settings::of(&Global::default(), &home.environment(variables)).expect_err("refused");
        assert_eq!(failure.exit(), 120);
        format!("{:?}", failure.lines())
    };
    assert!(refused("curent = \"a\"", &[]).contains("did you mean `current`?"));
    assert!(refused("current = ", &[]).contains("config.toml"));
    let unknown = refused(CONFIG, &[("RUNTIMECTL_CONTEXT", "moon")]);
    assert!(unknown.contains("no context") && unknown.contains("it has: far, near"), "{unknown}");
    assert!(refused(CONFIG, &[("RUNTIMECTL_NAMESPACE", "A/B")]).contains("RUNTIMECTL_NAMESPACE"));
}

#[test]
fn a_token_is_trimmed_and_never_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    fs::write(&file, " open-sesame\n").expect("written");
    assert_eq!(token(&file).expect("a token").expose(), "open-sesame");
    for bad in ["", "  \n", "two words", "hunter\u{e9}"] {
        fs::write(&file, bad).expect("written");
        let failure = token(&file).expect_err("refused");
        assert!(!format!("{failure:?}").contains("hunter"), "{failure:?}");
    }
}

#[test]
fn no_server_and_plain_http_are_usage_errors() {
    let none = Settings::of(&Global::default(), &Environment::default()).expect("settled");
    assert_eq!(none.controller().expect_err("no server").exit(), 120);
    let plain = Settings { server: Some("http://h.example".to_owned()), ..none };
    let failure = plain.controller().expect_err("refused");
    assert_eq!(failure.exit(), 120);
    assert!(failure.lines()[0].1.contains("use https"), "{failure:?}");
}
