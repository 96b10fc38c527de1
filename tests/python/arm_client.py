"""Drives the ARM simulator with Microsoft's own clients.

Usage: python arm_client.py <endpoint-url> [<subscription-id> [<tenant-id>]]

Needs azure-mgmt-network, azure-mgmt-compute, azure-mgmt-authorization and azure-core. Prints one line per check; exits 1 on the first
check that fails. Works in a resource group of its own and deletes it.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid


from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

ENDPOINT = sys.argv[1].rstrip("/")
SUBSCRIPTION = sys.argv[2] if len(sys.argv) > 2 else "00000000-0000-0000-0000-000000000001"
TENANT = sys.argv[3] if len(sys.argv) > 3 else "11111111-1111-1111-1111-111111111111"
LOCATION = "westeurope"
GROUP = "py-" + uuid.uuid4().hex[:8]


class SimCredential:
    """Gets a token for ARM from the simulator's own token endpoint."""

    def __init__(self):
        self._token = None

    def get_token(self, *scopes, **_):
        if self._token is None or self._token.expires_on - 60 < time.time():
            form = urllib.parse.urlencode({
                "grant_type": "client_credentials",
                "client_id": "python-check",
                "client_secret": "any",
                "scope": scopes[0],
            }).encode()
            with urllib.request.urlopen(f"{ENDPOINT}/{TENANT}/oauth2/v2.0/token", form, timeout=10) as answer:
                body = json.load(answer)
            self._token = AccessToken(body["access_token"], int(time.time()) + int(body["expires_in"]))
        return self._token


# The simulator speaks plain HTTP on loopback; the clients send tokens over it only when told to.
PLAIN = {"enforce_https": False}
# Azure's network provider sends no Retry-After, and the clients would then wait 30 s between polls.
POLL = {"polling_interval": 0.05, **PLAIN}

options = {
    "base_url": ENDPOINT,
    "credential_scopes": ["https://management.azure.com/.default"],
    "retry_total": 0,
    # The provider-registration policy asks about namespaces that the simulator always has.
    "per_call_policies": [],
}
network = NetworkManagementClient(SimCredential(), SUBSCRIPTION, **options)
compute = ComputeManagementClient(SimCredential(), SUBSCRIPTION, **options)
authorization = AuthorizationManagementClient(SimCredential(), SUBSCRIPTION, **options)


def check(what, held, found=None):
    print(("ok   " if held else "FAIL ") + what + ("" if held else f" (found: {found!r})"), flush=True)
    if not held:
        sys.exit(1)


def refused(what, status, code, call):
    """Checks that a call is refused with a status and an ARM error code."""
    try:
        call()
    except HttpResponseError as error:
        found = (error.status_code, error.error.code if error.error else None)
        check(what, found == (status, code), found)
    else:
        check(what, False, "no error")


def arm(method, path, body=None, accept=(200, 201, 202)):
    """A plain call, for resource groups (their client is a package of its own)."""
    token = SimCredential().get_token("https://management.azure.com/.default").token
    request = urllib.request.Request(
        f"{ENDPOINT}{path}?api-version=2021-04-01",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        if error.code in accept:
            return error.code
        raise


def rule(priority, port="22", source="203.0.113.7/32", **more):
    return {"properties": {
        "priority": priority, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
        "sourceAddressPrefix": source, "sourcePortRange": "*",
        "destinationAddressPrefix": "*", "destinationPortRange": port, **more,
    }}


def shapes(nsg, subnet, nic):
    """Application security groups, route tables, firewalls and their policies; leaves nothing behind."""
    groups, rules = network.application_security_groups, network.security_rules
    web = groups.begin_create_or_update(GROUP, "web", {"location": LOCATION}, **POLL).result()
    check("an application security group is created", web.provisioning_state == "Succeeded", web.provisioning_state)
    interfaces = network.network_interfaces
    body = interfaces.get(GROUP, "nic", **PLAIN)
    body.ip_configurations[0].application_security_groups = [web]
    joined = interfaces.begin_create_or_update(GROUP, "nic", body, **POLL).result()
    check("an interface joins it", [g.id for g in joined.ip_configurations[0].application_security_groups] == [web.id])
    named = {"properties": {
        "priority": 110, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourcePortRange": "*",
        "destinationPortRange": "443", "sourceAddressPrefix": "AzureCloud",
        "destinationApplicationSecurityGroups": [{"id": web.id}],
    }}
    made = rules.begin_create_or_update(GROUP, "web", "tagged", named, **POLL).result()
    check("a rule names a tag and the group",
          (made.source_address_prefix, made.destination_application_security_groups[0].id) == ("AzureCloud", web.id))
    refused("an unknown tag is refused", 400, "SecurityRuleInvalidAddressPrefix",
            lambda: rules.begin_create_or_update(GROUP, "web", "no", rule(111, source="NoSuchTag"), **POLL).result())
    refused("a group in use is not deleted", 400, "ApplicationSecurityGroupInUse",
            lambda: groups.begin_delete(GROUP, "web", **POLL).result())
    effective = interfaces.begin_list_effective_network_security_groups(GROUP, "nic", **POLL).result()
    found = [r.destination_address_prefixes for g in effective.value for r in g.effective_security_rules
             if r.name == "securityRules/tagged"]
    check("effective rules show the members", found == [["10.0.1.4/32"]] * 2, found)
    rules.begin_delete(GROUP, "web", "tagged", **POLL).result()
    body.ip_configurations[0].application_security_groups = []
    interfaces.begin_create_or_update(GROUP, "nic", body, **POLL).result()
    groups.begin_delete(GROUP, "web", **POLL).result()
    check("an empty group is deleted", [g.name for g in groups.list(GROUP, **PLAIN)] == [])

    place = network.subnets.begin_create_or_update(
        GROUP, "net", "AzureFirewallSubnet", {"properties": {"addressPrefix": "10.0.9.0/26"}}, **POLL).result()
    outside = network.public_ip_addresses.begin_create_or_update(
        GROUP, "fw-ip", {"location": LOCATION, "sku": {"name": "Standard"},
                         "properties": {"publicIPAllocationMethod": "Static"}}, **POLL).result()
    firewalls = network.azure_firewalls

    def firewall(**more):
        return {"location": LOCATION, "properties": {
            "ipConfigurations": [{"name": "configuration", "properties": {
                "subnet": {"id": place.id}, "publicIPAddress": {"id": outside.id}}}], **more}}

    def dnat(port):
        return [{"name": "nat", "properties": {"priority": 100, "action": {"type": "Dnat"}, "rules": [{
            "name": "ssh", "protocols": ["TCP"], "sourceAddresses": ["203.0.113.7"],
            "destinationAddresses": [outside.ip_address], "destinationPorts": ["50022"],
            "translatedAddress": "10.0.1.4", "translatedPort": port}]}}]

    wall = firewalls.begin_create_or_update(GROUP, "fw", firewall(natRuleCollections=dnat("22")), **POLL).result()
    check("a firewall is created", (wall.provisioning_state, wall.ip_configurations[0].private_ip_address)
          == ("Succeeded", "10.0.9.4"), wall.provisioning_state)
    check("it has its NAT rule", wall.nat_rule_collections[0].rules[0].translated_port == "22")
    check("it is listed in group and subscription",
          [[f.name for f in firewalls.list(GROUP, **PLAIN)],
           [f.name for f in firewalls.list_all(**PLAIN) if f.id == wall.id]] == [["fw"], ["fw"]])
    refused("a range as translated port is refused", 400, "AzureFirewallRuleInvalidDnatPortOrRangeFormat",
            lambda: firewalls.begin_create_or_update(
                GROUP, "fw", firewall(natRuleCollections=dnat("22-23")), **POLL).result())
    stale = {"headers": {"If-Match": wall.etag.replace(wall.etag[3:5], "00" if wall.etag[3:5] != "00" else "11")}}
    try:
        firewalls.begin_create_or_update(GROUP, "fw", firewall(), **stale, **POLL).result()
        check("a stale etag is refused with 412", False, "taken")
    except HttpResponseError as error:
        check("a stale etag is refused with 412", error.status_code == 412, error.status_code)

    policies, collections = network.firewall_policies, network.firewall_policy_rule_collection_groups
    policy = policies.begin_create_or_update(GROUP, "policy", {"location": LOCATION}, **POLL).result()
    refused("a policy beside rules of its own is refused", 400, "AzureFirewallPolicyAndRuleCollectionsConflict",
            lambda: firewalls.begin_create_or_update(GROUP, "fw", firewall(
                natRuleCollections=dnat("22"), firewallPolicy={"id": policy.id}), **POLL).result())
    firewalls.begin_create_or_update(GROUP, "fw", firewall(firewallPolicy={"id": policy.id}), **POLL).result()
    written = collections.begin_create_or_update(GROUP, "policy", "ours", {"properties": {
        "priority": 500, "ruleCollections": [
            {"ruleCollectionType": "FirewallPolicyNatRuleCollection", "name": "nat", "priority": 100,
             "action": {"type": "DNAT"}, "rules": [{
                 "ruleType": "NatRule", "name": "ssh", "ipProtocols": ["TCP"], "sourceAddresses": ["203.0.113.7"],
                 "destinationAddresses": [outside.ip_address], "destinationPorts": ["50022"],
                 "translatedAddress": "10.0.1.4", "translatedPort": "22"}]},
            {"ruleCollectionType": "FirewallPolicyFilterRuleCollection", "name": "pass", "priority": 200,
             "action": {"type": "Allow"}, "rules": [{
                 "ruleType": "NetworkRule", "name": "ssh", "ipProtocols": ["TCP"],
                 "sourceAddresses": ["192.168.0.0/16"], "destinationAddresses": ["10.0.1.4"],
                 "destinationPorts": ["22"]}]},
        ]}}, **POLL).result()
    kinds = [c.rule_collection_type for c in written.rule_collections]
    check("a rule collection group is written",
          kinds == ["FirewallPolicyNatRuleCollection", "FirewallPolicyFilterRuleCollection"], kinds)
    check("it is listed", [g.name for g in collections.list(GROUP, "policy", **PLAIN)] == ["ours"])
    whole = policies.get(GROUP, "policy", **PLAIN)
    check("the policy names group and firewall",
          ([g.id for g in whole.rule_collection_groups], [f.id for f in whole.firewalls]) == ([written.id], [wall.id]))
    refused("a policy in use is not deleted", 400, "FirewallPolicyInUse",
            lambda: policies.begin_delete(GROUP, "policy", **POLL).result())

    tables = network.route_tables
    table = tables.begin_create_or_update(GROUP, "out", {"location": LOCATION, "properties": {"routes": [
        {"name": "all", "properties": {"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance",
                                       "nextHopIpAddress": "10.0.9.4"}}]}}, **POLL).result()
    network.routes.begin_create_or_update(GROUP, "out", "direct", {"properties": {
        "addressPrefix": "203.0.113.0/24", "nextHopType": "Internet"}}, **POLL).result()
    front = network.subnets.get(GROUP, "net", "front", **PLAIN)
    front.route_table = table
    network.subnets.begin_create_or_update(GROUP, "net", "front", front, **POLL).result()
    routes = interfaces.begin_get_effective_route_table(GROUP, "nic", **POLL).result()
    found = {(r.address_prefix[0], r.next_hop_type) for r in routes.value if r.source == "User"}
    check("effective routes show the table's",
          found == {("0.0.0.0/0", "VirtualAppliance"), ("203.0.113.0/24", "Internet")}, found)
    refused("a table in use is not deleted", 400, "InUseRouteTableCannotBeDeleted",
            lambda: tables.begin_delete(GROUP, "out", **POLL).result())
    front.route_table = None
    network.subnets.begin_create_or_update(GROUP, "net", "front", front, **POLL).result()
    tables.begin_delete(GROUP, "out", **POLL).result()

    collections.begin_delete(GROUP, "policy", "ours", **POLL).result()
    firewalls.begin_delete(GROUP, "fw", **POLL).result()
    policies.begin_delete(GROUP, "policy", **POLL).result()
    network.public_ip_addresses.begin_delete(GROUP, "fw-ip", **POLL).result()
    network.subnets.begin_delete(GROUP, "net", "AzureFirewallSubnet", **POLL).result()
    check("firewall, policy, routes and subnet are deleted", [f.name for f in firewalls.list(GROUP, **PLAIN)] == [])


def roles():
    """Role definitions, role assignments and deny assignments, as the newest client reads and writes them."""
    scope = f"/subscriptions/{SUBSCRIPTION}"
    assignments, definitions = authorization.role_assignments, authorization.role_definitions
    reader = list(definitions.list(scope, filter="roleName eq 'Reader'", **PLAIN))
    check("the built-in role Reader is found by its name",
          [r.permissions[0].actions for r in reader] == [["*/read"]], reader)
    name, principal = str(uuid.uuid4()), str(uuid.uuid4())
    custom = definitions.create_or_update(scope, str(uuid.uuid4()), {
        "role_name": "JIT " + GROUP, "role_type": "CustomRole", "assignable_scopes": [scope],
        "permissions": [{"actions": ["Microsoft.Compute/*/read"], "not_actions": []}]}, **PLAIN)
    read = definitions.get_by_id(custom.id, **PLAIN)
    check("a custom role is written", (read.role_type, read.permissions[0].actions)
          == ("CustomRole", ["Microsoft.Compute/*/read"]), read)
    made = assignments.create(scope, name, {
        "role_definition_id": custom.id, "principal_id": principal, "principal_type": "User"}, **PLAIN)
    check("a role is assigned", (made.principal_id, made.scope, made.role_definition_id)
          == (principal, scope, custom.id), made)
    refused("it is not assigned twice", 409, "RoleAssignmentExists",
            lambda: assignments.create(scope, str(uuid.uuid4()), {
                "role_definition_id": custom.id, "principal_id": principal}, **PLAIN))
    below = f"{scope}/resourceGroups/{GROUP}"
    for where in [scope, below]:
        found = [a.name for a in assignments.list_for_scope(
            where, filter=f"atScope() and assignedTo('{principal}')", **PLAIN)]
        check("it is listed at " + ("the subscription" if where == scope else "a group below"), found == [name], found)
    found = [a.name for a in assignments.list_for_subscription(filter=f"principalId eq '{principal}'", **PLAIN)]
    check("it is listed by principal", found == [name], found)
    refused("a filter that Azure does not know is refused", 400, "UnsupportedQuery",
            lambda: list(assignments.list_for_scope(scope, filter="name eq 'x'", **PLAIN)))
    denies = list(authorization.deny_assignments.list_for_scope(scope, filter="atScope()", **PLAIN))
    check("there are no deny assignments", denies == [], denies)
    check("it is taken away", assignments.delete(scope, name, **PLAIN).name == name)
    refused("it is gone", 404, "RoleAssignmentNotFound", lambda: assignments.get(scope, name, **PLAIN))


def main():
    group_path = f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}"
    check("a resource group is created", arm("PUT", group_path, {"location": LOCATION}) == 201)
    roles()

    nsgs, rules = network.network_security_groups, network.security_rules
    nsg = nsgs.begin_create_or_update(GROUP, "web", {"location": LOCATION, "tags": {"a": "b"}}, **POLL).result()
    check("an NSG is created and reads as Succeeded", nsg.provisioning_state == "Succeeded", nsg.provisioning_state)
    check("it has the six default rules", [r.priority for r in nsg.default_security_rules]
          == [65000, 65001, 65500, 65000, 65001, 65500])
    check("it has no rules of its own", nsg.security_rules == [], nsg.security_rules)

    made = rules.begin_create_or_update(GROUP, "web", "ssh", rule(100), **POLL).result()
    check("a rule is created", (made.name, made.priority, made.provisioning_state) == ("ssh", 100, "Succeeded"))
    read = rules.get(GROUP.upper(), "WEB", "SSH", **PLAIN)
    check("ids do not care for case, names keep theirs", read.name == "ssh" and "/web/" in read.id, read.id)

    refused("a second rule of that priority is refused", 400, "SecurityRuleConflict",
            lambda: rules.begin_create_or_update(GROUP, "web", "again", rule(100), **POLL).result())
    refused("priority 99 is refused", 400, "SecurityRuleInvalidPriority",
            lambda: rules.begin_create_or_update(GROUP, "web", "low", rule(99), **POLL).result())
    refused("host bits in a range are refused", 400, "SecurityRuleInvalidAddressPrefix",
            lambda: rules.begin_create_or_update(GROUP, "web", "bits", rule(101, source="10.0.0.1/8"), **POLL).result())
    changed = rules.begin_create_or_update(GROUP, "web", "ssh", rule(100, port="2222"), **POLL).result()
    check("a rule is replaced", changed.destination_port_range == "2222", changed.destination_port_range)

    for number in range(7):
        rules.begin_create_or_update(GROUP, "web", f"r{number}", rule(200 + number), **POLL).result()
    names = [r.name for r in rules.list(GROUP, "web", **PLAIN)]
    check("a list goes through its pages in order", names == ["ssh"] + [f"r{n}" for n in range(7)], names)

    rules.begin_delete(GROUP, "web", "r0", **POLL).result()
    check("a rule is deleted", "r0" not in [r.name for r in rules.list(GROUP, "web", **PLAIN)])
    rules.begin_delete(GROUP, "web", "r0", **POLL).result()
    check("deleting it again is no error", True)
    try:
        rules.get(GROUP, "web", "r0", **PLAIN)
        check("a deleted rule is not found", False, "found")
    except ResourceNotFoundError as error:
        check("a deleted rule is not found", error.error.code == "NotFound", error.error.code)

    # A whole write with the etag that was read, as a read-modify-write must do it.
    before = nsgs.get(GROUP, "web", **PLAIN)
    rules.begin_create_or_update(GROUP, "web", "meanwhile", rule(300), **POLL).result()
    conditional = {"headers": {"If-Match": before.etag}, **POLL}
    try:
        nsgs.begin_create_or_update(GROUP, "web", before, **conditional).result()
        check("a stale etag is refused with 412", False, "taken")
    except HttpResponseError as error:
        check("a stale etag is refused with 412", error.status_code == 412, error.status_code)
    fresh = nsgs.get(GROUP, "web", **PLAIN)
    fresh.security_rules = [r for r in fresh.security_rules if r.name == "ssh"]
    written = nsgs.begin_create_or_update(GROUP, "web", fresh, headers={"If-Match": fresh.etag}, **POLL).result()
    check("a whole write with the fresh etag replaces the rules", [r.name for r in written.security_rules] == ["ssh"],
          [r.name for r in written.security_rules])
    check("its etag is new", written.etag != fresh.etag)

    vnet = network.virtual_networks.begin_create_or_update(
        GROUP, "net", {"location": LOCATION, "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}},
        **POLL).result()
    check("a virtual network is created", vnet.address_space.address_prefixes == ["10.0.0.0/16"])
    subnet = network.subnets.begin_create_or_update(
        GROUP, "net", "front",
        {"properties": {"addressPrefix": "10.0.1.0/24", "networkSecurityGroup": {"id": nsg.id}}}, **POLL).result()
    check("a subnet is created behind the NSG", subnet.network_security_group.id == nsg.id)
    refused("an overlapping subnet is refused", 400, "NetcfgSubnetRangesOverlap",
            lambda: network.subnets.begin_create_or_update(
                GROUP, "net", "back", {"properties": {"addressPrefix": "10.0.1.128/25"}}, **POLL).result())
    address = network.public_ip_addresses.begin_create_or_update(
        GROUP, "ip", {"location": LOCATION, "sku": {"name": "Standard"},
                      "properties": {"publicIPAllocationMethod": "Static"}}, **POLL).result()
    check("a public address is created", bool(address.ip_address), address.ip_address)

    nic_body = {"location": LOCATION, "properties": {
        "networkSecurityGroup": {"id": nsg.id},
        "ipConfigurations": [{"name": "one", "properties": {
            "subnet": {"id": subnet.id}, "publicIPAddress": {"id": address.id}}}],
    }}
    nic = network.network_interfaces.begin_create_or_update(GROUP, "nic", nic_body, **POLL).result()
    check("an interface gets a private address", nic.ip_configurations[0].private_ip_address == "10.0.1.4",
          nic.ip_configurations[0].private_ip_address)
    refused("an unknown reference is refused", 400, "InvalidResourceReference",
            lambda: network.network_interfaces.begin_create_or_update(
                GROUP, "nic2", {**nic_body, "properties": {**nic_body["properties"],
                                "networkSecurityGroup": {"id": nsg.id + "x"}}}, **POLL).result())
    backs = nsgs.get(GROUP, "web", **PLAIN)
    check("the NSG names its interface and subnet",
          ([n.id for n in backs.network_interfaces], [s.id for s in backs.subnets]) == ([nic.id], [subnet.id]))
    refused("an NSG in use is not deleted", 400, "InUseNetworkSecurityGroupCannotBeDeleted",
            lambda: nsgs.begin_delete(GROUP, "web", **POLL).result())

    machines = compute.virtual_machines
    machine = machines.begin_create_or_update(GROUP, "vm", {
        "location": LOCATION, "tags": {"env": "test"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_B2s"},
            "networkProfile": {"networkInterfaces": [{"id": nic.id, "properties": {"primary": True}}]},
        }}, **POLL).result()
    check("a machine is created", machine.provisioning_state == "Succeeded", machine.provisioning_state)

    def power():
        view = machines.get(GROUP, "vm", expand="instanceView", **PLAIN).instance_view
        return [s.code for s in view.statuses if s.code.startswith("PowerState/")]

    check("it runs", power() == ["PowerState/running"], power())
    check("the interface names its machine",
          network.network_interfaces.get(GROUP, "nic", **PLAIN).virtual_machine.id == machine.id)
    refused("an interface in use is not deleted", 400, "NicInUse",
            lambda: network.network_interfaces.begin_delete(GROUP, "nic", **POLL).result())
    effective = network.network_interfaces.begin_list_effective_network_security_groups(GROUP, "nic", **POLL).result()
    found = [r.name for g in effective.value for r in g.effective_security_rules if r.name.startswith("securityRules/")]
    check("effective rules name the rule at both places", found == ["securityRules/ssh"] * 2, found)
    shapes(nsg, subnet, nic)
    machines.begin_deallocate(GROUP, "vm", **POLL).result()
    check("it is deallocated", power() == ["PowerState/deallocated"], power())
    machines.begin_start(GROUP, "vm", **POLL).result()
    check("it is started", power() == ["PowerState/running"], power())
    listed = [vm.name for vm in machines.list(GROUP, **PLAIN)]
    check("it is listed in its group", listed == ["vm"], listed)
    check("it is listed in the subscription", machine.id in [vm.id for vm in machines.list_all(**PLAIN)])

    machines.begin_delete(GROUP, "vm", **POLL).result()
    network.network_interfaces.begin_delete(GROUP, "nic", **POLL).result()
    network.public_ip_addresses.begin_delete(GROUP, "ip", **POLL).result()
    network.virtual_networks.begin_delete(GROUP, "net", **POLL).result()
    nsgs.begin_delete(GROUP, "web", **POLL).result()
    check("all of it is deleted in order", [n.name for n in nsgs.list(GROUP, **PLAIN)] == [])
    check("the resource group is deleted", arm("DELETE", group_path) == 202)
    deadline = time.time() + 10
    while arm("HEAD", group_path, accept=(204, 404)) == 204 and time.time() < deadline:
        time.sleep(0.05)
    refused("its lists are gone", 404, "ResourceGroupNotFound", lambda: list(nsgs.list(GROUP, **PLAIN)))


main()
