//! `postern sweep` with nothing but a configuration of the clouds.

use postern::demo::fleet::{ACCOUNT, Fleet, REGION, SUBSCRIPTION};
use postern_core::nsg::{Axis, Share, SharedMark};
use postern_sim::arm;
use serde_json::{Value, json};

use crate::rig::{Rig, run, said};

/// Somebody's end, long ago.
pub(crate) const PAST: &str = "2026-01-01T00:00:00Z";
/// Somebody's end, long from now.
pub(crate) const FUTURE: &str = "2199-01-01T00:00:00Z";

pub(crate) fn mark(grant: u8, end: &str) -> String {
    format!("postern:swept grant={grant:032x} end={end}")
}

/// An Azure rule of two grants, of which one is past its end.
fn shared_rule() -> Value {
    let share = |grant: u8, end: &str, entries: u8| Share {
        grant: format!("grt_{grant:032x}").parse().unwrap(),
        end: end.parse().unwrap(),
        entries,
    };
    let mark = SharedMark {
        installation: "swept".parse().unwrap(),
        axis: Axis::Sources,
        shares: vec![share(4, PAST, 0b01), share(5, "2059-01-01T00:00:00Z", 0b10)],
    };
    let mut rule = arm::inbound("postern-swept-shared", 104, "Allow", "*", "22");
    let properties = rule["properties"].as_object_mut().unwrap();
    properties.remove("sourceAddressPrefix");
    properties.insert(
        "sourceAddressPrefixes".to_owned(),
        json!(["203.0.113.8", "203.0.113.9"]),
    );
    properties.insert("description".to_owned(), json!(mark.to_string()));
    rule
}

/// One overdue rule of the installation `swept` in each cloud, and beside each a live one, one of another
/// installation, and one of nobody's. In Azure also one that an overdue grant shares with a live one.
pub(crate) fn leave_overdue_rules(fleet: &Fleet) {
    let rule = |name: &str, priority: u16, text: &str| {
        let mut rule = arm::inbound(name, priority, "Allow", "203.0.113.7/32", "22");
        rule["properties"]["description"] = json!(text);
        rule
    };
    fleet
        .arm
        .fleet()
        .in_group("shop")
        .security_group(
            "swept-nsg",
            &[
                rule("overdue", 100, &mark(1, PAST)),
                rule("live", 101, &mark(2, FUTURE)),
                rule("other", 102, &mark(3, PAST).replace("swept", "other")),
                rule("foreign", 103, "let the office in"),
                shared_rule(),
            ],
        )
        .unwrap();
    let ec2 = fleet.ec2.fleet(ACCOUNT, REGION);
    let vpc = ec2.vpc("10.99.0.0/16", false).unwrap();
    let tagged = ec2
        .call(
            "CreateSecurityGroup",
            &[
                ("GroupName", "postern-swept-i-0123456789abcdef0"),
                ("GroupDescription", "temporary"),
                ("VpcId", &vpc),
                ("TagSpecification.1.ResourceType", "security-group"),
                ("TagSpecification.1.Tag.1.Key", "postern:mark"),
                ("TagSpecification.1.Tag.1.Value", "postern:swept holder"),
            ],
        )
        .unwrap();
    let group = tagged
        .split("<groupId>")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap();
    for (at, text) in [
        mark(1, PAST),
        mark(2, FUTURE),
        mark(3, PAST).replace("swept", "other"),
        "let the office in".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        ec2.call(
            "AuthorizeSecurityGroupIngress",
            &[
                ("GroupId", group),
                ("IpPermissions.1.IpProtocol", "tcp"),
                ("IpPermissions.1.FromPort", "22"),
                ("IpPermissions.1.ToPort", "22"),
                ("IpPermissions.1.IpRanges.1.CidrIp", &format!("203.0.113.{at}/32")),
                ("IpPermissions.1.IpRanges.1.Description", text),
            ],
        )
        .unwrap();
    }
}

/// How many marks of the report have the status.
pub(crate) fn count(report: &Value, status: &str) -> usize {
    let marks = report["marks"].as_array().unwrap();
    marks.iter().filter(|mark| mark["status"] == status).count()
}

async fn fleet() -> Fleet {
    let fleet = Fleet::start(std::sync::Arc::new(postern_sim::SystemClock))
        .await
        .unwrap();
    leave_overdue_rules(&fleet);
    fleet
}

async fn report(rig: &Rig, arguments: &[&str]) -> Value {
    let mut all = vec!["sweep", "--json"];
    all.extend_from_slice(arguments);
    let (document, told) = said(&rig.run(&all).await);
    let report = serde_json::from_str(&document);
    assert!(report.is_ok(), "{document} {told}");
    report.unwrap()
}

/// The marks of a report, as cloud and status.
fn seen(report: &Value) -> Vec<(&str, &str)> {
    let marks = report["marks"].as_array().unwrap();
    let mut seen: Vec<(&str, &str)> = marks
        .iter()
        .map(|mark| {
            let account = mark["account"].as_str().unwrap();
            let cloud = account.trim_start_matches('/').split('/').next().unwrap();
            (cloud, mark["status"].as_str().unwrap())
        })
        .collect();
    seen.sort_unstable();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_shows_what_it_would_close_and_closes_it_when_told_to() {
    let fleet = fleet().await;
    let rig = Rig::new("swept", &fleet, "");
    let changes = || (fleet.arm.truth().last(), fleet.ec2.truth().last());
    let before = changes();
    let dry = report(&rig, &[]).await;
    assert_eq!(
        seen(&dry),
        [("aws", "overdue"), ("azure", "overdue"), ("azure", "overdue")],
        "{dry}"
    );
    assert_eq!(dry["applied"], false);
    let accounts: Vec<&Value> = dry["accounts"].as_array().unwrap().iter().collect();
    assert_eq!(accounts.len(), 2, "{dry}");
    let all = report(&rig, &["--all"]).await;
    assert_eq!(
        seen(&all),
        [
            ("aws", "live"),
            ("aws", "overdue"),
            ("aws", "standing"),
            ("azure", "live"),
            ("azure", "live"),
            ("azure", "overdue"),
            ("azure", "overdue")
        ],
        "{all}"
    );
    assert_eq!(changes(), before, "a dry run changes nothing");

    let applied = report(&rig, &["--apply"]).await;
    assert_eq!(
        seen(&applied),
        [("aws", "removed"), ("azure", "removed"), ("azure", "removed")],
        "{applied}"
    );
    let left = report(&rig, &["--all"]).await;
    assert_eq!(
        seen(&left),
        [
            ("aws", "live"),
            ("aws", "standing"),
            ("azure", "live"),
            ("azure", "live")
        ],
        "{left}"
    );
    let after = changes();
    assert_eq!(
        after,
        (before.0 + 2, before.1 + 1),
        "one change for each that was overdue"
    );
    let shared = fleet
        .arm
        .truth()
        .world(None)
        .into_iter()
        .find(|(id, _)| id.ends_with("/postern-swept-shared"))
        .map(|(_, rule)| rule.to_string())
        .unwrap();
    assert!(
        shared.contains("203.0.113.9") && !shared.contains("203.0.113.8"),
        "the other grant of the shared rule stays: {shared}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_cloud_or_one_account_can_be_swept_alone() {
    let fleet = fleet().await;
    let rig = Rig::new("swept", &fleet, "");
    for arguments in [["--cloud", "aws"], ["--account", ACCOUNT]] {
        assert_eq!(seen(&report(&rig, &arguments).await), [("aws", "overdue")]);
    }
    for arguments in [["--cloud", "azure"], ["--subscription", SUBSCRIPTION]] {
        assert_eq!(
            seen(&report(&rig, &arguments).await),
            [("azure", "overdue"), ("azure", "overdue")]
        );
    }
    let output = rig.run(&["sweep", "--account", "999999999999"]).await;
    assert_eq!(output.status.code(), Some(2), "{:?}", said(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_fails_does_not_keep_the_others_from_being_swept() {
    let fleet = fleet().await;
    let rig = Rig::new(
        "swept",
        &fleet,
        "[[aws.accounts]]\nid = \"444455556666\"\nrole_arn = \"arn:aws:iam::444455556666:role/none\"",
    );
    // The account that fails comes first.
    rig.edit(
        &format!("subscriptions = [\"{SUBSCRIPTION}\"]"),
        &format!("subscriptions = [\"00000000-0000-0000-0000-0000000000ff\", \"{SUBSCRIPTION}\"]"),
    );
    let output = rig.run(&["sweep", "--json", "--apply"]).await;
    let (document, told) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let report: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(count(&report, "removed"), 3, "{report}");
    let failed: Vec<&str> = report["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|looked| looked.get("error").is_some())
        .map(|looked| looked["account"].as_str().unwrap())
        .collect();
    assert_eq!(failed.len(), 2, "{report}");
    for account in ["444455556666", "0000000000ff"] {
        assert!(failed.iter().any(|scope| scope.contains(account)), "{failed:?}");
        assert!(told.contains(account), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_cannot_be_removed_does_not_keep_the_others() {
    let fleet = fleet().await;
    let rig = Rig::new("swept", &fleet, "");
    fleet.arm.set_clients(vec![postern_sim::arm::ArmClient::limited(
        postern::demo::fleet::CLIENT_ID,
        postern::demo::fleet::CLIENT_SECRET,
        &["*/read"],
    )]);
    let output = rig.run(&["sweep", "--json", "--apply"]).await;
    let (document, told) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let report: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(
        seen(&report),
        [("aws", "removed"), ("azure", "overdue"), ("azure", "overdue")],
        "{report}"
    );
    assert!(
        told.contains("Microsoft.Network/networkSecurityGroups/securityRules/delete"),
        "the missing permission is named: {told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_told_in_a_table_what_would_be_closed() {
    let fleet = fleet().await;
    let rig = Rig::new("swept", &fleet, "");
    let (table, told) = said(&rig.run(&["sweep"]).await);
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("STATUS"), "{table}");
    assert_eq!(
        lines
            .filter(|line| line.starts_with("overdue") && line.contains(PAST))
            .count(),
        3
    );
    assert!(told.contains("--apply"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_configuration_file_is_needed() {
    let fleet = fleet().await;
    // The simulated cloud's address stands where a real one needs nothing.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_postern"));
    command
        .args(["sweep", "--installation", "swept", "--cloud", "aws", "--account"])
        .args([postern::demo::fleet::HUB_ACCOUNT, "--json"])
        .env("POSTERN__AWS__ENDPOINT", fleet.ec2.url())
        .env("POSTERN__AWS__REGIONS", format!("[\"{REGION}\"]"))
        .env("AWS_ACCESS_KEY_ID", postern::demo::fleet::ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", postern::demo::fleet::SECRET_ACCESS_KEY);
    let output = command.output().await.unwrap();
    let (document, told) = said(&output);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(report["accounts"].as_array().unwrap().len(), 1, "{report}");

    let output = run(&["sweep"], None).await;
    assert_eq!(output.status.code(), Some(2), "whose marks?");
}
