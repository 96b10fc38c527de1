//! Shapes of networks and fleets on the EC2 simulator: several addresses, IPv6 alone, prefix lists that change,
//! regions, states.

use postern_sim::ec2::{Ec2Options, Limits, MachinePlan};
use postern_sim::{Probe, Protocol};

use crate::raw::start;

fn machine(subnet: &str, group: &str) -> MachinePlan {
    MachinePlan {
        name: "web".to_owned(),
        subnet_id: subnet.to_owned(),
        interfaces: vec![vec![group.to_owned()]],
        ..MachinePlan::default()
    }
}

#[tokio::test]
async fn an_interface_takes_secondary_addresses_and_gives_them_back() {
    let raw = start(Ec2Options::default()).await;
    let (_, subnet, _) = raw.network_with_ipv6();
    let made = raw
        .call(
            "CreateNetworkInterface",
            &[
                ("SubnetId", &subnet),
                ("PrivateIpAddresses.1.PrivateIpAddress", "10.0.1.50"),
                ("PrivateIpAddresses.1.Primary", "true"),
                ("PrivateIpAddresses.2.PrivateIpAddress", "10.0.1.51"),
            ],
        )
        .await;
    let id = made.get("networkInterfaceId");
    assert_eq!(made.get("privateIpAddress"), "10.0.1.50");
    assert_eq!(
        (
            made.count("<primary>true</primary>"),
            made.count("<primary>false</primary>")
        ),
        (1, 1)
    );
    let more = raw
        .call(
            "AssignPrivateIpAddresses",
            &[
                ("NetworkInterfaceId", &id),
                ("SecondaryPrivateIpAddressCount", "2"),
            ],
        )
        .await;
    assert_eq!(more.count("<item>"), 2, "{}", more.body);
    let taken = raw
        .call(
            "AssignPrivateIpAddresses",
            &[("NetworkInterfaceId", &id), ("PrivateIpAddress.1", "10.0.1.51")],
        )
        .await;
    assert_eq!(taken.code(), "InvalidIPAddress.InUse");
    let found = raw
        .call(
            "DescribeNetworkInterfaces",
            &[
                ("Filter.1.Name", "addresses.private-ip-address"),
                ("Filter.1.Value.1", "10.0.1.51"),
            ],
        )
        .await;
    assert_eq!(found.get("networkInterfaceId"), id);
    let given = [
        ("NetworkInterfaceId", id.as_str()),
        ("PrivateIpAddress.1", "10.0.1.51"),
    ];
    assert_eq!(
        raw.call("UnassignPrivateIpAddresses", &given).await.get("return"),
        "true"
    );
    let again = raw.call("UnassignPrivateIpAddresses", &given).await;
    assert_eq!(again.code(), "InvalidParameterValue");
    let primary = [
        ("NetworkInterfaceId", id.as_str()),
        ("PrivateIpAddress.1", "10.0.1.50"),
    ];
    assert_eq!(
        raw.call("UnassignPrivateIpAddresses", &primary).await.code(),
        "InvalidParameterValue"
    );
}

#[tokio::test]
async fn a_machine_of_ipv6_alone_has_no_ipv4_address() {
    let raw = start(Ec2Options::default()).await;
    let (vpc, _, group) = raw.network_with_ipv6();
    let subnet = raw.fleet().ipv6_subnet(&vpc, 7).unwrap();
    let shown = raw.call("DescribeSubnets", &[("SubnetId.1", &subnet)]).await;
    assert_eq!(shown.get("ipv6Native"), "true");
    assert_eq!(shown.first("cidrBlock"), None);
    let machine = raw.fleet().machine(&machine(&subnet, &group)).unwrap();
    let shown = raw
        .call("DescribeInstances", &[("InstanceId.1", &machine.instance_id)])
        .await;
    assert_eq!(shown.first("privateIpAddress"), None, "{}", shown.body);
    assert!(shown.get("ipv6Address").contains(':'));
    assert_eq!(shown.get("privateIpAddressesSet"), "");
    let interface = [("NetworkInterfaceId.1", machine.interface_ids[0].as_str())];
    let shown = raw.call("DescribeNetworkInterfaces", &interface).await;
    assert_eq!(shown.first("privateIpAddress"), None, "{}", shown.body);
    assert_eq!(shown.get("ipv6Native"), "true");
    let probe = |source: &str| Probe {
        machine: machine.instance_id.clone(),
        source: source.parse().unwrap(),
        port: 22,
        protocol: Protocol::Tcp,
    };
    let allow = [
        ("GroupId", group.as_str()),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "22"),
        ("IpPermissions.1.ToPort", "22"),
        ("IpPermissions.1.Ipv6Ranges.1.CidrIpv6", "2001:db8::/32"),
    ];
    assert_eq!(
        raw.call("AuthorizeSecurityGroupIngress", &allow).await.code(),
        "(success)"
    );
    assert!(raw.sim.reachable(&probe("2001:db8::1"), None));
    assert!(!raw.sim.reachable(&probe("2001:db9::1"), None));
    let wanted = [("SubnetId", subnet.as_str()), ("PrivateIpAddress", "10.0.7.9")];
    assert_eq!(
        raw.call("CreateNetworkInterface", &wanted).await.code(),
        "InvalidParameterValue"
    );
    let both = [
        ("VpcId", vpc.as_str()),
        ("Ipv6Native", "true"),
        ("CidrBlock", "10.0.9.0/24"),
        ("Ipv6CidrBlock", "2600::/64"),
    ];
    assert_eq!(
        raw.call("CreateSubnet", &both).await.code(),
        "InvalidParameterCombination"
    );
}

#[tokio::test]
async fn a_prefix_list_changes_by_version_and_weighs_on_the_groups_that_name_it() {
    let options = Ec2Options {
        limits: Limits {
            rules_per_group: 5,
            ..Limits::default()
        },
        ..Ec2Options::default()
    };
    let raw = start(options).await;
    let (_, subnet, group) = raw.network_with_ipv6();
    let machine = raw.fleet().machine(&machine(&subnet, &group)).unwrap();
    let made = raw
        .call(
            "CreateManagedPrefixList",
            &[
                ("PrefixListName", "office"),
                ("AddressFamily", "IPv4"),
                ("MaxEntries", "4"),
                ("Entry.1.Cidr", "203.0.113.0/25"),
            ],
        )
        .await;
    let list = made.get("prefixListId");
    let allow = [
        ("GroupId", group.as_str()),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "22"),
        ("IpPermissions.1.ToPort", "22"),
        ("IpPermissions.1.PrefixListIds.1.PrefixListId", list.as_str()),
    ];
    assert_eq!(
        raw.call("AuthorizeSecurityGroupIngress", &allow).await.code(),
        "(success)"
    );
    let probe = Probe {
        machine: machine.instance_id.clone(),
        source: "203.0.113.200".parse().unwrap(),
        port: 22,
        protocol: Protocol::Tcp,
    };
    assert!(!raw.sim.reachable(&probe, None));
    let change = |version: &'static str| {
        [
            ("PrefixListId", list.as_str()),
            ("CurrentVersion", version),
            ("AddEntry.1.Cidr", "203.0.113.128/25"),
            ("RemoveEntry.1.Cidr", "203.0.113.0/25"),
        ]
    };
    let stale = raw.call("ModifyManagedPrefixList", &change("7")).await;
    assert_eq!(stale.code(), "PrefixListVersionMismatch");
    let changed = raw.call("ModifyManagedPrefixList", &change("1")).await;
    assert_eq!(changed.get("version"), "2");
    assert!(raw.sim.reachable(&probe, None));
    let wider = [("PrefixListId", list.as_str()), ("MaxEntries", "6")];
    assert_eq!(
        raw.call("ModifyManagedPrefixList", &wider).await.code(),
        "RulesPerSecurityGroupLimitExceeded"
    );
    let shown = raw
        .call("DescribeManagedPrefixLists", &[("PrefixListId.1", list.as_str())])
        .await;
    assert_eq!(shown.get("maxEntries"), "4", "a refusal changes nothing");
}

#[tokio::test]
async fn regions_that_were_not_opted_in_to_are_told_of_and_refused() {
    let raw = start(Ec2Options::default()).await;
    let usable = raw.call("DescribeRegions", &[]).await;
    assert_eq!(usable.count("not-opted-in"), 0);
    let all = raw.call("DescribeRegions", &[("AllRegions", "true")]).await;
    assert_eq!(all.count("not-opted-in"), 1, "{}", all.body);
    assert!(all.body.contains("<regionName>ap-east-1</regionName>"));
    let filtered = raw
        .call(
            "DescribeRegions",
            &[
                ("AllRegions", "true"),
                ("Filter.1.Name", "opt-in-status"),
                ("Filter.1.Value.1", "not-opted-in"),
            ],
        )
        .await;
    assert_eq!(filtered.count("<regionName>"), 1);
    let there = raw.call_in("ap-east-1", "DescribeInstances", &[]).await;
    assert_eq!(there.code(), "AuthFailure");
}

#[tokio::test]
async fn instance_status_tells_of_running_instances_unless_asked_for_all() {
    let raw = start(Ec2Options::default()).await;
    let (_, subnet, group) = raw.network_with_ipv6();
    let ids = ["a", "b"].map(|_| {
        raw.fleet()
            .machine(&machine(&subnet, &group))
            .unwrap()
            .instance_id
    });
    let [first, second] = &ids;
    // A look lets what is due come to pass: both run.
    raw.call("DescribeInstances", &[]).await;
    raw.call("StopInstances", &[("InstanceId.1", second)]).await;
    let running = raw.call("DescribeInstanceStatus", &[]).await;
    assert_eq!(running.get("instanceId"), *first);
    assert_eq!(running.count("<instanceId>"), 1);
    assert_eq!(running.get("systemStatus"), "<status>ok</status>");
    let all = raw
        .call("DescribeInstanceStatus", &[("IncludeAllInstances", "true")])
        .await;
    assert_eq!(all.count("<instanceId>"), 2);
    assert_eq!(all.count("<name>stopped</name>"), 1);
    let unknown = [("InstanceId.1", "i-00000000000000000")];
    assert_eq!(
        raw.call("DescribeInstanceStatus", &unknown).await.code(),
        "InvalidInstanceID.NotFound"
    );
}

#[tokio::test]
async fn a_stopped_instance_loses_a_lent_public_address_and_keeps_the_rest() {
    let raw = start(Ec2Options::default()).await;
    let (_, subnet, group) = raw.network_with_ipv6();
    let launch = [
        ("ImageId", "ami-0123456789abcdef0"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("NetworkInterface.1.DeviceIndex", "0"),
        ("NetworkInterface.1.SubnetId", &subnet),
        ("NetworkInterface.1.SecurityGroupId.1", &group),
        ("NetworkInterface.1.AssociatePublicIpAddress", "true"),
    ];
    let second = [
        ("NetworkInterface.2.DeviceIndex", "1"),
        ("NetworkInterface.2.SubnetId", &subnet),
    ];
    let refused = raw.call("RunInstances", &[&launch[..], &second].concat()).await;
    assert_eq!(refused.code(), "InvalidParameterCombination");
    let id = raw.call("RunInstances", &launch).await.get("instanceId");
    let shown = async || raw.call("DescribeInstances", &[("InstanceId.1", &id)]).await;
    let running = shown().await;
    let public = running.get("ipAddress");
    // At the instance, its interface and the interface's private address.
    assert_eq!(running.count(&public), 3, "{}", running.body);
    assert_eq!(running.count("<ipOwnerId>amazon</ipOwnerId>"), 2);
    assert_eq!(running.count("<allocationId>"), 0);
    raw.call("StopInstances", &[("InstanceId.1", &id)]).await;
    let stopped = shown().await;
    assert_eq!(
        (stopped.first("ipAddress"), stopped.count("<association>")),
        (None, 0)
    );
    for kept in ["networkInterfaceId", "privateIpAddress", "groupId"] {
        assert_eq!(stopped.get(kept), running.get(kept));
    }
    raw.call("StartInstances", &[("InstanceId.1", &id)]).await;
    assert_ne!(shown().await.get("ipAddress"), public);
    // An elastic address takes the place of a lent one, and stays.
    let elastic = raw.call("AllocateAddress", &[]).await;
    let allocation = elastic.get("allocationId");
    let associate = [("AllocationId", allocation.as_str()), ("InstanceId", &id)];
    raw.call("AssociateAddress", &associate).await;
    for power in ["StopInstances", "StartInstances"] {
        raw.call(power, &[("InstanceId.1", &id)]).await;
        assert_eq!(shown().await.get("ipAddress"), elastic.get("publicIp"), "{power}");
    }
}
