//! What a configuration must keep beyond its types: bounds, combinations, names that refer to each other.

use std::{collections::BTreeSet, path::Path};

use postern_azure::PriorityBand;
use postern_core::{principal::PrincipalRef, scope::Scope};
use postern_notify::{InvalidNotify, NotifyConfig};
use postern_server::config::{ConfigError, IssuerConfig};
use secrecy::ExposeSecret;
use url::Url;

use super::{
    Aws, Azure, AzureCredential, AzureCredentialKind, Clouds, Config, Database, EngineSection, Guardrails,
    Logging,
};
use crate::guardrails::Texts;

/// The first and the last priority that ARM accepts for a security rule.
///
/// Source: Azure documentation, "Network security groups", security rules: "A number between 100 and 4096."
const PRIORITIES: (u16, u16) = (100, 4096);

/// Key paths, each with what is wrong there.
pub(super) type Problems = Vec<(String, String)>;

/// Everything that is wrong: the key path and what is wrong with it.
pub(super) fn problems(config: &Config) -> Problems {
    let mut found = Problems::new();
    server(config, &mut found);
    if config.listen.insecure_http && config.listen.tls.is_some() {
        report(&mut found, "listen.insecure_http", "contradicts `listen.tls`");
    }
    database(&config.database, &mut found);
    clouds(config.azure.as_ref(), config.aws.as_ref(), &mut found);
    if let Some(rbac) = config.azure.as_ref().and_then(|azure| azure.rbac.as_ref()) {
        rbac.problems(&config.issuers, &mut found);
    }
    engine(&config.engine, &mut found);
    notify(&config.notify, &mut found);
    for (at, owner) in config.bootstrap.owners.iter().enumerate() {
        let (PrincipalRef::User(name) | PrincipalRef::Group(name) | PrincipalRef::Workload(name)) = owner;
        let issuer = name.split_once('/').map_or(name.as_str(), |(issuer, _)| issuer);
        if !config.issuers.iter().any(|known| known.name == issuer) {
            report(
                &mut found,
                format!("bootstrap.owners.{at}"),
                format!("`{issuer}` is not the name of a configured issuer"),
            );
        }
    }
    within(
        &mut found,
        "guardrails.reload_seconds",
        config.guardrails.reload_seconds,
        1,
        3600,
    );
    logging(&config.logging, &mut found);
    found
}

/// As [`problems`], of the part that reaches the clouds.
pub(super) fn problems_of_clouds(config: &Clouds) -> Problems {
    let mut found = Problems::new();
    clouds(config.azure.as_ref(), config.aws.as_ref(), &mut found);
    logging(&config.logging, &mut found);
    found
}

fn clouds(for_azure: Option<&Azure>, for_aws: Option<&Aws>, found: &mut Problems) {
    if for_azure.is_none() && for_aws.is_none() {
        report(
            found,
            "azure",
            "neither `azure` nor `aws` is configured: nothing to guard",
        );
    }
    if let Some(section) = for_azure {
        azure(section, found);
    }
    if let Some(section) = for_aws {
        aws(section, found);
    }
}

fn notify(section: &NotifyConfig, found: &mut Problems) {
    match section.check() {
        Ok(()) | Err(InvalidNotify::Unreadable { .. }) => {}
        Err(InvalidNotify::Range(key)) => report(found, format!("notify.{key}"), "is not in its range"),
        Err(error) => report(found, "notify", error.to_string()),
    }
}

fn logging(section: &Logging, found: &mut Problems) {
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&section.filter) {
        report(found, "logging.filter", error.to_string());
    }
}

fn report(found: &mut Problems, key: impl Into<String>, message: impl Into<String>) {
    found.push((key.into(), message.into()));
}

fn database(section: &Database, found: &mut Problems) {
    match (&section.url, &section.url_file) {
        (Some(_), Some(_)) => report(
            found,
            "database.url_file",
            "`database.url` is set as well: one of the two",
        ),
        (None, None) => report(
            found,
            "database.url",
            "is missing, and so is `database.url_file`: one of the two",
        ),
        (Some(url), None) => {
            // The message leaves the URL out: it holds a password.
            let valid = Url::parse(url.expose_secret())
                .is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql"));
            if !valid {
                report(found, "database.url", "is no URL that begins with `postgres://`");
            }
        }
        (None, Some(_)) => {}
    }
    within(found, "database.max_connections", section.max_connections, 2, 500);
}

/// What the server itself would refuse, with the key that it means.
fn server(config: &Config, found: &mut Problems) {
    let Err(error) = config.server().validate() else {
        return;
    };
    match error {
        ConfigError::NoIssuers => {
            report(
                found,
                "issuers",
                "is missing: without an issuer nobody can sign in",
            );
        }
        ConfigError::IssuerTwice(name) => {
            let at = config.issuers.iter().rposition(|issuer| issuer.name == name);
            report(
                found,
                key_of(at, "name"),
                format!("`{name}` is the name or the address of two issuers"),
            );
        }
        ConfigError::Issuer {
            issuer: name,
            problem,
        } => {
            let at = config.issuers.iter().position(|issuer| issuer.name == name);
            let issuer = at.and_then(|at| config.issuers.get(at));
            report(found, key_of(at, field_of(issuer, &problem)), problem);
        }
        ConfigError::PlainHttp(address) => report(
            found,
            "listen.address",
            format!(
                "plain HTTP is served on loopback only, and {address} is not: set `listen.tls`, or \
                 `listen.insecure_http` where a proxy in front ends TLS"
            ),
        ),
        error @ (ConfigError::EveryProxy(_) | ConfigError::Proxies) => {
            report(found, "listen.trusted_proxies", error.to_string());
        }
        ConfigError::Tickets(problem) => report(found, "tickets", problem),
        ConfigError::Limit(name) => report(found, format!("limits.{name}"), "is not in its range"),
    }
}

fn key_of(at: Option<usize>, field: &str) -> String {
    at.map_or_else(|| "issuers".to_owned(), |at| format!("issuers.{at}.{field}"))
}

/// The field of an issuer that the server's words are about.
fn field_of(issuer: Option<&IssuerConfig>, problem: &str) -> &'static str {
    const FIELDS: [&str; 4] = ["name", "audiences", "algorithms", "leeway_seconds"];
    let named = FIELDS
        .into_iter()
        .find(|field| problem.starts_with(&format!("`{field}`")));
    let keys = issuer
        .and_then(|issuer| issuer.jwks_uri.as_deref())
        .is_some_and(|uri| problem.contains(uri));
    match named {
        Some(field) => field,
        None if problem.contains("refresh_seconds") => "refresh_seconds",
        None if keys => "jwks_uri",
        None => "issuer",
    }
}

/// HTTPS, or plain HTTP to this machine.
fn endpoint(found: &mut Problems, key: impl Into<String>, url: &Url) {
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        _ => report(found, key, format!("`{url}` is neither HTTPS nor on loopback")),
    }
}

fn azure(section: &Azure, found: &mut Problems) {
    for (at, subscription) in section.subscriptions.iter().enumerate() {
        scope(
            found,
            format!("azure.subscriptions.{at}"),
            &format!("/azure/{subscription}"),
        );
    }
    for (key, url) in [
        ("azure.endpoint", &section.endpoint),
        ("azure.authority", &section.authority),
    ] {
        if let Some(url) = url {
            endpoint(found, key, url);
        }
    }
    credential(&section.credential, found);
    let PriorityBand { first, last } = section.priority_band;
    if first < PRIORITIES.0 || last > PRIORITIES.1 || last.saturating_sub(first) < 9 {
        report(
            found,
            "azure.priority_band",
            format!(
                "is a first and a last priority between {} and {}, at least ten apart; not {first} and {last}",
                PRIORITIES.0, PRIORITIES.1
            ),
        );
    }
    if section.bulk_threshold.is_some_and(|threshold| threshold < 2) {
        report(found, "azure.bulk_threshold", "is at least 2");
    }
    if let Some(seconds) = section.change_timeout_seconds {
        within(found, "azure.change_timeout_seconds", seconds, 1, 600);
    }
    if let Some(percent) = section.budget_percent {
        within(found, "azure.budget_percent", percent, 0, 10_000);
    }
}

fn credential(section: &AzureCredential, found: &mut Problems) {
    let secrets =
        usize::from(section.client_secret.is_some()) + usize::from(section.client_secret_file.is_some());
    let wants_secret = section.kind == AzureCredentialKind::ClientSecret;
    if wants_secret && secrets != 1 {
        report(
            found,
            "azure.credential.client_secret_file",
            "`client_secret` wants exactly one of `client_secret` and `client_secret_file`",
        );
    }
    if !wants_secret && secrets != 0 {
        report(
            found,
            "azure.credential.kind",
            "a client secret is set, and the kind is not `client_secret`",
        );
    }
    if wants_secret {
        for (field, value) in [
            ("tenant_id", &section.tenant_id),
            ("client_id", &section.client_id),
        ] {
            if value.as_ref().is_none_or(String::is_empty) {
                report(
                    found,
                    format!("azure.credential.{field}"),
                    "is missing, and `client_secret` wants it",
                );
            }
        }
    }
}

fn aws(section: &Aws, found: &mut Problems) {
    if section.accounts.is_empty() {
        report(found, "aws.accounts", "names at least one account");
    }
    let mut seen = BTreeSet::new();
    for (at, account) in section.accounts.iter().enumerate() {
        let key = |field: &str| format!("aws.accounts.{at}.{field}");
        scope(found, key("id"), &format!("/aws/{}", account.id));
        if !seen.insert(&account.id) {
            report(
                found,
                key("id"),
                format!("account `{}` is named twice", account.id),
            );
        }
        let (place, regions) = if account.regions.is_empty() {
            ("aws.regions".to_owned(), &section.regions)
        } else {
            (key("regions"), &account.regions)
        };
        if at == 0 || place != "aws.regions" {
            for region in regions {
                scope(found, place.clone(), &format!("/aws/000000000000/{region}"));
            }
        }
        if let Some(arn) = &account.role_arn {
            let fits = arn.split(':').collect::<Vec<_>>();
            let valid = matches!(fits.as_slice(), ["arn", partition, "iam", "", owner, role]
                if partition.starts_with("aws") && *owner == account.id && role.starts_with("role/"));
            if !valid {
                report(
                    found,
                    key("role_arn"),
                    format!(
                        "`{arn}` is not `arn:aws:iam::{}:role/…`, a role of the account",
                        account.id
                    ),
                );
            }
        }
        if account.external_id.is_some() && account.role_arn.is_none() {
            report(found, key("external_id"), "is for `role_arn`, which is missing");
        }
    }
    if let Some(url) = &section.endpoint {
        endpoint(found, "aws.endpoint", url);
    }
    if let Some(seconds) = section.change_timeout_seconds {
        within(found, "aws.change_timeout_seconds", seconds, 1, 600);
    }
    if let Some(seconds) = section.describe_lag_seconds {
        within(found, "aws.describe_lag_seconds", seconds, 0, 300);
    }
    if let Some(percent) = section.budget_percent {
        within(found, "aws.budget_percent", percent, 0, 10_000);
    }
    // Source: "Amazon VPC quotas", "Security groups": at most 16 groups per interface, and the product of groups
    // and rules at most 1000.
    let (groups, rules) = (
        section.limits.groups_per_interface,
        section.limits.rules_per_group,
    );
    if !(2..=16).contains(&groups) {
        report(
            found,
            "aws.limits.groups_per_interface",
            format!("is between 2 and 16, not {groups}"),
        );
    }
    if rules == 0 || groups.saturating_mul(rules) > 1000 {
        report(
            found,
            "aws.limits.rules_per_group",
            format!("is at least 1, and times `groups_per_interface` at most 1000, not {rules}"),
        );
    }
}

/// The parts of a scope are the parts of a machine's id, so that one rule says what they may be.
fn scope(found: &mut Problems, key: impl Into<String>, path: &str) {
    if let Err(error) = path.parse::<Scope>() {
        report(found, key, error.to_string());
    }
}

fn engine(section: &EngineSection, found: &mut Problems) {
    const DAY: u32 = 24 * 3600;
    within(found, "engine.workers", section.workers, 1, 512);
    within(found, "engine.account_workers", section.account_workers, 1, 512);
    within(found, "engine.lease_seconds", section.lease_seconds, 1, 600);
    for (key, value) in [
        (
            "engine.discovery_interval_seconds",
            section.discovery_interval_seconds,
        ),
        ("engine.drift_interval_seconds", section.drift_interval_seconds),
    ] {
        within(found, key, value, 1, DAY);
    }
}

fn within(found: &mut Problems, key: &str, value: u32, least: u32, most: u32) {
    if !(least..=most).contains(&value) {
        report(found, key, format!("is between {least} and {most}, not {value}"));
    }
}

/// The files that the configuration names and that cannot be used.
pub(super) fn unreadable(config: &Config) -> Vec<String> {
    let mut named: Vec<(&str, &Path)> = Vec::new();
    if let Some(tls) = &config.listen.tls {
        named.push(("listen.tls.certificate", &tls.certificate));
        named.push(("listen.tls.key", &tls.key));
    }
    if let Some(path) = &config.database.url_file {
        named.push(("database.url_file", path));
    }
    if let Some(path) = config
        .azure
        .as_ref()
        .and_then(|azure| azure.credential.client_secret_file.as_ref())
    {
        named.push(("azure.credential.client_secret_file", path));
    }
    named.extend(config.notify.secret_files());
    if let Some(path) = config
        .tickets
        .as_ref()
        .and_then(|tickets| tickets.secret_file.as_ref())
    {
        named.push(("tickets.secret_file", path));
    }
    let networks = config.guardrails.networks.as_deref();
    let networks_hold = networks.is_none_or(|path| std::fs::File::open(path).is_ok());
    let guardrails = if networks_hold {
        config.guardrails.read().map(drop)
    } else {
        named.extend(networks.map(|path| ("guardrails.networks", path)));
        // Whether they hold depends on the networks; whether they can be read does not.
        let alone = Guardrails {
            networks: None,
            ..config.guardrails.clone()
        };
        Texts::read(&alone).map(drop)
    };
    let guardrails = guardrails
        .err()
        .map(|error| format!("`guardrails.path`: {error:#}"));
    let files = named.into_iter().filter_map(|(key, path)| {
        std::fs::File::open(path)
            .err()
            .map(|error| format!("`{key}`: {} cannot be read: {error}", path.display()))
    });
    files.chain(guardrails).collect()
}
