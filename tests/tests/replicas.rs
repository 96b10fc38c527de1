//! Several servers over one subscription: what the cloud lets them call they share.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::{path::PathBuf, time::Duration};

use postern_api::machine::MachineQuery;
use postern_sim::arm::{self, BucketSize, RequestLimits};
use postern_tests::{Person, World, WorldOptions, metric::metric, world::a_policy};
use serde_json::json;

const MACHINES: usize = 60;
const PATIENCE: Duration = Duration::from_mins(2);

/// A fifth of what ARM documents; what a lone server keeps to, as each of these may in sum.
const PERCENT: &str = "20";

/// What the subscription lets through: that fifth, and two more for what rounding does. Reads are not in question.
const LIMITS: RequestLimits = RequestLimits {
    reads: BucketSize {
        size: 1_000_000,
        refill: 1_000_000,
    },
    writes: BucketSize { size: 42, refill: 2 },
    deletes: BucketSize { size: 42, refill: 2 },
};

/// Sixty machines that SSH is open to for everybody, each behind an NSG of its own.
fn many(world: &World) -> Vec<String> {
    let azure = world.fleet.arm.fleet().in_group("many");
    azure.group().unwrap();
    let network = azure.network("many", "10.80.0.0/16").unwrap();
    let subnet = azure.subnet(&network, "only", "10.80.1.0/24", None).unwrap();
    let rules = [arm::inbound("everybody", 1000, "Allow", "*", "22")];
    (0..MACHINES)
        .map(|number| {
            azure
                .machine(&format!("many-{number}"), &subnet, &rules, &json!({}))
                .unwrap()
                .machine
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_together_stay_within_one_budget_and_the_one_that_is_left_has_all_of_it() {
    let world = World::new(WorldOptions {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_postern-under-test")),
        more: String::new(),
        fsync: false,
    })
    .await;
    let machines = many(&world);
    let open = || {
        machines
            .iter()
            .filter(|machine| world.reachable(machine, [192, 0, 2, 1], 22))
            .count()
    };
    assert_eq!(open(), MACHINES);
    world.fleet.arm.set_limits(Some(LIMITS));
    let common = [
        ("POSTERN__AZURE__BUDGET_PERCENT", PERCENT),
        ("POSTERN__ENGINE__LEASE_SECONDS", "10"),
    ];
    let _survivor = world.serve(&common).await;
    let survivor = world.server_url.trim_start_matches("http://").to_owned();
    let other = std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .to_string();
    let mut environment = common.to_vec();
    environment.push(("POSTERN__LISTEN__ADDRESS", &other));
    let mut doomed = world.spawn(&environment);
    let servers = async |address: &str| metric(address, "postern_servers{", &["cloud=\"azure\""]).await;
    for address in [&survivor, &other] {
        world
            .eventually("each knows that there are two", PATIENCE, async || {
                (servers(address).await? > 1.5).then_some(())
            })
            .await;
    }
    let olga = world.client(Person::Olga);
    world
        .eventually("the machines are discovered", PATIENCE, async || {
            let query = MachineQuery {
                limit: Some(100),
                ..MachineQuery::default()
            };
            let page = olga.machines(&query).await.ok()?;
            (page.items.len() > MACHINES).then_some(())
        })
        .await;

    // A write for each of the machines: more than the subscription takes at once.
    let policy = olga
        .create_jit_policy(None, &a_policy("many", "/azure"))
        .await
        .expect("a policy");
    world
        .eventually("SSH is shut on all of them", PATIENCE, async || {
            (open() == 0).then_some(())
        })
        .await;
    assert_eq!(world.fleet.arm.refused_for_rate(), 0, "two servers");
    world.quiet().await;

    // Its share is half; what is left above that, it has of the dead one.
    doomed.kill();
    world
        .eventually("the one that is left has all of it", PATIENCE, async || {
            let alone = servers(&survivor).await? < 1.5;
            let left = metric(&survivor, "postern_budget_left{", &["class=\"writes\""]).await?;
            (alone && left > 21.0).then_some(())
        })
        .await;
    olga.delete_jit_policy(&policy.id, policy.version)
        .await
        .expect("the policy is deleted");
    world
        .eventually("all is as it was", PATIENCE, async || {
            (open() == MACHINES).then_some(())
        })
        .await;
    assert_eq!(world.fleet.arm.refused_for_rate(), 0, "one server");
}
