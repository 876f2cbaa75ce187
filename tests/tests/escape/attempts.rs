//! The rounds: a scene is set, and every probe is tried outside of the sandbox and as the command of Runs.

use std::process::Output;

use runtimed_tests::container::{World, available};
use serde_json::{Value, json};

use crate::judge::{OPEN, Round, Seen};
use crate::known;
use crate::place::{Place, TIERS, Tier};
use crate::program::Programs;
use crate::scene::{Actor, Scene};
use crate::table;

const MODES: [&str; 4] = ["none", "ports", "full", "limits"];

#[tokio::test(flavor = "multi_thread")]
async fn on_the_machine() {
    let programs = Programs::compile();
    let mut rounds = Vec::new();
    for tier in TIERS {
        let place = Place::machine(&programs, tier).await;
        rounds.push((tier, rounds_of(place, tier, rounds.is_empty())));
    }
    judge("machine", &programs, rounds);
}

#[test]
fn in_a_pod_that_allows_user_namespaces() {
    in_a_pod(World::UserNamespaces);
}

#[test]
fn in_a_pod_as_a_kubelet_makes_it() {
    in_a_pod(World::RuntimeDefault);
}

fn in_a_pod(world: World) {
    if let Err(why) = available() {
        assert!(!rustix::process::geteuid().is_root(), "{why}");
        return; // Only root can: tests/run says so.
    }
    let programs = Programs::compile();
    let mut rounds = Vec::new();
    for tier in TIERS.into_iter().filter(|tier| tier.is_in(world)) {
        rounds.push((tier, rounds_of(Place::pod(&programs, tier, world), tier, rounds.is_empty())));
    }
    judge(world.name(), &programs, rounds);
}

fn judge(place: &'static str, programs: &Programs, rounds: Vec<(Tier, (Option<Round>, Round))>) {
    let probes = programs.probes();
    let mut unconfined: Option<Round> = None;
    let mut tiers = Vec::new();
    for (tier, (outside, inside)) in rounds {
        unconfined = unconfined.or(outside);
        tiers.push((tier.name(), inside));
    }
    let seen = Seen { place, unconfined: unconfined.expect("a round"), tiers };
    table::show(&seen, &probes);
    let mut wrong = seen.wrong(&probes);
    if place == "machine" {
        wrong.extend(table::documented(&seen, &probes));
    }
    assert!(wrong.is_empty(), "{} of {} probes:\n{}", wrong.len(), probes.len(), wrong.join("\n"));
}

/// Every probe in Runs of this tier and, where it is asked, unconfined.
fn rounds_of(place: Place, tier: Tier, unconfined: bool) -> (Option<Round>, Round) {
    let program = format!("{}/probe", place.programs);
    let outside = place.scene["OUTSIDE"].clone();
    place.printed(&[&program, "burn", "3000"]);
    let target = Actor::start(&mut place.unconfined(&[&program, "target", &outside]));
    let reset = || place.printed(&[&program, "reset", &outside, &target.scene()["PID"]]);

    let mut inside = Round::new();
    let (neighbour, scene) = if tier.slots() > 1 {
        let (neighbour, scene) = neighbour(&place, &program, "neighbour", target.scene());
        (Some(neighbour), scene)
    } else {
        (None, alone(&place, target.scene()))
    };
    for mode in MODES {
        reset();
        let (text, report) = run(&place, &scene, &program, mode);
        let round = results(&text);
        assert_eq!(contradictions(&round, &report), Vec::<String>::new(), "{mode}");
        inside.extend(round);
        let seen = report.pointer("/status/attempts/0/result/enforcement/tier").and_then(Value::as_str);
        assert_eq!(seen, Some(tier.name()), "{report}");
    }
    if let Some(neighbour) = neighbour {
        let said = cancelled(&place, neighbour, "neighbour");
        assert!(said.contains("unharmed"), "a Run harmed its neighbour");
    }

    let outside = unconfined.then(|| {
        // Another neighbour, for this one is harmed.
        let (neighbour, scene) = self::neighbour(&place, &program, "neighbour-of-anybody", target.scene());
        let own = format!("{outside}/own");
        place.printed(&["mkdir", &own]);
        let mut round = Round::new();
        for mode in MODES {
            reset();
            let words = words_of(&scene, &program, mode, &own);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            round.extend(results(&place.printed(&words)));
        }
        cancelled(&place, neighbour, "neighbour-of-anybody");
        round
    });
    drop(target.end());
    assert_eq!(place.end(), Vec::<std::path::PathBuf>::new());
    (outside, inside)
}

/// What succeeded although the Run's own Enforcement report calls the protection against it active.
fn contradictions(round: &Round, report: &Value) -> Vec<String> {
    let path = "/status/attempts/0/result/enforcement/protections";
    let protections = report.pointer(path).and_then(Value::as_array).expect("it was enforced");
    let active = |name: &str| protections.iter().any(|one| one["name"] == name && one["state"] == "active");
    assert!(active("files") && active("system-calls"), "{report}");
    let open = round.iter().filter(|(_, result)| *result == OPEN);
    let known = open.filter_map(|(probe, _)| Some((probe, known::open(probe)?)));
    let wrong = known.filter(|(_, protection)| active(protection));
    wrong.map(|(probe, protection)| format!("{probe} is open, and {protection} is reported active")).collect()
}

/// Starts a Run that is another's neighbour, and says what there is of it to attack.
fn neighbour(place: &Place, program: &str, name: &str, target: &Scene) -> (Actor, Scene) {
    let actor = Actor::start(&mut neighbours_run(place, program, name));
    let mut scene: Scene = place.scene.clone();
    scene.extend(target.clone());
    scene.extend(actor.scene().clone());
    let mut locate = vec![program, "locate", &place.scene["DAEMON_PID"], "bait"];
    locate.extend(["ROOT_TMP", "ROOT_HOME", "ROOT_WORKSPACE"].map(|root| place.scene[root].as_str()));
    scene.extend(pairs(&place.printed(&locate)));
    scene.insert("STATE".to_owned(), place.state());
    assert!(scene.contains_key("N_SECRET") && scene.contains_key("N_PID"), "no neighbour is seen: {scene:?}");
    (actor, scene)
}

/// What there is to attack where no other Run can be.
fn alone(place: &Place, target: &Scene) -> Scene {
    let mut scene: Scene = place.scene.clone();
    scene.extend(target.clone());
    scene.insert("STATE".to_owned(), place.state());
    scene
}

/// Ends a neighbour by cancelling it, and gives its last words.
fn cancelled(place: &Place, neighbour: Actor, name: &str) -> String {
    let output = place.runtimectl(&["cancel", name]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    neighbour.end()
}

/// A Run that is another's neighbour, with a secret.
fn neighbours_run(place: &Place, program: &str, name: &str) -> std::process::Command {
    let secret = format!("bait={}", place.submitted_secret());
    let document = json!({
        "apiVersion": "runtimed.dev/v1alpha1", "kind": "Run", "metadata": { "name": name },
        "spec": { "runtime": "test", "command": [program, "neighbour"], "secrets": [{ "name": "bait" }] },
    });
    place.runtimectl(&["run", "-f", &place.keep(name, &document), "--secret", &secret])
}

/// The attempts of a mode as a Run: what they printed, and the Run as it ended.
fn run(place: &Place, scene: &Scene, program: &str, mode: &str) -> (String, Value) {
    let env: serde_json::Map<String, Value> =
        scene.iter().map(|(name, value)| (format!("PROBE_{name}"), json!(value))).collect();
    let port = |name: &str| scene[name].parse::<u16>().expect("a port");
    let network = match mode {
        "ports" => json!({ "mode": "Ports", "ports": [port("TCP_LISTED")], "listen": [port("LISTEN")] }),
        "full" => json!({ "mode": "Full" }),
        _ => json!({ "mode": "None" }),
    };
    let limits = match mode {
        "limits" => json!({ "openFiles": 64, "fileSize": "1Mi" }),
        _ => json!({ "timeout": "5m" }),
    };
    let name = format!("attempts-{mode}");
    let document = json!({
        "apiVersion": "runtimed.dev/v1alpha1", "kind": "Run", "metadata": { "name": name },
        "spec": {
            "runtime": "test", "command": [program, "all", mode], "env": env, "network": network, "limits": limits,
        },
    });
    let kept = place.keep(&name, &document);
    let output = place.runtimectl(&["run", "-f", &kept]).output().expect("it runs");
    let text = succeeded(&output);
    let report = place.runtimectl(&["get", &name, "-o", "json"]).output().expect("it runs");
    (text, serde_json::from_str(&succeeded(&report)).expect("JSON"))
}

fn succeeded(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    out.into_owned()
}

/// The command of an unconfined round. Its starter leaves a descriptor open, a signal ignored and a variable set.
fn words_of(scene: &Scene, program: &str, mode: &str, own: &str) -> Vec<String> {
    let careless = "trap '' PIPE; exec 9< /dev/null; exec \"$@\"";
    let fixed = ["env", "-i", "PATH=/usr/bin:/bin", "CREDENTIALS_OF_THE_DAEMON=x"];
    let mut words: Vec<String> = fixed.iter().map(|&word| word.to_owned()).collect();
    words.push(format!("TMPDIR={own}"));
    words.extend(scene.iter().map(|(name, value)| format!("PROBE_{name}={value}")));
    words.extend(["sh", "-c", careless, "sh", program, "all", mode].map(str::to_owned));
    words
}

fn pairs(text: &str) -> Scene {
    text.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// The lines of a round, whose last says how many there are.
fn results(text: &str) -> Round {
    let mut round: Round = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(n, r)| (n.to_owned(), r.to_owned()))
        .collect();
    let tried = round.remove("tried").expect("the round was gone through");
    assert_eq!(tried, round.len().to_string());
    round
}
