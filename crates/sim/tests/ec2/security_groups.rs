//! Security groups and their rules on the EC2 simulator: what is refused, with which code, and that nothing changed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use postern_sim::ec2::{Ec2Options, Ingress, MachinePlan};

use crate::raw::{start, stepped};

pub(crate) fn tcp<'a>(port: &'a str, cidr: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", port),
        ("IpPermissions.1.ToPort", port),
        ("IpPermissions.1.IpRanges.1.CidrIp", cidr),
    ]
}

pub(crate) fn with<'a>(group: &'a str, mut parameters: Vec<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    parameters.push(("GroupId", group));
    parameters
}

#[tokio::test]
async fn authorize_adds_all_or_nothing() {
    let raw = start(Ec2Options::default()).await;
    let (_, _, group) = raw.network();
    let first = raw
        .call(
            "AuthorizeSecurityGroupIngress",
            &with(&group, tcp("22", "203.0.113.7/32")),
        )
        .await;
    assert_eq!(
        (first.code(), first.get("return").as_str()),
        ("(success)", "true")
    );
    let mut two = with(&group, tcp("80", "203.0.113.7/32"));
    two.extend([
        ("IpPermissions.2.IpProtocol", "6"),
        ("IpPermissions.2.FromPort", "22"),
        ("IpPermissions.2.ToPort", "22"),
        ("IpPermissions.2.IpRanges.1.CidrIp", "203.0.113.7/32"),
        (
            "IpPermissions.2.IpRanges.1.Description",
            "another description is no other rule",
        ),
    ]);
    let seq = raw.sim.truth().last();
    let second = raw.call("AuthorizeSecurityGroupIngress", &two).await;
    assert_eq!(
        (second.status, second.code()),
        (400, "InvalidPermission.Duplicate")
    );
    assert_eq!(
        raw.sim.truth().since(seq),
        [],
        "a refused call must not change anything"
    );
    let group = raw.fleet().snapshot().unwrap().group(&group).unwrap().clone();
    assert_eq!(group.rules.iter().filter(|rule| !rule.allows.egress).count(), 1);
}

#[tokio::test]
async fn revoking_what_is_not_there_depends_on_the_vpc() {
    let raw = start(Ec2Options::default()).await;
    let (_, _, group) = raw.network();
    raw.fleet()
        .allow(&group, &[Ingress::tcp(22, "100.68.0.18/18")])
        .unwrap();
    let mut both = with(&group, tcp("22", "100.68.0.0/18"));
    both.extend([("IpPermissions.1.IpRanges.2.CidrIp", "192.0.2.0/24")]);
    assert_eq!(
        raw.call("RevokeSecurityGroupIngress", &both).await.code(),
        "InvalidPermission.NotFound"
    );
    let alone = raw
        .call(
            "RevokeSecurityGroupIngress",
            &with(&group, tcp("22", "100.68.63.1/18")),
        )
        .await;
    assert_eq!(
        (alone.code(), alone.get("cidrIpv4").as_str()),
        ("(success)", "100.68.0.0/18")
    );

    let snapshot = raw.fleet().snapshot().unwrap();
    let default_vpc = snapshot.vpcs.iter().find(|vpc| vpc.is_default).unwrap();
    let group = raw
        .fleet()
        .group(&default_vpc.id, "tolerant", &[Ingress::tcp(22, "100.68.0.0/18")])
        .unwrap();
    let mut both = with(&group, tcp("22", "100.68.0.0/18"));
    both.extend([("IpPermissions.1.IpRanges.2.CidrIp", "192.0.2.0/24")]);
    let answer = raw.call("RevokeSecurityGroupIngress", &both).await;
    assert!(
        answer.get("unknownIpPermissionSet").contains("192.0.2.0/24"),
        "{}",
        answer.body
    );
    assert!(
        answer
            .get("revokedSecurityGroupRuleSet")
            .contains("100.68.0.0/18"),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn malformed_rules_are_refused_with_their_code() {
    let raw = start(Ec2Options::default()).await;
    let (_, _, group) = raw.network();
    let call = async |parameters: Vec<(&str, &str)>| {
        raw.call("AuthorizeSecurityGroupIngress", &with(&group, parameters))
            .await
            .code()
            .to_owned()
    };
    for (port, cidr) in [
        ("22", "203.0.113.7"),
        ("22", "203.0.113.7/33"),
        ("65536", "10.0.0.0/8"),
        ("x", "10.0.0.0/8"),
    ] {
        assert_eq!(
            call(tcp(port, cidr)).await,
            "InvalidParameterValue",
            "{port} {cidr}"
        );
    }
    let sourceless = tcp("22", "10.0.0.0/8").into_iter().take(3).collect();
    assert_eq!(call(sourceless).await, "InvalidPermission.Malformed");
    assert_eq!(call(vec![]).await, "MissingParameter");
    let text = "<script>";
    let mut described = tcp("22", "10.0.0.0/8");
    described.push(("IpPermissions.1.IpRanges.1.Description", text));
    assert_eq!(call(described).await, "InvalidParameterValue");
    let mut mixed = tcp("22", "10.0.0.0/8");
    mixed.extend([("CidrIp", "10.0.0.0/8"), ("IpProtocol", "tcp")]);
    assert_eq!(call(mixed).await, "InvalidParameterCombination");
    let answer = raw
        .call(
            "AuthorizeSecurityGroupIngress",
            &with("sg-0000", tcp("22", "10.0.0.0/8")),
        )
        .await;
    assert_eq!(answer.code(), "InvalidGroupId.Malformed");
    let answer = raw
        .call(
            "AuthorizeSecurityGroupIngress",
            &with("sg-00000000", tcp("22", "10.0.0.0/8")),
        )
        .await;
    assert_eq!(answer.code(), "InvalidGroup.NotFound");
}

#[tokio::test]
async fn the_rule_quota_counts_ipv4_and_ipv6_apart_and_group_references_in_both() {
    let raw = start(Ec2Options::default()).await;
    let (_, _, group) = raw.network();
    let v4: Vec<Ingress> = (0..60).map(|port| Ingress::tcp(port, "10.0.0.0/8")).collect();
    let v6: Vec<Ingress> = (0..59).map(|port| Ingress::tcp(port, "2001:db8::/32")).collect();
    raw.fleet().allow(&group, &v4).unwrap();
    raw.fleet().allow(&group, &v6).unwrap();
    let over = raw
        .call(
            "AuthorizeSecurityGroupIngress",
            &with(&group, tcp("99", "10.0.0.0/8")),
        )
        .await;
    assert_eq!(over.code(), "RulesPerSecurityGroupLimitExceeded");
    raw.fleet().revoke(&group, &v4[..2]).unwrap();
    let reference = |first: &'static str, last: &'static str| {
        vec![
            ("IpPermissions.1.IpProtocol", "tcp"),
            ("IpPermissions.1.FromPort", first),
            ("IpPermissions.1.ToPort", last),
            ("IpPermissions.1.Groups.1.GroupId", group.as_str()),
        ]
    };
    let fits = raw
        .call(
            "AuthorizeSecurityGroupIngress",
            &with(&group, reference("1", "1")),
        )
        .await;
    assert_eq!(fits.code(), "(success)");
    let over = raw
        .call(
            "AuthorizeSecurityGroupIngress",
            &with(&group, reference("2", "2")),
        )
        .await;
    assert_eq!(
        over.code(),
        "RulesPerSecurityGroupLimitExceeded",
        "IPv6 has 60 now, IPv4 59"
    );
}

#[tokio::test]
async fn a_group_is_in_use_while_an_interface_has_it_until_termination_is_over() {
    let options = Ec2Options {
        transition_delay: Duration::from_secs(30),
        ..Ec2Options::default()
    };
    let (clock, raw) = stepped(options).await;
    let (_, subnet_id, group) = raw.network();
    let plan = MachinePlan {
        name: "m".into(),
        subnet_id,
        interfaces: vec![vec![group.clone()]],
        ..MachinePlan::default()
    };
    let machine = raw.fleet().machine(&plan).unwrap();
    clock.advance(TimeDelta::seconds(30));
    let described = raw
        .call("DescribeInstances", &[("InstanceId.1", &machine.instance_id)])
        .await;
    assert!(
        described.get("instanceState").contains("running"),
        "{}",
        described.body
    );
    raw.call("TerminateInstances", &[("InstanceId.1", &machine.instance_id)])
        .await;
    clock.advance(TimeDelta::seconds(29));
    assert_eq!(
        raw.call("DeleteSecurityGroup", &[("GroupId", &group)])
            .await
            .code(),
        "DependencyViolation"
    );
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(
        raw.call("DeleteSecurityGroup", &[("GroupId", &group)])
            .await
            .code(),
        "(success)"
    );
    let last = raw
        .sim
        .truth()
        .all()
        .into_iter()
        .rfind(|change| change.resource == machine.arn)
        .unwrap();
    assert_eq!(
        last.at,
        DateTime::UNIX_EPOCH + TimeDelta::seconds(60),
        "a transition stands at the time it was due"
    );
    clock.advance(TimeDelta::hours(2));
    let forgotten = raw
        .call("DescribeInstances", &[("InstanceId.1", &machine.instance_id)])
        .await;
    assert_eq!(forgotten.code(), "InvalidInstanceID.NotFound");
}

#[tokio::test]
async fn a_group_that_names_itself_can_be_deleted() {
    let raw = start(Ec2Options::default()).await;
    let (_, _, group) = raw.network();
    let own = [
        ("GroupId", group.as_str()),
        ("IpPermissions.1.IpProtocol", "-1"),
        ("IpPermissions.1.Groups.1.GroupId", group.as_str()),
    ];
    assert_eq!(
        raw.call("AuthorizeSecurityGroupIngress", &own).await.code(),
        "(success)"
    );
    assert_eq!(
        raw.call("DeleteSecurityGroup", &[("GroupId", &group)])
            .await
            .code(),
        "(success)"
    );
}

#[tokio::test]
async fn groups_on_an_interface_are_checked_as_a_whole() {
    let raw = start(Ec2Options::default()).await;
    let (vpc, subnet, group) = raw.network();
    let interface = raw
        .fleet()
        .interface(&subnet, std::slice::from_ref(&group))
        .unwrap();
    let more: Vec<String> = (0..5)
        .map(|n| raw.fleet().group(&vpc, &format!("g{n}"), &[]).unwrap())
        .collect();
    let elsewhere = raw.fleet().vpc("10.9.0.0/16", false).unwrap();
    let foreign = raw.fleet().group(&elsewhere, "foreign", &[]).unwrap();
    let set = async |groups: &[&str]| {
        let names: Vec<String> = (1..=groups.len())
            .map(|n| format!("SecurityGroupId.{n}"))
            .collect();
        let mut parameters: Vec<(&str, &str)> = names
            .iter()
            .map(String::as_str)
            .zip(groups.iter().copied())
            .collect();
        parameters.push(("NetworkInterfaceId", &interface));
        raw.call("ModifyNetworkInterfaceAttribute", &parameters)
            .await
            .code()
            .to_owned()
    };
    let mut six: Vec<&str> = more.iter().map(String::as_str).collect();
    six.push(&group);
    assert_eq!(set(&six).await, "SecurityGroupsPerInterfaceLimitExceeded");
    assert_eq!(set(&[&group, &foreign]).await, "InvalidParameter");
    assert_eq!(
        set(&[&group, "sg-00000000000000000"]).await,
        "InvalidGroup.NotFound"
    );
    assert_eq!(set(&[]).await, "InvalidParameterCombination");
    let now = raw
        .fleet()
        .snapshot()
        .unwrap()
        .interface(&interface)
        .unwrap()
        .groups
        .clone();
    assert_eq!(now, std::slice::from_ref(&group), "refused calls change nothing");
    assert_eq!(set(&[&group, &more[0], &group]).await, "(success)");
    let now = raw
        .fleet()
        .snapshot()
        .unwrap()
        .interface(&interface)
        .unwrap()
        .groups
        .clone();
    assert_eq!(now, [group, more[0].clone()], "a repeated group counts once");
}

#[tokio::test]
async fn describes_lag_behind_and_changes_do_not() {
    let options = Ec2Options {
        describe_lag: Duration::from_secs(5),
        ..Ec2Options::default()
    };
    let (clock, raw) = stepped(options).await;
    let (_, _, group) = raw.network();
    let describe = async || raw.call("DescribeSecurityGroups", &[("GroupId.1", &group)]).await;
    assert_eq!(
        describe().await.code(),
        "InvalidGroup.NotFound",
        "just created, not seen yet"
    );
    let there = raw
        .call(
            "AuthorizeSecurityGroupIngress",
            &with(&group, tcp("22", "10.0.0.0/8")),
        )
        .await;
    assert_eq!(there.code(), "(success)", "a change works on what is there");
    clock.advance(TimeDelta::seconds(5));
    assert_eq!(describe().await.count("10.0.0.0/8"), 1);
    raw.fleet()
        .revoke(&group, &[Ingress::tcp(22, "10.0.0.0/8")])
        .unwrap();
    assert_eq!(describe().await.count("10.0.0.0/8"), 1, "still as it was");
    clock.advance(TimeDelta::seconds(5));
    assert_eq!(describe().await.count("10.0.0.0/8"), 0);
}
