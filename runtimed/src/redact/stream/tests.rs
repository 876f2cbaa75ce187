use std::time::Duration;

use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};

use super::*;

fn masked(secret: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let redactor = Redactor::default();
    redactor.register(&[("x", secret)]).expect("registers");
    let mut masker = Masker::new(redactor);
    let mut out = Vec::new();
    for piece in pieces {
        masker.push(piece, &mut out);
    }
    masker.finish(&mut out);
    out
}

#[test]
fn a_near_miss_before_a_secret_does_not_hide_it() {
    let secret = b"tok-tok-SECRET";
    assert_eq!(masked(secret, &[b"tok-", b"tok-tok-SECRET\n"]), b"tok-***x***\n");
    assert_eq!(masked(b"tok-SECRET", &[b"tok-tok-", b"SECRET!"]), b"tok-***x***!");
}

#[test]
fn what_cannot_become_a_secret_is_shown_at_once() {
    let redactor = Redactor::default();
    redactor.register(&[("x", b"hunter22hunter22")]).expect("registers");
    let mut masker = Masker::new(redactor);
    let mut out = Vec::new();
    masker.push(b"password? hunt", &mut out);
    assert_eq!(out, b"password? ");
    masker.push(b"ing", &mut out);
    assert_eq!(out, b"password? hunting");
}

#[test]
fn encodings_are_masked_too() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let secret = b"s3cr3t/value+with=signs";
    for before in ["", "a", "ab", "abc"] {
        let text = STANDARD.encode([before.as_bytes(), secret, b"xyz"].concat());
        let out = masked(secret, &[text.as_bytes()]);
        let shown = String::from_utf8_lossy(&out);
        assert!(shown.contains("***x***"), "{before:?}: {shown}");
    }
    for text in ["733363723374", "s3cr3t%2Fvalue%2Bwith%3Dsigns"] {
        let whole = if text.starts_with('7') {
            secret.iter().map(|b| format!("{b:02x}")).collect::<String>()
        } else {
            text.to_owned()
        };
        assert_eq!(masked(secret, &[whole.as_bytes()]), b"***x***");
    }
}

#[test]
fn a_large_key_is_found_whole_and_by_its_lines() {
    let line = |i: u32| format!("{i:08}-{}", "k".repeat(55));
    let key: Vec<u8> = (0..1000).map(line).collect::<Vec<_>>().join("\n").into_bytes();
    assert_eq!(masked(&key, &[b"<", &key[..40_000], &key[40_000..], b">"]), b"<***x***>");
    let one = format!("[{}]", line(7));
    assert_eq!(masked(&key, &[one.as_bytes()]), b"[***x***]");
}

fn wrapped(text: &str, columns: usize, end: &str) -> String {
    let lines: Vec<&str> =
        (0..text.len()).step_by(columns).map(|at| &text[at..text.len().min(at + columns)]).collect();
    lines.join(end)
}

#[test]
fn encodings_are_masked_across_line_breaks_and_spaces() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let secret: String =
        (0..90_u32).map(|i| char::from(b'!' + u8::try_from(i * 7 % 90).unwrap_or(0))).collect();
    for before in ["", "a", "ab"] {
        let encoded = STANDARD.encode([before.as_bytes(), secret.as_bytes(), b" tail"].concat());
        for (columns, end) in [(76, "\n"), (64, "\r\n"), (20, "\n    "), (5, "\n")] {
            let text = wrapped(&encoded, columns, end);
            let out = masked(secret.as_bytes(), &[text.as_bytes()]);
            let shown = String::from_utf8_lossy(&out).replace(char::is_whitespace, "");
            assert!(shown.contains("***x***"), "{columns}: {shown}");
            for cut in 1..text.len() {
                let split = masked(secret.as_bytes(), &[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
                let split = String::from_utf8_lossy(&split).into_owned();
                assert!(split.contains("***x***") && split.len() < 40, "{columns} at {cut}: {split}");
            }
        }
    }
    // As `od -An -tx1` and `xxd -p` have it.
    let od: String = secret
        .bytes()
        .enumerate()
        .map(|(i, b)| format!(" {b:02x}{}", if i % 16 == 15 { "\n" } else { "" }))
        .collect();
    assert_eq!(masked(secret.as_bytes(), &[od.as_bytes()]), b" ***x***");
    let xxd = wrapped(&secret.bytes().map(|b| format!("{b:02x}")).collect::<String>(), 60, "\n");
    assert_eq!(masked(secret.as_bytes(), &[xxd.as_bytes()]), b"***x***");
}

/// A line that happens to end like an encoding begins is shown, and still no encoding comes out.
#[test]
fn the_end_of_a_line_is_not_held_back_for_a_few_digits() {
    let redactor = Redactor::default();
    redactor.register(&[("x", b"hunter22hunter22")]).expect("registers");
    let mut masker = Masker::new(redactor);
    let mut out = Vec::new();
    // aHVudGVyMjJodW50ZXIyMg
    masker.push(b"step aHVu\n", &mut out);
    assert_eq!(out, b"step aHVu\n");
    masker.push(b"dGVyMjJodW50ZXIyMg==\nnext\n", &mut out);
    assert_eq!(out, b"step aHVu\n***x***g==\nnext\n", "{}", String::from_utf8_lossy(&out));
}

/// Who knows a secret can write the beginning of an encoding of it, and white space without end behind it.
#[test]
fn white_space_without_end_is_not_remembered() {
    use base64::Engine as _;
    let secret = b"hunter22hunter22hunter22";
    let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
    for digits in [4, 12] {
        let redactor = Redactor::default();
        redactor.register(&[("x", secret)]).expect("registers");
        let (mut masker, mut out) = (Masker::new(redactor), Vec::new());
        let (begin, rest) = encoded.as_bytes().split_at(digits);
        masker.push(begin, &mut out);
        for _ in 0..100 {
            masker.push(&[0; 10_000], &mut out);
            assert!(masker.carry.len() < 11_000, "{} bytes are remembered", masker.carry.len());
        }
        masker.push(rest, &mut out);
        masker.finish(&mut out);
        assert!(out == [begin, &[0; 1_000_000], rest].concat(), "{} bytes", out.len());
    }
}

/// The time that this thread was given, which the load of others does not change.
fn worked() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Whoever submits a Run may print all but the end of a large secret, with blanks between its digits, in pieces of any size. What is
/// held back for that is bounded, and each byte is searched a bounded number of times.
#[test]
fn a_large_secret_with_blanks_between_its_digits_costs_a_bounded_time() {
    use base64::Engine as _;
    let secret: Vec<u8> =
        (0..48 * 1024_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&secret);
    let digits = &encoded.as_bytes()[..encoded.len() - 8];
    let redactor = Redactor::default();
    redactor.register(&[("x", &secret)]).expect("registers");
    let cost = |text: &[u8], piece: usize| {
        let (mut masker, mut out, mut most) = (Masker::new(redactor.clone()), Vec::new(), 0);
        let began = worked();
        for piece in text.chunks(piece) {
            masker.push(piece, &mut out);
            most = most.max(masker.carry.len());
        }
        masker.finish(&mut out);
        let took = worked() - began;
        assert!(out == text, "what is not the whole secret comes out as it was");
        assert!(most < 1024 * 1024, "{most} bytes are held back");
        took
    };
    let words = b"neither a secret nor the beginning of one, but words as a log has them\n".repeat(10_000);
    for piece in [64 * 1024, 200] {
        let plain = cost(&words, piece);
        for blanks in [0, 7, 200] {
            let mut text = Vec::new();
            while text.len() < words.len() {
                for digit in digits {
                    text.push(*digit);
                    text.resize(text.len() + blanks, b' ');
                }
                text.push(b'!');
            }
            text.truncate(words.len());
            let took = cost(&text, piece);
            assert!(
                took < 30 * plain,
                "{took:?} with {blanks} blanks by {piece}, where words took {plain:?}"
            );
        }
    }
}

/// A secret of many lines, each of which is in the next, in a text that is in all of them: there are as many occurrences as bytes of
/// text times lines. With many lines nothing of such a text is shown.
#[test]
fn secrets_within_secrets_are_not_counted_one_by_one() {
    for (longest, shown) in [(120, "***x***b"), (350, "***x***")] {
        let lines: Vec<u8> =
            (8..longest).flat_map(|length| [vec![b'a'; length], vec![b'\n']].concat()).collect();
        let redactor = Redactor::default();
        redactor.register(&[("x", &lines)]).expect("registers");
        let (mut masker, mut out) = (Masker::new(redactor), Vec::new());
        for _ in 0..2 {
            masker.push(&[b'a'; 128 * 1024], &mut out);
            let found = masker.scratch.found.capacity();
            assert!(found < 100_000, "{found} occurrences are remembered");
        }
        masker.push(b"b", &mut out);
        masker.finish(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), shown);
    }
}

/// A value that is registered while a stream goes on, as one that rotates is, is masked from then on, and so is the
/// one before it.
#[test]
fn values_that_come_later_are_masked_as_well() {
    let (old, new) = (b"old-value-1234".as_slice(), b"new-value-5678".as_slice());
    for cut in 0..new.len() {
        let redactor = Redactor::default();
        redactor.register(&[("x", old)]).expect("registers");
        let mut masker = Masker::new(redactor.clone());
        let mut out = Vec::new();
        masker.push(b"<old-value-1234> <old-va", &mut out);
        redactor.register(&[("y", new)]).expect("registers");
        masker.push(b"lue-1234> <", &mut out);
        masker.push(&new[..cut], &mut out);
        masker.push(&new[cut..], &mut out);
        masker.push(b">", &mut out);
        masker.finish(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), "<***x***> <***x***> <***y***>", "cut at {cut}");
    }
}

fn encoded(secret: &str, form: usize) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    match form {
        0 => secret.to_owned(),
        1 => STANDARD.encode(secret),
        2 => URL_SAFE.encode(format!("x{secret}y")),
        3 => secret.bytes().map(|b| format!("{b:02x}")).collect(),
        4 => wrapped(&STANDARD.encode(format!("--{secret}")), 7, "\n"),
        5 => {
            let kept = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
            let one = |c: char| if kept(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) };
            secret.chars().map(one).collect()
        }
        _ => serde_json::to_string(secret).expect("JSON"),
    }
}

/// Whether a text has a secret in it, to whoever reads it back with the decoders of others: which knows nothing of needles.
fn reveals(shown: &str, secret: &str) -> bool {
    use base64::Engine as _;
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let has = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let digits: String = shown.chars().filter(|c| *c > ' ').collect();
    let base64 = [STANDARD, URL_SAFE].iter().any(|alphabet| {
        let engine = GeneralPurpose::new(alphabet, lenient);
        let runs = digits.split(|c: char| !alphabet.as_str().contains(c));
        runs.filter(|run| run.len() >= 4).any(|run| {
            (0..4).any(|phase| {
                let run = run.get(phase..).unwrap_or_default();
                // One digit alone at the end is no byte.
                let run = if run.len() % 4 == 1 { &run[..run.len() - 1] } else { run };
                engine.decode(run).is_ok_and(|bytes| has(&bytes))
            })
        })
    });
    let hex = digits.split(|c: char| !c.is_ascii_hexdigit()).any(|run| {
        let pairs = |run: &[u8]| -> Vec<u8> {
            let text = |pair| std::str::from_utf8(pair).unwrap_or_default();
            run.chunks_exact(2).filter_map(|pair| u8::from_str_radix(text(pair), 16).ok()).collect()
        };
        (0..2).any(|phase| has(&pairs(run.as_bytes().get(phase..).unwrap_or_default())))
    });
    // `%XX`, and what JSON puts before a quote or a backslash.
    let mut unescaped = Vec::new();
    let mut rest = shown.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                unescaped.push(byte);
                rest = &after[2..];
            }
            None => {
                unescaped.push(*first);
                rest = after;
            }
        }
    }
    let json = shown.replace("\\\"", "\"").replace("\\\\", "\\");
    has(shown.as_bytes()) || base64 || hex || has(&unescaped) || has(json.as_bytes())
}

#[test]
fn what_is_not_masked_is_seen_in_each_encoding() {
    let secret = "pa\"ss\\w%rd+12";
    for form in 0..7 {
        let shown = format!("so {} it is", encoded(secret, form));
        assert!(reveals(&shown, secret), "{shown}");
        assert!(!reveals(&shown, "another-secret"), "{shown}");
    }
}

proptest! {
    // Each of them is split at every place.
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Random secrets in random texts, in every encoding, whole or wrapped, split at every place, and byte by byte: none
    /// comes out, and what is no secret comes out as it was.
    #[test]
    fn no_encoding_comes_out_of_any_split(
        secrets in prop::collection::vec("[!-~]{8,40}", 1..4),
        words in prop::collection::vec(("[g-z ]{0,12}", 0_usize..4, 0_usize..7), 0..6),
    ) {
        let redactor = Redactor::default();
        let named: Vec<(&str, &[u8])> = secrets.iter().map(|s| ("x", s.as_bytes())).collect();
        redactor.register(&named).expect("registers");
        let mut text = String::new();
        for (word, which, form) in &words {
            text.push_str(word);
            text.push('\n');
            text.push_str(&encoded(&secrets[which % secrets.len()], *form));
            text.push(' ');
        }
        let text = text.as_bytes();
        let whole: [&[u8]; 1] = [text];
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        let halves: Vec<[&[u8]; 2]> = (1..text.len()).map(|at| [&text[..at], &text[at..]]).collect();
        let all = [&whole[..], &bytes[..]].into_iter().chain(halves.iter().map(|halves| &halves[..]));
        for pieces in all {
            let (mut masker, mut out) = (Masker::new(redactor.clone()), Vec::new());
            pieces.iter().for_each(|piece| masker.push(piece, &mut out));
            masker.finish(&mut out);
            let shown = String::from_utf8_lossy(&out).replace("***x***", "\u{7f}");
            for secret in &secrets {
                prop_assert!(!reveals(&shown, secret), "{secret:?} is in {shown:?} of {pieces:?}");
            }
            for (word, ..) in &words {
                prop_assert!(shown.contains(word.as_str()), "{word:?} is not in {shown:?}");
            }
        }
        let plain: String = words.iter().map(|(word, ..)| word.as_str()).collect::<Vec<_>>().join("\n");
        prop_assert_eq!(redactor.mask(plain.as_bytes()), plain.as_bytes());
    }

}

proptest! {
    /// However the stream is split: no secret comes out, and what is no secret comes out as it was.
    #[test]
    fn every_split_is_the_same(
        secret in "[ab]{8,12}",
        parts in prop::collection::vec("[abc]{0,20}", 0..6),
        cut in 1_usize..7,
    ) {
        let text = parts.join(&secret);
        let whole = masked(secret.as_bytes(), &[text.as_bytes()]);
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
        let split = masked(secret.as_bytes(), &pieces);
        prop_assert!(!String::from_utf8_lossy(&whole).contains(&secret));
        prop_assert!(!String::from_utf8_lossy(&split).contains(&secret));
        if !text.contains(&secret) {
            prop_assert_eq!(&whole, text.as_bytes());
            prop_assert_eq!(&split, text.as_bytes());
        }
        // The unmasked rest is the same, whatever the number of masks of what overlaps.
        let rest = |out: &[u8]| String::from_utf8_lossy(out).replace("***x***", "");
        prop_assert_eq!(rest(&whole), rest(&split));
    }
}
