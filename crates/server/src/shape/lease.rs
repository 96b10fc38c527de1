//! Leases between the API and the domain.

use std::time::Duration;

use postern_api::{ErrorCode, access_request::AccessRequest, lease as api};
use postern_core::{
    inventory::Machine,
    lease::{AccessLease, DEFAULT_HEARTBEAT, Held, LeaseKey, MAX_HEARTBEAT, MIN_HEARTBEAT},
};

use crate::failure::Failure;

/// The pause between two heartbeats that a body asks for.
pub(crate) fn heartbeat_every(seconds: Option<i64>) -> Result<Duration, Failure> {
    let Some(seconds) = seconds else {
        return Ok(DEFAULT_HEARTBEAT);
    };
    u64::try_from(seconds)
        .ok()
        .map(Duration::from_secs)
        .filter(|every| (MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(every))
        .ok_or_else(|| {
            Failure::field(
                ErrorCode::InvalidLease,
                "/heartbeat_every_seconds",
                format!(
                    "`heartbeat_every_seconds` is between {} and {}",
                    MIN_HEARTBEAT.as_secs(),
                    MAX_HEARTBEAT.as_secs()
                ),
            )
        })
}

/// The key that a body names.
pub(crate) fn key(text: &str) -> Result<LeaseKey, Failure> {
    text.parse()
        .map_err(|error: postern_core::lease::InvalidLeaseKey| {
            Failure::field(ErrorCode::InvalidLease, "/key", error.to_string())
        })
}

/// The lease with what it holds.
pub(crate) fn show(
    lease: &AccessLease,
    held: Held,
    machines: Vec<api::LeasedMachine>,
    request: AccessRequest,
) -> api::Lease {
    api::Lease {
        id: lease.id.to_string(),
        key: lease.key.to_string(),
        holder: lease.holder.to_string(),
        status: held.as_str().to_owned(),
        heartbeat_every_seconds: lease.heartbeat_every.as_secs(),
        heard_at: lease.heard_at,
        heartbeat_by: lease.deadline,
        ended_at: lease.ended.map(|(at, _)| at),
        ended_by: lease.ended.map(|(_, cause)| cause.as_str().to_owned()),
        machines,
        request,
    }
}

/// Where a machine is reached.
pub(crate) fn leased(machine: &Machine) -> api::LeasedMachine {
    let public: Vec<String> = machine
        .interfaces
        .iter()
        .flat_map(|interface| &interface.public_addresses)
        .map(ToString::to_string)
        .collect();
    let private: Vec<String> = machine
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
        .map(ToString::to_string)
        .collect();
    api::LeasedMachine {
        machine: machine.id.to_string(),
        name: machine.name.clone(),
        host: public.first().or(private.first()).cloned(),
        public_addresses: public,
        addresses: private,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_nobody_could_keep_is_refused() {
        assert_eq!(heartbeat_every(None).unwrap(), DEFAULT_HEARTBEAT);
        assert_eq!(heartbeat_every(Some(1)).unwrap(), Duration::from_secs(1));
        for seconds in [-1, 0, 601, i64::MAX] {
            let refused = heartbeat_every(Some(seconds)).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::InvalidLease, "{seconds}");
        }
    }
}
