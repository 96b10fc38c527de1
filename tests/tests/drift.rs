//! What others do to our rules, and to what we keep closed, is put right, and told: of the machine and of the grant,
//! with before and after, until it is resolved.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Duration;

use postern_api::machine::{Finding, MachineQuery};
use postern_core::inventory::MARK_TAG;
use postern_sim::{arm, ec2::Ingress};
use postern_tests::{Person, ServerProcess, World, WorldOptions, metric::metric, world::CLIENT};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);
const ANYBODY: [u8; 4] = [192, 0, 2, 1];

async fn world() -> (World, ServerProcess) {
    World::locked_down(
        WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with("drift_interval_seconds = 1"),
    )
    .await
}

/// The NSG of the interface of `web`.
fn nsg(world: &World) -> &str {
    let group = world
        .fleet
        .security_groups
        .iter()
        .find(|id| id.ends_with("web-1-nsg"));
    group.unwrap()
}

/// Somebody removes the client's rule from the holder of an instance.
fn take_from_the_holder(world: &World) {
    let aws = world.aws();
    let groups = aws.snapshot().unwrap().groups;
    let holder = groups.iter().find(|group| group.tags.contains_key(MARK_TAG));
    aws.revoke(&holder.unwrap().id, &[Ingress::tcp(22, "203.0.113.7/32")])
        .unwrap();
}

/// Somebody lets these addresses in at SSH, in the group of `app`.
fn let_in(world: &World, from: &str) {
    let aws = world.aws();
    let groups = aws.snapshot().unwrap().groups;
    let group = groups.iter().find(|group| group.name == "app");
    aws.allow(&group.unwrap().id, &[Ingress::tcp(22, from)]).unwrap();
}

/// The rules of an NSG whose description holds a text.
fn rules_with(world: &World, nsg: &str, text: &str) -> Vec<Value> {
    let shown = world.fleet.arm.fleet().get(nsg).unwrap();
    let rules = shown
        .pointer("/properties/securityRules")
        .unwrap()
        .as_array()
        .unwrap();
    rules
        .iter()
        .filter(|rule| {
            rule.pointer("/properties/description")
                .and_then(Value::as_str)
                .is_some_and(|description| description.contains(text))
        })
        .cloned()
        .collect()
}

/// Waits for a finding about a machine that was put right.
async fn until_resolved(world: &World, machine: &str, code: &str) -> Finding {
    let olga = world.client(Person::Olga);
    world
        .eventually(
            &format!("{code} at {machine} is resolved"),
            PATIENCE,
            async || {
                let found = olga.machine(machine).await.unwrap().findings;
                found
                    .into_iter()
                    .find(|finding| finding.code == code && finding.resolved_at.is_some())
            },
        )
        .await
}

async fn drifting(world: &World) -> Vec<String> {
    let query = MachineQuery {
        drift: Some(true),
        ..MachineQuery::default()
    };
    let page = world.client(Person::Olga).machines(&query).await.unwrap();
    page.items.into_iter().map(|machine| machine.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_of_a_grant_that_somebody_deletes_comes_back_and_is_told_of_grant_and_machine() {
    let (world, _server) = world().await;
    assert!(drifting(&world).await.is_empty(), "nobody did anything yet");
    let (web, app) = (world.fleet.web.clone(), world.fleet.app.clone());
    let request = world.request(&[&web, &app], 3600, 30).await;
    for grant in &request.grants {
        world.until(&grant.id, "open", PATIENCE).await;
    }
    world.quiet().await;
    let grant_of = |machine: &str| {
        let grant = request.grants.iter().find(|grant| grant.machine == machine);
        grant.unwrap_or_else(|| panic!("a grant of {machine}")).id.clone()
    };

    let id = grant_of(&web);
    let rule = rules_with(&world, nsg(&world), id.rsplit('_').next().unwrap()).remove(0);
    world
        .fleet
        .arm
        .fleet()
        .delete(rule["id"].as_str().unwrap())
        .unwrap();
    take_from_the_holder(&world);

    for machine in [&web, &app] {
        let finding = until_resolved(&world, machine, "own_rule_missing").await;
        assert!(finding.drift && finding.after.is_none(), "{finding:?}");
        assert!(finding.before.is_some(), "what should be there: {finding:?}");
        world
            .eventually("it is open again", PATIENCE, async || {
                world.reachable(machine, CLIENT, 22).then_some(())
            })
            .await;
        let grant = world.until(&grant_of(machine), "open", PATIENCE).await;
        assert_eq!(
            grant
                .findings
                .iter()
                .map(|one| one.code.as_str())
                .collect::<Vec<_>>(),
            ["own_rule_missing"]
        );
    }
    let mut expected = vec![web, app];
    expected.sort();
    assert_eq!(drifting(&world).await, expected);
    let log = world.audit_log().await;
    for action in ["point.finding", "point.resolved"] {
        let told = log
            .iter()
            .filter(|event| event.action == action && event.details["code"] == "own_rule_missing");
        assert_eq!(told.count(), 2, "{action}");
    }
    let address = world.server_url.trim_start_matches("http://");
    for cloud in ["azure", "aws"] {
        let labels = [&format!("cloud=\"{cloud}\""), "code=\"own_rule_missing\""];
        let counted = metric(address, "postern_findings_total{", &labels).await;
        assert_eq!(counted, Some(1.0), "{cloud}");
    }
}

/// How many passes ended so, in one cloud.
async fn passes(world: &World, cloud: &str, outcome: &str) -> Option<f64> {
    let labels = [format!("cloud=\"{cloud}\""), format!("outcome=\"{outcome}\"")];
    let address = world.server_url.trim_start_matches("http://");
    metric(
        address,
        "postern_passes_total{",
        &labels.each_ref().map(String::as_str),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_at_rest_is_read_at_every_look_and_what_somebody_does_there_then_is_seen() {
    let (world, _server) = world().await;
    let (web, app) = (world.fleet.web.clone(), world.fleet.app.clone());
    let request = world.request(&[&web, &app], 3600, 30).await;
    for grant in &request.grants {
        world.until(&grant.id, "open", PATIENCE).await;
    }
    for cloud in ["azure", "aws"] {
        world
            .eventually("looks find nothing new", PATIENCE, async || {
                (passes(&world, cloud, "unchanged").await? >= 4.0).then_some(())
            })
            .await;
    }
    let told = async || {
        let log = world.audit_log().await;
        let is_ours = |action: &str| action.starts_with("point.") || action.starts_with("change.");
        log.iter().filter(|event| is_ours(&event.action)).count()
    };
    let events = told().await;
    let at_rest = passes(&world, "aws", "settled").await;
    let read = async |grant: &str| {
        world.until(grant, "open", PATIENCE).await.hops[0]
            .read_at
            .unwrap()
    };
    for grant in &request.grants {
        let before = read(&grant.id).await;
        world
            .eventually("the grant was read again", PATIENCE, async || {
                (read(&grant.id).await > before).then_some(())
            })
            .await;
    }
    assert_eq!(
        passes(&world, "aws", "settled").await,
        at_rest,
        "nothing was judged anew"
    );
    assert_eq!(told().await, events, "nothing was to be told");

    take_from_the_holder(&world);
    let nsg = nsg(&world);
    let hurry = arm::inbound("in-a-hurry", 150, "Allow", "*", "22");
    world
        .fleet
        .arm
        .fleet()
        .put(&format!("{nsg}/securityRules/in-a-hurry"), hurry)
        .unwrap();
    until_resolved(&world, &app, "own_rule_missing").await;
    until_resolved(&world, &web, "foreign_rule_opens").await;
    assert!(world.reachable(&app, CLIENT, 22));
    assert!(!world.reachable(&web, ANYBODY, 22));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lockdown_that_somebody_edits_deletes_or_outranks_is_put_right_and_told() {
    let (world, _server) = world().await;
    let web = world.fleet.web.clone();
    let fleet = world.fleet.arm.fleet();
    let front = world
        .fleet
        .security_groups
        .iter()
        .find(|id| id.ends_with("front-nsg"))
        .unwrap();
    let denies = |nsg: &str| {
        let denies: Vec<Value> = rules_with(&world, nsg, "postern")
            .into_iter()
            .filter(|rule| rule.pointer("/properties/access") == Some(&json!("Deny")))
            .collect();
        denies
    };
    // Both NSGs on the way lose theirs, or the other would keep the port shut.
    for nsg in [nsg(&world), front] {
        let deny = denies(nsg).remove(0);
        fleet.delete(deny["id"].as_str().unwrap()).unwrap();
    }
    let finding = until_resolved(&world, &web, "own_rule_missing").await;
    assert!(
        finding.message.contains("lockdown") && finding.before.is_some(),
        "{finding:?}"
    );
    // Each NSG is a point with looks of its own: one is put right before the other, and until both are, nothing is due.
    let mut deny = world
        .eventually("both NSGs have their deny again", PATIENCE, async || {
            let again = [nsg(&world), front].map(|nsg| denies(nsg).pop());
            let [Some(at_interface), Some(_)] = again else {
                return None;
            };
            Some(at_interface)
        })
        .await;
    assert!(!world.reachable(&web, ANYBODY, 22));
    world.quiet().await;

    deny["properties"]["destinationPortRange"] = json!("2222");
    deny["properties"]["destinationPortRanges"] = json!([]);
    fleet.put(deny["id"].as_str().unwrap(), deny.clone()).unwrap();
    let finding = until_resolved(&world, &web, "own_rule_edited").await;
    assert!(finding.after.unwrap().to_string().contains("2222"));
    world.quiet().await;

    let name = "securityRules/in-a-hurry";
    let hurry = arm::inbound("in-a-hurry", 150, "Allow", "*", "22");
    fleet.put(&format!("{}/{name}", nsg(&world)), hurry).unwrap();
    let finding = until_resolved(&world, &web, "foreign_rule_opens").await;
    assert!(finding.after.unwrap().to_string().contains("in-a-hurry"));
    assert!(!world.reachable(&web, ANYBODY, 22));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_displaced_rule_that_somebody_puts_back_is_displaced_again_and_told() {
    let (world, _server) = world().await;
    let app = world.fleet.app.clone();
    let_in(&world, "0.0.0.0/0");
    let finding = until_resolved(&world, &app, "displaced_rule_returned").await;
    assert!(finding.before.is_some() && finding.after.is_some(), "{finding:?}");
    assert!(!world.reachable(&app, ANYBODY, 22));
    assert_eq!(drifting(&world).await, [app]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_rule_for_a_guarded_port_in_a_group_is_displaced_and_told() {
    let (world, _server) = world().await;
    let app = world.fleet.app.clone();
    world.quiet().await;
    assert!(
        drifting(&world).await.is_empty(),
        "what was there first is no drift"
    );
    let_in(&world, "192.0.2.0/24");
    let finding = until_resolved(&world, &app, "foreign_rule_opens").await;
    assert!(finding.drift && finding.before.is_none(), "{finding:?}");
    assert!(finding.after.unwrap().to_string().contains("192.0.2.0/24"));
    assert!(!world.reachable(&app, ANYBODY, 22));
    assert_eq!(drifting(&world).await, [app]);
}
