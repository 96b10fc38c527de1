//! Clients that are not ours drive the simulators: boto3, and Microsoft's own Python SDKs. What they can do with a
//! cloud they can do here, and they see Postern's rules come and go.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Duration;

use postern_api::grant::GrantRevoke;
use postern_sim::{
    arm::{ArmOptions, ArmSim},
    ec2::{Ec2Options, Ec2Sim},
};
use postern_tests::{Person, World, WorldOptions, python};

/// Python runs beside the runtime that the simulators live in.
async fn script(name: &'static str, arguments: Vec<String>) -> String {
    tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        python::run(name, &arguments)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_builds_and_guards_a_fleet_on_the_ec2_simulator() {
    let ec2 = Ec2Sim::start(Ec2Options::default()).await.unwrap();
    script("ec2_client.py", vec![ec2.url()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn microsofts_python_clients_create_read_list_and_delete_on_the_arm_simulator() {
    let arm = ArmSim::start(ArmOptions::default()).await.unwrap();
    script("arm_client.py", vec![arm.url()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn microsofts_python_clients_see_posterns_rule_come_and_go() {
    let (world, _server) =
        World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await;
    let machine = world.fleet.db.clone();
    let look = |expected: &str| vec![world.fleet.arm.url(), machine.clone(), expected.to_owned()];

    script("arm_watch.py", look("absent")).await;
    let request = world.request(&[&machine], 600, 30).await;
    script("arm_watch.py", look("present")).await;
    for grant in &request.grants {
        world
            .client(Person::Ada)
            .revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
        world.until(&grant.id, "closed", Duration::from_secs(30)).await;
    }
    script("arm_watch.py", look("absent")).await;
}
