//! The enforcer contract over a real EC2 endpoint: the same cases against our simulator and against moto. Where
//! moto is known to differ from EC2, the case asks for the flavour and says how.

use std::collections::BTreeSet;

use aws_sdk_ec2::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{
        InstanceNetworkInterfaceSpecification, IpPermission, IpRange, ResourceType, Tag, TagSpecification,
        UserIdGroupPair,
    },
};
use postern_aws::{AwsAccount, AwsConfig, AwsEnforcer, BaseCredentials, operation::Operation};
use postern_core::{
    enforcer::{
        Bindings, Change, Desired, Displaced, EnforceError, Enforcer, Guard, Marks, Member, Observed, Plan,
        WantedGrant,
    },
    inventory::{Layer, Machine},
    machine::{Account, AwsInstance, MachineId},
    mark::{Installation, Purpose},
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    testing::{an_id, at, ports},
};

/// Whose EC2 it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "each test program runs the suite against one of them")]
pub(crate) enum Flavour {
    /// Our simulator, which does as EC2 does.
    Simulator,
    /// moto.
    Moto,
}

/// Where to run the suite.
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

/// Runs every case, each in a VPC of its own.
pub(crate) async fn run(endpoint: &Endpoint) {
    a_machine_is_discovered_with_its_groups(endpoint).await;
    every_machine_is_on_exactly_one_page(endpoint).await;
    opening_and_closing_leaves_the_interface_as_it_was(endpoint).await;
    closing_one_of_two_grants_keeps_the_other(endpoint).await;
    every_change_may_be_repeated(endpoint).await;
    a_pass_goes_on_where_another_stopped(endpoint).await;
    an_authorize_completes_what_is_there_in_part(endpoint).await;
    a_group_in_use_is_not_deleted(endpoint).await;
    a_lockdown_displaces_and_restores(endpoint).await;
    a_shared_group_is_refused_by_name(endpoint).await;
    what_does_not_exist_is_gone(endpoint).await;
    the_sweeper_finds_and_removes_what_is_marked(endpoint).await;
}

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

    async fn holders(&self, vpc: &str) -> Vec<String> {
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

    async fn machines(&self) -> Vec<Machine> {
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

fn to_change(operation: &Operation) -> Change {
    Change {
        verb: postern_core::enforcer::Verb::Open,
        target: String::new(),
        summary: String::new(),
        grants: Vec::new(),
        policies: Vec::new(),
        before: None,
        after: None,
        operation: serde_json::to_value(operation).unwrap(),
        displaces: Vec::new(),
    }
}

async fn a_machine_is_discovered_with_its_groups(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    assert_eq!(stage.enforcer.accounts().await.unwrap(), [stage.here()]);
    let machines = stage.machines().await;
    let machine = machines
        .iter()
        .find(|machine| machine.id == MachineId::Aws(built.machine.clone()))
        .expect("the machine is found");
    assert_eq!(machine.name, "web-1");
    assert_eq!(machine.interfaces.len(), 1);
    assert_eq!(machine.interfaces[0].id, built.interface);
    assert_eq!(machine.interfaces[0].network_id, built.vpc);
    assert_eq!(machine.interfaces[0].network, ["10.0.0.0/16".parse().unwrap()]);
    assert_eq!(machine.interfaces[0].addresses.len(), 1);
    let Layer::SecurityGroups { groups } = &machine.interfaces[0].layers[0] else {
        panic!("EC2 filters by groups");
    };
    assert_eq!(groups[0].id, built.group);
    assert_eq!(groups[0].ingress.len(), 1);
    assert_eq!(groups[0].ingress[0].description.as_deref(), Some("ssh"));
}

async fn every_machine_is_on_exactly_one_page(endpoint: &Endpoint) {
    let stage = Stage::new(endpoint, |config| config.page_size = 5).await;
    let built = stage.build(Vec::new()).await;
    let mut launched = BTreeSet::from([built.machine.instance().to_owned()]);
    for _ in 0..6 {
        let (machine, _) = stage.launch(&built.subnet, &built.group).await;
        launched.insert(machine.instance().to_owned());
    }
    let machines = stage.machines().await;
    let found: Vec<String> = machines
        .iter()
        .map(|machine| machine.id.short().to_owned())
        .filter(|id| launched.contains(id))
        .collect();
    assert_eq!(found.len(), launched.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), launched);
}

async fn opening_and_closing_leaves_the_interface_as_it_was(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    let wanted = open(&built, vec![grant(1, "22")]);
    let plan = stage.pass(&wanted, usize::MAX).await;
    assert_eq!(plan.obstacles, []);

    let read = stage.observe(&wanted).await;
    assert!(read.evidence(&wanted)[&an_id(1)].complete);
    assert_eq!(read.plan(&wanted).changes, [], "a second pass has nothing to do");
    let holders = stage.holders(&built.vpc).await;
    assert_eq!(holders.len(), 1);
    assert_eq!(
        stage
            .groups_of(&built.interface)
            .await
            .into_iter()
            .collect::<BTreeSet<_>>(),
        BTreeSet::from([built.group.clone(), holders[0].clone()])
    );
    assert_eq!(stage.rules_of(&holders[0], true).await, BTreeSet::new());
    assert_eq!(stage.rules_of(&holders[0], false).await.len(), 1);

    let closed = open(&built, Vec::new());
    stage.pass(&closed, usize::MAX).await;
    assert!(stage.observe(&closed).await.evidence(&closed).is_empty());
    assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
    assert_eq!(
        stage.groups_of(&built.interface).await,
        std::slice::from_ref(&built.group)
    );
}

async fn closing_one_of_two_grants_keeps_the_other(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    let mut late = grant(2, "22");
    late.not_after = at(900);
    let other = grant(3, "3389");
    let all = open(&built, vec![grant(1, "22"), late.clone(), other]);
    stage.pass(&all, usize::MAX).await;
    let evidence = stage.observe(&all).await.evidence(&all);
    assert_eq!(evidence.len(), 3);
    assert!(evidence.values().all(|evidence| evidence.complete));

    // Grants 1 and 2 share a rule, marked for 2: closing 2 leaves it to 1.
    let left = open(&built, vec![grant(1, "22")]);
    stage.pass(&left, usize::MAX).await;
    let evidence = stage.observe(&left).await.evidence(&left);
    assert_eq!(evidence.keys().copied().collect::<Vec<_>>(), [an_id(1)]);
    assert!(evidence[&an_id(1)].complete);
}

async fn every_change_may_be_repeated(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    for grants in [
        vec![grant(1, "22"), grant(2, "3389")],
        vec![grant(2, "3389")],
        vec![],
    ] {
        let wanted = open(&built, grants);
        let plan = stage.observe(&wanted).await.plan(&wanted);
        let mut bindings = Bindings::new();
        for change in &plan.changes {
            for _ in 0..2 {
                let done = stage.enforcer.apply(&wanted.point, change, &mut bindings).await;
                done.unwrap_or_else(|error| panic!("{}: {error}", change.summary));
            }
        }
        let read = stage.observe(&wanted).await;
        assert_eq!(read.plan(&wanted).changes, []);
        assert_eq!(read.evidence(&wanted).len(), wanted.members[0].grants.len());
    }
}

async fn a_pass_goes_on_where_another_stopped(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(443, 443, "0.0.0.0/0", "web")]).await;
    for stop in 0..4 {
        let wanted = open(&built, vec![grant(1, "22")]);
        stage.pass(&wanted, stop).await;
        stage.pass(&wanted, usize::MAX).await;
        let evidence = stage.observe(&wanted).await.evidence(&wanted);
        assert!(evidence[&an_id(1)].complete, "stopped after {stop}");
        let closed = open(&built, Vec::new());
        stage.pass(&closed, stop).await;
        stage.pass(&closed, usize::MAX).await;
        assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
        assert_eq!(
            stage.groups_of(&built.interface).await,
            std::slice::from_ref(&built.group)
        );
    }
}

async fn an_authorize_completes_what_is_there_in_part(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    // EC2 authorizes all or nothing. moto keeps what comes before the duplicate; the outcome is the same, because
    // what is missing is found out by looking.
    let wanted = open(&built, vec![grant(1, "22"), grant(2, "3389"), grant(3, "5986")]);
    let plan = stage.observe(&wanted).await.plan(&wanted);
    let mut bindings = Bindings::new();
    for change in &plan.changes {
        let operation: Operation = serde_json::from_value(change.operation.clone()).unwrap();
        if let Operation::Authorize { group, rules } = operation {
            let part = Operation::Authorize {
                group,
                rules: vec![rules[1].clone()],
            };
            stage
                .enforcer
                .apply(&wanted.point, &to_change(&part), &mut bindings)
                .await
                .unwrap();
        }
        stage
            .enforcer
            .apply(&wanted.point, change, &mut bindings)
            .await
            .unwrap();
    }
    let evidence = stage.observe(&wanted).await.evidence(&wanted);
    assert_eq!(evidence.len(), 3);
    assert!(evidence.values().all(|evidence| evidence.complete));
}

async fn a_group_in_use_is_not_deleted(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    let wanted = open(&built, vec![grant(1, "22")]);
    stage.pass(&wanted, usize::MAX).await;
    let holder = stage.holders(&built.vpc).await.remove(0);
    let delete = to_change(&Operation::DeleteHolder {
        group: holder.clone(),
    });
    let answer = stage
        .enforcer
        .apply(&wanted.point, &delete, &mut Bindings::new())
        .await;
    match stage.flavour {
        Flavour::Simulator => {
            let conflict = EnforceError::Conflict {
                resource: holder,
                code: "DependencyViolation".to_owned(),
            };
            assert_eq!(answer, Err(conflict));
            assert!(stage.observe(&wanted).await.evidence(&wanted)[&an_id(1)].complete);
        }
        // moto never raises DependencyViolation: it deletes the group under the interface.
        Flavour::Moto => {
            answer.unwrap();
        }
    }
}

async fn a_lockdown_displaces_and_restores(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage
        .build(vec![
            tcp(20, 25, "0.0.0.0/0", "everything else"),
            tcp(443, 443, "0.0.0.0/0", "web"),
            IpPermission::builder()
                .ip_protocol("-1")
                .ip_ranges(
                    IpRange::builder()
                        .cidr_ip("10.0.0.0/8")
                        .description("inside")
                        .build(),
                )
                .build(),
        ])
        .await;
    // A tagged rule, and one whose source is the group itself.
    stage
        .admin
        .authorize_security_group_ingress()
        .group_id(&built.group)
        .ip_permissions(tcp(22, 22, "198.51.100.0/24", "office"))
        .tag_specifications(
            TagSpecification::builder()
                .resource_type(ResourceType::SecurityGroupRule)
                .tags(Tag::builder().key("owner").value("ops").build())
                .build(),
        )
        .send()
        .await
        .unwrap();
    stage
        .admin
        .authorize_security_group_ingress()
        .group_id(&built.group)
        .ip_permissions(
            IpPermission::builder()
                .ip_protocol("tcp")
                .from_port(22)
                .to_port(22)
                .user_id_group_pairs(
                    UserIdGroupPair::builder()
                        .group_id(&built.group)
                        .user_id(&stage.account)
                        .build(),
                )
                .build(),
        )
        .send()
        .await
        .unwrap();
    let before = stage.rules_of(&built.group, false).await;

    let locked = lock(&built, &["22"], Vec::new());
    let plan = stage.pass(&locked, usize::MAX).await;
    let displaced: Vec<Displaced> = plan
        .changes
        .iter()
        .flat_map(|change| change.displaces.clone())
        .collect();
    assert_eq!(displaced.len(), 4);
    let locked = lock(&built, &["22"], displaced.clone());
    let read = stage.observe(&locked).await.plan(&locked);
    assert_eq!(
        (read.changes, read.findings, read.settled),
        (vec![], vec![], vec![])
    );
    let during = stage.rules_of(&built.group, false).await;
    assert!(
        during
            .iter()
            .any(|rule| rule.starts_with("tcp Some(23)-Some(25) 0.0.0.0/0"))
    );
    assert!(during.iter().any(|rule| rule.starts_with("50 ")), "{during:#?}");
    assert!(during.is_superset(&before.iter().filter(|r| r.contains("web")).cloned().collect()));

    // The policy gets another port, loses it, and goes; each first pass stops after one change.
    let mut displaced = displaced;
    for guarded in [&["22", "443"][..], &["22"], &[]] {
        for stop in [1, usize::MAX] {
            let wanted = lock(&built, guarded, displaced.clone());
            let plan = stage.pass(&wanted, stop).await;
            for new in plan.changes.iter().flat_map(|change| change.displaces.clone()) {
                if !displaced.iter().any(|known| known.id == new.id) {
                    displaced.push(new);
                }
            }
        }
        let wanted = lock(&built, guarded, displaced.clone());
        let read = stage.observe(&wanted).await.plan(&wanted);
        assert_eq!(read.changes, [], "{guarded:?}");
        displaced.retain(|known| !read.settled.contains(&known.id));
        assert_eq!(
            displaced.len(),
            match guarded.len() {
                2 => 5,
                1 => 4,
                _ => 0,
            }
        );
    }
    assert_eq!(stage.rules_of(&built.group, false).await, before);
}

async fn a_shared_group_is_refused_by_name(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    let (other, _) = stage.launch(&built.subnet, &built.group).await;
    let before = stage.rules_of(&built.group, false).await;
    let plan = stage.pass(&lock(&built, &["22"], Vec::new()), usize::MAX).await;
    assert_eq!(plan.changes, []);
    assert_eq!(plan.obstacles[0].code, "shared_group");
    assert!(
        plan.obstacles[0].message.contains(other.instance()),
        "{}",
        plan.obstacles[0].message
    );
    assert_eq!(stage.rules_of(&built.group, false).await, before);
}

async fn what_does_not_exist_is_gone(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = Built {
        machine: AwsInstance::new(&stage.account, REGION, "i-0badbadbadbadbad0").unwrap(),
        interface: "eni-0badbadbadbadbad0".to_owned(),
        group: "sg-0badbadbadbadbad0".to_owned(),
        vpc: String::new(),
        subnet: String::new(),
    };
    for desired in [open(&built, Vec::new()), lock(&built, &["22"], Vec::new())] {
        let answer = stage.enforcer.observe(&desired).await;
        assert!(matches!(answer, Err(EnforceError::Gone { .. })), "{answer:?}");
    }
}

async fn the_sweeper_finds_and_removes_what_is_marked(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(20, 25, "0.0.0.0/0", "ssh")]).await;
    let installation: Installation = "sweeper".parse().unwrap();
    let mut wanted = open(&built, vec![grant(1, "22"), grant(2, "3389")]);
    wanted.installation = installation.clone();
    stage.pass(&wanted, usize::MAX).await;
    let mut locked = lock(&built, &["22"], Vec::new());
    locked.installation = installation.clone();
    stage.pass(&locked, usize::MAX).await;

    let marked = stage.enforcer.marked(&stage.here(), &installation).await.unwrap();
    let count = |wanted: fn(&Purpose) -> bool| marked.iter().filter(|m| wanted(&m.mark.purpose)).count();
    assert_eq!(count(|purpose| matches!(purpose, Purpose::Grant { .. })), 2);
    assert_eq!(count(|purpose| matches!(purpose, Purpose::Holder)), 1);
    assert_eq!(count(|purpose| matches!(purpose, Purpose::Residual { .. })), 2);

    let first = marked
        .iter()
        .find(|m| matches!(m.mark.purpose, Purpose::Grant { grant, .. } if grant == an_id(1)));
    for _ in 0..2 {
        stage.enforcer.remove(first.unwrap()).await.unwrap();
    }
    let evidence = stage.observe(&wanted).await.evidence(&wanted);
    assert_eq!(evidence.keys().copied().collect::<Vec<_>>(), [an_id(2)]);

    let holder = marked.iter().find(|m| m.mark.purpose == Purpose::Holder).unwrap();
    for _ in 0..2 {
        stage.enforcer.remove(holder).await.unwrap();
    }
    assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
    assert_eq!(
        stage.groups_of(&built.interface).await,
        std::slice::from_ref(&built.group)
    );

    let residual = marked
        .iter()
        .find(|m| matches!(m.mark.purpose, Purpose::Residual { .. }));
    let refused = stage.enforcer.remove(residual.unwrap()).await;
    assert!(matches!(refused, Err(EnforceError::Refused { .. })));
}
