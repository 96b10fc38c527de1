//! Which load balancers lead on to the machines whose grants are to open, read when they are: what discovery knows of them may
//! be as old as its interval, and a balancer that somebody made since would lead others in by the grant's rule at the NSG.
//!
//! It costs a read of each machine's interface and one list of the subscription's balancers, and is done while a grant opens
//! and at no other look.

use std::{collections::BTreeMap, net::IpAddr};

use postern_core::{
    enforcer::{Desired, EnforceError, Member},
    machine::{Account, MachineId},
};
use serde_json::Value;

use crate::{
    arm::{Arm, Pages},
    discover::{
        self,
        balancer::{Balancers, Before},
    },
    observe::{self, Interface},
};

/// What leads on to the machines, by their ids.
pub(super) type Fresh = BTreeMap<MachineId, Before>;

/// Reads it for each machine with a grant that is to open. A machine is not in the answer where that may not be read, or its
/// interface is not there any more: what discovery knows has to do.
pub(super) async fn read(arm: &Arm, desired: &Desired) -> Result<Fresh, EnforceError> {
    let mut opening: BTreeMap<String, Vec<&Member>> = BTreeMap::new();
    for member in &desired.members {
        let is_opening = member.grants.iter().any(|grant| grant.opening);
        if let (true, Some(_), Account::Azure { subscription }) =
            (is_opening, &member.approach, member.machine.account())
        {
            opening.entry(subscription).or_default().push(member);
        }
    }
    let mut fresh = Fresh::new();
    for (subscription, members) in opening {
        let read = async {
            let mut listed = Pages::<Value>::default();
            discover::list(arm, &subscription, "Microsoft.Network/loadBalancers", &mut listed).await?;
            let interfaces = observe::interfaces(arm, &subscription, &members).await?;
            Ok((Balancers::new(listed.items()), interfaces))
        };
        let (balancers, interfaces) = match read.await {
            Err(error @ EnforceError::Forbidden { .. }) => {
                tracing::warn!(
                    point = %desired.point, %error,
                    "which load balancers lead to a machine is taken from discovery"
                );
                continue;
            }
            answer => answer?,
        };
        fresh.extend(members.into_iter().filter_map(|member| {
            let before = before(member, &balancers, &interfaces)?;
            Some((member.machine.clone(), before))
        }));
    }
    Ok(fresh)
}

fn before(
    member: &Member,
    balancers: &Balancers,
    interfaces: &BTreeMap<String, Interface>,
) -> Option<Before> {
    let address = member.approach.as_ref()?.address;
    let found: Vec<&Interface> = member
        .interfaces
        .iter()
        .map(|id| interfaces.get(id))
        .collect::<Option<_>>()?;
    let has_address = |interface: &&Interface| {
        let mut all = interface.properties.ip_configurations.iter();
        all.any(|one| {
            let private = one.properties.private_ip_address.as_deref();
            private.and_then(|text| text.parse().ok()) == Some(IpAddr::V4(address))
        })
    };
    let own = found.iter().position(has_address)?;
    Some(balancers.before(&found, own, address))
}
