//! What a request names: its target, the operation's name and the action that the caller must be allowed.

use http::Method;
use percent_encoding::percent_decode_str;

use super::authorization::{AuthorizationKind, scope_text, subscription_of};
use super::id::{ChildKind, Id, Kind};

/// What a path names. Fixed segments and types match without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Token {
        tenant: String,
    },
    OpenIdConfiguration {
        tenant: String,
    },
    InstanceDiscovery,
    Endpoints,
    Subscriptions,
    Subscription(String),
    Groups(String),
    Group(String, String),
    List {
        subscription: String,
        group: Option<String>,
        kind: Kind,
    },
    /// The service tags of a region.
    ServiceTags {
        subscription: String,
        location: String,
    },
    Resource(Id),
    Children(Id, ChildKind),
    Child(Id),
    Action(Id, String),
    Operation {
        subscription: String,
        namespace: String,
        id: String,
    },
    OperationResult {
        subscription: String,
        namespace: String,
        id: String,
    },
    /// What is known of roles at a scope, `/` for the root.
    Authorization {
        scope: String,
        kind: AuthorizationKind,
        name: Option<String>,
    },
    /// A path below a subscription whose type is not known.
    UnknownType {
        subscription: String,
        namespace: String,
        segment: String,
    },
    Unknown,
}

impl Target {
    /// Reads the path of a request. A `POST` to a part's type is an action.
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let Some(segments) = path
            .trim_matches('/')
            .split('/')
            .map(|segment| {
                percent_decode_str(segment)
                    .decode_utf8()
                    .ok()
                    .map(std::borrow::Cow::into_owned)
            })
            .collect::<Option<Vec<String>>>()
        else {
            return Self::Unknown;
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let is = |segment: &str, word: &str| segment.eq_ignore_ascii_case(word);
        if let Some(target) = Self::authorization(&segments) {
            return target;
        }
        match segments.as_slice() {
            [tenant, oauth, version, token]
                if is(oauth, "oauth2") && is(version, "v2.0") && is(token, "token") =>
            {
                Self::Token {
                    tenant: (*tenant).to_owned(),
                }
            }
            [tenant, version, well_known, document]
                if is(version, "v2.0")
                    && is(well_known, ".well-known")
                    && is(document, "openid-configuration") =>
            {
                Self::OpenIdConfiguration {
                    tenant: (*tenant).to_owned(),
                }
            }
            ["common", "discovery", "instance"] => Self::InstanceDiscovery,
            ["metadata", "endpoints"] => Self::Endpoints,
            [subscriptions, rest @ ..] if is(subscriptions, "subscriptions") => match rest {
                [] => Self::Subscriptions,
                [subscription] => Self::Subscription((*subscription).to_owned()),
                [subscription, groups] if is(groups, "resourceGroups") => {
                    Self::Groups((*subscription).to_owned())
                }
                [subscription, groups, group] if is(groups, "resourceGroups") => {
                    Self::Group((*subscription).to_owned(), (*group).to_owned())
                }
                [subscription, providers, namespace, locations, _, tracker, id]
                    if is(providers, "providers") && is(locations, "locations") =>
                {
                    let (subscription, namespace) = ((*subscription).to_owned(), (*namespace).to_owned());
                    let id = (*id).to_owned();
                    if is(tracker, "operations") {
                        Self::Operation {
                            subscription,
                            namespace,
                            id,
                        }
                    } else if is(tracker, "operationResults") {
                        Self::OperationResult {
                            subscription,
                            namespace,
                            id,
                        }
                    } else {
                        Self::Unknown
                    }
                }
                [subscription, providers, namespace, locations, location, tags]
                    if is(providers, "providers")
                        && is(namespace, "Microsoft.Network")
                        && is(locations, "locations")
                        && is(tags, "serviceTags") =>
                {
                    Self::ServiceTags {
                        subscription: (*subscription).to_owned(),
                        location: (*location).to_owned(),
                    }
                }
                [subscription, providers, namespace, segment] if is(providers, "providers") => {
                    Self::typed(subscription, None, namespace, segment)
                }
                [
                    subscription,
                    groups,
                    group,
                    providers,
                    namespace,
                    segment,
                    rest @ ..,
                ] if is(groups, "resourceGroups") && is(providers, "providers") => {
                    match (Self::typed(subscription, Some(group), namespace, segment), rest) {
                        (Self::List { kind, .. }, [name, rest @ ..]) => {
                            Self::within(method, Id::new(subscription, group, kind, name), rest)
                        }
                        (target, _) => target,
                    }
                }
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    /// `{scope}/providers/Microsoft.Authorization/{type}[/{name}]`, whatever the scope.
    fn authorization(segments: &[&str]) -> Option<Self> {
        let at = segments
            .iter()
            .rposition(|segment| segment.eq_ignore_ascii_case("providers"))?;
        let (scope, rest) = segments.split_at(at);
        let (namespace, kind, name) = match rest {
            [_, namespace, kind] => (namespace, kind, None),
            [_, namespace, kind, name] => (namespace, kind, Some((*name).to_owned())),
            _ => return None,
        };
        let kind = AuthorizationKind::parse(kind)
            .filter(|_| namespace.eq_ignore_ascii_case("Microsoft.Authorization"))?;
        Some(Self::Authorization {
            scope: scope_text(&scope.join("/")),
            kind,
            name,
        })
    }

    fn typed(subscription: &str, group: Option<&str>, namespace: &str, segment: &str) -> Self {
        let subscription = subscription.to_owned();
        match Kind::parse(namespace, segment) {
            Some(kind) => Self::List {
                subscription,
                group: group.map(str::to_owned),
                kind,
            },
            None => Self::UnknownType {
                subscription,
                namespace: namespace.to_owned(),
                segment: segment.to_owned(),
            },
        }
    }

    fn within(method: &Method, id: Id, rest: &[&str]) -> Self {
        match rest {
            [] => Self::Resource(id),
            [action] if method == Method::POST => Self::Action(id, action.to_ascii_lowercase()),
            // The one read-only view below a machine that has a path of its own.
            [view] if id.kind == Kind::VirtualMachine && view.eq_ignore_ascii_case("instanceView") => {
                Self::Action(id, "instanceview".to_owned())
            }
            [segment, rest @ ..] => match (ChildKind::parse(id.kind, segment), rest) {
                (Some(child), []) => Self::Children(id, child),
                (Some(child), [name]) => Self::Child(id.child(child, name)),
                _ => Self::UnknownType {
                    subscription: id.subscription.clone(),
                    namespace: id.kind.namespace().to_owned(),
                    segment: format!("{}/{segment}", id.kind.segment()),
                },
            },
        }
    }

    /// The subscription that the path is below.
    pub(super) fn subscription(&self) -> Option<&str> {
        match self {
            Self::Subscription(subscription)
            | Self::Groups(subscription)
            | Self::Group(subscription, _)
            | Self::List { subscription, .. }
            | Self::ServiceTags { subscription, .. }
            | Self::Operation { subscription, .. }
            | Self::OperationResult { subscription, .. }
            | Self::UnknownType { subscription, .. } => Some(subscription),
            Self::Resource(id) | Self::Children(id, _) | Self::Child(id) | Self::Action(id, _) => {
                Some(&id.subscription)
            }
            Self::Authorization { scope, .. } => subscription_of(scope),
            _ => None,
        }
    }

    /// The operation's name as Microsoft's clients call it, `SecurityRules.CreateOrUpdate`; `Unknown` where
    /// method and path name none.
    pub(super) fn operation(&self, method: &Method) -> String {
        let verb = match method.as_str() {
            "GET" => "Get",
            "PUT" => "CreateOrUpdate",
            "PATCH" => "UpdateTags",
            "DELETE" => "Delete",
            "POST" => "Post",
            "HEAD" => "CheckExistence",
            _ => return "Unknown".to_owned(),
        };
        let listed = |all: bool| match (verb, all) {
            ("Get", true) => "ListAll",
            ("Get", false) => "List",
            _ => verb,
        };
        match self {
            Self::Token { .. } => "Tokens.Issue".to_owned(),
            Self::OpenIdConfiguration { .. } | Self::InstanceDiscovery | Self::Endpoints => {
                "Metadata.Get".to_owned()
            }
            Self::Subscriptions => format!("Subscriptions.{}", listed(false)),
            Self::Subscription(_) => format!("Subscriptions.{verb}"),
            Self::Groups(_) => format!("ResourceGroups.{}", listed(false)),
            Self::Group(..) => format!("ResourceGroups.{verb}"),
            Self::List { group, kind, .. } => format!("{}.{}", kind.client(), listed(group.is_none())),
            Self::ServiceTags { .. } => format!("ServiceTags.{}", listed(false)),
            Self::Resource(id) => format!("{}.{verb}", id.kind.client()),
            Self::Children(_, child) => format!("{}.{}", child.client(), listed(false)),
            Self::Child(id) => {
                let client = id.child.as_ref().map_or("Unknown", |(child, _)| child.client());
                format!("{client}.{verb}")
            }
            Self::Action(id, action) => {
                let name = match action.as_str() {
                    "start" => "Start",
                    "deallocate" => "Deallocate",
                    "poweroff" => "PowerOff",
                    "restart" => "Restart",
                    "instanceview" => "InstanceView",
                    "effectivenetworksecuritygroups" => "ListEffectiveNetworkSecurityGroups",
                    "effectiveroutetable" => "GetEffectiveRouteTable",
                    _ => return "Unknown".to_owned(),
                };
                format!("{}.{name}", id.kind.client())
            }
            Self::Authorization { kind, name: None, .. } => format!("{}.{}", kind.client(), listed(false)),
            Self::Authorization { kind, .. } => format!("{}.{verb}", kind.client()),
            Self::Operation { .. } => "Operations.Get".to_owned(),
            Self::OperationResult { .. } => "OperationResults.Get".to_owned(),
            Self::UnknownType { .. } | Self::Unknown => "Unknown".to_owned(),
        }
    }

    /// The RBAC action that the call needs, such as `Microsoft.Network/networkInterfaces/write`; none where
    /// every caller may.
    pub(super) fn action(&self, method: &Method) -> Option<String> {
        let verb = match method.as_str() {
            "GET" | "HEAD" => "read",
            "DELETE" => "delete",
            "POST" => "action",
            _ => "write",
        };
        match self {
            Self::Subscriptions | Self::Subscription(_) => {
                Some("Microsoft.Resources/subscriptions/read".to_owned())
            }
            Self::Groups(_) | Self::Group(..) => {
                Some(format!("Microsoft.Resources/subscriptions/resourceGroups/{verb}"))
            }
            Self::List { kind, .. } => Some(format!("{}/{verb}", kind.type_name())),
            // "Azure permissions for Networking" (learn.microsoft.com).
            Self::ServiceTags { .. } => Some("Microsoft.Network/locations/serviceTags/read".to_owned()),
            Self::Resource(id) => Some(format!("{}/{verb}", id.kind.type_name())),
            Self::Children(_, child) => Some(format!("{}/{verb}", child.type_name())),
            Self::Child(id) => id
                .child
                .as_ref()
                .map(|(child, _)| format!("{}/{verb}", child.type_name())),
            Self::Action(id, action) => {
                let action = match action.as_str() {
                    "effectivenetworksecuritygroups" => "effectiveNetworkSecurityGroups",
                    "effectiveroutetable" => "effectiveRouteTable",
                    "poweroff" => "powerOff",
                    "instanceview" => return Some(format!("{}/instanceView/read", id.kind.type_name())),
                    other => other,
                };
                Some(format!("{}/{action}/action", id.kind.type_name()))
            }
            Self::Authorization { kind, .. } => {
                Some(format!("Microsoft.Authorization/{}/{verb}", kind.segment()))
            }
            Self::Operation { namespace, .. } => Some(format!("{namespace}/locations/operations/read")),
            Self::OperationResult { namespace, .. } => {
                Some(format!("{namespace}/locations/operationResults/read"))
            }
            _ => None,
        }
    }

    /// What an authorization is asked for, as the refusal names it.
    pub(super) fn scope(&self) -> String {
        match self {
            Self::Subscription(subscription)
            | Self::Groups(subscription)
            | Self::List {
                subscription,
                group: None,
                ..
            }
            | Self::ServiceTags { subscription, .. }
            | Self::Operation { subscription, .. }
            | Self::OperationResult { subscription, .. } => format!("/subscriptions/{subscription}"),
            Self::Group(subscription, group)
            | Self::List {
                subscription,
                group: Some(group),
                ..
            } => {
                format!("/subscriptions/{subscription}/resourceGroups/{group}")
            }
            Self::Resource(id) | Self::Children(id, _) | Self::Child(id) | Self::Action(id, _) => id.text(),
            Self::Authorization { scope, .. } => scope.clone(),
            _ => "/".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RG: &str = "/subscriptions/s/resourcegroups/rg/providers/microsoft.network";

    fn operation(method: &Method, path: &str) -> String {
        Target::of(method, path).operation(method)
    }

    #[test]
    fn operations_carry_the_names_of_microsofts_clients() {
        let cases = [
            (
                Method::PUT,
                format!("{RG}/NetworkSecurityGroups/n/securityrules/r"),
                "SecurityRules.CreateOrUpdate",
            ),
            (
                Method::GET,
                format!("{RG}/networkSecurityGroups/n/securityRules"),
                "SecurityRules.List",
            ),
            (
                Method::GET,
                format!("{RG}/networkSecurityGroups"),
                "NetworkSecurityGroups.List",
            ),
            (
                Method::GET,
                "/subscriptions/s/providers/Microsoft.Compute/virtualMachines".to_owned(),
                "VirtualMachines.ListAll",
            ),
            (
                Method::POST,
                format!("{RG}/networkInterfaces/n/effectiveNetworkSecurityGroups"),
                "NetworkInterfaces.ListEffectiveNetworkSecurityGroups",
            ),
            (
                Method::GET,
                "/subscriptions/s/providers/Microsoft.Network/locations/westus/operations/1".to_owned(),
                "Operations.Get",
            ),
            (Method::POST, "/t/oauth2/v2.0/token".to_owned(), "Tokens.Issue"),
            (Method::GET, "/nowhere".to_owned(), "Unknown"),
        ];
        for (method, path, expected) in cases {
            assert_eq!(operation(&method, &path), expected, "{path}");
        }
    }

    #[test]
    fn a_call_needs_the_action_of_its_type() {
        let path = format!("{RG}/networkSecurityGroups/n/securityRules/r");
        assert_eq!(
            Target::of(&Method::PUT, &path).action(&Method::PUT).unwrap(),
            "Microsoft.Network/networkSecurityGroups/securityRules/write"
        );
        let path = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/v/start";
        assert_eq!(
            Target::of(&Method::POST, path).action(&Method::POST).unwrap(),
            "Microsoft.Compute/virtualMachines/start/action"
        );
    }
}
