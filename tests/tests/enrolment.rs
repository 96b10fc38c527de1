//! Policies by scope and by tag, in both clouds: machines are enrolled as they appear or come to match, released as
//! they were when they match no longer, and a change of policy says before what it does.
use std::time::Duration;

use postern_api::{jit_policy::JitPolicyWrite, machine::MachineQuery};
use postern_tests::{
    Person, ServerProcess, World, WorldOptions,
    world::{CLIENT, a_policy},
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);
const ANYBODY: [u8; 4] = [192, 0, 2, 1];

async fn world() -> (World, ServerProcess) {
    let world = World::new(
        WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with("discovery_interval_seconds = 1"),
    )
    .await;
    let server = world.serve(&[]).await;
    (world, server)
}

/// SSH and RDP of whatever carries `jit=on`.
fn by_tag() -> JitPolicyWrite {
    JitPolicyWrite {
        tags: [("jit".to_owned(), "on".to_owned())].into(),
        ..a_policy("tagged", "/")
    }
}

async fn until_discovered(world: &World, machines: usize) {
    let olga = world.client(Person::Olga);
    world
        .eventually("the fleet is discovered", PATIENCE, async || {
            let page = olga.machines(&MachineQuery::default()).await.ok()?;
            (page.items.len() >= machines).then_some(())
        })
        .await;
}

async fn until_reach(world: &World, machine: &str, open: bool) {
    let what = format!("{machine} is {}", if open { "released" } else { "locked" });
    world
        .eventually(&what, PATIENCE, async || {
            (world.reachable(machine, ANYBODY, 22) == open).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_enrols_a_machine_and_its_removal_ends_grants_and_restores_every_rule() {
    let (world, _server) = world().await;
    until_discovered(&world, 4).await;
    let before = world.rules();
    let olga = world.client(Person::Olga);
    olga.create_jit_policy(None, &by_tag()).await.unwrap();
    world.quiet().await;
    assert!(
        before.difference(&world.rules()).is_empty(),
        "nothing carries the tag yet"
    );
    let tagged = [world.fleet.web.clone(), world.fleet.app.clone()];
    for machine in &tagged {
        world.tag(machine, "jit", Some("on"));
        until_reach(&world, machine, false).await;
    }
    for machine in [&world.fleet.db, &world.fleet.build] {
        let office = [198, 51, 100, 4];
        assert!(world.reachable(machine, office, 22), "{machine} carries no tag");
    }
    let machines: Vec<&str> = tagged.iter().map(String::as_str).collect();
    let request = world.client(Person::Olga);
    let request = request
        .create_access_request(
            None,
            &postern_api::access_request::AccessRequestCreateQuery {
                wait: Some(30),
                ..Default::default()
            },
            &postern_tests::world::a_request(&machines, 3600),
        )
        .await
        .unwrap();
    for grant in &request.grants {
        world.until(&grant.id, "open", PATIENCE).await;
    }
    for machine in &tagged {
        assert!(world.reachable(machine, CLIENT, 22));
        world.tag(machine, "jit", Some("off"));
    }
    for grant in &request.grants {
        let closed = world.until(&grant.id, "closed", PATIENCE).await;
        assert_eq!(closed.cause.unwrap().kind, "policy_removed");
    }
    world.tag(&tagged[0], "jit", None);
    world.tag(&tagged[1], "jit", None);
    world.until_rules_are(&before, PATIENCE).await;
    assert_eq!(world.marks(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_appear_below_a_policys_scope_are_locked_and_released_with_it() {
    let (world, _server) = world().await;
    until_discovered(&world, 4).await;
    let before = world.rules();
    let olga = world.client(Person::Olga);
    let azure = olga
        .create_jit_policy(
            None,
            &a_policy(
                "late",
                &format!("/azure/{}/late", postern::demo::fleet::SUBSCRIPTION),
            ),
        )
        .await
        .unwrap();
    let aws = olga.create_jit_policy(None, &by_tag()).await.unwrap();
    let late = world.new_azure_machine("late", &json!({}));
    let elsewhere = world.new_azure_machine("elsewhere", &json!({}));
    let tagged = world.new_aws_machine("tagged", &[("jit", "on")]);
    let plain = world.new_aws_machine("plain", &[("jit", "off")]);
    until_reach(&world, &late.machine, false).await;
    until_reach(&world, &tagged.arn, false).await;
    until_discovered(&world, 8).await;
    world.quiet().await;
    for machine in [&elsewhere.machine, &plain.arn] {
        assert!(world.reachable(machine, ANYBODY, 22), "{machine} is nobody's");
    }
    for policy in [azure, aws] {
        olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    }
    until_reach(&world, &late.machine, true).await;
    until_reach(&world, &tagged.arn, true).await;
    world.quiet().await;
    assert_eq!(world.marks(), []);
    let changed: Vec<String> = before
        .difference(&world.rules())
        .into_iter()
        .filter(|text| !text.contains("was nothing"))
        .collect();
    assert_eq!(changed, Vec::<String>::new(), "what was there is as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_plan_of_a_policy_says_that_people_lose_is_what_they_lose() {
    let (world, _server) = world().await;
    until_discovered(&world, 4).await;
    let before = world.rules();
    let olga = world.client(Person::Olga);
    let wish = a_policy("everything", "/");
    let plan = olga.plan_create_jit_policy(&wish).await.unwrap();
    world.quiet().await;
    assert!(
        before.difference(&world.rules()).is_empty(),
        "a plan changes nothing"
    );
    assert_eq!((plan.machines, plan.machines_not_shown), (4, 0));
    // Every loss that is told, as a packet from the first address of its first network.
    let mut lost = std::collections::BTreeSet::new();
    for loss in plan.losses.iter().filter(|loss| loss.certain) {
        let port: u16 = loss.ports.split(['-', '/']).next().unwrap().parse().unwrap();
        for source in &loss.sources {
            if let Ok(net) = source.parse::<ipnet::Ipv4Net>() {
                let from = net.hosts().nth(7).unwrap_or_else(|| net.addr()).octets();
                if world.reachable(&loss.machine, from, port) {
                    lost.insert((loss.machine.clone(), from, port));
                }
            }
        }
    }
    let machines: std::collections::BTreeSet<&str> =
        lost.iter().map(|(machine, _, _)| machine.as_str()).collect();
    assert!(
        machines.contains(world.fleet.web.as_str()) && machines.contains(world.fleet.app.as_str()),
        "{plan:?}"
    );
    olga.create_jit_policy(None, &wish).await.unwrap();
    for (machine, from, port) in &lost {
        world
            .eventually(
                &format!("{from:?} loses {port} of {machine}"),
                PATIENCE,
                async || (!world.reachable(machine, *from, *port)).then_some(()),
            )
            .await;
    }
    // What nobody was told that they lose, nobody lost.
    let web = &world.fleet.web;
    assert!(world.reachable(web, ANYBODY, 443), "HTTPS is not guarded");
    let made = olga
        .jit_policies(&postern_api::jit_policy::JitPolicyQuery::default())
        .await
        .unwrap()
        .items
        .remove(0);
    olga.delete_jit_policy(&made.id, made.version).await.unwrap();
    world.until_rules_are(&before, PATIENCE).await;
}
