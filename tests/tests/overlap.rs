//! Many grants on one point: closing one never closes another, and many closings are few writes.

use std::time::Duration;

use postern_api::{access_request::AccessRequestCreateQuery, grant::GrantRevoke};
use postern_tests::{Person, World, WorldOptions, world::CLIENT};

const BINARY: &str = env!("CARGO_BIN_EXE_postern-under-test");
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_one_of_two_overlapping_grants_never_closes_the_other() {
    let (world, _server) = World::locked_down(WorldOptions::of(BINARY)).await;
    let locked = world.now();
    let machines: Vec<String> = world.machines().map(str::to_owned).into();
    let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
    // The same ports from the same address, twice; one ends by itself, the other is revoked later.
    let long = world.request(&machines, 600, 30).await;
    let short = world.request(&machines, 10, 30).await;
    for grant in &short.grants {
        world.until(&grant.id, "closed", PATIENCE).await;
    }
    for machine in &machines {
        assert!(world.reachable(machine, CLIENT, 22), "{machine} is still granted");
        assert_eq!(
            world.open_intervals(machine, locked).len(),
            1,
            "{machine} was open without a break"
        );
    }
    for grant in &long.grants {
        world
            .client(Person::Ada)
            .revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
        world.until(&grant.id, "closed", PATIENCE).await;
    }
    for machine in &machines {
        assert!(!world.reachable(machine, CLIENT, 22), "{machine} is closed");
    }
    world.assert_sound(locked, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_grants_that_end_at_once_on_one_nsg_close_with_at_most_ten_writes() {
    let world = World::new(WorldOptions::of(BINARY)).await;
    // An NSG without rules of others, so that there is a priority for each of the five hundred.
    let azure = world.fleet.arm.fleet().in_group("many");
    azure.group().unwrap();
    let network = azure.network("many", "10.40.0.0/16").unwrap();
    let subnet = azure.subnet(&network, "many", "10.40.1.0/24", None).unwrap();
    let machine = azure
        .machine("many-1", &subnet, &[], &serde_json::json!({}))
        .unwrap()
        .machine;
    let _server = world.serve(&[]).await;
    let policy = world.lock_down().await;
    let ada = world.client(Person::Ada);
    for number in 0..500 {
        let mut request = postern_tests::world::a_request(&[&machine], 3600);
        request.targets[0].sources = Some(vec![format!("203.0.113.{}/32", number % 250)]);
        ada.create_access_request(None, &AccessRequestCreateQuery::default(), &request)
            .await
            .unwrap();
    }
    world
        .eventually(
            "five hundred grants are open",
            Duration::from_mins(2),
            async || {
                let grants = world.all_grants().await;
                (grants.len() == 500 && grants.iter().all(|grant| grant.status == "open")).then_some(())
            },
        )
        .await;
    world.fleet.arm.calls().reset();
    world
        .client(Person::Olga)
        .delete_jit_policy(&policy.id, policy.version)
        .await
        .unwrap();
    world
        .eventually(
            "five hundred grants are closed",
            Duration::from_mins(2),
            async || {
                world
                    .all_grants()
                    .await
                    .iter()
                    .all(|grant| grant.status == "closed")
                    .then_some(())
            },
        )
        .await;
    let writes: u64 = world
        .fleet
        .arm
        .calls()
        .all()
        .into_iter()
        .filter(|(operation, _)| operation.ends_with(".CreateOrUpdate") || operation.ends_with(".Delete"))
        .map(|(_, calls)| calls)
        .sum();
    // The policy is gone too, so the other machine's NSGs lose their denies: two more writes.
    assert!(
        writes <= 10,
        "{writes} writes: {:?}",
        world.fleet.arm.calls().all()
    );
}
