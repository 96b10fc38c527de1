"""Drives the EC2 and STS simulator with boto3, a client that shares no code with it.

usage: python ec2_client.py <endpoint-url>

Prints one line per check and exits non-zero at the first that fails. Needs boto3, and a simulator that has just
been started with its default options: `cargo run -p postern-sim -- --ec2-port 0` prints its address.
"""

import json
import sys
import urllib.request
from xml.etree import ElementTree

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT = sys.argv[1].rstrip("/") if len(sys.argv) == 2 else sys.exit(__doc__)
KEY = "AKIAPOSTERNSIM000001"
SECRET = "postern-simulator-secret-access-key"
ACCOUNT = "111122223333"
OTHER_ACCOUNT = "444455556666"
REGION = "eu-central-1"
CONFIG = Config(retries={"total_max_attempts": 1})

strange, inspected = set(), set()


def unknown_elements(element, shape, path):
    """Elements that the vendor's model does not know: boto3 would drop them without a word."""
    if shape.type_name == "structure":
        members = {m.serialization.get("name", name): m for name, m in shape.members.items()}
        for child in element:
            tag = child.tag.rpartition("}")[2]
            if tag in members:
                yield from unknown_elements(child, members[tag], f"{path}.{tag}")
            else:
                yield f"{path}.{tag}"
    elif shape.type_name == "list":
        wrapper = shape.member.serialization.get("name", "member")
        for child in element:
            tag = child.tag.rpartition("}")[2]
            if tag == wrapper:
                yield from unknown_elements(child, shape.member, f"{path}[]")
            else:
                yield f"{path}[].{tag}"


def client(service, key=KEY, secret=SECRET, token=None, region=REGION):
    made = connect(service, key, secret, token, region)

    def inspect(operation_model, response_dict, **_):
        inspected.add(operation_model.name)
        shape = operation_model.output_shape
        if response_dict["status_code"] != 200 or shape is None:
            return
        root = ElementTree.fromstring(response_dict["body"])
        if "resultWrapper" in shape.serialization:
            root = [child for child in root if child.tag.endswith(shape.serialization["resultWrapper"])][0]
        found = unknown_elements(root, shape, operation_model.name)
        # The request id is the envelope's, and `return` is sent also where the model has no member for it.
        envelope = {f"{operation_model.name}.{name}" for name in ("requestId", "return")}
        strange.update(path for path in found if path not in envelope)

    made.meta.events.register(f"before-parse.{service}", inspect)
    return made


def connect(service, key, secret, token, region):
    return boto3.client(
        service,
        endpoint_url=ENDPOINT,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=CONFIG,
    )


def check(what, condition, detail=None):
    print(("ok    " if condition else "FAIL  ") + what + ("" if condition else f": {detail!r}"), flush=True)
    if not condition:
        sys.exit(1)


def refused(what, code, call, *args, status=None, **kwargs):
    try:
        answer = call(*args, **kwargs)
    except ClientError as error:
        got = error.response["Error"]["Code"]
        http = error.response["ResponseMetadata"]["HTTPStatusCode"]
        check(f"{what}: {code}", got == code and status in (None, http), (got, http, str(error)))
    else:
        check(f"{what}: {code}", False, answer)


def name(resource_type, value):
    return [{"ResourceType": resource_type, "Tags": [{"Key": "Name", "Value": value}]}]


def tcp(port, cidr, description=None, to=None):
    source = {"CidrIp": cidr}
    if description is not None:
        source["Description"] = description
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": to or port, "IpRanges": [source]}


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}


ec2 = client("ec2")
sts = client("sts")

# Who calls.
identity = sts.get_caller_identity()
check("GetCallerIdentity tells the key's account", identity["Account"] == ACCOUNT, identity)
refused("unknown key at EC2", "AuthFailure", client("ec2", key="AKIANOBODY0000000000").describe_vpcs, status=401)
refused("unknown key at STS", "InvalidClientTokenId", client("sts", key="AKIANOBODY0000000000").get_caller_identity, status=403)
refused("wrong secret at EC2", "AuthFailure", client("ec2", secret="wrong").describe_vpcs, status=401)
refused("wrong secret at STS", "SignatureDoesNotMatch", client("sts", secret="wrong").get_caller_identity, status=403)

# Network.
regions = [region["RegionName"] for region in ec2.describe_regions()["Regions"]]
check("DescribeRegions lists this region", REGION in regions, regions)
zones = ec2.describe_availability_zones()["AvailabilityZones"]
check("DescribeAvailabilityZones lists three", len(zones) == 3 and zones[0]["State"] == "available", zones)
default_vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]
check("a region begins with a default VPC", default_vpc["CidrBlock"] == "172.31.0.0/16", default_vpc)
vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16", AmazonProvidedIpv6CidrBlock=True, TagSpecifications=name("vpc", "lab"))["Vpc"]
check("CreateVpc gives an IPv6 /56", vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].endswith("/56"), vpc)
vpc_id = vpc["VpcId"]
ipv6 = vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].replace("/56", "/64")
subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.20.1.0/24", Ipv6CidrBlock=ipv6)["Subnet"]
subnet_id = subnet["SubnetId"]
check("CreateSubnet counts free addresses", subnet["AvailableIpAddressCount"] == 251, subnet)
refused("overlapping subnet", "InvalidSubnet.Conflict", ec2.create_subnet, VpcId=vpc_id, CidrBlock="10.20.1.128/25")
plain_vpc = ec2.create_vpc(CidrBlock="10.30.0.0/16")["Vpc"]["VpcId"]

# Groups.
web = ec2.create_security_group(
    GroupName="web", Description="web servers", VpcId=vpc_id, TagSpecifications=name("security-group", "web")
)
check("CreateSecurityGroup answers with id, tags and ARN", web["GroupId"].startswith("sg-") and web["Tags"] and web["SecurityGroupArn"].endswith(web["GroupId"]), web)
web = web["GroupId"]
group = ec2.describe_security_groups(GroupIds=[web])["SecurityGroups"][0]
egress = sorted(
    [r["CidrIp"] for p in group["IpPermissionsEgress"] for r in p["IpRanges"]]
    + [r["CidrIpv6"] for p in group["IpPermissionsEgress"] for r in p["Ipv6Ranges"]]
)
check("a new group lets out all IPv4 and, in a VPC with IPv6, all IPv6", egress == ["0.0.0.0/0", "::/0"], group)
check("a new group lets nothing in", group["IpPermissions"] == [], group)
plain = ec2.create_security_group(GroupName="plain", Description="no IPv6", VpcId=plain_vpc)["GroupId"]
outward = ec2.describe_security_groups(GroupIds=[plain])["SecurityGroups"][0]["IpPermissionsEgress"]
check("without IPv6 in the VPC it lets out IPv4 alone", len(outward) == 1 and outward[0]["Ipv6Ranges"] == [], outward)
refused("same name in other case", "InvalidGroup.Duplicate", ec2.create_security_group, GroupName="WEB", Description="x", VpcId=vpc_id)
refused("name that starts with sg-", "InvalidParameterValue", ec2.create_security_group, GroupName="sg-x", Description="x", VpcId=vpc_id)
refused("name of 256 characters", "InvalidParameterValue", ec2.create_security_group, GroupName="x" * 256, Description="x", VpcId=vpc_id)
refused("character outside the set", "InvalidParameterValue", ec2.create_security_group, GroupName="a<b", Description="x", VpcId=vpc_id)
refused("unknown VPC", "InvalidVpcID.NotFound", ec2.create_security_group, GroupName="y", Description="x", VpcId="vpc-00000000000000000")
refused("unknown group", "InvalidGroup.NotFound", ec2.describe_security_groups, GroupIds=["sg-00000000000000000"])
refused("malformed group id", "InvalidGroupId.Malformed", ec2.describe_security_groups, GroupIds=["sg-nonsense"])

# Authorize.
answer = ec2.authorize_security_group_ingress(
    GroupId=web,
    IpPermissions=[
        tcp(22, "100.68.0.18/18", "from the office"),
        {
            "IpProtocol": "tcp",
            "FromPort": 443,
            "ToPort": 443,
            "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
            "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
        },
        {"IpProtocol": "tcp", "FromPort": 9000, "ToPort": 9100, "UserIdGroupPairs": [{"GroupId": web}]},
        {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]},
    ],
    TagSpecifications=name("security-group-rule", "first"),
)
rules = answer["SecurityGroupRules"]
check("AuthorizeSecurityGroupIngress answers with one rule per source", len(rules) == 5 and answer["Return"] is True, answer)
check("ranges are made canonical", rules[0]["CidrIpv4"] == "100.68.0.0/18", rules[0])
check("rules carry description and tags", rules[0]["Description"] == "from the office" and rules[0]["Tags"][0]["Value"] == "first", rules[0])
check("a group as source is told with its owner", rules[3]["ReferencedGroupInfo"] == {"GroupId": web, "UserId": ACCOUNT}, rules[3])
refused(
    "same rule, other description, not canonical",
    "InvalidPermission.Duplicate",
    ec2.authorize_security_group_ingress,
    GroupId=web,
    IpPermissions=[tcp(2222, "192.0.2.1/32"), tcp(22, "100.68.0.1/18", "again")],
)
group = ec2.describe_security_groups(GroupIds=[web])["SecurityGroups"][0]
check("a refused authorize adds nothing", all(p.get("FromPort") != 2222 for p in group["IpPermissions"]), group)
both = [p for p in group["IpPermissions"] if p.get("FromPort") == 443][0]
check("one permission holds both address families", both["IpRanges"] and both["Ipv6Ranges"], both)
refused("same rule twice in one call", "InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(80, "192.0.2.1/32"), tcp(80, "192.0.2.1/32")])
refused("malformed range", "InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(80, "192.0.2.1")])
refused("port out of range", "InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(70000, "192.0.2.1/32")])
refused("ports turned round", "InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(90, "192.0.2.1/32", to=80)])
refused("unknown protocol", "InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[{"IpProtocol": "carrier-pigeon", "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}])
refused("group of another VPC as source", "InvalidGroup.NotFound", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "UserIdGroupPairs": [{"GroupId": plain}]}])
refused("description of 256 characters", "InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(81, "192.0.2.1/32", "x" * 256)])
refused("61 rules", "RulesPerSecurityGroupLimitExceeded", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(port, "192.0.2.1/32") for port in range(1000, 1060)])
ec2.authorize_security_group_ingress(GroupId=web, IpProtocol="tcp", FromPort=8080, ToPort=8080, CidrIp="198.51.100.0/24")
check("the parameters of old authorize too", True)
refused("dry run", "DryRunOperation", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(82, "192.0.2.1/32")], DryRun=True, status=412)

# Rules by id.
listed = ec2.get_paginator("describe_security_group_rules").paginate(
    Filters=[{"Name": "group-id", "Values": [web]}], PaginationConfig={"PageSize": 5}
)
pages = [page["SecurityGroupRules"] for page in listed]
check("DescribeSecurityGroupRules pages", [len(page) for page in pages] == [5, 3], pages)
tagged = ec2.describe_security_group_rules(Filters=[{"Name": "tag:Name", "Values": ["first"]}])["SecurityGroupRules"]
check("rules are found by tag", len(tagged) == 5, tagged)
old = [rule for page in pages for rule in page if rule.get("FromPort") == 8080][0]
ec2.modify_security_group_rules(
    GroupId=web,
    SecurityGroupRules=[
        {
            "SecurityGroupRuleId": old["SecurityGroupRuleId"],
            "SecurityGroupRule": {"IpProtocol": "tcp", "FromPort": 8081, "ToPort": 8081, "CidrIpv4": "198.51.100.0/24", "Description": "moved"},
        }
    ],
)
moved = ec2.describe_security_group_rules(SecurityGroupRuleIds=[old["SecurityGroupRuleId"]])["SecurityGroupRules"][0]
check("ModifySecurityGroupRules keeps the id", (moved["FromPort"], moved["Description"]) == (8081, "moved"), moved)
ec2.update_security_group_rule_descriptions_ingress(GroupId=web, IpPermissions=[tcp(8081, "198.51.100.0/24", "renamed")])
renamed = ec2.describe_security_group_rules(SecurityGroupRuleIds=[old["SecurityGroupRuleId"]])["SecurityGroupRules"][0]
check("descriptions can be updated", renamed["Description"] == "renamed", renamed)

# Revoke.
refused("revoke of what is not there", "InvalidPermission.NotFound", ec2.revoke_security_group_ingress, GroupId=web, IpPermissions=[tcp(22, "100.68.0.0/18"), tcp(23, "100.68.0.0/18")])
still = ec2.describe_security_groups(GroupIds=[web], Filters=[{"Name": "ip-permission.from-port", "Values": ["22"]}])
check("a refused revoke removes nothing", len(still["SecurityGroups"]) == 1, still)
gone = ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=[tcp(22, "100.68.0.18/18")])
check("a revoke needs neither description nor canonical form", gone["RevokedSecurityGroupRules"][0]["CidrIpv4"] == "100.68.0.0/18", gone)
gone = ec2.revoke_security_group_ingress(GroupId=web, SecurityGroupRuleIds=[old["SecurityGroupRuleId"]])
check("a revoke by rule id", gone["RevokedSecurityGroupRules"][0]["SecurityGroupRuleId"] == old["SecurityGroupRuleId"], gone)
refused("revoke of an unknown rule id", "InvalidSecurityGroupRuleId.NotFound", ec2.revoke_security_group_ingress, GroupId=web, SecurityGroupRuleIds=[old["SecurityGroupRuleId"]])
default_group = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [default_vpc["VpcId"]]}, {"Name": "group-name", "Values": ["default"]}])["SecurityGroups"][0]
tolerant = ec2.revoke_security_group_ingress(GroupId=default_group["GroupId"], IpPermissions=[tcp(23, "192.0.2.1/32")])
check("in the default VPC an unknown rule is told, not refused", tolerant["UnknownIpPermissions"][0]["FromPort"] == 23, tolerant)

# Prefix lists.
prefix = ec2.create_managed_prefix_list(PrefixListName="office", AddressFamily="IPv4", MaxEntries=10, Entries=[{"Cidr": "203.0.113.0/24", "Description": "hq"}])["PrefixList"]
check("CreateManagedPrefixList", prefix["PrefixListId"].startswith("pl-"), prefix)
entries = ec2.get_managed_prefix_list_entries(PrefixListId=prefix["PrefixListId"])["Entries"]
check("GetManagedPrefixListEntries", entries == [{"Cidr": "203.0.113.0/24", "Description": "hq"}], entries)
listed = ec2.describe_managed_prefix_lists(PrefixListIds=[prefix["PrefixListId"]])["PrefixLists"]
check("DescribeManagedPrefixLists", listed[0]["MaxEntries"] == 10, listed)
by_list = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "PrefixListIds": [{"PrefixListId": prefix["PrefixListId"]}]}
rule = ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[by_list])["SecurityGroupRules"][0]
check("a rule may name a prefix list", rule["PrefixListId"] == prefix["PrefixListId"], rule)
refused("a prefix list counts with its largest size", "RulesPerSecurityGroupLimitExceeded", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[tcp(port, "192.0.2.1/32") for port in range(1000, 1050)])

# Machines.
eni = ec2.create_network_interface(SubnetId=subnet_id, Groups=[web], Description="second", Ipv6AddressCount=1)["NetworkInterface"]
check("CreateNetworkInterface", eni["Status"] == "available" and eni["Groups"] == [{"GroupId": web, "GroupName": "web"}] and len(eni["Ipv6Addresses"]) == 1, eni)
launched = ec2.run_instances(
    ImageId="ami-0123456789abcdef0",
    InstanceType="t3.micro",
    MinCount=1,
    MaxCount=1,
    NetworkInterfaces=[{"NetworkInterfaceId": eni["NetworkInterfaceId"], "DeviceIndex": 0}],
    TagSpecifications=name("instance", "db-1"),
)["Instances"][0]
check("RunInstances on an existing interface", launched["State"]["Name"] == "pending" and launched["SecurityGroups"][0]["GroupId"] == web, launched)
db = launched["InstanceId"]
ec2.get_waiter("instance_running").wait(InstanceIds=[db], WaiterConfig={"Delay": 1, "MaxAttempts": 5})
many = ec2.run_instances(
    ImageId="ami-0123456789abcdef0",
    MinCount=7,
    MaxCount=7,
    SubnetId=subnet_id,
    SecurityGroupIds=[web],
    ClientToken="launch-once",
    TagSpecifications=name("instance", "web"),
)
check("RunInstances of seven is one reservation", len(many["Instances"]) == 7, many)
again = ec2.run_instances(
    ImageId="ami-0123456789abcdef0",
    MinCount=7,
    MaxCount=7,
    SubnetId=subnet_id,
    SecurityGroupIds=[web],
    ClientToken="launch-once",
    TagSpecifications=name("instance", "web"),
)
check("a client token launches once", again["ReservationId"] == many["ReservationId"], again)
refused("a client token with other parameters", "IdempotentParameterMismatch", ec2.run_instances, ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1, SubnetId=subnet_id, ClientToken="launch-once")
pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
seen = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
check("DescribeInstances pages", len(pages) == 2 and len(seen) == len(set(seen)) == 8, seen)
refused("ids together with a page", "InvalidParameterCombination", ec2.describe_instances, InstanceIds=[db], MaxResults=5)
refused("a page of four", "InvalidParameterValue", ec2.describe_instances, MaxResults=4)
refused("a page of 1001", "InvalidParameterValue", ec2.describe_instances, MaxResults=1001)
refused("a made-up page token", "InvalidPaginationToken", ec2.describe_instances, MaxResults=5, NextToken="nonsense")
refused("unknown instance", "InvalidInstanceID.NotFound", ec2.describe_instances, InstanceIds=["i-00000000000000000"])
refused("malformed instance id", "InvalidInstanceID.Malformed", ec2.describe_instances, InstanceIds=["i-x"])
refused("unknown filter", "InvalidParameterValue", ec2.describe_instances, Filters=[{"Name": "colour", "Values": ["red"]}])
for filters, count in [
    ([{"Name": "tag:Name", "Values": ["web"]}], 7),
    ([{"Name": "tag:Name", "Values": ["db-*"]}], 1),
    ([{"Name": "instance-state-name", "Values": ["running", "pending"]}], 8),
    ([{"Name": "network-interface.group-id", "Values": [web]}, {"Name": "vpc-id", "Values": [vpc_id]}], 8),
    ([{"Name": "instance.group-id", "Values": [plain]}], 0),
    ([{"Name": "tag-key", "Values": ["Owner"]}], 0),
]:
    found = sum(len(r["Instances"]) for r in ec2.describe_instances(Filters=filters)["Reservations"])
    check(f"filter {filters[0]['Name']} finds {count}", found == count, found)

# Groups on interfaces.
extra = [ec2.create_security_group(GroupName=f"extra-{n}", Description="x", VpcId=vpc_id)["GroupId"] for n in range(5)]
eni_id = eni["NetworkInterfaceId"]
ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Groups=[web, *extra[:4]])
on = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])["NetworkInterfaces"][0]
check("ModifyNetworkInterfaceAttribute sets the groups", {g["GroupId"] for g in on["Groups"]} == {web, *extra[:4]}, on)
check("an interface tells its attachment", on["Attachment"]["InstanceId"] == db and on["Attachment"]["DeviceIndex"] == 0, on)
refused("six groups on an interface", "SecurityGroupsPerInterfaceLimitExceeded", ec2.modify_network_interface_attribute, NetworkInterfaceId=eni_id, Groups=[web, *extra])
refused("a group of another VPC on an interface", "InvalidParameter", ec2.modify_network_interface_attribute, NetworkInterfaceId=eni_id, Groups=[web, plain])
refused("an unknown group on an interface", "InvalidGroup.NotFound", ec2.modify_network_interface_attribute, NetworkInterfaceId=eni_id, Groups=["sg-00000000000000000"])
refused("unknown interface", "InvalidNetworkInterfaceID.NotFound", ec2.modify_network_interface_attribute, NetworkInterfaceId="eni-00000000000000000", Groups=[web])
refused("a group in use cannot be deleted", "DependencyViolation", ec2.delete_security_group, GroupId=extra[0])
ec2.modify_instance_attribute(InstanceId=db, Groups=[web])
check("ModifyInstanceAttribute sets the groups of the one interface", ec2.describe_instances(InstanceIds=[db])["Reservations"][0]["Instances"][0]["SecurityGroups"] == [{"GroupId": web, "GroupName": "web"}])
freed = ec2.delete_security_group(GroupId=extra[0])
check("a group out of use can", freed["Return"] is True and freed["GroupId"] == extra[0], freed)
ec2.authorize_security_group_ingress(GroupId=extra[1], IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": extra[2]}]}])
refused("a group that another's rule names cannot be deleted", "DependencyViolation", ec2.delete_security_group, GroupId=extra[2])
refused("the default group cannot be deleted", "CannotDelete", ec2.delete_security_group, GroupId=default_group["GroupId"])
second = ec2.create_network_interface(SubnetId=subnet_id, Groups=[web])["NetworkInterface"]["NetworkInterfaceId"]
attachment = ec2.attach_network_interface(NetworkInterfaceId=second, InstanceId=db, DeviceIndex=1)["AttachmentId"]
refused("two interfaces, groups of the instance", "InvalidInstanceID", ec2.modify_instance_attribute, InstanceId=db, Groups=[web])
refused("delete of an interface in use", "InvalidNetworkInterface.InUse", ec2.delete_network_interface, NetworkInterfaceId=second)
refused("detach of the primary", "OperationNotPermitted", ec2.detach_network_interface, AttachmentId=on["Attachment"]["AttachmentId"])
ec2.detach_network_interface(AttachmentId=attachment)
ec2.delete_network_interface(NetworkInterfaceId=second)
check("an interface is detached and deleted", True)

# Addresses.
address = ec2.allocate_address(Domain="vpc")
ec2.associate_address(AllocationId=address["AllocationId"], NetworkInterfaceId=eni_id)
public = ec2.describe_instances(InstanceIds=[db])["Reservations"][0]["Instances"][0].get("PublicIpAddress")
check("an elastic address shows on the instance", public == address["PublicIp"], public)
assigned = ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6AddressCount=1)["AssignedIpv6Addresses"]
check("AssignIpv6Addresses", len(assigned) == 1 and ":" in assigned[0], assigned)

# More shapes of addresses.
more = ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=2)["AssignedPrivateIpAddresses"]
on = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])["NetworkInterfaces"][0]
check("AssignPrivateIpAddresses", len(more) == 2 and [a["Primary"] for a in on["PrivateIpAddresses"]] == [True, False, False], on)
ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, PrivateIpAddresses=[a["PrivateIpAddress"] for a in more])
six_vpc = ec2.create_vpc(CidrBlock="10.66.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
block = ec2.describe_vpcs(VpcIds=[six_vpc["VpcId"]])["Vpcs"][0]["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
six = ec2.create_subnet(VpcId=six_vpc["VpcId"], Ipv6Native=True, Ipv6CidrBlock=block.replace("/56", "/64"))["Subnet"]
check("a subnet of IPv6 alone", six["Ipv6Native"] is True and "CidrBlock" not in six, six)
lone = ec2.run_instances(ImageId="ami-0123456789abcdef0", InstanceType="t3.micro", MinCount=1, MaxCount=1, SubnetId=six["SubnetId"])["Instances"][0]
seen = ec2.describe_instances(InstanceIds=[lone["InstanceId"]])["Reservations"][0]["Instances"][0]
check("its instance has an IPv6 address and no other", "PrivateIpAddress" not in seen and ":" in seen["Ipv6Address"], seen)
states = ec2.describe_instance_status(InstanceIds=[lone["InstanceId"]])["InstanceStatuses"]
check("DescribeInstanceStatus", [s["InstanceStatus"]["Status"] for s in states] == ["ok"], states)
ec2.terminate_instances(InstanceIds=[lone["InstanceId"]])
ec2.get_waiter("instance_terminated").wait(InstanceIds=[lone["InstanceId"]], WaiterConfig={"Delay": 1, "MaxAttempts": 5})
lingering = ec2.describe_instances(InstanceIds=[lone["InstanceId"]])["Reservations"][0]["Instances"][0]
check("a terminated instance is still described", lingering["State"]["Name"] == "terminated" and not lingering["NetworkInterfaces"], lingering)
ec2.delete_subnet(SubnetId=six["SubnetId"])
ec2.delete_vpc(VpcId=six_vpc["VpcId"])
optional = ec2.describe_regions(AllRegions=True, Filters=[{"Name": "opt-in-status", "Values": ["not-opted-in"]}])["Regions"]
check("DescribeRegions tells of regions without opt-in", len(optional) == 1 and optional[0]["RegionName"] not in regions, optional)
refused("a call to such a region", "AuthFailure", client("ec2", region=optional[0]["RegionName"]).describe_instances, status=401)
second_list = ec2.create_managed_prefix_list(PrefixListName="moving", AddressFamily="IPv4", MaxEntries=2)["PrefixList"]
moved = ec2.modify_managed_prefix_list(PrefixListId=second_list["PrefixListId"], CurrentVersion=1, AddEntries=[{"Cidr": "198.51.100.0/24"}])["PrefixList"]
check("ModifyManagedPrefixList", moved["Version"] == 2, moved)
refused("a stale version of a prefix list", "PrefixListVersionMismatch", ec2.modify_managed_prefix_list, PrefixListId=second_list["PrefixListId"], CurrentVersion=1, AddEntries=[{"Cidr": "192.0.2.0/24"}])
ec2.delete_managed_prefix_list(PrefixListId=second_list["PrefixListId"])

# Peered VPCs.
peer_vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
peer_subnet = ec2.create_subnet(VpcId=peer_vpc, CidrBlock="10.77.1.0/24")["Subnet"]["SubnetId"]
bastion = ec2.create_security_group(GroupName="bastion", Description="of the other VPC", VpcId=peer_vpc)["GroupId"]
from_bastion = {"IpProtocol": "tcp", "FromPort": 2201, "ToPort": 2201, "UserIdGroupPairs": [{"GroupId": bastion, "UserId": ACCOUNT}]}
refused("a group of a VPC that is not peered", "InvalidGroup.NotFound", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[from_bastion])
twin_vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
failed = ec2.create_vpc_peering_connection(VpcId=peer_vpc, PeerVpcId=twin_vpc)["VpcPeeringConnection"]
check("VPCs with one range cannot be peered", failed["Status"]["Code"] == "failed", failed)
ec2.delete_vpc(VpcId=twin_vpc)
asked = ec2.create_vpc_peering_connection(VpcId=vpc_id, PeerVpcId=peer_vpc, TagSpecifications=name("vpc-peering-connection", "to-bastion"))["VpcPeeringConnection"]
pcx = asked["VpcPeeringConnectionId"]
check("a peering connection waits for the other side", asked["Status"]["Code"] == "pending-acceptance" and "CidrBlock" not in asked["AccepterVpcInfo"] and asked["Tags"], asked)
refused("a group over a connection that is not accepted", "InvalidGroup.NotFound", ec2.authorize_security_group_ingress, GroupId=web, IpPermissions=[from_bastion])
accepted = ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=pcx)["VpcPeeringConnection"]
check("AcceptVpcPeeringConnection", accepted["Status"]["Code"] == "active" and accepted["AccepterVpcInfo"]["CidrBlock"] == "10.77.0.0/16", accepted)
refused("accepted twice", "InvalidStateTransition", ec2.accept_vpc_peering_connection, VpcPeeringConnectionId=pcx)
shown = ec2.describe_vpc_peering_connections(Filters=[{"Name": "status-code", "Values": ["active"]}, {"Name": "requester-vpc-info.vpc-id", "Values": [vpc_id]}])["VpcPeeringConnections"]
check("DescribeVpcPeeringConnections", [one["VpcPeeringConnectionId"] for one in shown] == [pcx], shown)
refused("a peering connection that is not there", "InvalidVpcPeeringConnectionID.NotFound", ec2.delete_vpc_peering_connection, VpcPeeringConnectionId="pcx-0123456789abcdef0")
rule = ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[from_bastion])["SecurityGroupRules"][0]
across = {"GroupId": bastion, "UserId": ACCOUNT, "VpcId": peer_vpc, "VpcPeeringConnectionId": pcx, "PeeringStatus": "active"}
check("a rule tells over which connection its group is", rule["ReferencedGroupInfo"] == across, rule)


def pair_of(port):
    group = ec2.describe_security_groups(GroupIds=[web])["SecurityGroups"][0]
    return [p for p in group["IpPermissions"] if p.get("FromPort") == port][0]["UserIdGroupPairs"][0]


check("and so does its group", pair_of(2201) == across, pair_of(2201))
references = ec2.describe_security_group_references(GroupId=[bastion])["SecurityGroupReferenceSet"]
check("DescribeSecurityGroupReferences", references == [{"GroupId": bastion, "ReferencingVpcId": vpc_id, "VpcPeeringConnectionId": pcx}], references)
hop = ec2.create_network_interface(SubnetId=peer_subnet, Groups=[bastion])["NetworkInterface"]


def from_hop():
    probe = f"machine={db}&source={hop['PrivateIpAddress']}&port=2201&protocol=tcp"
    with urllib.request.urlopen(f"{ENDPOINT}/_sim/reachable?{probe}") as response:
        return json.load(response)["reachable"]


check("a member of the peered group gets in", from_hop())
check("no rule is stale", ec2.describe_stale_security_groups(VpcId=vpc_id)["StaleSecurityGroupSet"] == [])
ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=pcx)
check("without the connection it does not", not from_hop())
stale = ec2.describe_stale_security_groups(VpcId=vpc_id)["StaleSecurityGroupSet"]
check("the rule is stale, and stays", [g["GroupId"] for g in stale] == [web] and stale[0]["StaleIpPermissions"][0]["UserIdGroupPairs"][0]["PeeringStatus"] == "deleted", stale)
check("nobody refers to the group over it", ec2.describe_security_group_references(GroupId=[bastion])["SecurityGroupReferenceSet"] == [])
ec2.delete_network_interface(NetworkInterfaceId=hop["NetworkInterfaceId"])
ec2.delete_security_group(GroupId=bastion)
check("a group is deleted although a rule of the other VPC names it", pair_of(2201) == without(across, "UserId") | {"PeeringStatus": "deleted"}, pair_of(2201))
ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=[from_bastion])
check("a stale rule can be revoked", ec2.describe_stale_security_groups(VpcId=vpc_id)["StaleSecurityGroupSet"] == [])
ec2.delete_subnet(SubnetId=peer_subnet)
ec2.delete_vpc(VpcId=peer_vpc)

# Tags.
ec2.create_tags(Resources=[db, web, eni_id], Tags=[{"Key": "team", "Value": "a&b <c>"}])
found = ec2.describe_tags(Filters=[{"Name": "key", "Values": ["team"]}])["Tags"]
check("tags survive escaping", sorted(t["ResourceType"] for t in found) == ["instance", "network-interface", "security-group"] and found[0]["Value"] == "a&b <c>", found)
ec2.delete_tags(Resources=[db], Tags=[{"Key": "team"}])
check("DeleteTags", len(ec2.describe_tags(Filters=[{"Name": "key", "Values": ["team"]}])["Tags"]) == 2)
refused("an aws: tag", "InvalidParameterValue", ec2.create_tags, Resources=[db], Tags=[{"Key": "aws:x", "Value": "y"}])

# What the simulator itself says.
ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[tcp(22, "203.0.113.200/32")])
probe = f"machine={db}&source=203.0.113.7&port=22&protocol=tcp"
with urllib.request.urlopen(f"{ENDPOINT}/_sim/reachable?{probe}") as response:
    answer = json.load(response)
check("the prefix list makes port 22 reachable", answer == {"reachable": True}, answer)
ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=[by_list])
with urllib.request.urlopen(f"{ENDPOINT}/_sim/open-intervals?{probe}") as response:
    answer = json.load(response)
check("and the log tells from when to when", len(answer) == 1 and answer[0]["to"], answer)

# Faults.
fault = {"operation": "DescribeVpcs", "when": {"next": 1}, "effect": {"status": {"status": 503, "code": "RequestLimitExceeded", "message": "Request limit exceeded."}}}
request = urllib.request.Request(f"{ENDPOINT}/_sim/faults", data=json.dumps(fault).encode(), method="POST")
urllib.request.urlopen(request).close()
refused("a fault in EC2's own shape", "RequestLimitExceeded", ec2.describe_vpcs, status=503)
check("and only once", ec2.describe_vpcs()["Vpcs"] is not None)

# Another account.
refused("a role ARN that is none", "ValidationError", sts.assume_role, RoleArn="arn:aws:iam::1:role/postern", RoleSessionName="check")
assumed = sts.assume_role(RoleArn=f"arn:aws:iam::{OTHER_ACCOUNT}:role/postern", RoleSessionName="check", ExternalId="lab-42")
session = assumed["Credentials"]
theirs = (session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
identity = client("sts", *theirs).get_caller_identity()
check("AssumeRole leads to the other account", without(identity, "ResponseMetadata", "UserId") == {"Account": OTHER_ACCOUNT, "Arn": f"arn:aws:sts::{OTHER_ACCOUNT}:assumed-role/postern/check"}, identity)
other = client("ec2", *theirs)
check("the other account has its own groups", [g["GroupName"] for g in other.describe_security_groups()["SecurityGroups"]] == ["default"])
refused("and does not see ours", "InvalidGroup.NotFound", other.describe_security_groups, GroupIds=[web])
refused("a session without its token", "AuthFailure", client("ec2", theirs[0], theirs[1]).describe_vpcs, status=401)
check("regions are apart", len(client("ec2", region="us-east-1").describe_instances()["Reservations"]) == 0)

# The end of a machine.
ended = ec2.terminate_instances(InstanceIds=[i["InstanceId"] for i in many["Instances"]])["TerminatingInstances"]
check("TerminateInstances answers with both states", ended[0]["CurrentState"]["Name"] == "shutting-down" and ended[0]["PreviousState"]["Name"] == "running", ended)
ec2.get_waiter("instance_terminated").wait(InstanceIds=[many["Instances"][0]["InstanceId"]], WaiterConfig={"Delay": 1, "MaxAttempts": 5})
left = ec2.describe_network_interfaces(Filters=[{"Name": "subnet-id", "Values": [subnet_id]}])["NetworkInterfaces"]
check("launch interfaces go with their instances", [i["NetworkInterfaceId"] for i in left] == [eni_id], left)
stopped = ec2.stop_instances(InstanceIds=[db])["StoppingInstances"][0]
check("StopInstances", stopped["CurrentState"]["Name"] == "stopping", stopped)
started = ec2.start_instances(InstanceIds=[db])["StartingInstances"][0]
check("StartInstances", (started["PreviousState"]["Name"], started["CurrentState"]["Name"]) == ("stopped", "pending"), started)
refused("start of a terminated instance", "IncorrectInstanceState", ec2.start_instances, InstanceIds=[many["Instances"][0]["InstanceId"]])
refused("a VPC with subnets cannot be deleted", "DependencyViolation", ec2.delete_vpc, VpcId=vpc_id)
ec2.delete_security_group(GroupId=plain)
ec2.delete_vpc(VpcId=plain_vpc)
check("an empty VPC can", True)
attributes = ec2.describe_account_attributes(AttributeNames=["default-vpc"])["AccountAttributes"]
check("DescribeAccountAttributes", attributes[0]["AttributeValues"][0]["AttributeValue"] == default_vpc["VpcId"], attributes)
check("answers were held against the vendor's model", len(inspected) > 30, inspected)
check("no answer has an element that the model does not know", not strange, sorted(strange))
print("all checks passed")
