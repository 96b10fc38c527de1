//! The EC2 simulator's strictness, by raw queries: what is refused, with which code, and that nothing changed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use postern_sim::ec2::{
    ActionClass, Bucket, Ec2Handle, Ec2Options, Ec2Sim, Fleet, Ingress, MachinePlan, Throttling,
};
use postern_sim::{Probe, Protocol, SteppedClock};

const REGION: &str = "eu-central-1";

struct Raw {
    client: reqwest::Client,
    sim: Ec2Handle,
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    /// The text of the first element of that name.
    fn first(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    }

    fn get(&self, name: &str) -> String {
        self.first(name)
            .unwrap_or_else(|| panic!("no <{name}> in {}", self.body))
            .to_owned()
    }

    fn code(&self) -> &str {
        self.first("Code").unwrap_or("(success)")
    }

    fn count(&self, text: &str) -> usize {
        self.body.matches(text).count()
    }
}

async fn start(options: Ec2Options) -> Raw {
    // A second install in one process is refused and changes nothing.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let sim = Ec2Sim::start(Ec2Options {
        verify_signatures: false,
        ..options
    })
    .await
    .unwrap();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    Raw { client, sim }
}

impl Raw {
    async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.send(
            Some(&authorization(Ec2Sim::ACCESS_KEY_ID, REGION, "ec2")),
            "2016-11-15",
            action,
            parameters,
        )
        .await
    }

    async fn send(
        &self,
        authorization: Option<&str>,
        version: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Answer {
        let mut form = vec![("Action", action), ("Version", version)];
        form.extend_from_slice(parameters);
        let mut request = self.client.post(self.sim.url()).form(&form);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            body: response.text().await.unwrap(),
        }
    }

    fn fleet(&self) -> Fleet {
        self.sim.fleet(Ec2Sim::ACCOUNT, REGION)
    }

    /// A VPC, a subnet and an empty group.
    fn network(&self) -> (String, String, String) {
        let fleet = self.fleet();
        let vpc = fleet.vpc("10.0.0.0/16", false).unwrap();
        let subnet = fleet.subnet(&vpc, "10.0.1.0/24", 0).unwrap();
        let group = fleet.group(&vpc, "web", &[]).unwrap();
        (vpc, subnet, group)
    }
}

fn authorization(key: &str, region: &str, service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={key}/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

fn tcp<'a>(port: &'a str, cidr: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", port),
        ("IpPermissions.1.ToPort", port),
        ("IpPermissions.1.IpRanges.1.CidrIp", cidr),
    ]
}

fn with<'a>(group: &'a str, mut parameters: Vec<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    parameters.push(("GroupId", group));
    parameters
}

#[tokio::test]
async fn the_caller_must_be_known_and_the_scope_must_fit() {
    let raw = start(Ec2Options::default()).await;
    let key = Ec2Sim::ACCESS_KEY_ID;
    let (ec2, sts) = ("2016-11-15", "2011-06-15");
    for (authorization, version, status, code) in [
        (None, ec2, 403, "MissingAuthenticationToken"),
        (Some("Basic abc".to_owned()), ec2, 400, "IncompleteSignature"),
        (
            Some(authorization("AKIANOBODY", REGION, "ec2")),
            ec2,
            401,
            "AuthFailure",
        ),
        (
            Some(authorization("AKIANOBODY", REGION, "sts")),
            sts,
            403,
            "InvalidClientTokenId",
        ),
        (
            Some(authorization(key, "mars-north-1", "ec2")),
            ec2,
            401,
            "AuthFailure",
        ),
        (Some(authorization(key, REGION, "s3")), ec2, 401, "AuthFailure"),
        (
            Some(authorization(key, REGION, "ec2")),
            "1999-01-01",
            400,
            "NoSuchVersion",
        ),
    ] {
        let answer = raw
            .send(authorization.as_deref(), version, "DescribeVpcs", &[])
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{authorization:?} {version}"
        );
    }
    let refused = raw
        .send(
            Some(&authorization("AKIANOBODY", REGION, "sts")),
            sts,
            "GetCallerIdentity",
            &[],
        )
        .await;
    assert!(refused.body.contains("<ErrorResponse xmlns="), "{}", refused.body);
}

#[tokio::test]
async fn an_unsigned_request_is_refused_where_signatures_are_verified() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let sim = Ec2Sim::start(Ec2Options::default()).await.unwrap();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let raw = Raw { client, sim };
    assert_eq!(raw.call("DescribeVpcs", &[]).await.code(), "AuthFailure");
}

#[tokio::test]
async fn unknown_actions_and_parameters_are_refused() {
    let raw = start(Ec2Options::default()).await;
    assert_eq!(raw.call("MakeCoffee", &[]).await.code(), "InvalidAction");
    assert_eq!(
        raw.call("DescribeVpcs", &[("Colour", "red")]).await.code(),
        "UnknownParameter"
    );
    assert_eq!(
        raw.call("CreateSecurityGroup", &[("GroupName", "x")])
            .await
            .code(),
        "MissingParameter"
    );
    let dry = raw.call("DescribeVpcs", &[("DryRun", "true")]).await;
    assert_eq!((dry.status, dry.code()), (412, "DryRunOperation"));
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
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let options = Ec2Options {
        clock: clock.clone(),
        transition_delay: Duration::from_secs(30),
        ..Ec2Options::default()
    };
    let raw = start(options).await;
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
async fn listings_come_in_pages_of_five_to_a_thousand() {
    let raw = start(Ec2Options::default()).await;
    let (vpc, _, _) = raw.network();
    for n in 0..10 {
        raw.fleet().group(&vpc, &format!("g{n}"), &[]).unwrap();
    }
    let filter = [("Filter.1.Name", "vpc-id"), ("Filter.1.Value.1", vpc.as_str())];
    let mut token: Option<String> = None;
    let mut sizes = Vec::new();
    loop {
        let mut parameters = filter.to_vec();
        parameters.push(("MaxResults", "5"));
        if let Some(token) = &token {
            parameters.push(("NextToken", token));
        }
        let page = raw.call("DescribeSecurityGroups", &parameters).await;
        sizes.push(page.count("<groupName>"));
        token = page.first("nextToken").map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [5, 5, 2]);
    assert_eq!(
        raw.call("DescribeInstances", &[("MaxResults", "4")]).await.code(),
        "InvalidParameterValue"
    );
    assert_eq!(
        raw.call("DescribeInstances", &[("MaxResults", "1001")])
            .await
            .code(),
        "InvalidParameterValue"
    );
}

#[tokio::test]
async fn throttled_calls_are_refused_until_tokens_come_back() {
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let throttling = Throttling::documented().with_class(
        ActionClass::ResourceIntensive,
        Bucket {
            capacity: 2.0,
            refill: 1.0,
        },
    );
    let options = Ec2Options {
        clock: clock.clone(),
        throttling: Some(throttling),
        ..Ec2Options::default()
    };
    let raw = start(options).await;
    let (_, _, group) = raw.network();
    let codes = async |ports: &[&'static str]| {
        let mut codes = Vec::new();
        for port in ports {
            let answer = raw
                .call(
                    "AuthorizeSecurityGroupIngress",
                    &with(&group, tcp(port, "10.0.0.0/8")),
                )
                .await;
            codes.push((answer.status, answer.code().to_owned()));
        }
        codes
    };
    let (done, limited) = (
        (200, "(success)".to_owned()),
        (503, "RequestLimitExceeded".to_owned()),
    );
    assert_eq!(
        codes(&["1", "2", "3"]).await,
        [done.clone(), done.clone(), limited.clone()]
    );
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(codes(&["3", "4"]).await, [done.clone(), limited.clone()]);
    raw.sim.set_throttling(None);
    assert_eq!(
        codes(&["4", "5", "6"]).await,
        [done.clone(), done.clone(), done.clone()]
    );
    let one = Bucket {
        capacity: 1.0,
        refill: 1.0,
    };
    let tight = Throttling::documented().with_class(ActionClass::ResourceIntensive, one);
    raw.sim.set_throttling(Some(tight));
    assert_eq!(codes(&["7", "8"]).await, [done, limited]);
}

#[tokio::test]
async fn describes_lag_behind_and_changes_do_not() {
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let options = Ec2Options {
        clock: clock.clone(),
        describe_lag: Duration::from_secs(5),
        ..Ec2Options::default()
    };
    let raw = start(options).await;
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

#[tokio::test]
async fn the_truth_log_tells_when_a_port_was_open() {
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let raw = start(Ec2Options {
        clock: clock.clone(),
        ..Ec2Options::default()
    })
    .await;
    let (vpc, subnet_id, group) = raw.network();
    let list = raw.fleet().prefix_list("office", &["203.0.113.0/24"], 4).unwrap();
    let interfaces = vec![vec![], vec![group.clone()]];
    let machine = raw
        .fleet()
        .machine(&MachinePlan {
            name: "m".into(),
            subnet_id,
            interfaces,
            ..MachinePlan::default()
        })
        .unwrap();
    let probe = |source: &str, port| Probe {
        machine: machine.arn.clone(),
        source: source.parse().unwrap(),
        port,
        protocol: Protocol::Tcp,
    };
    let at = |second| DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
    let spans = |probe: &Probe| -> Vec<(i64, Option<i64>)> {
        let seconds = |time: DateTime<chrono::Utc>| (time - DateTime::UNIX_EPOCH).num_seconds();
        raw.sim
            .open_intervals(probe)
            .iter()
            .map(|span| (seconds(span.from), span.to.map(seconds)))
            .collect()
    };
    assert!(
        !raw.sim.reachable(&probe("203.0.113.7", 22), None),
        "members of a default group are no address"
    );
    clock.advance(TimeDelta::seconds(10));
    let rule = Ingress {
        from: postern_sim::ec2::Origin::PrefixList(list),
        ..Ingress::tcp_range(20, 25, "::/0")
    };
    raw.fleet().allow(&group, std::slice::from_ref(&rule)).unwrap();
    clock.advance(TimeDelta::seconds(10));
    // A second group opens the same port: closing the first one then does not close it.
    let other = raw
        .fleet()
        .group(&vpc, "other", &[Ingress::all("203.0.113.7/32")])
        .unwrap();
    let primary = &machine.interface_ids[0];
    let before = raw
        .fleet()
        .snapshot()
        .unwrap()
        .interface(primary)
        .unwrap()
        .groups
        .clone();
    raw.fleet()
        .set_groups(primary, &[before[0].clone(), other])
        .unwrap();
    clock.advance(TimeDelta::seconds(10));
    raw.fleet().revoke(&group, &[rule]).unwrap();
    clock.advance(TimeDelta::seconds(10));
    raw.fleet().set_groups(primary, &before).unwrap();
    assert_eq!(spans(&probe("203.0.113.7", 22)), [(10, Some(40))]);
    assert_eq!(spans(&probe("203.0.113.8", 22)), [(10, Some(30))]);
    assert_eq!(spans(&probe("203.0.113.8", 26)), []);
    assert_eq!(spans(&probe("203.0.113.7", 26)), [(20, Some(40))]);
    assert_eq!(spans(&probe("2001:db8::1", 22)), []);
    assert!(
        raw.sim
            .reachable(&probe("203.0.113.8", 22), Some(postern_sim::Moment::Time(at(29))))
    );
    let by_id = Probe {
        machine: machine.instance_id.clone(),
        ..probe("203.0.113.7", 22)
    };
    assert_eq!(
        raw.sim.open_intervals(&by_id),
        raw.sim.open_intervals(&probe("203.0.113.7", 22))
    );
}

#[tokio::test]
async fn roles_are_assumed_only_under_their_trust() {
    let role = |name: &str, external_id: Option<&str>| postern_sim::ec2::Role {
        arn: format!("arn:aws:iam::444455556666:role/{name}"),
        trusted_accounts: vec![Ec2Sim::ACCOUNT.to_owned()],
        external_id: external_id.map(str::to_owned),
    };
    let stranger = postern_sim::ec2::Role {
        trusted_accounts: vec![],
        ..role("stranger", None)
    };
    let roles = vec![role("plain", None), role("guarded", Some("lab-42")), stranger];
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let raw = start(Ec2Options {
        roles,
        clock: clock.clone(),
        ..Ec2Options::default()
    })
    .await;
    let sts = authorization(Ec2Sim::ACCESS_KEY_ID, REGION, "sts");
    let assume = async |name: &str, external_id: Option<&str>| {
        let arn = format!("arn:aws:iam::444455556666:role/{name}");
        let mut parameters = vec![
            ("RoleArn", arn.as_str()),
            ("RoleSessionName", "test"),
            ("DurationSeconds", "900"),
        ];
        parameters.extend(external_id.map(|id| ("ExternalId", id)));
        raw.send(Some(&sts), "2011-06-15", "AssumeRole", &parameters)
            .await
    };
    for (name, external_id, code) in [
        ("plain", None, "(success)"),
        ("guarded", Some("lab-42"), "(success)"),
        ("guarded", Some("lab-43"), "AccessDenied"),
        ("guarded", None, "AccessDenied"),
        ("stranger", None, "AccessDenied"),
        ("nobody", None, "AccessDenied"),
    ] {
        assert_eq!(
            assume(name, external_id).await.code(),
            code,
            "{name} {external_id:?}"
        );
    }
    let session = assume("plain", None).await;
    let header = authorization(&session.get("AccessKeyId"), REGION, "ec2");
    let token = session.get("SessionToken");
    let call = async || {
        let form = [("Action", "DescribeVpcs"), ("Version", "2016-11-15")];
        let request = raw
            .client
            .post(raw.sim.url())
            .form(&form)
            .header("authorization", &header);
        let response = request
            .header("x-amz-security-token", &token)
            .send()
            .await
            .unwrap();
        Answer {
            status: response.status().as_u16(),
            body: response.text().await.unwrap(),
        }
    };
    assert_eq!(call().await.get("ownerId"), "444455556666");
    clock.advance(TimeDelta::seconds(900));
    assert_eq!(call().await.code(), "RequestExpired");
}
