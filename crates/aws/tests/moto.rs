//! The enforcer contract against moto, somebody else's idea of EC2.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking"
)]

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

#[path = "contract/fleet.rs"]
mod fleet;
#[path = "contract/fleets.rs"]
mod fleets;
#[path = "contract/moves.rs"]
mod moves;
#[path = "contract/stage.rs"]
mod stage;
#[path = "contract/suite.rs"]
mod suite;

/// A moto server of our own; it ends with the test.
struct Moto {
    child: Child,
    url: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Moto {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/python-venv");
    let made = Command::new(&script).output().unwrap();
    assert!(
        made.status.success(),
        "moto is not there, and {} could not get it: {}",
        script.display(),
        String::from_utf8_lossy(&made.stderr)
    );
    let program = Path::new(String::from_utf8_lossy(&made.stdout).trim()).join("bin/moto_server");
    // The port is free when asked for; nobody else on this machine asks for a particular one.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut child = Command::new(program)
        .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
        // Without them moto checks images against a list that it ships.
        .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..600 {
        if TcpStream::connect(address).is_ok() {
            return Moto {
                child,
                url: format!("http://{address}"),
            };
        }
        assert!(child.try_wait().unwrap().is_none(), "moto_server ended at once");
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("moto_server does not listen");
}

#[tokio::test]
async fn the_enforcer_keeps_its_contract_against_moto() {
    let (_moto, url) = if let Ok(url) = std::env::var("POSTERN_MOTO_URL") {
        (None, url)
    } else {
        let moto = start();
        let url = moto.url.clone();
        (Some(moto), url)
    };
    let endpoint = stage::Endpoint {
        url,
        account: "123456789012".to_owned(),
        access_key_id: "test".to_owned(),
        secret_access_key: "test".to_owned(),
        flavour: stage::Flavour::Moto,
    };
    suite::run(&endpoint).await;
    fleets::run(&endpoint).await;
    moves::run(&endpoint).await;
}
