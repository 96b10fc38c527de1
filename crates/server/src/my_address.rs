//! "My address": the source of a request that names none is where the request comes from.

use std::{collections::BTreeMap, net::IpAddr};

use postern_api::{ErrorCode, access_request::AccessRequestCreate};
use postern_core::{address::special_network, id::PolicyId, net::Source, policy::JitPolicy, request::Target};
use postern_store::StoredMachine;

use crate::{failure::Failure, flow::client_address::Unclear};

/// The one address that a request comes from, as the source of the target at `at`.
pub(crate) fn source(from: Result<IpAddr, Unclear>, at: usize) -> Result<Source, Failure> {
    from.map(Source::from).map_err(|unclear| {
        Failure::field(
            ErrorCode::SourceUnclear,
            format!("/targets/{at}/sources"),
            format!("`sources` was left out, and {unclear}; name the source"),
        )
    })
}

/// What was asked, with every source named.
pub(crate) fn filled(
    asked: &AccessRequestCreate,
    from: Result<IpAddr, Unclear>,
) -> Result<AccessRequestCreate, Failure> {
    let mut asked = asked.clone();
    for (at, target) in asked.targets.iter_mut().enumerate() {
        if target.sources.is_none() {
            target.sources = Some(vec![source(from, at)?.to_string()]);
        }
    }
    Ok(asked)
}

/// Refuses the address of somebody who comes from no public one: in front of a cloud's firewall it means another host,
/// or none. Where the machine's policy allows a network of that kind for every port that is asked for, people come to
/// the machine from there, through a VPN say, and it is what they mean.
pub(crate) fn check(
    target: &Target,
    at: usize,
    machine: &StoredMachine,
    policies: &BTreeMap<PolicyId, JitPolicy>,
) -> Result<(), Failure> {
    let policy = machine.policy.and_then(|id| policies.get(&id));
    for source in &target.sources {
        let Some(special) = special_network(source.net().addr()) else {
            continue;
        };
        let is_meant = target.ports.iter().all(|ports| {
            policy
                .into_iter()
                .flat_map(|policy| &policy.guards)
                .filter(|guard| guard.ports.contains(*ports))
                .flat_map(|guard| &guard.allowed_sources)
                .any(|allowed| allowed.contains(*source) && special.contains(&allowed.net()))
        });
        if !is_meant {
            return Err(Failure::field(
                ErrorCode::SourceNotPublic,
                format!("/targets/{at}/sources"),
                format!(
                    "`sources` was left out, and the request comes from {source}, which is not public ({special}) and in \
                     no network of that kind that the policy allows; name the source"
                ),
            ));
        }
    }
    Ok(())
}
