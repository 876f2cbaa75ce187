//! What is attacked: a target of the same uid, and another Run. Both are other processes, talked to by their output.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

/// What the probes are told of the scene, name to value.
pub(crate) type Scene = BTreeMap<String, String>;

/// A process that says what there is to attack, then `ready`, and ends with its input.
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    said: BufReader<ChildStdout>,
    scene: Scene,
}

impl Actor {
    /// Starts it and listens until it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut scene = Scene::new();
        loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("it is read") > 0, "it ended too early: {scene:?}");
            match line.trim_end().split_once('=') {
                Some((name, value)) => drop(scene.insert(name.to_owned(), value.to_owned())),
                None if line.trim_end() == "ready" => break,
                None => panic!("it says {line:?}"),
            }
        }
        Self { child, said, scene }
    }

    pub(crate) fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Takes its input away, and gives what else it said.
    pub(crate) fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("text");
        self.child.wait().expect("it is a child");
        rest
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Ended already, or by the end of its input.
        let _ended = self.child.wait();
    }
}
