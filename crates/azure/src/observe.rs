//! Reads an NSG, and where the machines of new grants really are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use postern_core::{
    enforcer::{Desired, EnforceError, Member},
    point::PointRef,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    arm::{Arm, ArmId},
    config::AzureConfig,
    plan::{ObservedNsg, Seat},
};

/// The network provider's version that all calls name.
pub(crate) const NETWORK_VERSION: &str = "2024-05-01";

pub(crate) const READ_NSG: &str = "Microsoft.Network/networkSecurityGroups/read";
const READ_NIC: &str = "Microsoft.Network/networkInterfaces/read";

/// How many interfaces are read at the same time.
const AT_ONCE: usize = 8;

/// From how many interfaces on the whole list is read instead: it costs a call per page.
const LIST_FROM: usize = 12;

const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Reads the NSG when nobody is changing it.
pub(crate) async fn observe(
    arm: &Arm,
    config: &AzureConfig,
    desired: &Desired,
) -> Result<ObservedNsg, EnforceError> {
    let id = nsg_id(&desired.point)?;
    let mut observed = settled(arm, config, &desired.point, &id).await?;
    let unseated = observed.unseated(desired);
    if unseated.is_empty() {
        return Ok(observed);
    }
    let attachments = observed.attachments();
    let interfaces = interfaces(arm, id.subscription(), &unseated).await?;
    let seats: Vec<_> = unseated
        .into_iter()
        .map(|member| {
            let addresses = member
                .interfaces
                .iter()
                .filter_map(|id| interfaces.get(id))
                .flat_map(|interface| interface.addresses_behind(&attachments))
                .collect();
            (member.machine.clone(), Seat { addresses })
        })
        .collect();
    for (machine, seat) in seats {
        observed.seat(machine, seat);
    }
    Ok(observed)
}

pub(crate) fn nsg_id(point: &PointRef) -> Result<ArmId, EnforceError> {
    ArmId::of_point(point)
        .filter(|id| id.is("microsoft.network/networksecuritygroups"))
        .ok_or_else(|| EnforceError::Malformed(format!("{point} is no NSG")))
}

/// While a change is on its way, what is read is not what filters: wait for it, and for others' changes too, which
/// no write of ours could overtake.
async fn settled(
    arm: &Arm,
    config: &AzureConfig,
    point: &PointRef,
    id: &ArmId,
) -> Result<ObservedNsg, EnforceError> {
    let deadline = Instant::now() + config.settle_timeout;
    let mut wait = FIRST_WAIT;
    loop {
        let raw = arm.get(id, NETWORK_VERSION, READ_NSG).await?;
        let observed = ObservedNsg::read(point.clone(), raw, config.band, config.bulk_threshold)?;
        if !observed.in_flux() {
            return Ok(observed);
        }
        if Instant::now() + wait > deadline {
            return Err(EnforceError::Conflict {
                resource: id.to_string(),
                code: "Updating".to_owned(),
            });
        }
        sleep(wait).await;
        wait *= 2;
    }
}

/// The interfaces of the members, by id. One that is not there any more is not in the answer.
pub(crate) async fn interfaces(
    arm: &Arm,
    subscription: &str,
    members: &[&Member],
) -> Result<BTreeMap<String, Interface>, EnforceError> {
    let wanted: BTreeSet<&str> = members
        .iter()
        .flat_map(|member| &member.interfaces)
        .map(String::as_str)
        .collect();
    if wanted.len() >= LIST_FROM {
        let url = arm.address(
            [
                "subscriptions",
                subscription,
                "providers",
                "Microsoft.Network",
                "networkInterfaces",
            ],
            NETWORK_VERSION,
            &[],
        )?;
        let all: Vec<Interface> = arm.list(url, READ_NIC).await?;
        return Ok(all
            .into_iter()
            .map(|interface| (interface.id.to_lowercase(), interface))
            .filter(|(id, _)| wanted.contains(id.as_str()))
            .collect());
    }
    // Owned, so that the futures borrow nothing that would tie them to one lifetime.
    let reads: Vec<_> = wanted
        .into_iter()
        .map(|text| interface(arm, text.to_owned()))
        .collect();
    let found: Vec<Option<(String, Interface)>> = stream::iter(reads)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

async fn interface(arm: &Arm, text: String) -> Result<Option<(String, Interface)>, EnforceError> {
    let id = ArmId::parse(&text).map_err(|error| EnforceError::Malformed(error.to_string()))?;
    match arm.get(&id, NETWORK_VERSION, READ_NIC).await {
        Ok(raw) => Ok(Some((text, Interface::read(raw)?))),
        Err(EnforceError::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A network interface, as far as it says where packets for it go.
///
/// Source: Azure REST reference, Network Interfaces, `NetworkInterface`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Interface {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) properties: InterfaceProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct InterfaceProperties {
    pub(crate) network_security_group: Option<Reference>,
    pub(crate) ip_configurations: Vec<IpConfiguration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct IpConfiguration {
    pub(crate) properties: IpConfigurationProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IpConfigurationProperties {
    #[serde(rename = "privateIPAddress")]
    pub(crate) private_ip_address: Option<String>,
    #[serde(rename = "publicIPAddress")]
    pub(crate) public_ip_address: Option<Reference>,
    pub(crate) subnet: Option<Reference>,
    pub(crate) application_security_groups: Vec<Reference>,
    pub(crate) load_balancer_backend_address_pools: Vec<Reference>,
    pub(crate) load_balancer_inbound_nat_rules: Vec<Reference>,
}

/// `{"id": …}`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Reference {
    pub(crate) id: String,
}

impl Interface {
    fn read(raw: Value) -> Result<Self, EnforceError> {
        serde_json::from_value(raw)
            .map_err(|error| EnforceError::Malformed(format!("an interface cannot be read: {error}")))
    }

    /// Its addresses whose packets pass what is attached to one of these interfaces or subnets.
    fn addresses_behind(&self, attachments: &BTreeSet<String>) -> Vec<IpAddr> {
        let whole = attachments.contains(&self.id.to_lowercase());
        self.properties
            .ip_configurations
            .iter()
            .filter(|configuration| {
                whole
                    || configuration
                        .properties
                        .subnet
                        .as_ref()
                        .is_some_and(|subnet| attachments.contains(&subnet.id.to_lowercase()))
            })
            .filter_map(|configuration| {
                configuration
                    .properties
                    .private_ip_address
                    .as_deref()?
                    .parse()
                    .ok()
            })
            .collect()
    }
}
