//! Several servers over one subscription: what the cloud lets them call they share.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::{path::PathBuf, time::Duration};

use postern_api::machine::MachineQuery;
use postern_sim::arm::{self, BucketSize, RequestLimits};
use postern_tests::{Person, ServerProcess, World, WorldOptions, metric::metric, world::a_policy};
use secrecy::SecretString;
use serde_json::json;

/// Shutting each takes several reads and a write, so that reads are what there is least of: about 250 of them.
const MACHINES: usize = 50;
const PATIENCE: Duration = Duration::from_mins(2);

/// A fifth of what ARM documents; what a lone server keeps to, as each of these may in sum.
const PERCENT: &str = "20";

/// What the subscription lets through: that fifth, and more at once by what comes back in four seconds, because a call is
/// counted later than it is paid for, on a busy machine much later. Two servers that do not share have 75 reads for this
/// at once and ten a second, so that they need some 18 seconds for all, in which 160 are let through.
const LIMITS: RequestLimits = RequestLimits {
    reads: BucketSize { size: 70, refill: 5 },
    writes: BucketSize { size: 48, refill: 2 },
    deletes: BucketSize { size: 48, refill: 2 },
};

/// Machines that SSH is open to for everybody, each behind an NSG of its own.
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

/// Where the servers listen, and one of them that can be killed.
struct Pair {
    survivor: String,
    other: String,
    _survivor: ServerProcess,
    doomed: ServerProcess,
}

/// Two servers over a subscription whose machines are all discovered and open; the second one starts after `between`.
async fn pair(world: &World, between: impl AsyncFnOnce()) -> (Vec<String>, Pair) {
    let machines = many(world);
    assert_eq!(open(world, &machines), MACHINES);
    let common = [
        ("POSTERN__AZURE__BUDGET_PERCENT", PERCENT),
        ("POSTERN__ENGINE__LEASE_SECONDS", "10"),
    ];
    let survivor = world.serve(&common).await;
    between().await;
    let other = std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .to_string();
    let mut environment = common.to_vec();
    environment.push(("POSTERN__LISTEN__ADDRESS", &other));
    let pair = Pair {
        survivor: world.server_url.trim_start_matches("http://").to_owned(),
        doomed: world.spawn(&environment),
        _survivor: survivor,
        other,
    };
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
    (machines, pair)
}

/// How many of them anybody gets to.
fn open(world: &World, machines: &[String]) -> usize {
    machines
        .iter()
        .filter(|machine| world.reachable(machine, [192, 0, 2, 1], 22))
        .count()
}

/// How many servers one of them counts.
async fn servers(address: &str) -> Option<f64> {
    metric(address, "postern_servers{", &["cloud=\"azure\""]).await
}

async fn world() -> World {
    World::new(WorldOptions {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_postern-under-test")),
        more: String::new(),
        fsync: false,
    })
    .await
}

/// That this can fail shows the test below, in which the same two servers do not hear of each other: they are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_together_stay_within_one_budget_and_the_one_that_is_left_has_all_of_it() {
    let world = world().await;
    let (machines, mut pair) = pair(&world, async || {}).await;
    for address in [&pair.survivor, &pair.other] {
        world
            .eventually("each knows that there are two", PATIENCE, async || {
                (servers(address).await? > 1.5).then_some(())
            })
            .await;
    }

    // From now on, when nobody's part is spent twice any more.
    world.fleet.arm.set_limits(Some(LIMITS));
    let olga = world.client(Person::Olga);
    let policy = olga
        .create_jit_policy(None, &a_policy("many", "/azure"))
        .await
        .expect("a policy");
    world
        .eventually("SSH is shut on all of them", PATIENCE, async || {
            (open(&world, &machines) == 0).then_some(())
        })
        .await;
    assert_eq!(world.fleet.arm.refused_for_rate(), 0, "two servers");
    world.quiet().await;

    // Its share is half; what is left above that, it has of the dead one.
    pair.doomed.kill();
    world
        .eventually("the one that is left has all of it", PATIENCE, async || {
            let alone = servers(&pair.survivor).await? < 1.5;
            let left = metric(&pair.survivor, "postern_budget_left{", &["class=\"writes\""]).await?;
            (alone && left > 21.0).then_some(())
        })
        .await;
    olga.delete_jit_policy(&policy.id, policy.version)
        .await
        .expect("the policy is deleted");
    world
        .eventually("all is as it was", PATIENCE, async || {
            (open(&world, &machines) == MACHINES).then_some(())
        })
        .await;
    assert_eq!(world.fleet.arm.refused_for_rate(), 0, "one server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_do_not_hear_of_each_other_are_refused_calls() {
    let world = world().await;
    let url = SecretString::from(world.database_url().to_owned());
    let (_, pair) = pair(&world, async || postern_store::testing::hide_servers(&url).await).await;
    for address in [&pair.survivor, &pair.other] {
        world
            .eventually("each believes that it is alone", PATIENCE, async || {
                (servers(address).await? < 1.5).then_some(())
            })
            .await;
    }
    world.fleet.arm.set_limits(Some(LIMITS));
    let olga = world.client(Person::Olga);
    olga.create_jit_policy(None, &a_policy("many", "/azure"))
        .await
        .expect("a policy");
    world
        .eventually("the subscription refuses a call", PATIENCE, async || {
            (world.fleet.arm.refused_for_rate() > 0).then_some(())
        })
        .await;
}
