//! What is believed, and every way in which it is not.

use jiff::{SignedDuration, Timestamp};

use super::*;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("a time")
}

fn keys(signer: &Signer) -> KeyHistory {
    KeyHistory::default().with_current(signer.public(), now(), DAY).expect("a new key")
}

fn statement(origin: Origin) -> Statement {
    let namespace = "team-a".parse().expect("a name");
    Statement { patch: Digest::of(b"patch"), predicate: Predicate { namespace, time: now(), origin } }
}

fn captured() -> Statement {
    statement(Origin::Captured(Captured {
        run: "fix-typo".parse().expect("a name"),
        uid: "0190-a".parse().expect("a uid"),
        attempt: AttemptNumber(2),
        runtime: "bash".parse().expect("a name"),
        requested_by: "alice".to_owned(),
        base: "a".repeat(40).parse().expect("a tree"),
        result: "b".repeat(40).parse().expect("a tree"),
    }))
}

#[test]
fn a_signed_statement_is_believed_for_what_it_is_about() {
    let signer = signer(1);
    let envelope = signer.sign(&captured());
    let vouched = envelope.verify(&keys(&signer), now()).expect("good");
    assert_eq!(vouched.statement(), &captured());
    let (patch, team) = (Digest::of(b"patch"), "team-a".parse().expect("a name"));
    let (own, other) = ("fix-typo".parse().expect("a name"), "other".parse().expect("a name"));
    assert_eq!(vouched.covers(&patch, &team, None), Ok(()));
    assert_eq!(vouched.covers(&patch, &team, Some(&own)), Ok(()));
    let rule = |distrust: Result<(), Distrust>| distrust.expect_err("refused").rule();
    assert_eq!(rule(vouched.covers(&Digest::of(b"other"), &team, None)), Rule::PATCH_DIGEST);
    let elsewhere = "team-b".parse().expect("a name");
    assert_eq!(rule(vouched.covers(&patch, &elsewhere, None)), Rule::PATCH_NAMESPACE);
    assert_eq!(rule(vouched.covers(&patch, &team, Some(&other))), Rule::PATCH_PROVENANCE);
    let uploaded = signer.sign(&statement(Origin::Uploaded(Uploaded { by: "alice".to_owned() })));
    let uploaded = uploaded.verify(&keys(&signer), now()).expect("good");
    assert_eq!((uploaded.trees(), uploaded.covers(&patch, &team, None)), (None, Ok(())));
    assert_eq!(rule(uploaded.covers(&patch, &team, Some(&own))), Rule::PATCH_PROVENANCE);
}

#[test]
fn whatever_was_changed_is_not_believed() {
    let (signer, stranger) = (signer(1), signer(2));
    let good = signer.sign(&captured());
    let rule = |envelope: &Envelope| envelope.verify(&keys(&signer), now()).expect_err("refused").rule();
    assert_eq!(rule(&stranger.sign(&captured())), Rule::PATCH_KEY_UNKNOWN);

    let mut other = captured();
    other.predicate.namespace = "team-b".parse().expect("a name");
    let changed = Envelope { payload: signer.sign(&other).payload, ..good.clone() };
    assert_eq!(rule(&changed), Rule::PATCH_SIGNATURE);
    // A stranger's signature under a known key's name.
    let mut posing = stranger.sign(&captured());
    posing.signatures[0].keyid = signer.public().id();
    assert_eq!(rule(&posing), Rule::PATCH_SIGNATURE);
    for (what, spoil) in [
        ("type", (|it| it.payload_type = "text/plain".to_owned()) as fn(&mut Envelope)),
        ("nobody", |it| it.signatures.clear()),
        ("many", |it| it.signatures = vec![it.signatures[0].clone(); 9]),
        ("short", |it| it.signatures[0].sig.truncate(80)),
        ("base64", |it| it.payload.push('!')),
        ("large", |it| it.payload = "A".repeat(20_000)),
    ] {
        let mut envelope = good.clone();
        spoil(&mut envelope);
        assert_eq!(rule(&envelope), Rule::PATCH_SIGNATURE, "{what}");
    }
    // A second signature by a known key is found behind a stranger's.
    let mut both = stranger.sign(&captured());
    both.signatures.extend(good.signatures);
    assert!(both.verify(&keys(&signer), now()).is_ok());
}

#[test]
fn a_replaced_key_is_good_until_its_overlap_is_over() {
    let (old, new) = (signer(1), signer(2));
    let envelope = old.sign(&captured());
    let history = keys(&old).with_current(new.public(), now(), DAY).expect("a new key");
    assert_eq!(history.keys.len(), 2);
    assert!(envelope.verify(&history, now() + SignedDuration::from_hours(23)).is_ok());
    let late = envelope.verify(&history, now() + DAY);
    assert_eq!(late.expect_err("refused").rule(), Rule::PATCH_KEY_EXPIRED);
    // The old one may come back before that, and not after.
    let back = history.clone().with_current(old.public(), now(), DAY).expect("in time");
    assert!(back.keys[0].expires.is_none() && back.keys[1].until.is_some());
    assert_eq!(history.with_current(old.public(), now() + DAY, DAY), None);
}

#[test]
fn a_history_cannot_lend_a_known_name_to_another_key() {
    let (signer, stranger) = (signer(1), signer(2));
    let mut history = keys(&signer);
    history.keys[0].public = stranger.public().clone();
    let refused = stranger.sign(&captured());
    assert!(matches!(refused.verify(&history, now()), Err(Distrust::UnknownKey(_))));
    let json = serde_json::to_string(&keys(&signer)).expect("JSON");
    assert_eq!(serde_json::from_str::<KeyHistory>(&json).expect("reads"), keys(&signer));
    assert!(serde_json::from_str::<PublicKey>("\"AAAA\"").is_err());
    assert!(serde_json::from_str::<PublicKey>(&format!("\"{}=\"", "A".repeat(43))).is_err(), "a weak key");
    assert!(!format!("{signer:?}").contains("[1, 1"));
}

/// The bytes that other tools know: in-toto's names, and a vector that was computed with another implementation.
#[test]
fn the_form_is_in_totos() {
    let json = serde_json::to_value(captured()).expect("JSON");
    assert_eq!(json["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(json["subject"][0]["digest"]["sha256"], Digest::of(b"patch").hex());
    assert_eq!(json["predicateType"], "https://runtimed.dev/patch/v1alpha1");
    assert_eq!(json["predicate"]["origin"]["captured"]["requestedBy"], "alice");
    assert_eq!(serde_json::from_value::<Statement>(json.clone()).expect("reads"), captured());
    for (pointer, value) in [
        ("/_type", "https://in-toto.io/Statement/v0.1"),
        ("/predicateType", "https://slsa.dev/provenance/v1"),
        ("/subject/0/digest/sha256", "abc"),
    ] {
        let mut other = json.clone();
        *other.pointer_mut(pointer).expect("there") = value.into();
        assert!(serde_json::from_value::<Statement>(other).is_err(), "{pointer}");
    }
}
