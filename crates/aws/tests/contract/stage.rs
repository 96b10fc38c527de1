//! A stage for the enforcer contract: an enforcer and an administrator over one endpoint, machines of the
//! administrator's making, and what is wanted of them.

use std::collections::BTreeSet;

use aws_sdk_ec2::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{
        InstanceNetworkInterfaceSpecification, IpPermission, IpRange, ResourceType, Tag, TagSpecification,
    },
};
use postern_aws::{AwsAccount, AwsConfig, AwsEnforcer, BaseCredentials};
use postern_core::{
    enforcer::{Bindings, Desired, Displaced, Enforcer, Guard, Marks, Member, Observed, Plan, WantedGrant},
    inventory::Machine,
    machine::{Account, AwsInstance, MachineId},
    mark::Installation,
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    testing::{an_id, at, ports},
};

/// Whose EC2 it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "each test program has a stage at one of them")]
pub(crate) enum Flavour {
    /// Our simulator, which does as EC2 does.
    Simulator,
    /// moto.
    Moto,
}

/// Where to set the stage up.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) account: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    pub(crate) flavour: Flavour,
}

pub(crate) const REGION: &str = "eu-west-1";
const OFFICE: &str = "203.0.113.7/32";

/// An enforcer and an administrator over one endpoint.
pub(crate) struct Stage {
    pub(crate) enforcer: AwsEnforcer,
    pub(crate) admin: Client,
    pub(crate) account: String,
    pub(crate) flavour: Flavour,
}

/// A machine of an administrator's making.
pub(crate) struct Built {
    pub(crate) machine: AwsInstance,
    pub(crate) interface: String,
    pub(crate) group: String,
    pub(crate) vpc: String,
    pub(crate) subnet: String,
}

impl Stage {
    pub(crate) async fn new(endpoint: &Endpoint, adjust: impl FnOnce(&mut AwsConfig)) -> Self {
        let mut config = AwsConfig::new(vec![AwsAccount {
            id: endpoint.account.clone(),
            regions: vec![REGION.to_owned()],
            role: None,
        }]);
        config.endpoint = Some(endpoint.url.parse().unwrap());
        config.credentials = BaseCredentials::Static {
            access_key_id: endpoint.access_key_id.clone(),
            secret_access_key: endpoint.secret_access_key.clone().into(),
        };
        // Calls are told from each other here, and none waits for its turn.
        config.budget_percent = 0;
        adjust(&mut config);
        let http = aws_smithy_http_client::Builder::new().build_http();
        let admin = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::from_keys(
                &endpoint.access_key_id,
                &endpoint.secret_access_key,
                None,
            ))
            .http_client(http)
            .endpoint_url(&endpoint.url)
            .build();
        Self {
            enforcer: AwsEnforcer::connect(config).await.unwrap(),
            admin: Client::from_conf(admin),
            account: endpoint.account.clone(),
            flavour: endpoint.flavour,
        }
    }

    pub(crate) async fn of(endpoint: &Endpoint) -> Self {
        Self::new(endpoint, |_| {}).await
    }

    pub(crate) fn here(&self) -> Account {
        Account::Aws {
            account: self.account.clone(),
            region: REGION.to_owned(),
        }
    }

    /// A VPC with a group that lets `permissions` in, and a machine in it.
    pub(crate) async fn build(&self, permissions: Vec<IpPermission>) -> Built {
        let vpc = self
            .admin
            .create_vpc()
            .cidr_block("10.0.0.0/16")
            .send()
            .await
            .unwrap();
        let vpc = vpc.vpc().unwrap().vpc_id().unwrap().to_owned();
        let subnet = self.admin.create_subnet().vpc_id(&vpc).cidr_block("10.0.1.0/24");
        let subnet = subnet.send().await.unwrap();
        let subnet = subnet.subnet().unwrap().subnet_id().unwrap().to_owned();
        let group = self
            .admin
            .create_security_group()
            .vpc_id(&vpc)
            .group_name("web")
            .description("web");
        let group = group.send().await.unwrap().group_id().unwrap().to_owned();
        if !permissions.is_empty() {
            let call = self
                .admin
                .authorize_security_group_ingress()
                .group_id(&group)
                .set_ip_permissions(Some(permissions));
            call.send().await.unwrap();
        }
        let (machine, interface) = self.launch(&subnet, &group).await;
        Built {
            machine,
            interface,
            group,
            vpc,
            subnet,
        }
    }

    /// A machine on an interface that was made before it: moto lets go of a launch group only then.
    pub(crate) async fn launch(&self, subnet: &str, group: &str) -> (AwsInstance, String) {
        let interface = self
            .admin
            .create_network_interface()
            .subnet_id(subnet)
            .groups(group)
            .send()
            .await
            .unwrap();
        let interface = interface.network_interface().unwrap();
        let interface = interface.network_interface_id().unwrap().to_owned();
        let launched = self
            .admin
            .run_instances()
            .image_id("ami-0123456789abcdef0")
            .min_count(1)
            .max_count(1)
            .network_interfaces(
                InstanceNetworkInterfaceSpecification::builder()
                    .device_index(0)
                    .network_interface_id(&interface)
                    .build(),
            )
            .tag_specifications(
                TagSpecification::builder()
                    .resource_type(ResourceType::Instance)
                    .tags(Tag::builder().key("Name").value("web-1").build())
                    .build(),
            )
            .send()
            .await
            .unwrap();
        let id = launched.instances()[0].instance_id().unwrap().to_owned();
        (AwsInstance::new(&self.account, REGION, &id).unwrap(), interface)
    }

    /// Looks, plans, and carries the plan out up to a stop.
    pub(crate) async fn pass(&self, desired: &Desired, stop: usize) -> Plan {
        let plan = self.observe(desired).await.plan(desired);
        let mut bindings = Bindings::new();
        for change in plan.changes.iter().take(stop) {
            let done = self.enforcer.apply(&desired.point, change, &mut bindings).await;
            done.unwrap_or_else(|error| panic!("{}: {error}", change.summary));
        }
        plan
    }

    pub(crate) async fn observe(&self, desired: &Desired) -> Box<dyn Observed> {
        self.enforcer.observe(desired).await.unwrap()
    }

    pub(crate) async fn groups_of(&self, interface: &str) -> Vec<String> {
        let shown = self
            .admin
            .describe_network_interfaces()
            .network_interface_ids(interface);
        let shown = shown.send().await.unwrap();
        let groups = shown.network_interfaces()[0].groups();
        groups.iter().map(|g| g.group_id().unwrap().to_owned()).collect()
    }

    /// The rules of a group, as texts, descriptions and tags included.
    pub(crate) async fn rules_of(&self, group: &str, egress: bool) -> BTreeSet<String> {
        let filter = aws_sdk_ec2::types::Filter::builder()
            .name("group-id")
            .values(group)
            .build();
        let shown = self.admin.describe_security_group_rules().filters(filter);
        let shown = shown.send().await.unwrap();
        shown
            .security_group_rules()
            .iter()
            .filter(|rule| rule.is_egress().unwrap() == egress)
            .map(|rule| {
                format!(
                    "{} {:?}-{:?} {} {:?} {:?}",
                    rule.ip_protocol().unwrap(),
                    rule.from_port(),
                    rule.to_port(),
                    rule.cidr_ipv4()
                        .or_else(|| rule.referenced_group_info().and_then(|group| group.group_id()))
                        .unwrap_or_default(),
                    rule.description().filter(|text| !text.is_empty()),
                    rule.tags()
                        .iter()
                        .map(|tag| (tag.key(), tag.value()))
                        .collect::<BTreeSet<_>>(),
                )
            })
            .collect()
    }

    pub(crate) async fn holders(&self, vpc: &str) -> Vec<String> {
        let filter = aws_sdk_ec2::types::Filter::builder()
            .name("vpc-id")
            .values(vpc)
            .build();
        let shown = self
            .admin
            .describe_security_groups()
            .filters(filter)
            .send()
            .await
            .unwrap();
        shown
            .security_groups()
            .iter()
            .filter(|group| group.group_name().unwrap().starts_with("postern-"))
            .map(|group| group.group_id().unwrap().to_owned())
            .collect()
    }

    pub(crate) async fn machines(&self) -> Vec<Machine> {
        self.discovered().await.0
    }

    /// The points where discovery sees marks of the suite's.
    pub(crate) async fn marked(&self) -> BTreeSet<PointRef> {
        let (_, marks) = self.discovered().await;
        let ours = marks
            .into_iter()
            .filter(|(_, marks)| marks.contains(&installation()));
        ours.map(|(point, _)| point).collect()
    }

    async fn discovered(&self) -> (Vec<Machine>, Marks) {
        let (mut machines, mut marked, mut cursor) = (Vec::new(), Marks::new(), None);
        loop {
            let page = self.enforcer.discover(&self.here(), cursor.as_deref()).await;
            let page = page.unwrap();
            machines.extend(page.machines);
            marked.extend(page.marked);
            cursor = page.next;
            if cursor.is_none() {
                return (machines, marked);
            }
        }
    }
}

pub(crate) fn installation() -> Installation {
    "suite".parse().unwrap()
}

pub(crate) fn grant(number: u128, port: &str) -> WantedGrant {
    WantedGrant {
        grant: an_id(number),
        ports: vec![ports(port)],
        sources: vec![OFFICE.parse().unwrap()],
        not_after: at(600),
        opening: false,
    }
}

/// What is wanted of a machine's own point.
pub(crate) fn open(built: &Built, grants: Vec<WantedGrant>) -> Desired {
    Desired {
        installation: installation(),
        point: PointRef::AwsInstance(built.machine.clone()),
        members: vec![Member {
            machine: MachineId::Aws(built.machine.clone()),
            addresses: Vec::new(),
            interfaces: vec![built.interface.clone()],
            guard: None,
            approach: None,
            grants,
        }],
        displaced: Vec::new(),
        unsettled: false,
    }
}

/// What is wanted of the machine's group.
pub(crate) fn lock(built: &Built, guarded: &[&str], displaced: Vec<Displaced>) -> Desired {
    let guard = Guard {
        policy: an_id(9),
        ports: guarded.iter().map(|text| ports(text)).collect(),
        lockdown: Lockdown::Strict,
        shared_groups: SharedGroups::Refuse,
    };
    Desired {
        installation: installation(),
        point: PointRef::security_group(built.machine.account(), REGION, &built.group).unwrap(),
        members: vec![Member {
            machine: MachineId::Aws(built.machine.clone()),
            addresses: Vec::new(),
            interfaces: vec![built.interface.clone()],
            guard: (!guarded.is_empty()).then_some(guard),
            approach: None,
            grants: Vec::new(),
        }],
        displaced,
        unsettled: false,
    }
}

pub(crate) fn tcp(first: i32, last: i32, cidr: &str, description: &str) -> IpPermission {
    IpPermission::builder()
        .ip_protocol("tcp")
        .from_port(first)
        .to_port(last)
        .ip_ranges(IpRange::builder().cidr_ip(cidr).description(description).build())
        .build()
}

/// What a plan displaces, to be remembered.
pub(crate) fn displaced_by(plan: &Plan) -> Vec<Displaced> {
    plan.changes
        .iter()
        .flat_map(|change| change.displaces.clone())
        .collect()
}
