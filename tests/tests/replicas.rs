//! Several servers over one account: what its cloud lets them call they share.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Duration;

use postern_api::machine::MachineQuery;
use postern_sim::{
    arm::{self, BucketSize, RequestLimits},
    ec2::{Bucket, Ingress, MachinePlan, Throttling},
};
use postern_tests::{Person, ServerProcess, World, WorldOptions, metric::metric, world::a_policy};
use secrecy::SecretString;
use serde_json::json;

const MACHINES: usize = 50;
const PATIENCE: Duration = Duration::from_mins(2);

/// Whose budget it is.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// A subscription's. Shutting each machine takes several reads and a write, so that reads are what there is least of:
    /// about 250 of them.
    Azure,
    /// An account's and region's. Shutting each machine takes one call that takes a rule away: there is least of these.
    Aws,
}

/// A fifth of what ARM documents; what a lone server keeps to, as each of these may in sum.
const AZURE_PERCENT: &str = "20";

/// What the subscription lets through: that fifth, and more at once by what comes back in four seconds, because a call is
/// counted later than it is paid for, on a busy machine much later. Two servers that do not share have 75 reads for this
/// at once and ten a second, so that they need some 18 seconds for all, in which 160 are let through.
const AZURE_LIMITS: RequestLimits = RequestLimits {
    reads: BucketSize { size: 70, refill: 5 },
    writes: BucketSize { size: 48, refill: 2 },
    deletes: BucketSize { size: 48, refill: 2 },
};

/// Two fifths of what EC2 documents.
const AWS_PERCENT: &str = "40";

/// What the account lets through: two fifths, with the same allowance. Two servers that do not share have 40 such calls at
/// once and four a second, so that they need some three seconds for all, in which 34 are let through.
const AWS_LIMITS: Bucket = Bucket {
    capacity: 28.0,
    refill: 2.0,
};

impl Of {
    const fn word(self) -> &'static str {
        match self {
            Self::Azure => "azure",
            Self::Aws => "aws",
        }
    }

    const fn budget(self) -> (&'static str, &'static str) {
        match self {
            Self::Azure => ("POSTERN__AZURE__BUDGET_PERCENT", AZURE_PERCENT),
            Self::Aws => ("POSTERN__AWS__BUDGET_PERCENT", AWS_PERCENT),
        }
    }

    /// What there is least of, and more than one of two servers can have of it.
    const fn least(self) -> (&'static str, f64) {
        match self {
            Self::Azure => ("class=\"writes\"", 21.0),
            Self::Aws => ("class=\"RevokeSecurityGroupIngress\"", 11.0),
        }
    }

    fn limit(self, world: &World) {
        match self {
            Self::Azure => world.fleet.arm.set_limits(Some(AZURE_LIMITS)),
            Self::Aws => {
                let actions = ["AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"];
                let limits = actions
                    .into_iter()
                    .fold(Throttling::documented(), |limits, action| {
                        limits.with_action(action, AWS_LIMITS)
                    });
                world.fleet.ec2.set_throttling(Some(limits));
            }
        }
    }

    fn refused(self, world: &World) -> u64 {
        match self {
            Self::Azure => world.fleet.arm.refused_for_rate(),
            Self::Aws => world.fleet.ec2.refused_for_rate(),
        }
    }

    /// Machines that SSH is open to for everybody, each behind an NSG or a group of its own.
    fn many(self, world: &World) -> Vec<String> {
        match self {
            Self::Azure => {
                let azure = world.fleet.arm.fleet().in_group("many");
                azure.group().unwrap();
                let network = azure.network("many", "10.80.0.0/16").unwrap();
                let subnet = azure.subnet(&network, "only", "10.80.1.0/24", None).unwrap();
                let rules = [arm::inbound("everybody", 1000, "Allow", "*", "22")];
                let machine = |number| azure.machine(&format!("many-{number}"), &subnet, &rules, &json!({}));
                (0..MACHINES)
                    .map(|number| machine(number).unwrap().machine)
                    .collect()
            }
            Self::Aws => {
                let aws = world.aws();
                let vpc = aws.vpc("10.80.0.0/16", false).unwrap();
                let subnet_id = aws.subnet(&vpc, "10.80.1.0/24", 0).unwrap();
                let machine = |number| {
                    let name = format!("many-{number}");
                    let group = aws.group(&vpc, &name, &[Ingress::tcp(22, "0.0.0.0/0")]).unwrap();
                    let plan = MachinePlan {
                        name,
                        subnet_id: subnet_id.clone(),
                        interfaces: vec![vec![group]],
                        public: true,
                        ..MachinePlan::default()
                    };
                    aws.machine(&plan).unwrap().arn
                };
                (0..MACHINES).map(machine).collect()
            }
        }
    }
}

/// Where the servers listen, and one of them that can be killed.
struct Pair {
    survivor: String,
    other: String,
    _survivor: ServerProcess,
    doomed: ServerProcess,
}

/// Two servers over an account whose machines are all discovered and open; the second one starts after `between`.
async fn pair(of: Of, world: &World, between: impl AsyncFnOnce()) -> (Vec<String>, Pair) {
    let machines = of.many(world);
    assert_eq!(open(world, &machines), MACHINES);
    let common = [of.budget(), ("POSTERN__ENGINE__LEASE_SECONDS", "10")];
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
async fn servers(of: Of, address: &str) -> Option<f64> {
    let cloud = format!("cloud=\"{}\"", of.word());
    metric(address, "postern_servers{", &[&cloud]).await
}

async fn world() -> World {
    World::new(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await
}

/// That this can fail show the tests below, in which the same two servers do not hear of each other: they are refused.
async fn two_share(of: Of) {
    let world = world().await;
    let (machines, mut pair) = pair(of, &world, async || {}).await;
    for address in [&pair.survivor, &pair.other] {
        world
            .eventually("each knows that there are two", PATIENCE, async || {
                (servers(of, address).await? > 1.5).then_some(())
            })
            .await;
    }

    // From now on, when nobody's part is spent twice any more.
    of.limit(&world);
    let olga = world.client(Person::Olga);
    let policy = olga
        .create_jit_policy(None, &a_policy("many", &format!("/{}", of.word())))
        .await
        .unwrap();
    world
        .eventually("SSH is shut on all of them", PATIENCE, async || {
            (open(&world, &machines) == 0).then_some(())
        })
        .await;
    assert_eq!(of.refused(&world), 0, "two servers");
    world.quiet().await;

    // Its share is half; what is left above that, it has of the dead one.
    pair.doomed.kill();
    let (class, half) = of.least();
    world
        .eventually("the one that is left has all of it", PATIENCE, async || {
            let alone = servers(of, &pair.survivor).await? < 1.5;
            let left = metric(&pair.survivor, "postern_budget_left{", &[class]).await?;
            (alone && left > half).then_some(())
        })
        .await;
    olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    world
        .eventually("all is as it was", PATIENCE, async || {
            (open(&world, &machines) == MACHINES).then_some(())
        })
        .await;
    assert_eq!(of.refused(&world), 0, "one server");
}

async fn two_do_not_share(of: Of) {
    let world = world().await;
    let url = SecretString::from(world.database_url().to_owned());
    let (_, pair) = pair(of, &world, async || {
        postern_store::testing::hide_servers(&url).await;
    })
    .await;
    for address in [&pair.survivor, &pair.other] {
        world
            .eventually("each believes that it is alone", PATIENCE, async || {
                (servers(of, address).await? < 1.5).then_some(())
            })
            .await;
    }
    of.limit(&world);
    let olga = world.client(Person::Olga);
    olga.create_jit_policy(None, &a_policy("many", &format!("/{}", of.word())))
        .await
        .unwrap();
    world
        .eventually("a call is refused", PATIENCE, async || {
            (of.refused(&world) > 0).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_together_stay_within_one_subscriptions_budget_and_the_one_that_is_left_has_all_of_it() {
    two_share(Of::Azure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_together_stay_within_one_accounts_budget_and_the_one_that_is_left_has_all_of_it() {
    two_share(Of::Aws).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_do_not_hear_of_each_other_are_refused_calls_by_azure() {
    two_do_not_share(Of::Azure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_do_not_hear_of_each_other_are_refused_calls_by_aws() {
    two_do_not_share(Of::Aws).await;
}
