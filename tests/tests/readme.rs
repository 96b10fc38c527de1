//! The commands of README's story, typed in their order into one bash while the demo runs, as a newcomer types them.
//! What they show is what README says.
//!
//! Not as written are the address and the program, which are those of the demo under test, and `/tmp`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

use std::{
    fs::{self, File, Permissions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use clap::Parser as _;
use postern::cli::{Cli, Command as Told};
use postern_tests::python::workspace;
use serde_json::Value;

/// The longest that an answer is waited for before a test gives up.
const PATIENCE: Duration = Duration::from_mins(2);
/// The longest that the demo may take to end after Ctrl-C.
const PARTING: Duration = Duration::from_secs(30);
/// README's command, of which what follows `--` is what the program under test is called with.
const START: &str = "cargo run --release -- demo";
/// The grants of Ada's request as they are now, which README shows only as they were when its answer came.
const LOOK_AT_BOTH: &str = r#"for grant in $(jq -r '.grants[].id' /tmp/request.json); do
  call ada "$API/v1/grants/$grant" | jq '{machine, truth, hops}'
done"#;
/// Where README has the program.
const PROGRAM: &str = "./target/release/postern";

/// Lines, as they come from a process.
fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// The demo, started as README says, but on any port that is free. Dropping it kills it, and its Postgres with it.
struct Demo {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Demo {
    fn start(arguments: &str, home: &Path) -> Self {
        let log = home.join("demo.log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_postern-under-test"))
            .args(arguments.split_whitespace())
            .args(["--port", "0"])
            .env("HOME", home)
            .env_remove("XDG_STATE_HOME")
            .env_remove("POSTERN_DEMO_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let mut demo = Self {
            child,
            address: String::new(),
            log,
        };
        while let Ok(line) = lines.recv_timeout(PATIENCE) {
            if let Some((_, told)) = line.split_once(" serves at ") {
                told.split_whitespace()
                    .next()
                    .unwrap()
                    .clone_into(&mut demo.address);
                return demo;
            }
        }
        panic!(
            "the demo does not say where it serves:\n{}",
            fs::read_to_string(&demo.log).unwrap()
        );
    }

    /// Ctrl-C, and what comes of it.
    fn interrupt(mut self) -> ExitStatus {
        let told = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(told.success());
        let deadline = Instant::now() + PARTING;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{PARTING:?} after Ctrl-C the demo still runs:\n{}",
                fs::read_to_string(&self.log).unwrap()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A bash that somebody types into. Dropping it kills it.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    errors: PathBuf,
}

impl Shell {
    fn start(home: &Path) -> Self {
        for (program, package) in [
            ("bash", "bash"),
            ("curl", "curl"),
            ("jq", "jq"),
            ("kill", "procps"),
        ] {
            let found = Command::new(program).arg("--version").output();
            assert!(
                found.is_ok_and(|output| output.status.success()),
                "`{program}` is missing: apt-get install -y {package}"
            );
        }
        let errors = home.join("shell.log");
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc", "-eu", "-o", "pipefail"])
            .current_dir(workspace())
            .env("HOME", home)
            .env_remove("XDG_STATE_HOME")
            .env_remove("POSTERN_DEMO_DIR")
            .env_remove("BASH_ENV")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: lines_of(child.stdout.take().unwrap()),
            child,
            errors,
        }
    }

    /// Types commands and gives what they print. The first that fails ends the shell, and the test.
    fn run(&mut self, commands: &str) -> String {
        const DONE: &str = "-- that was it --";
        writeln!(
            self.input,
            "{{\n{commands}\n}} < /dev/null\nprintf '\\n%s\\n' '{DONE}'"
        )
        .unwrap();
        let mut printed = String::new();
        while let Ok(line) = self.output.recv_timeout(PATIENCE) {
            if line == DONE {
                // What ends what was printed, also where no end of a line did.
                printed.pop();
                return printed;
            }
            printed.push_str(&line);
            printed.push('\n');
        }
        panic!(
            "failed, or did not end:\n{commands}\n\nprinted:\n{printed}\n{}",
            fs::read_to_string(&self.errors).unwrap()
        );
    }

    /// Types a command until it prints what it should, where README waits for a while.
    fn run_until(&mut self, command: &str, as_it_should: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let printed = self.run(command);
            if as_it_should(&printed) {
                return printed;
            }
            assert!(Instant::now() < deadline, "{command}\nstill prints:\n{printed}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The blocks of a page that are fenced with this language; none is that without one.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let mut fences = page.split("\n```");
    fences.next();
    let mut found = Vec::new();
    while let (Some(block), Some(_)) = (fences.next(), fences.next()) {
        let (of, body) = block.split_once('\n').unwrap_or((block, ""));
        if of == language {
            found.push(body);
        }
    }
    found
}

/// The `N` paragraphs of a block.
fn paragraphs<const N: usize>(block: &str) -> [&str; N] {
    let all: Vec<&str> = block.split("\n\n").collect();
    all.try_into()
        .unwrap_or_else(|_| panic!("this block of README's has other than {N} paragraphs:\n{block}"))
}

/// A paragraph, parted where it says how long to wait for what the rest shows.
fn parted(paragraph: &str) -> (&str, &str) {
    let (before, after) = paragraph.split_once("sleep ").unwrap();
    let (seconds, rest) = after.split_once("; ").unwrap();
    assert!(seconds.parse::<u8>().is_ok(), "{paragraph}");
    (before, rest)
}

/// The JSON documents that were printed, one after the other, and what came after them.
fn documents(printed: &str) -> (Vec<Value>, &str) {
    let mut documents = serde_json::Deserializer::from_str(printed).into_iter::<Value>();
    let mut found = Vec::new();
    let mut end = 0;
    while let Some(Ok(document)) = documents.next() {
        found.push(document);
        end = documents.byte_offset();
    }
    (found, printed[end..].trim())
}

/// The single JSON document that was printed.
fn document(printed: &str) -> Value {
    match documents(printed) {
        (mut all, "") if all.len() == 1 => all.remove(0),
        _ => panic!("no JSON document: {printed}"),
    }
}

fn machines_stand_at(printed: &str, posture: &str) -> bool {
    let mut machines: Vec<(&str, &str)> = printed
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('\t');
            Some((columns.next()?, columns.next()?))
        })
        .collect();
    machines.sort_unstable();
    machines == ["app-1", "build-1", "db-1", "vault-1", "web-1"].map(|name| (name, posture))
}

/// Whether a list of grants has one of `web-1` and one of `app-1`, which is in AWS, where ids are no names.
fn machines_of_grants(printed: &str) -> (bool, bool) {
    (
        printed.contains("/virtualMachines/web-1"),
        printed.contains("arn:aws:"),
    )
}

#[test]
fn what_readme_tells_a_newcomer_to_type_does_what_it_says() {
    let page = fs::read_to_string(workspace().join("README.md")).unwrap();
    assert!(blocks(&page, "").contains(&START), "{:?}", blocks(&page, ""));
    let [curl, command_line, firewall] = blocks(&page, "bash")[..] else {
        panic!("README has other blocks for bash than those that are typed here");
    };

    // As root, Postgres runs as somebody else, who must get to its data.
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o711)).unwrap();
    let demo = Demo::start(START.split_once(" -- ").unwrap().1, home.path());
    let mut shell = Shell::start(home.path());

    let Told::Demo(usual) = Cli::parse_from(["postern", "demo"]).command else {
        panic!("`demo` is something else");
    };
    let address = format!("API=http://127.0.0.1:{}\n", usual.port);
    let [setup, look, policy, eve, ada, end, undo, log] = paragraphs(curl);
    assert!(
        setup.starts_with(&address) && setup.contains(PROGRAM),
        "{address}{PROGRAM}\n{setup}"
    );
    let setup = setup
        .replace(&address, &format!("API={}\n", demo.address))
        .replace(PROGRAM, env!("CARGO_BIN_EXE_postern-under-test"));
    assert_eq!(shell.run(&setup), "");
    let directory = format!("{}/", home.path().display());
    let here = |commands: &str| commands.replace("/tmp/", &directory);

    let before = shell.run(look);
    assert!(machines_stand_at(&before, "recommended"), "{before}");
    assert!(
        before
            .lines()
            .all(|line| line.contains("rule `") && line.contains("22/tcp")),
        "{before}"
    );

    let printed = shell.run(policy);
    let (made, after) = documents(&printed);
    assert!(
        made.len() == 1 && made[0]["name"] == "management ports",
        "{printed}"
    );
    assert!(machines_stand_at(after, "configured"), "{printed}");

    let refused = document(&shell.run(eve));
    assert_eq!(refused["status"], 403, "{refused}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("`request`") && detail.contains("roles that would"),
        "{detail}"
    );

    let (mut grants, rest) = shell_documents(&mut shell, &here(ada));
    assert!(grants.len() == 2 && rest.is_empty(), "{grants:?} {rest}");
    // On a slow machine the ten seconds may be over.
    if !grants.iter().all(is_open) {
        let opening = |grant: &Value| grant["truth"].as_str().unwrap().starts_with("not open yet: ");
        assert!(
            grants.iter().all(|grant| is_open(grant) || opening(grant)),
            "{grants:#?}"
        );
        let look = here(LOOK_AT_BOTH);
        grants = documents(&shell.run_until(&look, |printed| documents(printed).0.iter().all(is_open))).0;
        assert_eq!(grants.len(), 2, "{grants:#?}");
    }
    for grant in &grants {
        let hops = grant["hops"].as_array().unwrap();
        assert!(
            !hops.is_empty() && hops.iter().all(|hop| hop["state"] == "present"),
            "{grant:#}"
        );
    }

    let (now, later) = parted(end);
    let printed = shell.run(&here(now));
    assert!(printed.starts_with("rule clos"), "{printed}");
    shell.run_until(later, |printed| printed.starts_with("rule closed: "));

    let (now, later) = parted(undo);
    assert_eq!(shell.run(now), "");
    shell.run_until(later, |printed| printed == before);

    let (events, rest) = shell_documents(&mut shell, log);
    assert_eq!(rest, "");
    let told = |wanted: [&str; 4]| {
        events
            .iter()
            .find(|event| (1..).zip(wanted).all(|(column, wanted)| event[column] == wanted))
    };
    assert!(
        told(["user:demo/eve", "access_request.create", "disk full", "denied"]).is_some(),
        "{events:#?}"
    );
    let asked = told(["user:demo/ada", "access_request.create", "disk full", "succeeded"]).unwrap();
    assert_eq!(asked[5][0]["role"], "requester", "{asked}");
    let revoked = told(["user:demo/ada", "grant.revoke", "done", "succeeded"]).unwrap();
    assert_eq!(revoked[6]["status"], "open", "{revoked}");

    shell.run(policy);
    let [sign_in, list, request, grants, revoke, audit] = command_line.lines().collect::<Vec<_>>()[..] else {
        panic!("README has other commands than those that are typed here:\n{command_line}");
    };
    assert_eq!(shell.run(sign_in), "");
    let printed = shell.run(list);
    assert!(
        printed.contains("vault-1") && printed.contains("configured"),
        "{printed}"
    );
    let printed = shell.run(request);
    assert!(printed.contains("open"), "{printed}");
    let printed = shell.run(grants);
    assert_eq!(machines_of_grants(&printed), (true, true), "{printed}");
    shell.run(revoke);
    let printed = shell.run(grants);
    assert_eq!(machines_of_grants(&printed), (false, true), "{printed}");
    let printed = shell.run(audit);
    assert!(printed.contains("grant.revoke"), "{printed}");

    let [vault, ask, open, lands] = paragraphs(firewall);
    assert_eq!(shell.run(vault), "");
    let asked = document(&shell.run(ask));
    assert_eq!(asked["hops"].as_array().unwrap().len(), 2, "{asked:#}");
    // On a slow machine the five seconds may be over.
    if asked["status"] != "open" {
        assert_eq!(asked["status"], "opening", "{asked:#}");
        let waits_for = asked["waits_for"].as_str().unwrap();
        assert!(waits_for.starts_with("azure:firewall-policy:"), "{asked:#}");
    }
    let (comment, show) = parted(open);
    assert!(comment.starts_with('#'), "{comment}");
    let printed = shell.run_until(&here(show), |printed| document(printed)["status"] == "open");
    assert_eq!(
        document(&printed)["entrances"][0]["leads_to"],
        "22/tcp",
        "{printed}"
    );
    let printed = shell.run(&here(lands));
    let [through, strangers, past] = printed.lines().collect::<Vec<_>>()[..] else {
        panic!("{printed}");
    };
    let through = document(through);
    assert!(
        through["machine"].as_str().unwrap().ends_with("/vault-1"),
        "{through}"
    );
    assert_eq!(through["port"], 22, "{through}");
    assert_eq!((strangers, past), ("null", "null"), "{printed}");

    drop(shell);
    assert!(demo.interrupt().success());
    let left = home.path().join(".local/state/postern-demo");
    assert!(!left.exists(), "{} is left", left.display());
}

/// Whether a grant says that it is open.
fn is_open(grant: &Value) -> bool {
    grant["truth"].as_str().unwrap().starts_with("rule open: ")
}

/// What commands print, as JSON documents and what came after them.
fn shell_documents(shell: &mut Shell, commands: &str) -> (Vec<Value>, String) {
    let printed = shell.run(commands);
    let (found, rest) = documents(&printed);
    (found, rest.to_owned())
}
