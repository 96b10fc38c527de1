//! Public addresses of the EC2 simulator: the lent and the elastic.

use postern_sim::ec2::Ec2Options;

use crate::raw::{Raw, start};

/// Launches an instance of one interface.
async fn instance(raw: &Raw, subnet: &str, lent: bool) -> String {
    let launch = [
        ("ImageId", "ami-0123456789abcdef0"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("NetworkInterface.1.DeviceIndex", "0"),
        ("NetworkInterface.1.SubnetId", subnet),
        (
            "NetworkInterface.1.AssociatePublicIpAddress",
            if lent { "true" } else { "false" },
        ),
    ];
    raw.call("RunInstances", &launch).await.get("instanceId")
}

async fn public(raw: &Raw, instance: &str) -> Option<String> {
    let shown = raw.call("DescribeInstances", &[("InstanceId.1", instance)]).await;
    shown.first("ipAddress").map(str::to_owned)
}

/// Puts the elastic address on the instance; the association.
async fn associate(raw: &Raw, allocation: &str, instance: &str) -> String {
    let both = [("AllocationId", allocation), ("InstanceId", instance)];
    raw.call("AssociateAddress", &both).await.get("associationId")
}

#[tokio::test]
async fn a_running_instance_that_had_a_lent_public_address_gets_another_when_its_elastic_one_goes() {
    let raw = start(Ec2Options::default()).await;
    let (_, subnet, _) = raw.network_with_ipv6();
    let elastic = raw.call("AllocateAddress", &[]).await;
    let (allocation, elastic) = (elastic.get("allocationId"), elastic.get("publicIp"));
    let disassociate = async |association: &str| {
        let taken = raw
            .call("DisassociateAddress", &[("AssociationId", association)])
            .await;
        assert_eq!(taken.status, 200, "{}", taken.body);
    };
    let lent = instance(&raw, &subnet, true).await;
    let first = public(&raw, &lent).await;
    let association = associate(&raw, &allocation, &lent).await;
    assert_eq!(public(&raw, &lent).await.as_ref(), Some(&elastic));
    disassociate(&association).await;
    let second = public(&raw, &lent).await;
    assert!(
        second.is_some() && second != first && second != Some(elastic),
        "{second:?}"
    );

    // One that was never lent an address gets none; the other does when the elastic one is moved from it.
    let never = instance(&raw, &subnet, false).await;
    associate(&raw, &allocation, &lent).await;
    let association = associate(&raw, &allocation, &never).await;
    let third = public(&raw, &lent).await;
    assert!(third.is_some() && third != second, "{third:?}");
    disassociate(&association).await;
    assert_eq!(public(&raw, &never).await, None);

    // Stopped, it gets one when it is started.
    let association = associate(&raw, &allocation, &lent).await;
    raw.call("StopInstances", &[("InstanceId.1", &lent)]).await;
    disassociate(&association).await;
    assert_eq!(public(&raw, &lent).await, None);
    raw.call("StartInstances", &[("InstanceId.1", &lent)]).await;
    assert!(public(&raw, &lent).await.is_some());
}

#[tokio::test]
async fn an_instance_of_several_interfaces_gets_no_public_address_in_place_of_one_that_went() {
    let raw = start(Ec2Options::default()).await;
    let (_, subnet, _) = raw.network_with_ipv6();
    let allocation = raw.call("AllocateAddress", &[]).await.get("allocationId");
    let lent = instance(&raw, &subnet, true).await;
    let association = associate(&raw, &allocation, &lent).await;
    let second = raw
        .call("CreateNetworkInterface", &[("SubnetId", &subnet)])
        .await
        .get("networkInterfaceId");
    let attach = [
        ("NetworkInterfaceId", second.as_str()),
        ("InstanceId", &lent),
        ("DeviceIndex", "1"),
    ];
    assert_eq!(raw.call("AttachNetworkInterface", &attach).await.status, 200);
    raw.call("DisassociateAddress", &[("AssociationId", &association)])
        .await;
    assert_eq!(public(&raw, &lent).await, None);
    for power in ["StopInstances", "StartInstances"] {
        raw.call(power, &[("InstanceId.1", &lent)]).await;
        assert_eq!(public(&raw, &lent).await, None, "{power}");
    }
}
