//! Route tables: what the provider refuses, which way a packet takes, and an interface's effective routes.
//!
//! "Virtual network traffic routing" (learn.microsoft.com): the longest prefix decides, and of two alike the
//! user's route before the system's; the system's own routes are the network's ranges, the internet, and none
//! for 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 and 100.64.0.0/10. Shapes from the published specification
//! (Microsoft.Network 2024-05-01, `routeTable.json`; `EffectiveRoute` in `networkInterface.json`). Codes of
//! refused routes were not found in public, save `InvalidRequestFormat`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::body::{Part, bad_request, parts};
use super::check::address_space;
use super::effective;
use super::id::Id;
use super::refusal::ArmError;
use super::rule;
use super::state::{State, at};

const HOPS: [&str; 5] = [
    "VirtualNetworkGateway",
    "VnetLocal",
    "Internet",
    "VirtualAppliance",
    "None",
];

/// The ranges that lead nowhere unless something else says so.
const NOWHERE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];

/// Checks one route and gives it as it is kept.
fn route(name: &str, properties: &Map<String, Value>) -> Result<Map<String, Value>, ArmError> {
    let mut kept = properties.clone();
    for read_only in ["provisioningState", "hasBgpOverride"] {
        kept.remove(read_only);
    }
    kept.retain(|_, value| !value.is_null() && value.as_str() != Some(""));
    let prefix = rule::text(&kept, "addressPrefix").unwrap_or_default();
    if rule::network(prefix).is_none() && !rule::is_service_tag(prefix) {
        return Err(bad_request(format!(
            "Route {name} has the address prefix '{prefix}'."
        )));
    }
    let hop = rule::text(&kept, "nextHopType").unwrap_or_default();
    let Some(hop) = HOPS.into_iter().find(|word| word.eq_ignore_ascii_case(hop)) else {
        let text = format!(
            "The next hop '{hop}' of route {name} is not one of {}.",
            HOPS.join(", ")
        );
        return Err(bad_request(text));
    };
    let address = rule::text(&kept, "nextHopIpAddress");
    let sound = match (hop, address) {
        ("VirtualAppliance", Some(address)) => address.parse::<IpAddr>().is_ok(),
        ("VirtualAppliance", None) => false,
        (_, address) => address.is_none(),
    };
    if !sound {
        let text = format!(
            "Route {name}: a next hop address belongs to the next hop type VirtualAppliance, and that needs one."
        );
        return Err(ArmError::network(400, "RouteNextHopIpAddressInvalid", text));
    }
    Ok(kept)
}

/// Refuses two routes for one prefix.
fn distinct<'a>(routes: impl Iterator<Item = (&'a str, &'a Map<String, Value>)>) -> Result<(), ArmError> {
    let mut taken = BTreeMap::new();
    for (name, properties) in routes {
        let prefix = rule::text(properties, "addressPrefix")
            .unwrap_or_default()
            .to_ascii_lowercase();
        if let Some(other) = taken.insert(prefix, name) {
            let text = format!("Route {name} conflicts with route {other}: both are for one address prefix.");
            return Err(ArmError::network(400, "RouteConflict", text));
        }
    }
    Ok(())
}

/// What a written route must be beside the others of its table.
pub(super) fn route_beside(
    table: &super::state::Resource,
    name: &str,
    properties: &Map<String, Value>,
) -> Result<Map<String, Value>, ArmError> {
    let kept = route(name, properties)?;
    let others = table
        .shown()
        .filter(|(child, _)| !child.name.eq_ignore_ascii_case(name))
        .map(|(child, goal)| (child.name.as_str(), &**goal));
    distinct(others.chain(std::iter::once((name, &kept))))?;
    Ok(kept)
}

/// What a written route table must be.
pub(super) fn route_table(properties: &mut Map<String, Value>) -> Result<Vec<Part>, ArmError> {
    properties.remove("subnets");
    properties
        .entry("disableBgpRoutePropagation")
        .or_insert_with(|| json!(false));
    let routes = parts(properties, "routes")?
        .unwrap_or_default()
        .into_iter()
        .map(|(name, properties)| Ok((name.clone(), route(&name, &properties)?)))
        .collect::<Result<Vec<Part>, ArmError>>()?;
    distinct(routes.iter().map(|(name, route)| (name.as_str(), route)))?;
    Ok(routes)
}

/// The appliance that packets to an address are sent to; none where they take another way.
pub(super) fn appliance<'a>(
    routes: impl Iterator<Item = &'a Map<String, Value>>,
    spaces: &[IpNet],
    address: IpAddr,
) -> Option<IpAddr> {
    let system = spaces
        .iter()
        .filter(|space| space.contains(&address))
        .map(IpNet::prefix_len)
        .max();
    routes
        .filter_map(|route| Some((rule::network(rule::text(route, "addressPrefix")?)?, route)))
        .filter(|(prefix, _)| prefix.contains(&address))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .filter(|(prefix, _)| system.is_none_or(|system| prefix.prefix_len() >= system))
        .filter(|(_, route)| {
            rule::text(route, "nextHopType").is_some_and(|hop| hop.eq_ignore_ascii_case("VirtualAppliance"))
        })
        .and_then(|(_, route)| rule::text(route, "nextHopIpAddress")?.parse().ok())
}

/// The answer of `effectiveRouteTable` for an interface on a running machine.
pub(super) fn effective_routes(state: &State, id: &Id) -> Result<Value, ArmError> {
    let interface = effective::running_interface(state, id)?;
    let mut user: Vec<(String, Map<String, Value>)> = Vec::new();
    let mut system: Vec<(String, &str)> = Vec::new();
    if let Some((_, goal)) = interface.shown().next()
        && let Some(subnet) = at(goal, &["subnet", "id"]).and_then(Id::parse)
        && let Some(network) = state.get(&subnet)
    {
        system.extend(
            address_space(&network.goal)
                .iter()
                .map(|space| (space.to_string(), "VnetLocal")),
        );
        let name = subnet.child.as_ref().map_or("", |(_, name)| name.as_str());
        let table = network
            .child(name)
            .and_then(|child| child.goal.as_deref())
            .and_then(|subnet| at(subnet, &["routeTable", "id"]))
            .and_then(Id::parse)
            .and_then(|table| state.get(&table));
        user.extend(
            table
                .into_iter()
                .flat_map(super::state::Resource::shown)
                .map(|(child, goal)| (child.name.clone(), (**goal).clone())),
        );
    }
    system.push(("0.0.0.0/0".to_owned(), "Internet"));
    system.extend(NOWHERE.map(|prefix| (prefix.to_owned(), "None")));
    let overridden = |prefix: &str| {
        user.iter()
            .any(|(_, route)| rule::text(route, "addressPrefix").is_some_and(|other| other == prefix))
    };
    let mut value: Vec<Value> = system
        .iter()
        .map(|(prefix, hop)| {
            json!({
                "disableBgpRoutePropagation": false,
                "source": "Default",
                "state": if overridden(prefix) { "Invalid" } else { "Active" },
                "addressPrefix": [prefix],
                "nextHopType": hop,
                "nextHopIpAddress": [],
            })
        })
        .collect();
    value.extend(user.iter().map(|(name, route)| {
        let address: Vec<&str> = rule::text(route, "nextHopIpAddress").into_iter().collect();
        json!({
            "name": name,
            "disableBgpRoutePropagation": false,
            "source": "User",
            "state": "Active",
            "addressPrefix": [route.get("addressPrefix")],
            "nextHopType": route.get("nextHopType"),
            "nextHopIpAddress": address,
        })
    }));
    Ok(json!({ "value": value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn the_longest_prefix_decides_and_a_users_route_wins_a_draw() {
        let routes = [
            object(
                &json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.9.4"}),
            ),
            object(&json!({"addressPrefix": "203.0.113.0/24", "nextHopType": "Internet"})),
            object(
                &json!({"addressPrefix": "10.1.0.0/16", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.9.5"}),
            ),
        ];
        let spaces = ["10.0.0.0/16".parse().unwrap(), "10.1.0.0/16".parse().unwrap()];
        let by = |address: &str| appliance(routes.iter(), &spaces, address.parse().unwrap());
        assert_eq!(by("198.51.100.1"), "10.0.9.4".parse().ok());
        assert_eq!(by("203.0.113.7"), None);
        assert_eq!(by("10.0.1.4"), None, "the network's own range is longer");
        assert_eq!(by("10.1.1.4"), "10.0.9.5".parse().ok());
    }

    #[test]
    fn a_next_hop_address_belongs_to_an_appliance_alone() {
        let code = |value: Value| route("r", &object(&value)).err().map(|error| error.code);
        let appliance = json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.0.4"});
        assert_eq!(code(appliance), None);
        assert_eq!(
            code(json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance"})).as_deref(),
            Some("RouteNextHopIpAddressInvalid")
        );
        assert_eq!(
            code(json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "Elsewhere"})).as_deref(),
            Some("InvalidRequestFormat")
        );
        assert_eq!(
            code(json!({"addressPrefix": "any", "nextHopType": "Internet"})).as_deref(),
            Some("InvalidRequestFormat")
        );
    }
}
