"""Looks at a machine's NSG with Microsoft's own client and says whether a grant's rule is there.

Usage: python arm_watch.py <endpoint-url> <virtual-machine-id> absent|present

The rule must be one of Postern's: an inbound allow of TCP 22 from 203.0.113.7, to the machine's own address, above
Postern's deny. Whatever is expected, the deny and the owner's rule stand.
"""

import json
import sys
import time
import urllib.parse
import urllib.request

from azure.core.credentials import AccessToken
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.compute import ComputeManagementClient

ENDPOINT, MACHINE, EXPECTED = sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3]
TENANT = "11111111-1111-1111-1111-111111111111"
_, _, SUBSCRIPTION, _, GROUP, _, _, _, NAME = MACHINE.split("/")


class SimCredential:
    """Gets a token for ARM from the simulator's own token endpoint."""

    def get_token(self, *scopes, **_):
        form = urllib.parse.urlencode({
            "grant_type": "client_credentials",
            "client_id": "python-watch",
            "client_secret": "any",
            "scope": scopes[0],
        }).encode()
        with urllib.request.urlopen(f"{ENDPOINT}/{TENANT}/oauth2/v2.0/token", form, timeout=10) as answer:
            body = json.load(answer)
        return AccessToken(body["access_token"], int(time.time()) + int(body["expires_in"]))


PLAIN = {"enforce_https": False}
options = {
    "base_url": ENDPOINT,
    "credential_scopes": ["https://management.azure.com/.default"],
    "retry_total": 0,
}
network = NetworkManagementClient(SimCredential(), SUBSCRIPTION, **options)
compute = ComputeManagementClient(SimCredential(), SUBSCRIPTION, **options)

machine = compute.virtual_machines.get(GROUP, NAME, **PLAIN)
interface_id = machine.network_profile.network_interfaces[0].id.split("/")
interface = network.network_interfaces.get(interface_id[4], interface_id[-1], **PLAIN)
address = interface.ip_configurations[0].private_ip_address
group_id = interface.network_security_group.id.split("/")
rules = list(network.security_rules.list(group_id[4], group_id[-1], **PLAIN))

ours = [rule for rule in rules if (rule.description or "").startswith("postern:")]
allows = [rule for rule in ours if rule.access == "Allow"]
denies = [rule for rule in ours if rule.access == "Deny"]
foreign = [rule for rule in rules if rule not in ours]

assert denies, f"no deny of ours among {[rule.name for rule in rules]}"
assert foreign, "the owner's rule is gone"
for deny in denies:
    for rule in foreign:
        if rule.access == "Allow":
            assert deny.priority < rule.priority, f"{deny.name} is below {rule.name}"

if EXPECTED == "absent":
    assert not allows, f"{[rule.name for rule in allows]} should not be there"
else:
    assert len(allows) == 1, f"one allow of ours, not {[rule.name for rule in allows]}"
    allow = allows[0]
    sources = allow.source_address_prefixes or [allow.source_address_prefix]
    destinations = allow.destination_address_prefixes or [allow.destination_address_prefix]
    ports = allow.destination_port_ranges or [allow.destination_port_range]
    assert [source.removesuffix("/32") for source in sources] == ["203.0.113.7"], sources
    assert [destination.removesuffix("/32") for destination in destinations] == [address], destinations
    assert ports == ["22"], ports
    assert allow.protocol == "Tcp" and allow.direction == "Inbound", (allow.protocol, allow.direction)
    assert allow.priority < min(deny.priority for deny in denies), "the allow is below the deny"
    assert " grant=" in allow.description and " end=" in allow.description, allow.description

print(f"ok: {NAME}: the grant's rule is {EXPECTED}; {len(denies)} deny, {len(foreign)} of the owner's")
