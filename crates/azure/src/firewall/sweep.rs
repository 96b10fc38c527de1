//! Finds and removes our firewall rules by their marks alone, for the sweeper.

use std::time::Duration;

use postern_core::{
    enforcer::{Change, EnforceError, Marked, Verb},
    machine::Account,
    mark::Installation,
};
use serde_json::{Value, json};

use super::{
    document::{Edit, Form, Kind, Place},
    layout::collection_name,
    text,
    wire::{READ, READ_POLICY, group_name, groups},
};
use crate::{
    AzureEnforcer,
    arm::{Arm, ArmId},
    observe::NETWORK_VERSION,
    plan::Label,
};

/// A rule of a document, found by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RulePlace {
    document: String,
    form: Form,
    place: Place,
}

const NAT: &str = "natrulecollections";
const NETWORK: &str = "networkrulecollections";

/// The rule that a marked resource of [`marked`] is; none for what is no rule of a firewall.
pub(crate) fn place_of(resource: &str) -> Option<RulePlace> {
    let lower = resource.to_lowercase();
    let (rest, rule) = lower.rsplit_once("/rules/")?;
    let (rest, collection) = rest.rsplit_once('/')?;
    let (document, kind) = rest.rsplit_once('/')?;
    let kind = match kind {
        NAT => Kind::Nat,
        NETWORK => Kind::Network,
        _ => return None,
    };
    let id = ArmId::parse(document).ok()?;
    let form = if id.is("microsoft.network/azurefirewalls") {
        Form::Classic
    } else if id.is("microsoft.network/firewallpolicies/rulecollectiongroups") {
        Form::Group
    } else {
        return None;
    };
    Some(RulePlace {
        document: document.to_owned(),
        form,
        place: Place {
            kind,
            collection: collection.to_owned(),
            rule: rule.to_owned(),
        },
    })
}

/// Every rule of the subscription's firewalls and firewall policies that carries a mark of the installation. Where these
/// may not be read, nothing of ours can have been written.
pub(crate) async fn marked(
    arm: &Arm,
    account: &Account,
    subscription: &str,
    installation: &Installation,
) -> Result<Vec<Marked>, EnforceError> {
    let mut found = Vec::new();
    let all = |kind: &'static str, action: &'static str| async move {
        let segments = [
            "subscriptions",
            subscription,
            "providers",
            "Microsoft.Network",
            kind,
        ];
        let url = arm.address(segments, NETWORK_VERSION, &[])?;
        match arm.list::<Value>(url, action).await {
            Err(error @ EnforceError::Forbidden { .. }) => {
                tracing::warn!(%error, "firewalls are left aside");
                Ok(Vec::new())
            }
            answer => answer,
        }
    };
    for firewall in all("azureFirewalls", READ).await? {
        collect(Form::Classic, &firewall, account, installation, &mut found);
    }
    for policy in all("firewallPolicies", READ_POLICY).await? {
        let id =
            ArmId::parse(text(&policy, "id")).map_err(|error| EnforceError::Malformed(error.to_string()))?;
        for group in groups(arm, &id).await? {
            collect(Form::Group, &group, account, installation, &mut found);
        }
    }
    Ok(found)
}

fn collect(
    form: Form,
    document: &Value,
    account: &Account,
    installation: &Installation,
    found: &mut Vec<Marked>,
) {
    let id = text(document, "id").to_lowercase();
    for rule in form.shelves(document).into_iter().flat_map(|shelf| shelf.rules) {
        let Some(Label::One(mark)) = rule.rule.description.as_deref().and_then(Label::parse) else {
            continue;
        };
        if mark.installation != *installation {
            continue;
        }
        let kind = match rule.place.kind {
            Kind::Nat => NAT,
            Kind::Network => NETWORK,
        };
        found.push(Marked {
            mark,
            resource: format!("{id}/{kind}/{}/rules/{}", rule.place.collection, rule.place.rule),
            account: account.clone(),
            detail: rule.raw.clone(),
        });
    }
}

impl AzureEnforcer {
    /// Takes the rule out, and our collection and group when nothing is left of them. Nothing else of the document
    /// changes.
    pub(crate) async fn remove_place(&self, place: RulePlace, within: Duration) -> Result<(), EnforceError> {
        let RulePlace {
            document,
            form,
            place,
        } = place;
        let id = ArmId::parse(&document).map_err(|error| EnforceError::Malformed(error.to_string()))?;
        let Some(standing) = self.standing(&id, form).await? else {
            return Ok(());
        };
        let there = form.shelves(&standing).into_iter().find_map(|shelf| {
            shelf.rules.into_iter().find(|rule| {
                rule.place.kind == place.kind
                    && rule.place.collection.eq_ignore_ascii_case(&place.collection)
                    && rule.place.rule.eq_ignore_ascii_case(&place.rule)
            })
        });
        let Some(rule) = there else { return Ok(()) };
        let Some(label) = rule.rule.description.as_deref().and_then(Label::parse) else {
            return Ok(());
        };
        let ours = |kind| (kind, collection_name(label.installation(), kind));
        let edit = Edit {
            // A group that somebody copied our rules into stays. So does one with our name and a collection of others:
            // the edit takes no collections but ours out, and removes a group that has none left.
            stays: !id.name().eq_ignore_ascii_case(&group_name(label.installation())),
            form,
            group_priority: None,
            remove: vec![rule.place.clone()],
            closes: vec![rule.place.clone()],
            put: Vec::new(),
            emptied: [Kind::Nat, Kind::Network].into_iter().map(ours).collect(),
        };
        let change = Change {
            verb: Verb::Close,
            target: id.to_string(),
            summary: format!("delete `{}/{}`", place.collection, place.rule),
            grants: label.grants(),
            policies: Vec::new(),
            before: Some(form.shown(&standing)),
            after: None,
            operation: json!(edit),
            displaces: Vec::new(),
        };
        self.write_firewall(&change, within).await.map(|_| ())
    }

    /// The document; none when it is not there.
    async fn standing(&self, id: &ArmId, form: Form) -> Result<Option<Value>, EnforceError> {
        let answer = match (form, id.parent()) {
            (Form::Group, Some(policy)) => groups(&self.arm, &policy).await.map(|all| {
                all.into_iter()
                    .find(|group| text(group, "name").eq_ignore_ascii_case(id.name()))
            }),
            _ => self.arm.get(id, NETWORK_VERSION, READ).await.map(Some),
        };
        match answer {
            Err(EnforceError::Gone { .. }) => Ok(None),
            answer => answer,
        }
    }
}
