//! How fast secrets are masked, beside a plain aho-corasick over the same needles and a copy of the same bytes.
//!
//! `cargo bench -p runtimed --bench redact`
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use std::hint::black_box;
use std::time::Instant;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use runtimed::redact::{Masker, Redactor};

const PIECE: usize = 64 * 1024;
const BYTES: usize = 256 << 20;

fn main() {
    let text = log_text(8 << 20);
    println!("text like a build's log, in pieces of {} KiB; MB/s, best of 5", PIECE / 1024);
    println!("{:>8} {:>10} {:>14} {:>8} {:>8}", "needles", "masker", "aho-corasick", "copy", "ratio");
    // A secret of 32 bytes with a few that are escaped is looked for in 14 forms; what matters is the number of needles.
    for secrets in [2, 7, 36] {
        let values: Vec<Vec<u8>> = (0..secrets).map(value).collect();
        let named: Vec<(&str, &[u8])> = values.iter().map(|value| ("secret", value.as_slice())).collect();
        let redactor = Redactor::default();
        redactor.register(&named).expect("registers");
        let needles = secrets * 14;
        let plain: Vec<Vec<u8>> = (0..needles).map(value).collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::DFA))
            .build(&plain)
            .expect("an automaton");
        let masked = best(|| {
            let (mut masker, mut out) = (Masker::new(redactor.clone()), Vec::new());
            pieces(&text, |piece| {
                out.clear();
                masker.push(piece, &mut out);
                black_box(&out);
            });
        });
        let found = best(|| {
            pieces(&text, |piece| {
                black_box(automaton.find_overlapping_iter(piece).count());
            });
        });
        let mut out = Vec::new();
        let copied = best(|| {
            pieces(&text, |piece| {
                out.clear();
                out.extend_from_slice(piece);
                black_box(&out);
            });
        });
        println!("{needles:>8} {masked:>10.0} {found:>14.0} {copied:>8.0} {:>7.1}x", masked / found);
    }
}

fn pieces(text: &[u8], mut of: impl FnMut(&[u8])) {
    let mut left = BYTES;
    for piece in text.chunks(PIECE).cycle() {
        of(piece);
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

fn best(mut work: impl FnMut()) -> f64 {
    let once = |_| {
        let began = Instant::now();
        work();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let bytes = BYTES as f64;
        bytes / began.elapsed().as_secs_f64() / 1e6
    };
    (0..5).map(once).fold(0.0, f64::max)
}

/// 32 printable bytes that look like a token.
fn value(index: usize) -> Vec<u8> {
    let mut state = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..32)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(state >> 58) as usize]
        })
        .collect()
}

/// Lines as compilers and test runners write them.
fn log_text(bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 200);
    let mut line = 0;
    while text.len() < bytes {
        line += 1;
        let digest: String = value(line).iter().map(|b| format!("{b:02x}")).collect();
        text.extend_from_slice(
            format!(
                "[{line:>7}/90000] Compiling module_{} v0.{}.{} (sha {digest}) in {} ms\n",
                line % 977,
                line % 31,
                line % 7,
                line % 450
            )
            .as_bytes(),
        );
    }
    text
}
