//! Reads a firewall with all that decides about its packets, and makes the one write that a plan asks for.
//!
//! The write is the whole document as it stands, edited, with `If-Match`: neither somebody's edit nor a member that this
//! version does not know is lost. It ends when its operation does, which takes minutes in Azure.
//!
//! Sources: Azure REST reference, Azure Firewalls, Firewall Policies, Firewall Policy Rule Collection Groups.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use postern_core::{
    enforcer::{Change, Desired, EnforceError},
    firewall::Firewall,
    mark::Installation,
    point::PointRef,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    document::{Edit, Form},
    fresh, list,
    plan::{Bands, ObservedFirewall, has_settled},
    private_addresses, text, texts,
    wanted::FirewallPoint,
};
use crate::{
    AzureEnforcer,
    arm::{Answer, Arm, ArmId, NotWritten},
    observe::NETWORK_VERSION,
};

pub(super) const READ: &str = "Microsoft.Network/azureFirewalls/read";
const WRITE: &str = "Microsoft.Network/azureFirewalls/write";
pub(super) const READ_POLICY: &str = "Microsoft.Network/firewallPolicies/read";
const READ_GROUP: &str = "Microsoft.Network/firewallPolicies/ruleCollectionGroups/read";
const WRITE_GROUP: &str = "Microsoft.Network/firewallPolicies/ruleCollectionGroups/write";
const DELETE_GROUP: &str = "Microsoft.Network/firewallPolicies/ruleCollectionGroups/delete";
const READ_PUBLIC: &str = "Microsoft.Network/publicIPAddresses/read";
const READ_SUBNET: &str = "Microsoft.Network/virtualNetworks/subnets/read";

const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The most policies above one another that are followed; Azure allows one above another.
const MOST_PARENTS: usize = 8;

impl AzureEnforcer {
    /// Reads a firewall by its resource id: itself when it is a classic one, otherwise our group of its policy among
    /// the others and the inherited ones.
    ///
    /// # Errors
    /// [`EnforceError::Gone`] when it does not exist, [`EnforceError::Malformed`] when the id is not one of a firewall
    /// or a document cannot be read, and those of the calls.
    pub async fn read_firewall(
        &self,
        firewall: &str,
        installation: &Installation,
        bands: Bands,
    ) -> Result<ObservedFirewall, EnforceError> {
        let arm = &self.arm;
        let id = read_id(firewall)?;
        if !id.is("microsoft.network/azurefirewalls") {
            return Err(EnforceError::Malformed(format!("`{id}` is no firewall")));
        }
        let document = arm.get(&id, NETWORK_VERSION, READ).await?;
        let (public, inside) = surroundings(arm, &document).await?;
        let Some(policy) = document
            .pointer("/properties/firewallPolicy/id")
            .and_then(Value::as_str)
        else {
            return ObservedFirewall::classic(document, public, inside, bands);
        };
        let edge = super::firewall(&document, public, inside)?;
        let own = read_id(policy)?;
        let (levels, mut around) = policy_levels(arm, &own).await?;
        around.push(document);
        Ok(observed_group(&own, installation, &edge, &levels, &around, bands))
    }

    /// Reads the firewall, or our group of the policy, that the point is, when nobody is changing it.
    ///
    /// # Errors
    /// [`EnforceError::Gone`] when it does not exist, or has its rules in a policy now; [`EnforceError::Conflict`] while
    /// a change is being carried out; and those of the calls.
    pub(crate) async fn observe_firewall(
        &self,
        desired: &Desired,
        settle: Duration,
    ) -> Result<FirewallPoint, EnforceError> {
        let id = ArmId::of_point(&desired.point)
            .ok_or_else(|| EnforceError::Malformed(format!("{} is not in Azure", desired.point)))?;
        let deadline = Instant::now() + settle;
        let mut wait = FIRST_WAIT;
        loop {
            let observed = if matches!(desired.point, PointRef::AzureFirewall { .. }) {
                self.read_classic(&id, Bands::default()).await?
            } else {
                self.read_policy(&id, &desired.installation, Bands::default())
                    .await?
            };
            if !observed.in_flux() {
                let fresh = fresh::read(&self.arm, desired).await?;
                return Ok(FirewallPoint { observed, fresh });
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

    async fn read_classic(&self, id: &ArmId, bands: Bands) -> Result<ObservedFirewall, EnforceError> {
        let document = self.arm.get(id, NETWORK_VERSION, READ).await?;
        if document.pointer("/properties/firewallPolicy/id").is_some() {
            return Err(EnforceError::Gone {
                resource: id.to_string(),
                code: "HasFirewallPolicy".to_owned(),
            });
        }
        let (public, inside) = surroundings(&self.arm, &document).await?;
        ObservedFirewall::classic(document, public, inside, bands)
    }

    /// All firewalls that have the policy count as one: a rule names the address that it is for.
    async fn read_policy(
        &self,
        id: &ArmId,
        installation: &Installation,
        bands: Bands,
    ) -> Result<ObservedFirewall, EnforceError> {
        let (levels, mut around) = policy_levels(&self.arm, id).await?;
        let users: Vec<ArmId> = around
            .first()
            .map(|policy| list(policy.get("properties"), "firewalls"))
            .into_iter()
            .flatten()
            .map(|user| read_id(text(user, "id")))
            .collect::<Result<_, _>>()?;
        let mut partly_read = false;
        let mut edge = Firewall {
            id: id.to_string(),
            public_addresses: Vec::new(),
            private_addresses: Vec::new(),
            inside: Vec::new(),
            collections: Vec::new(),
        };
        for user in users {
            let document = match self.arm.get(&user, NETWORK_VERSION, READ).await {
                Err(EnforceError::Gone { .. }) => continue,
                // Whoever gives the policy to one more firewall must not keep open what is behind another.
                Err(error @ EnforceError::Forbidden { .. }) => {
                    tracing::warn!(policy = %id, firewall = %user, %error, "a firewall with the policy is not read");
                    partly_read = true;
                    continue;
                }
                answer => answer?,
            };
            let (public, inside) = surroundings(&self.arm, &document).await?;
            edge.public_addresses.extend(public);
            edge.private_addresses.extend(private_addresses(&document));
            edge.inside.extend(inside);
            around.push(document);
        }
        let mut observed = observed_group(id, installation, &edge, &levels, &around, bands);
        observed.partly_read = partly_read;
        Ok(observed)
    }

    /// Carries out a change that [`ObservedFirewall::plan`] made, and waits until it is in force, no longer than
    /// `within`. Safe to repeat.
    ///
    /// # Errors
    /// [`EnforceError::Conflict`] when the document is not the one any more that was planned for: read and plan again.
    /// [`EnforceError::Unavailable`] when it was not done in time, and those of the calls.
    pub async fn write_firewall(&self, change: &Change, within: Duration) -> Result<Value, EnforceError> {
        let start = Instant::now();
        let arm = &self.arm;
        let id = read_id(&change.target)?;
        let edit: Edit = serde_json::from_value(change.operation.clone()).map_err(|error| {
            EnforceError::Malformed(format!("the change of `{id}` cannot be read: {error}"))
        })?;
        let standing = match edit.form {
            Form::Classic => arm.get(&id, NETWORK_VERSION, READ).await?,
            Form::Group => {
                let policy = id
                    .parent()
                    .ok_or_else(|| EnforceError::Malformed(format!("`{id}` is of no policy")))?;
                let all = groups(arm, &policy).await?;
                let own = |group: &Value| text(group, "name").eq_ignore_ascii_case(id.name());
                all.into_iter().find(own).unwrap_or_default()
            }
        };
        let etag = standing.get("etag").and_then(Value::as_str).map(str::to_owned);
        if etag.is_none() && !standing.is_null() {
            return Err(EnforceError::Malformed(format!(
                "`{id}` was answered without an etag"
            )));
        }
        let body = edit.apply(standing.clone());
        let planned = change.before.as_ref().and_then(|before| before.get("etag"));
        if planned.and_then(Value::as_str) != etag.as_deref() {
            if body.as_ref() == Some(&standing) && has_settled(&standing) {
                return Ok(json!({ "status": 200, "note": "it was so already", "etag": etag }));
            }
            return Err(EnforceError::Conflict {
                resource: id.to_string(),
                code: "EtagChanged".to_owned(),
            });
        }
        let body = body.ok_or_else(|| EnforceError::Malformed(format!("`{id}` cannot be edited")))?;
        if body.is_null() && standing.is_null() {
            return Ok(json!({ "status": 404, "note": "it was so already" }));
        }
        let left = || within.saturating_sub(start.elapsed());
        match self
            .put_document(&id, edit.form, &body, etag.as_deref(), left())
            .await
        {
            Ok(answer) => Ok(json!({ "status": answer.status, "etag": etag })),
            // What it does not let us open must not keep the rest open.
            Err(NotWritten {
                accepted: false,
                error: mut error @ (EnforceError::Refused { .. } | EnforceError::Forbidden { .. }),
            }) => {
                let closed = edit.closing().and_then(|edit| edit.apply(standing));
                if let Some(body) = closed {
                    tracing::warn!(firewall = %id, %error, "a write was refused: what closes is written alone");
                    self.put_document(&id, edit.form, &body, etag.as_deref(), left())
                        .await?;
                    if let EnforceError::Refused { message, .. } | EnforceError::Forbidden { message, .. } =
                        &mut error
                    {
                        message.push_str("; what closes was written alone");
                    }
                }
                Err(error)
            }
            // What is shown is not what filters: look again, and write again.
            Err(NotWritten {
                accepted: true,
                error: EnforceError::Refused { code, message, .. },
            }) => {
                tracing::warn!(firewall = %id, code, message, "an accepted write failed");
                Err(EnforceError::Conflict {
                    resource: id.to_string(),
                    code,
                })
            }
            Err(not) => Err(not.error),
        }
    }
}

impl AzureEnforcer {
    /// Writes a document, or deletes a group that nothing is left of, if it still has the etag.
    async fn put_document(
        &self,
        id: &ArmId,
        form: Form,
        body: &Value,
        etag: Option<&str>,
        within: Duration,
    ) -> Result<Answer, NotWritten> {
        let (method, action) = match (form, body.is_null()) {
            (Form::Classic, _) => (Method::PUT, WRITE),
            (Form::Group, false) => (Method::PUT, WRITE_GROUP),
            (Form::Group, true) => (Method::DELETE, DELETE_GROUP),
        };
        let refused = |error| NotWritten {
            accepted: false,
            error,
        };
        let call = self
            .arm
            .call(method, id, NETWORK_VERSION, action)
            .map_err(refused)?;
        let body = (!body.is_null()).then_some(body);
        self.arm.write(&call, body, etag, within).await
    }
}

fn observed_group(
    policy: &ArmId,
    installation: &Installation,
    edge: &Firewall,
    levels: &[Vec<Value>],
    around: &[Value],
    bands: Bands,
) -> ObservedFirewall {
    let group = format!("{policy}/rulecollectiongroups/{}", group_name(installation));
    let around: Vec<&Value> = around.iter().collect();
    ObservedFirewall::group(&group, edge, levels, &around, bands)
}

/// A policy's groups and those that it inherits, the nearest parent's first; and the policies' documents.
pub(crate) async fn policy_levels(
    arm: &Arm,
    own: &ArmId,
) -> Result<(Vec<Vec<Value>>, Vec<Value>), EnforceError> {
    let (mut levels, mut policies, mut next) = (Vec::new(), Vec::new(), Some(own.clone()));
    while let Some(policy) = next.take() {
        if levels.len() >= MOST_PARENTS {
            return Err(EnforceError::Malformed(format!("`{own}` inherits without end")));
        }
        let read = async {
            let document = arm.get(&policy, NETWORK_VERSION, READ_POLICY).await?;
            Ok((groups(arm, &policy).await?, document))
        };
        let (groups, document) = match read.await {
            // Whoever gives the policy a parent must not keep open what is behind it.
            Err(error @ EnforceError::Forbidden { .. }) if !levels.is_empty() => {
                tracing::warn!(policy = %own, parent = %policy, %error, "what a policy inherits is not read");
                break;
            }
            answer => answer?,
        };
        levels.push(groups);
        next = document
            .pointer("/properties/basePolicy/id")
            .and_then(Value::as_str)
            .map(read_id)
            .transpose()?;
        policies.push(document);
    }
    Ok((levels, policies))
}

/// The name of our group of a policy.
pub(super) fn group_name(installation: &Installation) -> String {
    format!("postern-{installation}")
}

fn read_id(text: &str) -> Result<ArmId, EnforceError> {
    ArmId::parse(text).map_err(|error| EnforceError::Malformed(error.to_string()))
}

/// A policy's groups, with their rules.
pub(super) async fn groups(arm: &Arm, policy: &ArmId) -> Result<Vec<Value>, EnforceError> {
    let segments = policy.segments().chain(["ruleCollectionGroups"]);
    arm.list(arm.address(segments, NETWORK_VERSION, &[])?, READ_GROUP)
        .await
}

/// The addresses that clients connect to, and the prefixes that the machines see them come from.
async fn surroundings(arm: &Arm, firewall: &Value) -> Result<(Vec<IpAddr>, Vec<IpNet>), EnforceError> {
    let (mut public, mut inside) = (Vec::new(), Vec::new());
    for configuration in list(firewall.get("properties"), "ipConfigurations") {
        let reference = |member: &str| {
            let path = format!("/properties/{member}/id");
            configuration
                .pointer(&path)
                .and_then(Value::as_str)
                .map(read_id)
                .transpose()
        };
        if let Some(id) = reference("publicIPAddress")? {
            let address = arm.get(&id, NETWORK_VERSION, READ_PUBLIC).await?;
            let text = address.pointer("/properties/ipAddress").and_then(Value::as_str);
            public.extend(text.and_then(|text| text.parse::<IpAddr>().ok()));
        }
        if let Some(id) = reference("subnet")? {
            let subnet = arm.get(&id, NETWORK_VERSION, READ_SUBNET).await?;
            let properties = subnet.get("properties").unwrap_or(&Value::Null);
            let all = std::iter::once(text(properties, "addressPrefix"))
                .chain(texts(properties, "addressPrefixes"));
            inside.extend(all.filter_map(|prefix| prefix.parse::<IpNet>().ok()));
        }
    }
    public.sort_unstable();
    public.dedup();
    inside.sort_unstable();
    inside.dedup();
    Ok((public, inside))
}
