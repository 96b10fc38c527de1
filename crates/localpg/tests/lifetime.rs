//! A private Postgres lives as long as whoever started it, and no longer.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use postern_localpg::{LocalPostgres, LocalPostgresError, Options};

fn options(data_dir: &Path) -> Options {
    Options {
        data_dir: Some(data_dir.to_owned()),
        fsync: false,
        ..Options::default()
    }
}

/// A directory that the user Postgres runs as can reach.
fn reachable() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn socket(url: &str) -> PathBuf {
    let (_, rest) = url.split_once("?host=").unwrap();
    Path::new(rest.split('&').next().unwrap()).join(".s.PGSQL.5432")
}

fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Another process that holds a private Postgres, and the URL of it.
fn holder(dir: &Path) -> (Child, String) {
    let example = std::env::current_exe().unwrap();
    let example = example
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/with-postgres");
    let report = dir.join("url");
    let child = Command::new(example)
        .args([
            "sh",
            "-c",
            r#"echo "$DATABASE_URL" > "$0.new"; mv "$0.new" "$0"; sleep 600"#,
        ])
        .arg(&report)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    within(Duration::from_secs(30), "it starts", || report.exists());
    let url = fs::read_to_string(report).unwrap().trim().to_owned();
    (child, url)
}

#[test]
fn it_answers_while_it_runs_and_leaves_nothing_temporary_behind() {
    let server = LocalPostgres::start(Options {
        fsync: false,
        ..Options::default()
    })
    .unwrap();
    let socket = socket(&server.url());
    UnixStream::connect(&socket).unwrap();
    let directory = socket.parent().unwrap();
    assert_eq!(
        fs::metadata(directory).unwrap().permissions().mode() & 0o777,
        0o700,
        "nobody else connects"
    );
    server.stop();
    assert!(!directory.exists());
}

#[test]
fn it_dies_with_a_parent_that_is_killed() {
    let dir = reachable();
    let (mut parent, url) = holder(dir.path());
    let socket = socket(&url);
    UnixStream::connect(&socket).unwrap();
    parent.kill().unwrap(); // SIGKILL
    parent.wait().unwrap();
    within(
        Duration::from_secs(20),
        "Postgres and its directory are gone",
        || !socket.parent().unwrap().exists(),
    );
}

#[test]
fn a_directory_is_reused_and_never_shared() {
    let dir = reachable();
    let data = dir.path().join("pg");
    let first = LocalPostgres::start(options(&data)).unwrap();
    assert!(matches!(
        LocalPostgres::start(options(&data)),
        Err(LocalPostgresError::InUse(_))
    ));
    first.stop();
    let made = fs::metadata(data.join("cluster/PG_VERSION"))
        .unwrap()
        .modified()
        .unwrap();
    let second = LocalPostgres::start(options(&data)).unwrap();
    UnixStream::connect(socket(&second.url())).unwrap();
    assert_eq!(
        fs::metadata(data.join("cluster/PG_VERSION"))
            .unwrap()
            .modified()
            .unwrap(),
        made
    );
}

#[test]
fn a_killed_server_comes_back_at_the_same_address() {
    let dir = reachable();
    let mut server = LocalPostgres::start(options(&dir.path().join("pg"))).unwrap();
    let url = server.url();
    server.kill().unwrap();
    assert!(UnixStream::connect(socket(&url)).is_err());
    server.restart().unwrap();
    assert_eq!(server.url(), url);
    UnixStream::connect(socket(&url)).unwrap();
}

#[test]
fn an_initialisation_that_was_cut_short_is_begun_anew() {
    let dir = reachable();
    let data = dir.path().join("pg");
    fs::create_dir_all(data.join("cluster/base")).unwrap();
    let server = LocalPostgres::start(options(&data)).unwrap();
    UnixStream::connect(socket(&server.url())).unwrap();
}
