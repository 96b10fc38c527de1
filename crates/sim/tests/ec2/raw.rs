//! Raw queries of the EC2 simulator, and the answers as they come.

use std::{sync::Arc, time::Duration};

use chrono::DateTime;
use postern_sim::SteppedClock;
use postern_sim::ec2::{Ec2Handle, Ec2Options, Ec2Sim, Fleet};

pub(crate) const REGION: &str = "eu-central-1";
/// The version of the API that EC2's clients send.
pub(crate) const VERSION: &str = "2016-11-15";

pub(crate) struct Raw {
    pub(crate) client: reqwest::Client,
    pub(crate) sim: Ec2Handle,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16(),
            body: response.text().await.unwrap(),
        }
    }

    /// The text of the first element of that name.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    }

    pub(crate) fn get(&self, name: &str) -> String {
        self.first(name)
            .unwrap_or_else(|| panic!("no <{name}> in {}", self.body))
            .to_owned()
    }

    pub(crate) fn code(&self) -> &str {
        self.first("Code").unwrap_or("(success)")
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.body.matches(text).count()
    }
}

/// A simulator that takes any signature of a key that it knows.
pub(crate) async fn start(options: Ec2Options) -> Raw {
    start_strictly(Ec2Options {
        verify_signatures: false,
        ..options
    })
    .await
}

/// With a clock that stands at the beginning of the epoch until it is told otherwise.
pub(crate) async fn stepped(options: Ec2Options) -> (Arc<SteppedClock>, Raw) {
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let raw = start(Ec2Options {
        clock: Arc::clone(&clock) as Arc<_>,
        ..options
    });
    (clock, raw.await)
}

/// A simulator just as the options say.
pub(crate) async fn start_strictly(options: Ec2Options) -> Raw {
    // A second install in one process is refused and changes nothing.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let sim = Ec2Sim::start(options).await.unwrap();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    Raw { client, sim }
}

impl Raw {
    pub(crate) async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.call_in(REGION, action, parameters).await
    }

    pub(crate) async fn call_in(&self, region: &str, action: &str, parameters: &[(&str, &str)]) -> Answer {
        let authorization = authorization(Ec2Sim::ACCESS_KEY_ID, region, "ec2");
        self.send(Some(&authorization), VERSION, action, parameters).await
    }

    pub(crate) async fn send(
        &self,
        authorization: Option<&str>,
        version: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Answer {
        let mut form = vec![("Action", action), ("Version", version)];
        form.extend_from_slice(parameters);
        let mut request = self.client.post(self.sim.url()).form(&form);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    pub(crate) fn fleet(&self) -> Fleet {
        self.sim.fleet(Ec2Sim::ACCOUNT, REGION)
    }

    /// A VPC, a subnet and an empty group.
    pub(crate) fn network(&self) -> (String, String, String) {
        self.furnish(false)
    }

    /// A VPC with IPv6, a subnet and an empty group.
    pub(crate) fn network_with_ipv6(&self) -> (String, String, String) {
        self.furnish(true)
    }

    fn furnish(&self, ipv6: bool) -> (String, String, String) {
        let fleet = self.fleet();
        let vpc = fleet.vpc("10.0.0.0/16", ipv6).unwrap();
        let subnet = fleet.subnet(&vpc, "10.0.1.0/24", 0).unwrap();
        let group = fleet.group(&vpc, "web", &[]).unwrap();
        (vpc, subnet, group)
    }
}

pub(crate) fn authorization(key: &str, region: &str, service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={key}/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}
