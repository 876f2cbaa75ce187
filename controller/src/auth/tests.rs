use axum::http::HeaderValue;

use super::*;

fn headers(value: &str) -> HeaderMap {
    let value = HeaderValue::from_str(value).expect("a header");
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

#[test]
fn a_token_is_a_bearer_token() {
    assert_eq!(bearer(&headers("Bearer abc")).expect("a token"), "abc");
    assert_eq!(bearer(&headers("bearer  abc ")).expect("a token"), "abc");
    for bad in ["", "abc", "Basic abc"] {
        assert_eq!(bearer(&headers(bad)).expect_err("refused").code, Code::Unauthenticated, "{bad:?}");
    }
    assert_eq!(bearer(&HeaderMap::new()).expect_err("refused").code, Code::Unauthenticated);
}

#[test]
fn a_file_that_is_not_valid_is_named_and_not_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tokens.toml");
    let hash = runtimed_api::digest::Digest::of(b"x");
    let person =
        format!("[[people]]\nhash = \"{hash}\"\nsubject = \"a\"\nnamespaces = [\"*\"]\nrole = \"admin\"\n");
    for (text, words) in [
        ("people = [", "is not valid"),
        ("[[people]]\nhash = \"hunter22\"", "the digest"),
        (&person.replace("admin", "root"), "unknown variant"),
        (&person.replace("\"a\"", "\"\""), "a subject is"),
        (&person.replace("\"*\"", "\"Team\""), "the namespace"),
        (&format!("{person}{person}"), "is there twice"),
    ] {
        std::fs::write(&file, text).expect("written");
        let error = Authority::open(&file).expect_err("refused").to_string();
        assert!(error.contains("tokens.toml") && error.contains(words), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    std::fs::write(&file, &person).expect("written");
    let authority = Authority::open(&file).expect("reads");
    assert_eq!(authority.person(&headers("Bearer x")).expect("known").subject, "a");
}

#[test]
fn a_role_may_do_what_the_one_before_it_may() {
    let person = |role| PersonToken {
        hash: runtimed_api::digest::Digest::of(b"x"),
        subject: "a".to_owned(),
        namespaces: vec!["team-a".to_owned()],
        runtimes: vec!["*".to_owned()],
        role,
    };
    let roles = [Role::Observer, Role::Submitter, Role::Admin];
    for (has, role) in roles.iter().enumerate() {
        for (needs, needed) in roles.iter().enumerate() {
            let allowed = allow(&person(*role), *needed, &"team-a".parse().expect("a name"));
            assert_eq!(allowed.is_ok(), has >= needs);
            assert!(allow(&person(*role), *needed, &"team-b".parse().expect("a name")).is_err());
        }
    }
}
