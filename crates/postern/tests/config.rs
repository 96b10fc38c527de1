//! The shipped configuration is accepted, and every wrong one is refused with the place of what is wrong.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail by panicking"
)]

use std::{collections::BTreeMap, path::Path};

use postern::{
    config::{Config, Invalid},
    enforcers,
};

const SHIPPED: &str = include_str!("../../../config/postern.toml");

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, Invalid> {
    let variables: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::from_text(Path::new("postern.toml"), text, &variables)
}

/// The shipped file with one line changed.
fn with(line: &str, instead: &str) -> String {
    assert_eq!(
        SHIPPED.matches(line).count(),
        1,
        "`{line}` stands once in the shipped file"
    );
    SHIPPED.replace(line, instead)
}

fn refusal(text: &str) -> String {
    read(text, &[]).expect_err("a wrong configuration").to_string()
}

#[test]
fn the_shipped_configuration_is_accepted() {
    let config = read(SHIPPED, &[]).unwrap();
    assert_eq!(config.installation.name.as_str(), "prod");
    assert_eq!(config.issuers.len(), 2);
    assert_eq!(
        config.bootstrap.owners[0].to_string(),
        "group:corp/postern-owners"
    );
}

#[test]
fn every_default_that_the_shipped_file_shows_is_the_default() {
    // Whole sections that are not there have tests of their own; they end at an empty line.
    let mut missing_section = false;
    let shown: String = SHIPPED
        .lines()
        .map(|line| {
            missing_section = line.starts_with("# [") || (missing_section && !line.is_empty());
            match line.strip_prefix("# ") {
                Some(rest) if !missing_section && is_setting(rest) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            }
        })
        .collect();
    assert_ne!(shown, SHIPPED);
    let told = |text: &str| {
        let mut config = read(text, &[]).unwrap();
        // What is left open in these two sections is filled in by the enforcers.
        let (azure, aws) = (config.azure.take().unwrap(), config.aws.take().unwrap());
        let enforcers = (enforcers::azure(&azure).unwrap(), enforcers::aws(&aws));
        format!("{config:#?} {enforcers:#?}")
    };
    assert_eq!(told(&shown), told(SHIPPED));
}

/// Commented-out settings whose value is the default; examples of optional settings are not among them.
fn is_setting(line: &str) -> bool {
    const EXAMPLES: [&str; 19] = [
        "trusted_proxies",
        "url ",
        "base_url",
        "request_url",
        "authorized_parties",
        "networks",
        "jwks_uri",
        "tenant_id",
        "client_id",
        "client_secret_file",
        "external_id",
        "certificate",
        "key ",
        "path",
        "aws_",
        "regions",
        "endpoint = \"http://",
        "acr_values",
        "max_age_seconds",
    ];
    let setting = line
        .split_once(" = ")
        .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    setting && !EXAMPLES.iter().any(|example| line.starts_with(example))
}

/// The shipped file with these lines of `[azure.rbac]`, and an issuer that passes the object id on.
fn with_rbac(lines: &str) -> String {
    let text = with("# extra = []  ", "extra = [\"oid\"] # ");
    format!("{text}\n[azure.rbac]\n{lines}\n")
}

#[test]
fn the_defaults_of_azure_rbac_are_those_that_the_shipped_file_shows() {
    let shown: Vec<&str> = SHIPPED
        .lines()
        .skip_while(|line| *line != "# [azure.rbac]")
        .skip(1)
        .map_while(|line| line.strip_prefix("# "))
        .filter(|line| !line.starts_with("actions"))
        .collect();
    assert_eq!(shown.len(), 7);
    let settings = |lines: &str| {
        let config = read(&with_rbac(lines), &[]).unwrap();
        let rbac = config.azure.unwrap().rbac.unwrap();
        format!("{:?}", rbac.settings(&config.issuers).unwrap())
    };
    assert_eq!(settings(&shown.join("\n")), settings("issuer = \"corp\""));
}

#[test]
fn the_ticket_system_that_the_shipped_file_shows_can_be_asked() {
    let shown: Vec<&str> = SHIPPED
        .lines()
        .skip_while(|line| *line != "# [tickets]")
        .map_while(|line| line.strip_prefix("# "))
        .collect();
    assert_eq!(shown.len(), 7);
    let told = |lines: &[&str]| {
        let config = read(&format!("{SHIPPED}\n{}\n", lines.join("\n")), &[]).unwrap();
        format!("{:?}", config.tickets.unwrap())
    };
    let defaults: Vec<&str> = shown
        .iter()
        .filter(|line| {
            !["timeout_seconds", "allow_private"]
                .iter()
                .any(|key| line.starts_with(key))
        })
        .copied()
        .collect();
    assert_eq!(defaults.len(), 5);
    assert_eq!(told(&shown), told(&defaults));
}

#[test]
fn azure_rbac_wants_an_issuer_that_passes_the_object_id_on_and_actions_that_are_some() {
    for (lines, key, message) in [
        (
            "issuer = \"nobody\"",
            "issuer",
            "not the name of a configured issuer",
        ),
        ("issuer = \"ci\"", "object_id", "neither `claims.subject` nor"),
        (
            "issuer = \"corp\"\nobject_id = \"upn\"",
            "object_id",
            "neither `claims.subject` nor",
        ),
        ("issuer = \"corp\"\nactions = []", "actions", "demands nothing"),
        (
            "issuer = \"corp\"\nactions = [\"*/read\", \"read\"]",
            "actions.1",
            "is no action",
        ),
        (
            "issuer = \"corp\"\ncache_seconds = 3601",
            "cache_seconds",
            "between 0 and 3600",
        ),
        (
            "issuer = \"corp\"\ntimeout_seconds = 0",
            "timeout_seconds",
            "between 1 and 60",
        ),
        ("issuer = \"corp\"\ngroups = \"both\"", "groups", "both"),
    ] {
        let refused = read(&with_rbac(lines), &[]).expect_err(lines);
        let key = format!("azure.rbac.{key}");
        let problem = refused
            .problems()
            .iter()
            .find(|problem| problem.key() == Some(&key))
            .unwrap_or_else(|| panic!("{lines}: no problem with `{key}` in: {refused}"));
        assert!(problem.to_string().contains(message), "{lines}: {problem}");
    }
    assert!(read(&with_rbac("issuer = \"corp\"\nobject_id = \"sub\""), &[]).is_ok());
}

#[test]
fn the_environment_overrides_the_file() {
    let config = read(
        SHIPPED,
        &[
            ("POSTERN__LISTEN__ADDRESS", "127.0.0.1:9"),
            ("POSTERN__ENGINE__WORKERS", "7"),
            ("POSTERN__LIMITS__REVIEW_SECONDS", "3600"),
            ("POSTERN__AWS__REGIONS", r#"["us-east-1", "eu-west-1"]"#),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.address.port(), 9);
    let loop_settings = config.engine("a".into());
    assert_eq!(loop_settings.workers, 7);
    assert_eq!(loop_settings.review_within.as_secs(), 3600);
    assert_eq!(config.aws.unwrap().regions, ["us-east-1", "eu-west-1"]);
}

#[test]
fn whom_to_tell_is_checked_like_everything_else() {
    let subscriber = |line: &str| {
        let text = format!(
            "{SHIPPED}\n[[notify.webhooks]]\nname = \"siem\"\nactions = [\"grant\"]\n\
             secret_file = \"/run/secrets/nowhere\"\n{line}\n"
        );
        read(&text, &[])
    };
    let config = subscriber("url = \"https://siem.example.com/\"").unwrap();
    assert!(
        config
            .check_files()
            .iter()
            .any(|problem| problem.contains("/run/secrets/nowhere")),
        "{:?}",
        config.check_files()
    );
    for (line, expected) in [
        ("url = \"http://siem.example.com/\"", "https://"),
        ("url = \"https://169.254.169.254/\"", "not public"),
        ("url = \"https://siem.example.com/\"\ncolour = \"red\"", "colour"),
        (
            "url = \"https://siem.example.com/\"\noutcomes = [\"maybe\"]",
            "maybe",
        ),
    ] {
        let error = subscriber(line).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("notify"),
            "{line}: {error}"
        );
    }
}

#[test]
fn a_wrong_variable_is_named() {
    let error = read(SHIPPED, &[("POSTERN__ENGINE__WORKERS", "many")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the configuration is refused\n  environment variable POSTERN__ENGINE__WORKERS: `engine.workers`: \
         expected u32, not string \"many\""
    );
    let error = read(SHIPPED, &[("POSTERN__LISTEN__PORT", "80")]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("environment variable POSTERN__LISTEN__PORT: `listen.port`: no such key"),
        "{error}"
    );
}

/// The line of the shipped file that holds `text`, counted from 1.
fn line_of(text: &str) -> usize {
    1 + SHIPPED.lines().position(|line| line.contains(text)).unwrap()
}

#[test]
fn each_wrong_key_or_value_is_refused_with_its_line_and_key() {
    let cases: [(&str, &str, &str, &str); 20] = [
        // line, instead, key, part of the message
        (
            "name = \"prod\"",
            "nmae = \"prod\"",
            "installation.nmae",
            "no such key; expected one of `name`",
        ),
        (
            "name = \"prod\"",
            "name = \"Prod\"",
            "installation.name",
            "lower-case letters",
        ),
        (
            "address = \"127.0.0.1:8090\"",
            "address = \"localhost\"",
            "listen.address",
            "invalid socket address",
        ),
        (
            "address = \"127.0.0.1:8090\"",
            "address = \"0.0.0.0:8090\"",
            "listen.address",
            "on loopback only",
        ),
        (
            "issuer = \"https://login.example.com/\" ",
            "issuer = \"http://login.example.com/\" ",
            "issuers.0.issuer",
            "not https",
        ),
        (
            "algorithms = [\"RS256\", \"ES256\"]",
            "algorithms = [\"HS256\"]",
            "issuers.0.algorithms.0",
            "`HS256` is not one of `RS256`",
        ),
        (
            "name = \"ci\"",
            "name = \"corp\"",
            "issuers.1.name",
            "the name or the address of two issuers",
        ),
        (
            "# body_bytes = 65536 ",
            "body_bytes = 1 ",
            "limits.body_bytes",
            "not in its range",
        ),
        (
            "subscriptions = [\"00000000-0000-0000-0000-000000000001\"] ",
            "subscriptions = [\"../x\"] ",
            "azure.subscriptions.0",
            "",
        ),
        (
            "# priority_band = { first = 100, last = 4096 }",
            "priority_band = { first = 100, last = 5000 }",
            "azure.priority_band",
            "between 100 and 4096",
        ),
        (
            "# priority_band = { first = 100, last = 4096 }",
            "priority_band = { first = 100 }",
            "azure.priority_band.last",
            "is missing",
        ),
        (
            "kind = \"managed_identity\"",
            "kind = \"client_secret\"",
            "azure.credential.client_secret_file",
            "exactly one",
        ),
        (
            "id = \"123456789012\"",
            "id = \"12345678901\"",
            "aws.accounts.0.id",
            "12 digits",
        ),
        (
            "role_arn = \"arn:aws:iam::123456789012:role/postern\" ",
            "role_arn = \"arn:aws:iam::999999999999:role/postern\" ",
            "aws.accounts.0.role_arn",
            "a role of the account",
        ),
        (
            "# lease_seconds = 30 ",
            "lease_seconds = 3000 ",
            "engine.lease_seconds",
            "between 1 and 600",
        ),
        (
            "# workers = 64 ",
            "workers = -1 ",
            "engine.workers",
            "expected u32",
        ),
        (
            "# base_url = \"https://postern.example.com\"",
            "base_url = \"https://postern.example.com/jit?team=a\"",
            "notify.base_url",
            "has a query or a fragment",
        ),
        (
            "# request_url = \"https://portal.example.com/access/{request}\"",
            "request_url = \"https://portal.example.com/access\"",
            "notify.request_url",
            "wants `{request}` exactly once",
        ),
        (
            "# request_url = \"https://portal.example.com/access/{request}\"",
            "request_url = \"http://portal.example.com/access/{request}\"",
            "notify.request_url",
            "neither HTTPS nor on loopback",
        ),
        (
            "owners = [\"group:corp/postern-owners\"]",
            "owners = [\"group:none/x\"]",
            "bootstrap.owners.0",
            "not the name of a configured issuer",
        ),
    ];
    for (line, instead, key, message) in cases {
        let error = read(&with(line, instead), &[]).expect_err(instead);
        let problem = error
            .problems()
            .iter()
            .find(|problem| problem.key() == Some(key))
            .unwrap_or_else(|| panic!("{instead}: no problem with `{key}` in: {error}"));
        assert!(problem.to_string().contains(message), "{instead}: {problem}");
        // Where the key itself is missing, the section that should hold it is named.
        let expected = if key.ends_with("client_secret_file") {
            line_of("[azure.credential]")
        } else {
            line_of(line)
        };
        assert_eq!(problem.line(), Some(expected), "{instead}: {problem}");
    }
}

#[test]
fn a_missing_key_is_named_with_its_section() {
    let error = refusal(&with(
        "audiences = [\"postern\"]                       # what",
        "# what",
    ));
    let line = line_of("[[issuers]]");
    assert!(
        error.contains(&format!("postern.toml:{line}: `issuers.0.audiences`: is missing")),
        "{error}"
    );
}

#[test]
fn a_text_that_is_not_toml_is_refused_with_its_line() {
    let error = refusal("[installation]\nname = \n");
    assert!(error.contains("postern.toml:2: "), "{error}");
}

#[test]
fn every_broken_rule_is_told_at_once() {
    let text = with("id = \"123456789012\"", "id = \"1\"")
        .replace("[azure.credential]", "[azure.credential]\ntenant_id = \"t\"")
        .replace("# bulk_threshold = 4", "bulk_threshold = 1");
    let error = read(&text, &[]).unwrap_err();
    let keys: Vec<_> = error
        .problems()
        .iter()
        .filter_map(|problem| problem.key())
        .collect();
    assert_eq!(
        keys,
        [
            "azure.bulk_threshold",
            "aws.accounts.0.id",
            "aws.accounts.0.role_arn"
        ]
    );
}

#[test]
fn a_password_in_the_database_url_never_shows() {
    let text = with(
        "url_file = \"/run/secrets/postern-database-url\"",
        "url = \"postgres://postern:hunter2@db/postern\"",
    );
    let config = read(&text, &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let error = refusal(&text.replace("postgres://", "mysql://"));
    assert!(
        error.contains("`database.url`") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn every_file_that_is_missing_is_said_at_once() {
    let mut text = SHIPPED.to_owned();
    for name in ["siem", "pager"] {
        let more = format!(
            "\n[[notify.webhooks]]\nname = \"{name}\"\nactions = [\"grant\"]\n\
             url = \"https://{name}.example.com/\"\nsecret_file = \"/nowhere/{name}\"\n"
        );
        text.push_str(&more);
    }
    let mut config = read(&text, &[]).unwrap();
    config.tickets = Some(
        serde_json::from_value(serde_json::json!({
            "url": "https://tickets.example.com/{ticket}",
            "header": "authorization",
            "secret_file": "/nowhere/tickets",
        }))
        .unwrap(),
    );
    config.guardrails.path = Some("/nowhere/guardrails.cedar".into());
    config.guardrails.networks = Some("/nowhere/networks.toml".into());
    let missing = config.check_files();
    for file in [
        "/run/secrets/postern-database-url",
        "/nowhere/siem",
        "/nowhere/pager",
        "/nowhere/tickets",
        "/nowhere/guardrails.cedar",
        "/nowhere/networks.toml",
    ] {
        let told = missing.iter().filter(|line| line.contains(file)).count();
        assert_eq!(told, 1, "{file} in {missing:#?}");
    }
}
