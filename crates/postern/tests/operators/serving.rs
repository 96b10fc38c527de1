//! `postern serve` as an operator has it under a service manager.

use std::{process::Stdio, time::Duration};

use postern::demo::fleet::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::{doctor::world, rig::Rig};

/// A server that serves, and its log from then on.
async fn serving(rig: &Rig) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["serve", "--config"])
        .arg(rig.config())
        .env("POSTERN__LISTEN__ADDRESS", "127.0.0.1:0")
        .env("POSTERN__LOGGING__FILTER", "info")
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    until(&mut log, " serving").await;
    (child, log)
}

/// Reads the log up to a line that has the words.
async fn until(log: &mut Lines<BufReader<ChildStderr>>, words: &str) {
    let mut read = Vec::new();
    let found = tokio::time::timeout(Duration::from_mins(1), async {
        while let Some(line) = log.next_line().await.unwrap() {
            let found = line.contains(words);
            read.push(line);
            if found {
                return true;
            }
        }
        false
    })
    .await;
    assert_eq!(found, Ok(true), "no line with `{words}` in {read:#?}");
}

fn signal(child: &Child, signal: Signal) {
    let id = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(id, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_nothing_to_reload_says_so_at_a_hang_up_and_goes_on() {
    let world = world().await;
    let (mut child, mut log) = serving(&world.rig).await;
    for _ in 0..2 {
        signal(&child, Signal::HUP);
        until(&mut log, "nothing to reload").await;
    }
    signal(&child, Signal::TERM);
    let rest = tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    let ended = tokio::time::timeout(Duration::from_mins(1), child.wait()).await;
    assert_eq!(
        ended.unwrap().unwrap().code(),
        Some(0),
        "told to stop, and stopped"
    );
    rest.await.unwrap();
}
