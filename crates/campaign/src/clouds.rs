//! Both simulated clouds with the fleet of a script. Built twice: once for Postern, once as the twin that only the
//! foreign edits reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use postern::demo::fleet::{
    ACCESS_KEY_ID, ACCOUNT, EXTERNAL_ID, HUB_ACCOUNT, REGION, ROLE_ARN, SECRET_ACCESS_KEY, SUBSCRIPTION,
};
use postern_sim::{
    arm::{self, ArmHandle, ArmOptions, ArmSim},
    clock::SystemClock,
    ec2::{AccessKey, Ec2Handle, Ec2Options, Ec2Sim, Ingress, MachinePlan, Origin, Role},
};
use serde_json::{Value, json};

use crate::{
    gate::{self, Gate},
    script::{AzureMachine, FirewallPlan, NsgRule, Peer, Script, SgRule},
};

/// Both clouds.
pub struct Clouds {
    /// Azure.
    pub arm: ArmHandle,
    /// AWS.
    pub ec2: Ec2Handle,
    /// What was built.
    pub built: Built,
}

impl std::fmt::Debug for Clouds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clouds")
            .field("arm", &self.arm.url())
            .field("ec2", &self.ec2.url())
            .finish_non_exhaustive()
    }
}

/// The ids of what was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Built {
    /// The NSGs.
    pub nsgs: Vec<String>,
    /// The Azure machines.
    pub vms: Vec<String>,
    /// Their private IPv4 addresses.
    pub addresses: Vec<String>,
    /// Their subnets.
    pub subnets: Vec<String>,
    /// The firewall before some of them, if there is one.
    pub gate: Option<Gate>,
    /// The policy that the firewall's policy inherits, if there is one, as if it were the firewall's own.
    pub parent: Option<Gate>,
    /// The other firewall, if there is one.
    pub second: Option<Gate>,
    /// The security groups.
    pub groups: Vec<String>,
    /// The prefix list, where there is one.
    pub list: Option<String>,
    /// The instances, by ARN.
    pub instances: Vec<String>,
    /// Their interfaces.
    pub interfaces: Vec<String>,
}

impl Built {
    /// The machine of that number, modulo what there is: Azure's first.
    pub fn machine(&self, number: usize) -> Option<&str> {
        self.machines().nth(number.checked_rem(self.machines().count())?)
    }

    /// Every machine: Azure's first.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        self.vms.iter().chain(&self.instances).map(String::as_str)
    }
}

/// The name in the truth log of whoever edits behind Postern's back.
pub fn is_foreign(caller: &str) -> bool {
    !caller.contains("postern") && !caller.contains(postern::demo::fleet::CLIENT_ID)
}

impl Clouds {
    /// Starts both simulators and builds the fleet.
    pub async fn start(script: &Script) -> anyhow::Result<Self> {
        let arm = ArmSim::start(ArmOptions {
            seed: script.seed,
            subscriptions: vec![(SUBSCRIPTION.to_owned(), "Shop".to_owned())],
            operation_duration: Duration::from_millis(script.operation_ms),
            firewall_duration: Duration::from_millis(plan_of(script).map_or(0, |plan| plan.write_ms)),
            ..ArmOptions::default()
        })
        .await
        .context("the Azure simulator cannot listen")?;
        let ec2 = Ec2Sim::start(Ec2Options {
            seed: script.seed,
            clock: Arc::new(SystemClock),
            keys: vec![AccessKey {
                id: ACCESS_KEY_ID.to_owned(),
                secret: SECRET_ACCESS_KEY.to_owned(),
                account: HUB_ACCOUNT.to_owned(),
                user: "postern".to_owned(),
            }],
            roles: vec![Role {
                arn: ROLE_ARN.to_owned(),
                trusted_accounts: vec![HUB_ACCOUNT.to_owned()],
                external_id: Some(EXTERNAL_ID.to_owned()),
            }],
            transition_delay: Duration::from_millis(script.transition_ms),
            describe_lag: Duration::from_millis(script.describe_lag_ms),
            ..Ec2Options::default()
        })
        .await
        .context("the EC2 simulator cannot listen")?;
        let mut clouds = Self {
            arm,
            ec2,
            built: Built::default(),
        };
        let mut built = Built::default();
        clouds.azure(script, &mut built).context("the Azure fleet")?;
        clouds.aws(script, &mut built).context("the AWS fleet")?;
        clouds.built = built;
        Ok(clouds)
    }

    fn azure(&self, script: &Script, built: &mut Built) -> anyhow::Result<()> {
        let plan = &script.azure;
        let fleet = self.arm.fleet();
        fleet.group()?;
        for (number, rules) in plan.nsgs.iter().enumerate() {
            let rules: Vec<Value> = rules.iter().map(nsg_rule).collect();
            built
                .nsgs
                .push(fleet.security_group(&format!("nsg-{number}"), &rules)?);
        }
        if plan.machines.is_empty() {
            return Ok(());
        }
        let network = fleet.id("Microsoft.Network/virtualNetworks/net");
        let space = json!({ "addressPrefixes": ["10.20.0.0/16", "fd00:20::/48"] });
        fleet.put(
            &network,
            json!({ "location": "westeurope", "properties": { "addressSpace": space } }),
        )?;
        let table = plan_of(script)
            .map(|_| gate::routes(&fleet, gate::FIRST))
            .transpose()?;
        let other = script
            .second
            .as_ref()
            .map(|_| gate::routes(&fleet, gate::SECOND))
            .transpose()?;
        for (number, nsg) in plan.subnets.iter().enumerate() {
            let id = format!("{network}/subnets/s{number}");
            let mut properties = json!({
                "addressPrefixes": [format!("10.20.{number}.0/24"), format!("fd00:20:0:{number}::/64")],
            });
            link(&mut properties, built, *nsg);
            for (plan, table) in [(plan_of(script), &table), (script.second.as_ref(), &other)] {
                let routed = plan.and_then(|plan| plan.routed.get(number));
                if let (Some(table), Some(true), Some(properties)) =
                    (table, routed, properties.as_object_mut())
                {
                    properties.insert("routeTable".to_owned(), json!({ "id": table }));
                }
            }
            fleet.put(&id, json!({ "properties": properties }))?;
            built.subnets.push(id);
        }
        for (number, machine) in plan.machines.iter().enumerate() {
            let subnet = built.subnets.get(machine.subnet).context("a subnet")?.clone();
            let interface = self.interface(number, machine, &subnet, built)?;
            let tags = json!({ "env": environment(machine.prod) });
            let id = fleet.virtual_machine(&format!("vm-{number}"), &[&interface], &tags)?;
            built.vms.push(id);
            let shown = fleet.get(&interface)?;
            let address = shown
                .pointer("/properties/ipConfigurations/0/properties/privateIPAddress")
                .and_then(Value::as_str);
            built
                .addresses
                .push(address.context("an interface without an address")?.to_owned());
        }
        if let (Some(plan), Some(table)) = (plan_of(script), table) {
            let place = (gate::FIRST, plan);
            let gate = gate::build(&fleet, place, &network, table, &built.addresses)?;
            built.parent = (plan.parent.as_ref())
                .map(|collections| gate::inherit(&fleet, &gate, collections, &built.addresses))
                .transpose()?;
            built.gate = Some(gate);
        }
        if let (Some(plan), Some(table)) = (&script.second, other) {
            let hub = fleet.network("hub", gate::HUB)?;
            let place = (gate::SECOND, plan);
            built.second = Some(gate::build(&fleet, place, &hub, table, &built.addresses)?);
        }
        Ok(())
    }

    fn interface(
        &self,
        number: usize,
        machine: &AzureMachine,
        subnet: &str,
        built: &Built,
    ) -> anyhow::Result<String> {
        let fleet = self.arm.fleet();
        let mut addresses = vec![json!({
            "name": "v4", "properties": { "subnet": { "id": subnet }, "primary": true },
        })];
        if machine.ipv6 {
            addresses.push(json!({
                "name": "v6",
                "properties": { "subnet": { "id": subnet }, "privateIPAddressVersion": "IPv6" },
            }));
        }
        let mut properties = json!({ "ipConfigurations": addresses });
        link(&mut properties, built, machine.nsg);
        let id = fleet.id(&format!("Microsoft.Network/networkInterfaces/nic-{number}"));
        fleet.put(&id, json!({ "location": "westeurope", "properties": properties }))?;
        Ok(id)
    }

    fn aws(&self, script: &Script, built: &mut Built) -> anyhow::Result<()> {
        let plan = &script.aws;
        let fleet = self.ec2.fleet(ACCOUNT, REGION);
        // Whoever looks first gets the region its default VPC.
        fleet.snapshot()?;
        if plan.machines.is_empty() {
            return Ok(());
        }
        let vpc = fleet.vpc("10.30.0.0/16", true)?;
        let subnet = fleet.subnet(&vpc, "10.30.1.0/24", 0)?;
        built.list = Some(fleet.prefix_list("offices", &["198.51.100.0/24", "203.0.113.200/32"], 4)?);
        for (number, rules) in plan.groups.iter().enumerate() {
            let mut wanted: Vec<Ingress> = Vec::new();
            for rule in rules.iter().filter_map(|rule| ingress(rule, built)) {
                // Two rules of one group never allow the same.
                if !wanted.contains(&rule) {
                    wanted.push(rule);
                }
            }
            let id = fleet.group(&vpc, &format!("group-{number}"), &wanted)?;
            built.groups.push(id);
        }
        for (number, machine) in plan.machines.iter().enumerate() {
            let on = |groups: &Vec<usize>| -> Vec<String> {
                groups
                    .iter()
                    .filter_map(|group| built.groups.get(*group).cloned())
                    .collect()
            };
            let made = fleet.machine(&MachinePlan {
                name: format!("i-{number}"),
                subnet_id: subnet.clone(),
                interfaces: machine.interfaces.iter().map(on).collect(),
                tags: [("env".to_owned(), environment(machine.prod).to_owned())].into(),
                public: true,
                ipv6_count: 1,
                ..MachinePlan::default()
            })?;
            built.instances.push(made.arn);
            built.interfaces.extend(made.interface_ids);
        }
        Ok(())
    }

    /// What must stand at the end as nobody but the foreign editors left it: both clouds' resources, without what
    /// changes by itself.
    pub fn rules(&self) -> BTreeMap<String, Value> {
        [self.arm.truth().world(None), self.ec2.truth().world(None)]
            .into_iter()
            .flatten()
            .map(|(resource, value)| (resource, essence(&value)))
            .collect()
    }
}

/// What stands differently in `is` than in `should`, resource by resource.
pub fn difference(should: &BTreeMap<String, Value>, is: &BTreeMap<String, Value>) -> Vec<String> {
    let resources: BTreeSet<&String> = should.keys().chain(is.keys()).collect();
    resources
        .into_iter()
        .filter(|resource| should.get(*resource) != is.get(*resource))
        .map(|resource| {
            let show = |rules: &BTreeMap<String, Value>| {
                rules
                    .get(resource)
                    .map_or_else(|| "nothing".to_owned(), Value::to_string)
            };
            format!(
                "{resource}\n  should be {}\n  is        {}",
                show(should),
                show(is)
            )
        })
        .collect()
}

/// A value without the ids of EC2's rules, which no one can restore, and without times.
fn essence(value: &Value) -> Value {
    const TIMES: [&str; 4] = ["launched", "terminated", "transition", "at"];
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, value)| {
                    !value.as_str().is_some_and(|text| text.starts_with("sgr-"))
                        && !TIMES.contains(&key.as_str())
                })
                .map(|(key, value)| (key.clone(), essence(value)))
                .collect(),
        ),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(essence).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        other => other.clone(),
    }
}

const fn plan_of(script: &Script) -> Option<&FirewallPlan> {
    script.firewall.as_ref()
}

/// The tag `env`.
pub const fn environment(prod: bool) -> &'static str {
    if prod { "prod" } else { "dev" }
}

fn link(properties: &mut Value, built: &Built, nsg: Option<usize>) {
    let id = nsg.and_then(|nsg| built.nsgs.get(nsg));
    if let (Some(id), Some(properties)) = (id, properties.as_object_mut()) {
        properties.insert("networkSecurityGroup".to_owned(), json!({ "id": id }));
    }
}

/// The body of a rule, as ARM takes it.
pub fn nsg_rule(rule: &NsgRule) -> Value {
    arm::inbound(&rule.name, rule.priority, rule.access, rule.source, &rule.ports)
}

/// A rule as EC2 takes it; none where it names what is not there.
pub fn ingress(rule: &SgRule, built: &Built) -> Option<Ingress> {
    let from = match rule.from {
        Peer::Range(range) => Origin::Cidr(range.to_owned()),
        Peer::Group(group) => Origin::Group(built.groups.get(group)?.clone()),
        Peer::List => Origin::PrefixList(built.list.clone()?),
    };
    let protocol = if rule.ports.is_some() { "tcp" } else { "-1" };
    Some(Ingress {
        protocol: protocol.to_owned(),
        ports: rule.ports.unwrap_or_default(),
        from,
        description: String::new(),
    })
}
