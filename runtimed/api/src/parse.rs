//! Reading what people wrote: where it is wrong, and which word was probably meant.

use serde::de::DeserializeOwned;

/// A document that cannot be read, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Reads JSON, saying where it is wrong.
///
/// # Errors
/// The text is not JSON, or not a `T`; the sentence names the field and, for an unknown one, the likeliest known one.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    from(&mut serde_json::Deserializer::from_slice(bytes))
}

/// Reads from any format's deserializer, saying where it is wrong.
///
/// # Errors
/// As for [`json`].
pub fn from<'de, T: DeserializeOwned, D>(deserializer: D) -> Result<T, Unreadable>
where
    D: serde::Deserializer<'de>,
    D::Error: std::fmt::Display,
{
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "" } else { &path };
        let message = error.into_inner().to_string();
        // The TOML library says the place in a line after it, the YAML library before it.
        let message = message.rsplit_once("\nin `").map_or(&*message, |(message, _)| message);
        let message = without_place(message.trim(), path);
        let message = match path {
            "" if message.contains(", expected struct ") => "expected a mapping of fields".to_owned(),
            _ => explain(&clip(message)),
        };
        Unreadable(if path.is_empty() { message } else { format!("{path}: {message}") })
    })
}

/// The sentence without the place that the YAML library puts before it, where that is on the way to `path`.
fn without_place<'a>(message: &'a str, path: &str) -> &'a str {
    let leads_there = |place: &str| {
        path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    message.split_once(": ").filter(|(place, _)| leads_there(place)).map_or(message, |(_, rest)| rest)
}

/// Cuts what is quoted of the document: it may be a file that was named by mistake, and a secret.
fn clip(message: &str) -> String {
    let mut out = String::new();
    // What the quotation began with, and characters since.
    let mut quoted: Option<(char, usize)> = None;
    let mut escaped = false;
    for c in message.chars() {
        quoted = match quoted {
            None if matches!(c, '"' | '`') => Some((c, 0)),
            Some((mark, _)) if c == mark && !escaped => None,
            quoted => quoted.map(|(mark, count)| (mark, count + 1)),
        };
        escaped = c == '\\' && !escaped;
        match quoted {
            Some((_, count)) if count > MAX_QUOTED + 1 => {}
            Some((_, count)) if count > MAX_QUOTED => out.push('…'),
            _ => out.push(c),
        }
    }
    out
}

/// Characters of a value that are repeated.
const MAX_QUOTED: usize = 60;

/// Adds a suggestion to serde's sentence about an unknown field or variant.
#[must_use]
pub fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.contains("unknown field") || message.contains("unknown variant");
    let (true, Some(given)) = (unknown, quoted.next()) else {
        return message.to_owned();
    };
    let nearest = quoted.map(|known| (distance(given, known), known)).min();
    match nearest {
        // Farther than a third of the word is another word.
        Some((distance, known)) if distance <= given.chars().count().div_ceil(3).max(1) => {
            format!("{message}; did you mean `{known}`?")
        }
        _ => message.to_owned(),
    }
}

/// How many letters must be put in, left out, changed or swapped to make one word of the other, ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().take(64).collect();
    let b: Vec<char> = b.to_lowercase().chars().take(64).collect();
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Run;

    fn read(spec: &str) -> String {
        let text = format!(
            r#"{{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run","metadata":{{}},"spec":{{"runtime":"bash",{spec}}}}}"#
        );
        json::<Run>(text.as_bytes()).expect_err("refused").0
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_place_and_a_suggestion() {
        let message = read(r#""command":["true"],"limits":{"tiemout":"1s"}"#);
        assert!(message.starts_with("spec.limits"), "{message}");
        assert!(message.contains("did you mean `timeout`?"), "{message}");
    }

    #[test]
    fn a_word_that_is_like_no_other_gets_no_suggestion() {
        assert!(!read(r#""command":["true"],"frobnicate":1"#).contains("did you mean"));
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let message = read(r#""command":"true""#);
        assert!(message.starts_with("spec.command: invalid type: string"), "{message}");
        assert!(
            read(r#""command":["x"],"limits":{"timeout":"1d"}"#)
                .starts_with("spec.limits.timeout: \"1d\" is not")
        );
    }

    #[test]
    fn a_file_that_was_named_by_mistake_is_not_repeated() {
        let secret = "hunter22".repeat(20);
        let whole = json::<Run>(format!("\"{secret}\"").as_bytes()).expect_err("refused").0;
        assert_eq!(whole, "expected a mapping of fields");
        let message = read(&format!(r#""command":"\"{secret}""#));
        assert!(message.starts_with("spec.command: invalid type: string \"\\\"hunter22"), "{message}");
        assert!(message.contains("…\", expected a sequence") && !message.contains(&secret), "{message}");
    }

    #[test]
    fn a_place_that_is_said_already_is_not_said_twice() {
        assert_eq!(without_place("spec: missing field `runtime`", "spec"), "missing field `runtime`");
        assert_eq!(without_place("spec: no", "spec.secrets[0].name"), "no");
        assert_eq!(without_place("invalid type: string", "spec"), "invalid type: string");
    }
}
