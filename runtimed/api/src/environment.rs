//! The variables that a command finds. Others rely on these names.

/// The workspace: where the source is and where the command starts.
pub const WORKSPACE: &str = "RUNTIMED_WORKSPACE";
/// A directory; what is put there is kept as artifacts.
pub const ARTIFACTS_DIR: &str = "RUNTIMED_ARTIFACTS_DIR";
/// A file; `KEY=VALUE` and `KEY<<EOF` lines become outputs.
pub const OUTPUTS: &str = "RUNTIMED_OUTPUTS";
/// A directory that has, for each Run of `inputs`, a directory of its name with its artifacts; only where there are such.
pub const INPUTS_DIR: &str = "RUNTIMED_INPUTS_DIR";
/// The Run's namespace.
pub const NAMESPACE: &str = "RUNTIMED_NAMESPACE";
/// The Run's name.
pub const RUN: &str = "RUNTIMED_RUN";
/// The Run's uid.
pub const RUN_UID: &str = "RUNTIMED_RUN_UID";
/// The attempt's number.
pub const ATTEMPT: &str = "RUNTIMED_ATTEMPT";
/// The staged file of the secret named `transaction`.
pub const TRANSACTION_TOKEN_FILE: &str = "RUNTIMED_TRANSACTION_TOKEN_FILE";
/// The staged file of the secret named `context-subject`.
pub const CONTEXT_SUBJECT_TOKEN_FILE: &str = "RUNTIMED_CONTEXT_TOKEN_SUBJECT_TOKEN_FILE";

/// The submitter's `traceparent`, as OpenTelemetry's tools look for it.
pub const TRACEPARENT: &str = "TRACEPARENT";
/// The submitter's `tracestate`.
pub const TRACESTATE: &str = "TRACESTATE";

/// The variable that names the staged file of a secret: two well-known ones, else `RUNTIMED_SECRET_<NAME>_FILE`.
#[must_use]
pub fn secret_file(secret: &str) -> String {
    match secret {
        "transaction" => TRANSACTION_TOKEN_FILE.to_owned(),
        "context-subject" => CONTEXT_SUBJECT_TOKEN_FILE.to_owned(),
        other => format!("RUNTIMED_SECRET_{}_FILE", other.to_ascii_uppercase().replace('-', "_")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_the_documented_ones() {
        assert_eq!(super::secret_file("transaction"), "RUNTIMED_TRANSACTION_TOKEN_FILE");
        assert_eq!(super::secret_file("my-key"), "RUNTIMED_SECRET_MY_KEY_FILE");
    }
}
