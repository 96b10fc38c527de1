//! The bare sequence of ARM calls: NSG, interface, rule, its operation and the NSG to open; without the interface
//! to close.

use anyhow::{Context as _, bail, ensure};
use postern::demo::fleet::{CLIENT_ID, CLIENT_SECRET, Fleet};
use postern_sim::arm;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{CALL_TIMEOUT, CONNECT_TIMEOUT};

/// The version that the enforcer names too.
const API_VERSION: &str = "2024-05-01";
const RULE: &str = "bare-opening";

/// A machine that no policy covers, and the calls that open and close it.
#[derive(Debug)]
pub(crate) struct BareAzure {
    http: reqwest::Client,
    base: String,
    token: String,
    security_group: String,
    interface: String,
    address: String,
    /// The machine, for the truth log.
    pub(crate) machine: String,
}

impl BareAzure {
    /// Builds the machine in a resource group of its own, as the fleet's `db` is once it is locked, and fetches a
    /// token.
    pub(crate) async fn build(fleet: &Fleet) -> anyhow::Result<Self> {
        let builder = fleet.arm.fleet().in_group("bare");
        builder.group()?;
        let network = builder.network("bare", "10.50.0.0/16")?;
        let subnet = builder.subnet(&network, "only", "10.50.1.0/24", None)?;
        let rules = [
            arm::inbound("office", 300, "Allow", "198.51.100.0/24", "22"),
            arm::inbound("no-ssh", 290, "Deny", "*", "22"),
            arm::inbound("no-rdp", 291, "Deny", "*", "3389"),
        ];
        let machine = builder.machine("bare-1", &subnet, &rules, &json!({}))?;
        // An error means that the process has a provider already, which serves as well.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let base = fleet.arm.url();
        let answer: Value = http
            .post(format!("{base}/{}/oauth2/v2.0/token", fleet.arm.tenant()))
            .form(&[
                ("grant_type", "client_credentials"),
                ("client_id", CLIENT_ID),
                ("client_secret", CLIENT_SECRET),
                ("scope", "https://management.azure.com/.default"),
            ])
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let token = answer
            .get("access_token")
            .and_then(Value::as_str)
            .context("a token")?
            .to_owned();
        Ok(Self {
            http,
            base,
            token,
            security_group: machine.security_group,
            interface: machine.interface,
            address: machine.private_address,
            machine: machine.machine,
        })
    }

    /// Opens SSH from 203.0.113.7 and reads back that it is open.
    pub(crate) async fn open(&self) -> anyhow::Result<()> {
        self.get(&self.security_group).await?;
        self.get(&self.interface).await?;
        let body = json!({ "properties": {
            "priority": 200,
            "direction": "Inbound",
            "access": "Allow",
            "protocol": "Tcp",
            "sourceAddressPrefix": "203.0.113.7/32",
            "sourcePortRange": "*",
            "destinationAddressPrefix": self.address,
            "destinationPortRange": "22",
            "description": "bare",
        } });
        self.write(Method::PUT, Some(&body)).await?;
        ensure!(self.has_rule().await?, "the bare opening is not read back");
        Ok(())
    }

    /// Closes it and reads back that it is closed.
    pub(crate) async fn close(&self) -> anyhow::Result<()> {
        self.get(&self.security_group).await?;
        self.write(Method::DELETE, None).await?;
        ensure!(!self.has_rule().await?, "the bare closing is not read back");
        Ok(())
    }

    async fn has_rule(&self) -> anyhow::Result<bool> {
        let group = self.get(&self.security_group).await?;
        let rules = group
            .pointer("/properties/securityRules")
            .and_then(Value::as_array);
        let rules = rules.context("an NSG has rules")?;
        Ok(rules
            .iter()
            .any(|rule| rule.get("name").and_then(Value::as_str) == Some(RULE)))
    }

    async fn get(&self, id: &str) -> anyhow::Result<Value> {
        let answer = self
            .send(
                Method::GET,
                format!("{}{id}?api-version={API_VERSION}", self.base),
                None,
            )
            .await?;
        Ok(answer.json().await?)
    }

    /// Writes the rule and waits for the operation; the first look is at once.
    async fn write(&self, method: Method, body: Option<&Value>) -> anyhow::Result<()> {
        let url = format!(
            "{}{}/securityRules/{RULE}?api-version={API_VERSION}",
            self.base, self.security_group
        );
        let answer = self.send(method, url, body).await?;
        let watch = answer
            .headers()
            .get("azure-asyncoperation")
            .context("an operation to watch")?;
        let watch = watch.to_str()?.to_owned();
        answer.bytes().await?;
        loop {
            let look: Value = self.send(Method::GET, watch.clone(), None).await?.json().await?;
            match look.get("status").and_then(Value::as_str) {
                Some("Succeeded") => return Ok(()),
                Some("InProgress") => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
                other => bail!("the bare operation ended as {other:?}"),
            }
        }
    }

    async fn send(&self, method: Method, url: String, body: Option<&Value>) -> anyhow::Result<Response> {
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        Ok(request.send().await?.error_for_status()?)
    }
}
