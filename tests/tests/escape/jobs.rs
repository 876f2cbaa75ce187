//! Ordinary work, as Runs do it. A tier in which a job does not work is listed with it; everything else has to work.

/// A script for `bash -e`, which goes on to its end if the work was done. No `&&`: what fails before one ends nothing.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) script: &'static str,
    /// With a port of its own to serve and to reach.
    pub(crate) network: bool,
    /// Tiers in which it does not work, and what it lacks there.
    pub(crate) not_in: &'static [(&'static str, &'static str)],
}

const fn job(name: &'static str, script: &'static str) -> Job {
    Job { name, script, network: false, not_in: &[] }
}

/// What the scripts find in their environment: `TOOLCHAIN`, a directory with cargo and rustc, and `PORT`, a free port.
pub(crate) const JOBS: [Job; 15] = [
    job(
        "cargo build",
        r#"export PATH="$TOOLCHAIN/bin:$PATH" CARGO_HOME="$HOME/cargo"
        cargo init --quiet --offline --vcs none --name tiny .
        cargo build --quiet --offline
            ./target/debug/tiny | grep -q Hello"#,
    ),
    job(
        "pip install of a local wheel",
        r#"mkdir -p tiny tiny-1.dist-info
            echo 'WORD = "tiny"' > tiny/__init__.py
        printf 'Metadata-Version: 2.1\nName: tiny\nVersion: 1\n' > tiny-1.dist-info/METADATA
        printf 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n' > tiny-1.dist-info/WHEEL
        printf 'tiny/__init__.py,,\ntiny-1.dist-info/METADATA,,\ntiny-1.dist-info/WHEEL,,\ntiny-1.dist-info/RECORD,,\n' > tiny-1.dist-info/RECORD
        /usr/bin/python3 -m zipfile -c tiny-1-py3-none-any.whl tiny tiny-1.dist-info
        rm -r tiny tiny-1.dist-info
        /usr/bin/python3 -m pip install --quiet --no-index --no-warn-script-location --target lib ./tiny-1-py3-none-any.whl
        PYTHONPATH=lib /usr/bin/python3 -c 'import tiny; assert tiny.WORD == "tiny"'"#,
    ),
    job(
        "pytest",
        r#"printf 'def test_sum(tmp_path):\n    (tmp_path / "x").write_text("1")\n    assert 1 + 1 == 2\n' > test_sum.py
        /usr/bin/python3 -m pytest -q -p no:cacheprovider test_sum.py"#,
    ),
    Job {
        not_in: &[
            ("Base", "POSIX semaphores are files in /dev/shm, which is the pod's"),
            ("Exclusive", "POSIX semaphores are files in /dev/shm, which is the pod's"),
        ],
        ..job(
            "pytest with multiprocessing",
            r#"cat > test_pool.py <<'END'
import multiprocessing
def square(x): return x * x
def test_pool():
    with multiprocessing.Pool(2) as pool:
        assert pool.map(square, [1, 2, 3]) == [1, 4, 9]
END
            /usr/bin/python3 -m pytest -q -p no:cacheprovider test_pool.py"#,
        )
    },
    job(
        "processes and pipes of Python",
        r#"/usr/bin/python3 -c 'import multiprocessing as m
a, b = m.Pipe()
p = m.Process(target=lambda: b.send(42)); p.start(); assert a.recv() == 42; p.join()'"#,
    ),
    Job {
        network: true,
        ..job(
            "a node script with a test server",
            r#"cat > serve.js <<'END'
const http = require('http');
const server = http.createServer((_, answer) => answer.end('tested'));
server.listen(Number(process.env.PORT), '127.0.0.1', () => {
  http.get({ port: process.env.PORT, host: '127.0.0.1' }, (answer) => {
    answer.on('data', (data) => { if (String(data) !== 'tested') process.exit(1); });
    answer.on('end', () => server.close());
  });
});
END
            node serve.js"#,
        )
    },
    job(
        "node with workers",
        r#"node -e 'const { Worker } = require("worker_threads");
new Worker("require(\"worker_threads\").parentPort.postMessage(42)", { eval: true })
  .on("message", (m) => process.exit(m === 42 ? 0 : 1));'"#,
    ),
    job(
        "git clone, commit and push",
        r#"git init --quiet --bare origin.git
            git clone --quiet origin.git copy 2> /dev/null
            cd copy
        git config user.name x
            git config user.email x@example.com
        echo one > file
            git add file
            git commit --quiet -m one
            git push --quiet origin HEAD 2> /dev/null
        git -C ../origin.git log --oneline --all | grep -q one"#,
    ),
    job(
        "make with four jobs",
        r#"for n in 1 2 3 4 5 6 7 8; do echo "int f$n(void) { return $n; }" > f$n.c; done
        echo 'int f8(void); int main(void) { return f8() != 8; }' > main.c
        printf 'OBJECTS = main.o f1.o f2.o f3.o f4.o f5.o f6.o f7.o f8.o\nall: $(OBJECTS)\n\tgcc -o all $(OBJECTS)\n' > Makefile
        make --silent -j4
            ./all"#,
    ),
    job(
        "sqlite",
        r#"sqlite3 x.db 'PRAGMA journal_mode = WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1), (2), (3);' > /dev/null
        [ "$(sqlite3 x.db 'SELECT sum(n) FROM t')" = 6 ]"#,
    ),
    job(
        "a compiler and a virtual machine of Java",
        r#"cat > Tiny.java <<'END'
import java.util.stream.IntStream;
public class Tiny {
    public static void main(String[] words) throws Exception {
        Thread other = new Thread(() -> System.out.println(IntStream.rangeClosed(1, 9).parallel().sum()));
        other.start();
        other.join();
    }
}
END
        javac Tiny.java
            java -Xmx64m Tiny | grep -q 45"#,
    ),
    job("bash's process substitution", r#"[ "$(cat <(echo one) <(echo two) | wc -l)" = 2 ]"#),
    job(
        "a pipeline with a file in TMPDIR",
        r#"f=$(mktemp)
            seq 1000 | sort -n > "$f"
            [ "$(wc -l < "$f")" = 1000 ]"#,
    ),
    Job {
        not_in: &[
            ("Base", "/tmp is the pod's; TMPDIR is the Run's own"),
            ("Exclusive", "the three directories of this machine's daemon are elsewhere; in a pod it works"),
        ],
        ..job(
            "a program with a literal /tmp",
            r#"echo x > /tmp/literal
            [ "$(cat /tmp/literal)" = x ]"#,
        )
    },
    Job {
        not_in: &[
            ("Base", "no process directory of /proc is shown"),
            ("Exclusive", "no process directory of /proc is shown"),
        ],
        ..job("ps", r#"ps -o pid= -p $$ | grep -q $$"#)
    },
];
