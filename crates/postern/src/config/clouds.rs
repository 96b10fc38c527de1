//! The part of the configuration that reaches the clouds: all that a sweep needs, with a file or without one.

use std::{collections::BTreeMap, path::Path};

use postern_core::{machine::Cloud, mark::Installation};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;

use super::{Aws, Azure, InstallationSection, Invalid, Logging, Problem, check, extract, read, variables};

/// What stands for the file's name in problems where there is no file.
const COMMAND_LINE: &str = "the command line";

/// The sections that reach the clouds. The others may be there or not, and are not looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clouds {
    /// Which installation this is.
    pub installation: InstallationSection,
    /// The Azure subscriptions, if any.
    pub azure: Option<Azure>,
    /// The AWS accounts, if any.
    pub aws: Option<Aws>,
    /// What is logged, and how.
    #[serde(default)]
    pub logging: Logging,
    #[serde(default, rename = "listen")]
    _listen: Option<IgnoredAny>,
    #[serde(default, rename = "database")]
    _database: Option<IgnoredAny>,
    #[serde(default, rename = "issuers")]
    _issuers: Option<IgnoredAny>,
    #[serde(default, rename = "limits")]
    _limits: Option<IgnoredAny>,
    #[serde(default, rename = "engine")]
    _engine: Option<IgnoredAny>,
    #[serde(default, rename = "guardrails")]
    _guardrails: Option<IgnoredAny>,
    #[serde(default, rename = "bootstrap")]
    _bootstrap: Option<IgnoredAny>,
    #[serde(default, rename = "notify")]
    _notify: Option<IgnoredAny>,
    #[serde(default, rename = "tickets")]
    _tickets: Option<IgnoredAny>,
}

impl Clouds {
    pub(super) fn new(
        installation: InstallationSection,
        azure: Option<Azure>,
        aws: Option<Aws>,
        logging: Logging,
    ) -> Self {
        Self {
            installation,
            azure,
            aws,
            logging,
            _listen: None,
            _database: None,
            _issuers: None,
            _limits: None,
            _engine: None,
            _guardrails: None,
            _bootstrap: None,
            _notify: None,
            _tickets: None,
        }
    }

    /// Reads the file and this process' environment.
    pub fn load(path: &Path) -> Result<Self, Invalid> {
        Self::from_text(path, &read(path)?, &variables())
    }

    /// Reads `text` as the file at `path` would be, with these variables.
    pub fn from_text(path: &Path, text: &str, variables: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        extract(path, text, variables, check::problems_of_clouds)
    }

    /// One cloud of an installation with whatever credentials are at hand; the environment overrides as it does a
    /// file. No accounts in Azure: every subscription that the credentials may read.
    pub fn at_hand(installation: &Installation, cloud: Cloud, accounts: &[String]) -> Result<Self, Invalid> {
        Self::without_file(installation, cloud, accounts, &variables())
    }

    fn without_file(
        installation: &Installation,
        cloud: Cloud,
        accounts: &[String],
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, Invalid> {
        let path = Path::new(COMMAND_LINE);
        let of_cloud = match cloud {
            Cloud::Azure => json!({ "subscriptions": accounts }),
            Cloud::Aws => {
                let accounts: Vec<_> = accounts.iter().map(|id| json!({ "id": id })).collect();
                json!({ "accounts": accounts })
            }
        };
        let document = json!({
            "installation": { "name": installation },
            "logging": { "filter": "warn" },
            cloud.to_string(): of_cloud,
        });
        let text = toml::to_string(&document)
            .map_err(|error| Invalid::one(Problem::file(path, error.to_string())))?;
        Self::from_text(path, &text, variables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../../config/postern.toml");

    fn none() -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    #[test]
    fn a_servers_whole_configuration_serves_a_sweep() {
        let clouds = Clouds::from_text(Path::new("postern.toml"), SHIPPED, &none()).unwrap();
        assert_eq!(clouds.installation.name.as_str(), "prod");
        assert!(clouds.azure.is_some() && clouds.aws.is_some());
    }

    /// The sweep is for the day on which all else fails: it must not stumble over a section that it does not need.
    #[test]
    fn each_section_of_a_servers_configuration_may_be_there() {
        let base = "[installation]\nname = \"prod\"\n[[aws.accounts]]\nid = \"111122223333\"\n";
        let path = Path::new("postern.toml");
        // What is asked of the whole: the names of its sections, as the server knows them.
        let unknown = format!("{base}[awz]\n");
        let refused = super::super::Config::from_text(path, &unknown, &none())
            .unwrap_err()
            .to_string();
        let sections: Vec<&str> = refused.split('`').skip(3).step_by(2).collect();
        assert!(sections.contains(&"tickets") && sections.len() > 10, "{refused}");
        for section in sections {
            let known = ["installation", "aws", "azure", "logging"].contains(&section);
            let text = format!("{base}[{section}]\nanything = 1\n");
            let read = Clouds::from_text(path, &text, &none());
            assert!(
                known || read.is_ok(),
                "[{section}]: {:?}",
                read.err().map(|error| error.to_string())
            );
        }
        let variables = BTreeMap::from([("POSTERN__TICKETS__SECRET".to_owned(), "hush".to_owned())]);
        Clouds::from_text(path, base, &variables).unwrap();
    }

    #[test]
    fn a_file_with_nothing_but_installation_and_clouds_is_enough() {
        let text = "[installation]\nname = \"prod\"\n[[aws.accounts]]\nid = \"111122223333\"\n";
        let clouds = Clouds::from_text(Path::new("sweep.toml"), text, &none()).unwrap();
        assert_eq!(clouds.aws.unwrap().accounts[0].id, "111122223333");
    }

    #[test]
    fn a_misspelt_section_is_refused_with_its_line() {
        let text = "[installation]\nname = \"prod\"\n[awz]\n";
        let refused = Clouds::from_text(Path::new("sweep.toml"), text, &none()).unwrap_err();
        assert_eq!(refused.problems()[0].key(), Some("awz"), "{refused}");
        assert_eq!(refused.problems()[0].line(), Some(3), "{refused}");
    }

    #[test]
    fn the_command_line_stands_in_for_a_file_and_the_environment_overrides_it() {
        let installation: Installation = "prod".parse().unwrap();
        let accounts = ["111122223333".to_owned()];
        let variables = BTreeMap::from([("POSTERN__AWS__REGIONS".to_owned(), "[\"eu-west-1\"]".to_owned())]);
        let clouds = Clouds::without_file(&installation, Cloud::Aws, &accounts, &variables).unwrap();
        let aws = clouds.aws.unwrap();
        assert_eq!(aws.accounts[0].id, "111122223333");
        assert_eq!(aws.regions, ["eu-west-1"]);
        assert!(clouds.azure.is_none());

        let azure = Clouds::without_file(&installation, Cloud::Azure, &[], &none()).unwrap();
        assert!(azure.azure.unwrap().subscriptions.is_empty());
    }

    #[test]
    fn aws_without_an_account_is_refused() {
        let installation: Installation = "prod".parse().unwrap();
        let refused = Clouds::without_file(&installation, Cloud::Aws, &[], &none()).unwrap_err();
        assert!(refused.to_string().contains("the command line"), "{refused}");
        assert!(refused.to_string().contains("at least one account"), "{refused}");
    }
}
