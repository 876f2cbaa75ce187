//! A daemon that cannot start says what is in its way.

use crate::place::{Place, ended};

#[test]
fn a_root_that_is_not_there_is_named_with_the_kernel_s_answer() {
    let place = Place::new();
    let token = format!("controller.token_file={}", place.path("secret").display());
    let gone = place.path("gone");
    let mut serve = place.runtimed("serve");
    serve.args(["--set", "controller.url=http://127.0.0.1:1", "--set", &token]);
    serve.arg("--set").arg(format!("roots.home={}", gone.display()));
    let (code, _, err) = ended(&mut serve);
    assert_eq!(code, 120, "{err}");
    let named = format!("{}: No such file", gone.display());
    assert!(err.contains(&named) && err.contains("set them under [roots]"), "{err}");
}
