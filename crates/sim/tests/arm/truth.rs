//! What the ARM simulator says was reachable, and when: rules, both NSGs, and operations that take time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use postern_sim::arm::{ArmHandle, FleetMachine, inbound};
use postern_sim::{Effect, FaultRule, Interval, Moment, Protocol, SteppedClock, When};
use serde_json::{Value, json};

use crate::client::{Answer, Client, rule};
use crate::started::stepped;

const ADMIN: &str = "203.0.113.7";

fn second(number: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(number)
}

struct Scene {
    sim: ArmHandle,
    clock: Arc<SteppedClock>,
    client: Client,
    machine: FleetMachine,
    subnet: String,
}

impl Scene {
    /// A machine whose interface's NSG has these rules, in a subnet whose NSG has those.
    async fn with(interface_rules: &[Value], subnet_rules: Option<&[Value]>) -> Self {
        let (clock, sim, client) = stepped().await;
        let fleet = sim.fleet();
        fleet.group().unwrap();
        let network = fleet.network("net", "10.0.0.0/16").unwrap();
        let outer = subnet_rules.map(|rules| fleet.security_group("outer", rules).unwrap());
        let subnet = fleet
            .subnet(&network, "front", "10.0.1.0/24", outer.as_deref())
            .unwrap();
        let machine = fleet.machine("vm", &subnet, interface_rules, &json!({})).unwrap();
        Self {
            sim,
            clock,
            client,
            machine,
            subnet,
        }
    }

    fn from(&self, source: &str, port: u16) -> bool {
        self.sim.reachable(
            &self.machine.machine,
            source.parse().unwrap(),
            port,
            Protocol::Tcp,
            None,
        )
    }

    fn spans(&self) -> Vec<Interval> {
        let source: IpAddr = ADMIN.parse().unwrap();
        self.sim
            .open_intervals(&self.machine.machine.to_uppercase(), source, 22, Protocol::Tcp)
    }

    fn ssh(&self) -> String {
        format!("{}/securityRules/ssh", self.machine.security_group)
    }

    /// Writes the whole NSG of the interface, without a rule.
    async fn empty(&self) -> Answer {
        let body = json!({"location": "westeurope"});
        self.client.put(&self.machine.security_group, body).await
    }

    async fn provisioning(&self, path: &str) -> Value {
        self.client.get(path).await.body["properties"]["provisioningState"].clone()
    }

    /// The next operation of that kind fails when it completes.
    fn fail_next(&self, operation: &str) {
        self.sim.completions().add(FaultRule {
            operation: operation.to_owned(),
            when: When::Next(1),
            effect: Effect::Status {
                status: 500,
                code: "InternalServerError".to_owned(),
                message: "An error occurred.".to_owned(),
                retry_after: None,
            },
        });
    }

    /// What the last change of the rule `ssh` left of it.
    fn left_of_ssh(&self) -> Option<Value> {
        let changes = self.sim.truth().all();
        let id = self.ssh().to_lowercase();
        let last = changes.into_iter().rfind(|change| change.resource == id);
        last.unwrap().after
    }
}

#[tokio::test]
async fn the_first_rule_by_priority_decides() {
    let rules = [
        inbound("late", 300, "Allow", "*", "22"),
        inbound("deny", 200, "Deny", "*", "20-30"),
        inbound("early", 100, "Allow", "203.0.113.0/24", "22"),
        inbound("web", 400, "Allow", "Internet", "443"),
    ];
    let scene = Scene::with(&rules, None).await;
    assert!(scene.from(ADMIN, 22));
    assert!(
        !scene.from("198.51.100.1", 22),
        "the deny stands above the wide allow"
    );
    assert!(!scene.from(ADMIN, 23));
    assert!(scene.from("198.51.100.1", 443));
    assert!(
        !scene.from(ADMIN, 80),
        "what no rule allows falls to the default deny"
    );
}

#[tokio::test]
async fn the_default_rules_let_the_network_and_the_load_balancer_in() {
    let scene = Scene::with(&[inbound("web", 400, "Allow", "Internet", "443")], None).await;
    assert!(
        scene.from("10.0.200.9", 22),
        "an address of the same virtual network"
    );
    assert!(scene.from("168.63.129.16", 22), "the load balancer's probe");
    assert!(
        !scene.from("10.1.0.1", 443),
        "a private address elsewhere is not the internet"
    );
    assert!(!scene.from("2001:db8::1", 443), "the machine has no IPv6 address");
}

#[tokio::test]
async fn both_groups_must_allow_and_none_at_all_allows() {
    let allow = [inbound("ssh", 100, "Allow", ADMIN, "22")];
    assert!(Scene::with(&allow, Some(&allow)).await.from(ADMIN, 22));
    assert!(!Scene::with(&allow, Some(&[])).await.from(ADMIN, 22));
    assert!(!Scene::with(&[], Some(&allow)).await.from(ADMIN, 22));
    let scene = Scene::with(&allow, None).await;
    let fleet = scene.sim.fleet();
    let bare = fleet.interface("bare", &scene.subnet, None, None).unwrap();
    let machine = fleet.virtual_machine("open", &[&bare], &json!({})).unwrap();
    assert!(
        scene
            .sim
            .reachable(&machine, ADMIN.parse().unwrap(), 9, Protocol::Udp, None)
    );
}

#[tokio::test]
async fn destination_and_protocol_narrow_a_rule() {
    let mut elsewhere = inbound("elsewhere", 100, "Allow", "*", "22");
    elsewhere["properties"]["destinationAddressPrefix"] = json!("10.0.1.99");
    let mut udp = inbound("udp", 110, "Allow", "*", "22");
    udp["properties"]["protocol"] = json!("Udp");
    let mut here = inbound("here", 120, "Allow", "*", "23");
    here["properties"]["destinationAddressPrefix"] = json!("10.0.1.4/32");
    let scene = Scene::with(&[elsewhere, udp, here], None).await;
    assert_eq!(scene.machine.private_address, "10.0.1.4");
    assert!(!scene.from(ADMIN, 22));
    assert!(scene.from(ADMIN, 23));
}

#[tokio::test]
async fn spans_follow_the_rules_as_they_come_and_go() {
    let scene = Scene::with(&[], None).await;
    scene.clock.advance(TimeDelta::seconds(10));
    assert_eq!(scene.client.put(&scene.ssh(), rule(100, "22")).await.status, 201);
    let opened = scene.sim.truth().last();
    scene.clock.advance(TimeDelta::seconds(10));
    assert_eq!(scene.client.delete(&scene.ssh()).await.status, 202);
    scene.clock.advance(TimeDelta::seconds(10));
    let nsg = &scene.machine.security_group;
    let whole = json!({"location": "westeurope", "properties": {"securityRules": [inbound("ssh", 100, "Allow", "*", "22")]}});
    assert_eq!(scene.client.put(nsg, whole).await.status, 200);
    scene.clock.advance(TimeDelta::seconds(10));
    assert_eq!(scene.empty().await.status, 200);
    let spans = [
        Interval {
            from: second(10),
            to: Some(second(20)),
        },
        Interval {
            from: second(30),
            to: Some(second(40)),
        },
    ];
    assert_eq!(scene.spans(), spans);
    let source: IpAddr = ADMIN.parse().unwrap();
    let at = |moment| {
        scene
            .sim
            .reachable(&scene.machine.machine, source, 22, Protocol::Tcp, Some(moment))
    };
    assert!(at(Moment::Seq(opened)) && !at(Moment::Seq(opened - 1)));
    assert!(at(Moment::Time(second(19))) && !at(Moment::Time(second(20))));
}

#[tokio::test]
async fn an_effect_takes_hold_when_its_operation_completes_and_not_when_it_shows() {
    let scene = Scene::with(&[], None).await;
    scene.sim.set_operation_duration(Duration::from_secs(5));
    let made = scene.client.put(&scene.ssh(), rule(100, "22")).await;
    assert_eq!(scene.provisioning(&scene.ssh()).await, "Updating");
    assert!(!scene.from(ADMIN, 22), "shown, and not in force");
    assert_eq!(
        scene.sim.truth().all().pop().unwrap().after.unwrap()["inForce"],
        Value::Null
    );
    let other = format!("{}/securityRules/other", scene.machine.security_group);
    let busy = scene.client.put(&other, rule(101, "23")).await;
    busy.refused(409, "AnotherOperationInProgress");
    scene
        .client
        .delete(&scene.ssh())
        .await
        .refused(409, "AnotherOperationInProgress");
    assert_eq!(scene.client.progress(&made).await.body["status"], "InProgress");
    scene.clock.advance(TimeDelta::seconds(60));
    assert_eq!(scene.client.progress(&made).await.body["status"], "Succeeded");
    assert!(scene.from(ADMIN, 22));
    assert_eq!(scene.client.delete(&scene.ssh()).await.status, 202);
    assert_eq!(scene.provisioning(&scene.ssh()).await, "Deleting");
    assert!(scene.from(ADMIN, 22), "on its way out, and still in force");
    scene.clock.advance(TimeDelta::seconds(60));
    assert!(!scene.from(ADMIN, 22));
    scene.client.get(&scene.ssh()).await.refused(404, "NotFound");
    let span = Interval {
        from: second(5),
        to: Some(second(65)),
    };
    assert_eq!(
        scene.spans(),
        [span],
        "at the instants when the operations completed"
    );
}

#[tokio::test]
async fn a_whole_write_keeps_dropped_rules_in_force_until_it_completes() {
    let scene = Scene::with(&[inbound("ssh", 100, "Allow", "*", "22")], None).await;
    scene.sim.set_operation_duration(Duration::from_secs(5));
    assert_eq!(scene.empty().await.status, 200);
    scene.client.get(&scene.ssh()).await.refused(404, "NotFound");
    assert!(scene.from(ADMIN, 22));
    assert_eq!(scene.left_of_ssh().unwrap()["leaving"], true);
    scene.clock.advance(TimeDelta::seconds(5));
    assert!(!scene.from(ADMIN, 22));
}

#[tokio::test]
async fn a_failed_operation_shows_its_error_and_never_takes_effect() {
    let scene = Scene::with(&[], None).await;
    scene.fail_next("SecurityRules.*");
    let made = scene.client.put(&scene.ssh(), rule(100, "22")).await;
    assert_eq!(made.status, 201);
    let poll = scene.client.progress(&made).await;
    assert_eq!(
        (&poll.body["status"], &poll.body["error"]["code"]),
        (&json!("Failed"), &json!("InternalServerError"))
    );
    assert_eq!(scene.provisioning(&scene.ssh()).await, "Failed");
    assert!(!scene.from(ADMIN, 22));
    assert_eq!(scene.client.put(&scene.ssh(), rule(100, "22")).await.status, 200);
    assert!(scene.from(ADMIN, 22), "the next write mends it");
}

#[tokio::test]
async fn a_later_write_of_one_rule_also_carries_out_what_a_whole_write_failed_to_do() {
    let scene = Scene::with(&[inbound("ssh", 100, "Allow", "*", "22")], None).await;
    let nsg = &scene.machine.security_group;
    scene.fail_next("NetworkSecurityGroups.*");
    scene.empty().await;
    assert_eq!(scene.provisioning(nsg).await, "Failed");
    scene.client.get(&scene.ssh()).await.refused(404, "NotFound");
    assert!(scene.from(ADMIN, 22), "the deletion failed");
    let other = format!("{nsg}/securityRules/web");
    assert_eq!(scene.client.put(&other, rule(200, "443")).await.status, 201);
    assert_eq!(scene.provisioning(nsg).await, "Succeeded");
    assert!(!scene.from(ADMIN, 22), "what is shown is in force");
    assert!(scene.from(ADMIN, 443));
    assert_eq!(scene.left_of_ssh(), None);
}

#[tokio::test]
async fn a_group_that_is_being_changed_cannot_be_referred_to() {
    let scene = Scene::with(&[], None).await;
    let fleet = scene.sim.fleet();
    let spare = fleet.security_group("spare", &[]).unwrap();
    scene.sim.set_operation_duration(Duration::from_secs(5));
    scene
        .client
        .put(&format!("{spare}/securityRules/ssh"), rule(100, "22"))
        .await;
    let body = json!({"properties": {"addressPrefix": "10.0.1.0/24", "networkSecurityGroup": {"id": spare}}});
    let refused = scene.client.put(&scene.subnet, body.clone()).await;
    refused.refused(429, "RetryableError");
    assert_eq!(
        refused.body["error"]["details"][0]["code"],
        "ReferencedResourceNotProvisioned"
    );
    scene.clock.advance(TimeDelta::seconds(5));
    assert_eq!(scene.client.put(&scene.subnet, body).await.status, 200);
}
