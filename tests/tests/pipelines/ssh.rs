//! `postern connect`, `ssh` and `ssh-config`.

use postern_tests::world::CLIENT;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Desk, PATIENCE, SOURCE, ended, postern, shut, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_passes_bytes_both_ways_and_closes_when_the_other_side_does() {
    let (world, _server) = world().await;
    let machine = world.fleet.app.clone();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let arguments = [
        "connect",
        &machine,
        "--source",
        SOURCE,
        "--heartbeat",
        "1s",
        "--host",
        &host,
    ];
    let mut child = postern(&world, "ada", &arguments).spawn().unwrap();
    let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept())
        .await
        .unwrap()
        .unwrap();
    assert!(world.reachable(&machine, CLIENT, 22));
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    // What comes after the end of standard input still arrives.
    drop(input);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    stream.write_all(b"pong").await.unwrap();
    drop(stream);
    let (status, said, told) = ended(child).await;
    assert_eq!((status.code(), said.as_str()), (Some(0), "pong"), "{told}");
    assert_eq!(told, "", "nothing but trouble is told on ssh's terminal");
    shut(&world, &machine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_is_run_with_the_right_host_and_its_lease_ends_with_it() {
    let (world, _server) = world().await;
    let desk = Desk::new();
    let machine = world.fleet.app.clone();
    // Stands where ssh would, and says how it was called.
    let ssh = desk.path("ssh");
    std::fs::write(&ssh, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 255\n").unwrap();
    let executable = std::process::Command::new("chmod")
        .args(["+x", &ssh])
        .status()
        .unwrap();
    assert!(executable.success());
    let path = format!("{}:{}", desk.path(""), std::env::var("PATH").unwrap());
    let named = format!("ubuntu@{machine}");
    let arguments = ["ssh", &named, "--source", SOURCE, "--", "-v", "uptime"];
    let child = postern(&world, "ada", &arguments)
        .env("PATH", path)
        .spawn()
        .unwrap();
    let (status, said, told) = ended(child).await;
    assert_eq!(status.code(), Some(255), "{told}");
    let words: Vec<&str> = said.lines().collect();
    let address = words.get(6).unwrap();
    assert!(address.parse::<std::net::IpAddr>().is_ok(), "{said}");
    let alias = words.get(3).unwrap();
    assert!(alias.starts_with("HostKeyAlias=aws/"), "{said}");
    assert_eq!(words.first(), Some(&"-p"));
    assert_eq!(&words[4..6], ["-l", "ubuntu"]);
    assert_eq!(&words[7..], ["-v", "uptime"]);
    shut(&world, &machine).await;

    let arguments = ["ssh-config", &machine, "--source", SOURCE];
    let child = postern(&world, "ada", &arguments).spawn().unwrap();
    let (_, said, _) = ended(child).await;
    let server = &world.server_url;
    assert!(
        said.contains(&format!(
            "ProxyCommand postern connect {machine} --port %p --source {SOURCE} --server {server}"
        )),
        "{said}"
    );
}
