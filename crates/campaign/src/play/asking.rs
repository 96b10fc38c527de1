//! What people ask of the servers, and what is read of them.

use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use postern::demo::fleet::{ACCOUNT, REGION, SUBSCRIPTION};
use postern_api::{
    access_request::{
        AccessRequest, AccessRequestCreate, AccessRequestCreateQuery, AccessRequestQuery, AskedTarget,
    },
    audit_event::{AuditEvent, AuditEventQuery},
    client::{Client, ClientError},
    grant::{Grant, GrantQuery},
    jit_policy::{JitPolicy, JitPolicyQuery, JitPolicyWrite},
};
use serde_json::{Value, json};

use super::{Stage, now};
use crate::{
    script::{PolicySpec, ScopeSpec},
    server::Server,
};

/// The longest that one call of a step may take; a server that hangs is left for the other.
const CALL: Duration = Duration::from_secs(4);
/// The longest that a call may take without whose answer the run breaks off, on a machine that does much else.
const NEEDED: Duration = Duration::from_secs(40);

impl Stage {
    /// A client of one of the servers that run, in turn.
    pub(super) fn client(&mut self, user: &str) -> anyhow::Result<Client> {
        self.turn += 1;
        let turn = self.turn;
        let mut running: Vec<&mut Server> = self.servers.iter_mut().filter_map(|s| s.runs_now()).collect();
        let number = turn.checked_rem(running.len()).context("no server runs")?;
        let server = running.get_mut(number).context("no server runs")?;
        server.client(&self.issuer, user)
    }

    pub(super) fn policy(&mut self, spec: &PolicySpec) -> anyhow::Result<JitPolicyWrite> {
        self.policies += 1;
        let built = &self.real.built;
        let scope = match spec.scope {
            ScopeSpec::All => "/".to_owned(),
            ScopeSpec::Azure => format!("/azure/{SUBSCRIPTION}"),
            ScopeSpec::Aws => format!("/aws/{ACCOUNT}/{REGION}"),
            ScopeSpec::Machine(number) => {
                let machine: postern_core::machine::MachineId =
                    built.machine(number).context("no machine")?.parse()?;
                machine.scope().to_string()
            }
        };
        let mut allowed = vec!["203.0.113.0/24", "2001:db8:1::/48"];
        if self.script.firewall.is_some() {
            // Connected networks, from where packets are routed through the firewall.
            allowed.push("10.9.9.0/24");
        }
        let guards: Vec<Value> = spec
            .guards
            .iter()
            .map(|ports| {
                json!({
                    "ports": ports,
                    "allowed_sources": allowed,
                    "max_duration_seconds": 3600,
                })
            })
            .collect();
        let tags = if spec.prod_only {
            json!({ "env": "prod" })
        } else {
            json!({})
        };
        let mut policy = json!({
            "name": format!("policy {}", self.policies),
            "scope": scope, "tags": tags, "guards": guards, "approval": spec.approval,
            "lockdown": spec.lockdown, "shared_groups": spec.shared_groups,
        });
        // Words that this build does not know yet give way to the nearest that it knows.
        if let Ok(policy) = serde_json::from_value(policy.clone()) {
            return Ok(policy);
        }
        for (member, word) in [("lockdown", "strict"), ("shared_groups", "revoke")] {
            if let Some(policy) = policy.as_object_mut() {
                policy.insert(member.to_owned(), json!(word));
            }
            if let Ok(policy) = serde_json::from_value(policy.clone()) {
                return Ok(policy);
            }
        }
        Ok(serde_json::from_value(policy)?)
    }

    pub(super) fn request(
        &self,
        machines: &[usize],
        ports: &[&str],
        sources: &[&str],
        seconds: i64,
        starts_in_ms: Option<i64>,
    ) -> anyhow::Result<AccessRequestCreate> {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let target = |number: &usize| {
            Ok(AskedTarget {
                machine: self.real.built.machine(*number).context("no machine")?.to_owned(),
                ports: strings(ports),
                sources: Some(strings(sources)),
            })
        };
        Ok(AccessRequestCreate {
            targets: machines.iter().map(target).collect::<anyhow::Result<_>>()?,
            duration_seconds: seconds,
            reason: "the disk is full".to_owned(),
            ticket: None,
            starts_at: starts_in_ms.map(|millis| now() + TimeDelta::milliseconds(millis)),
            mode: Some(postern_api::access_request::Mode::BestEffort),
        })
    }

    /// Asks, and where no answer comes asks the same once more, of whoever is next.
    pub(super) async fn ask(
        &mut self,
        number: usize,
        request: &AccessRequestCreate,
    ) -> anyhow::Result<AccessRequest> {
        let key = format!("step-{number}");
        let query = AccessRequestCreateQuery::default();
        let first = call(
            self.client("ada")?
                .create_access_request(Some(&key), &query, request),
        )
        .await;
        match first {
            Err(Failed::Client(ClientError::Problem(problem))) => Err(ClientError::Problem(problem).into()),
            Err(_) => Ok(call(
                self.client("ada")?
                    .create_access_request(Some(&key), &query, request),
            )
            .await?),
            Ok(made) => Ok(made),
        }
    }

    pub(super) async fn list_policies(&mut self) -> anyhow::Result<Vec<JitPolicy>> {
        let client = self.client("olga")?;
        Ok(needed(client.jit_policies(&JitPolicyQuery::default()))
            .await?
            .items)
    }

    pub(super) async fn pending(&mut self) -> anyhow::Result<Vec<AccessRequest>> {
        let query = AccessRequestQuery {
            status: Some("pending".to_owned()),
            ..AccessRequestQuery::default()
        };
        Ok(needed(self.client("olga")?.access_requests(&query)).await?.items)
    }

    /// Every request.
    pub async fn requests(&mut self) -> anyhow::Result<Vec<AccessRequest>> {
        let client = self.client("olga")?;
        let mut requests = Vec::new();
        let mut query = AccessRequestQuery {
            limit: Some(200),
            ..AccessRequestQuery::default()
        };
        loop {
            let page = needed(client.access_requests(&query)).await?;
            requests.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(requests),
            }
        }
    }

    /// Every grant.
    pub async fn grants(&mut self) -> anyhow::Result<Vec<Grant>> {
        let client = self.client("olga")?;
        let mut grants = Vec::new();
        let mut query = GrantQuery {
            limit: Some(200),
            ..GrantQuery::default()
        };
        loop {
            let page = needed(client.grants(&query)).await?;
            grants.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(grants),
            }
        }
    }

    /// Every audit event, oldest first.
    pub async fn audit_log(&mut self) -> anyhow::Result<Vec<AuditEvent>> {
        let client = self.client("olga")?;
        let mut events = Vec::new();
        let mut query = AuditEventQuery {
            order: Some("asc".to_owned()),
            limit: Some(200),
            ..AuditEventQuery::default()
        };
        loop {
            let page = needed(client.audit_events(&query)).await?;
            events.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(events),
            }
        }
    }
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(super) enum Failed {
    Client(ClientError),
    TooLate(Duration),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::TooLate(limit) => write!(f, "no answer within {limit:?}"),
        }
    }
}

impl std::error::Error for Failed {}

/// For a step: that one fails is part of the game.
pub(super) async fn call<T>(asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failed> {
    within(CALL, asked).await
}

/// For what the run cannot do without.
pub(super) async fn needed<T>(asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failed> {
    within(NEEDED, asked).await
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, Failed> {
    tokio::time::timeout(limit, asked)
        .await
        .map_err(|_| Failed::TooLate(limit))?
        .map_err(Failed::Client)
}
