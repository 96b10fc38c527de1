//! The demo's machines: two in Azure and two in AWS, with the kinds of open ports that people have; and where wanted
//! one in Azure behind a firewall.

use std::sync::Arc;

use anyhow::Context as _;
use postern_sim::{
    SimClock,
    arm::{self, ArmHandle, ArmOptions, ArmSim},
    ec2::{AccessKey, Ec2Handle, Ec2Options, Ec2Sim, Ingress, MachinePlan, Role},
};
use serde_json::json;

use super::gate::Gate;

/// The Azure subscription.
pub const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
/// The AWS account with the machines.
pub const ACCOUNT: &str = "111122223333";
/// The AWS account that Postern's own credentials belong to; it assumes a role in the other.
pub const HUB_ACCOUNT: &str = "999988887777";
/// The AWS region.
pub const REGION: &str = "eu-west-1";
/// The role that Postern assumes.
pub const ROLE_ARN: &str = "arn:aws:iam::111122223333:role/postern";
/// What the role's trust policy asks for.
pub const EXTERNAL_ID: &str = "postern-demo";
/// Azure subscriptions without anything in them, for larger fleets than the demo's.
pub const SPARE_SUBSCRIPTIONS: [&str; 4] = [
    "00000000-0000-0000-0000-000000000002",
    "00000000-0000-0000-0000-000000000003",
    "00000000-0000-0000-0000-000000000004",
    "00000000-0000-0000-0000-000000000005",
];
/// AWS accounts without anything in them, each with a role `postern`, for larger fleets than the demo's.
pub const SPARE_ACCOUNTS: [&str; 4] = ["111122223334", "111122223335", "111122223336", "111122223337"];
/// Postern's own key in the hub account; guards nothing.
pub const ACCESS_KEY_ID: &str = "AKIAPOSTERNDEMO00001";
/// Its secret; guards nothing.
pub const SECRET_ACCESS_KEY: &str = "postern-demo-secret-access-key";
/// The app registration in Azure.
pub const CLIENT_ID: &str = "22222222-2222-2222-2222-222222222222";
/// Its secret; guards nothing.
pub const CLIENT_SECRET: &str = "postern-demo-client-secret";

/// Both clouds, with their machines.
pub struct Fleet {
    /// The Azure simulator.
    pub arm: ArmHandle,
    /// The EC2 simulator.
    pub ec2: Ec2Handle,
    /// SSH is open to everybody by a rule at priority 300 of both its NIC's and its subnet's NSG.
    pub web: String,
    /// Only its NIC has an NSG.
    pub db: String,
    /// SSH is open to everybody by one rule.
    pub app: String,
    /// SSH is open to everybody by a range of ports, and to the private network by a rule for all traffic.
    pub build: String,
    /// The NSGs' ids.
    pub security_groups: Vec<String>,
    /// The machine behind a firewall, where there is one.
    pub gate: Option<Gate>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("arm", &self.arm.url())
            .field("ec2", &self.ec2.url())
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Starts both simulators on free ports and builds the machines.
    pub async fn start(clock: Arc<dyn SimClock>) -> anyhow::Result<Self> {
        let arm = ArmSim::start(ArmOptions {
            clock: Arc::clone(&clock),
            subscriptions: std::iter::once((SUBSCRIPTION, "Shop"))
                .chain(SPARE_SUBSCRIPTIONS.map(|id| (id, "Spare")))
                .map(|(id, name)| (id.to_owned(), name.to_owned()))
                .collect(),
            ..ArmOptions::default()
        })
        .await
        .context("the Azure simulator cannot listen")?;
        let ec2 = Ec2Sim::start(Ec2Options {
            clock,
            keys: vec![AccessKey {
                id: ACCESS_KEY_ID.to_owned(),
                secret: SECRET_ACCESS_KEY.to_owned(),
                account: HUB_ACCOUNT.to_owned(),
                user: "postern".to_owned(),
            }],
            roles: std::iter::once(ACCOUNT)
                .chain(SPARE_ACCOUNTS)
                .map(|account| Role {
                    arn: role_arn(account),
                    trusted_accounts: vec![HUB_ACCOUNT.to_owned()],
                    external_id: Some(EXTERNAL_ID.to_owned()),
                })
                .collect(),
            ..Ec2Options::default()
        })
        .await
        .context("the EC2 simulator cannot listen")?;
        let (web, db, security_groups) = azure(&arm).context("the Azure machines cannot be built")?;
        let (app, build) = aws(&ec2).context("the AWS machines cannot be built")?;
        Ok(Self {
            arm,
            ec2,
            web,
            db,
            app,
            build,
            security_groups,
            gate: None,
        })
    }

    /// As [`Fleet::start`], with a further machine that stands behind a firewall.
    pub async fn with_gate(clock: Arc<dyn SimClock>) -> anyhow::Result<Self> {
        let mut fleet = Self::start(clock).await?;
        let gate = Gate::build(&fleet.arm).context("the machine behind the firewall cannot be built")?;
        fleet.security_groups.push(gate.security_group.clone());
        fleet.gate = Some(gate);
        Ok(fleet)
    }
}

/// The role that Postern assumes in an account.
pub fn role_arn(account: &str) -> String {
    format!("arn:aws:iam::{account}:role/postern")
}

fn azure(arm: &ArmHandle) -> anyhow::Result<(String, String, Vec<String>)> {
    let fleet = arm.fleet().in_group("shop");
    fleet.group()?;
    let network = fleet.network("shop", "10.20.0.0/16")?;
    let everybody = || arm::inbound("ssh-from-everywhere", 300, "Allow", "*", "22");
    let https = || arm::inbound("https", 310, "Allow", "Internet", "443");
    let office = arm::inbound("office", 300, "Allow", "198.51.100.0/24", "22");
    let front_rules = fleet.security_group("front-nsg", &[everybody(), https()])?;
    let front = fleet.subnet(&network, "front", "10.20.1.0/24", Some(&front_rules))?;
    let back = fleet.subnet(&network, "back", "10.20.2.0/24", None)?;
    let web = fleet.machine(
        "web-1",
        &front,
        &[everybody(), https()],
        &json!({ "env": "prod", "tier": "web" }),
    )?;
    let db = fleet.machine("db-1", &back, &[office], &json!({ "env": "prod", "tier": "db" }))?;
    let groups = vec![front_rules, web.security_group, db.security_group];
    Ok((web.machine, db.machine, groups))
}

fn aws(ec2: &Ec2Handle) -> anyhow::Result<(String, String)> {
    let fleet = ec2.fleet(ACCOUNT, REGION);
    let vpc = fleet.vpc("10.30.0.0/16", false)?;
    let subnet = fleet.subnet(&vpc, "10.30.1.0/24", 0)?;
    let open = fleet.group(
        &vpc,
        "app",
        &[Ingress::tcp(22, "0.0.0.0/0"), Ingress::tcp(443, "0.0.0.0/0")],
    )?;
    let range = fleet.group(
        &vpc,
        "build",
        &[
            Ingress::tcp_range(20, 1024, "0.0.0.0/0"),
            Ingress::all("10.0.0.0/8"),
        ],
    )?;
    let machine = |name: &str, group: &str, tier: &str| {
        fleet.machine(&MachinePlan {
            name: name.to_owned(),
            subnet_id: subnet.clone(),
            interfaces: vec![vec![group.to_owned()]],
            tags: [("env", "prod"), ("tier", tier)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            public: true,
            ..MachinePlan::default()
        })
    };
    let app = machine("app-1", &open, "web")?;
    let build = machine("build-1", &range, "ci")?;
    Ok((app.arn, build.arn))
}
