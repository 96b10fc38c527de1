//! Whether a firewall before the machine has room for the grant's doors, and maps as many ports as it asks for.

use std::collections::BTreeSet;

use postern_api::ErrorCode;
use postern_core::{
    approach::{Approach, Way},
    net::Protocol,
    request::Target,
};

use super::Preflight;

impl Preflight {
    pub(super) fn firewall(&mut self, approach: &Approach, target: &Target) {
        let Some(room) = &approach.room else { return };
        let translated = target.sources.iter().any(|source| {
            let way = approach.way(*source);
            source.net().addr().is_ipv4() && matches!(way, Some(Way::Translated { .. }))
        });
        if !translated {
            return;
        }
        let needed: BTreeSet<(Protocol, u16)> = target
            .ports
            .iter()
            .flat_map(|ports| (ports.first()..=ports.last()).map(|port| (ports.protocol(), port)))
            .filter(|(protocol, port)| {
                let mut mapped = room.mapped.iter();
                !mapped.any(|one| one.protocol() == *protocol && one.first() == *port)
            })
            .collect();
        if needed.len() > usize::from(room.left) {
            let detail = format!(
                "firewall `{}` can map {} more ports, and the grant needs {}",
                approach.firewall.rsplit('/').next().unwrap_or_default(),
                room.left,
                needed.len()
            );
            self.obstacle(ErrorCode::NoCapacity, detail, None);
        }
    }
}
