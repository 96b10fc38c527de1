//! A fleet drawn by hand: groups and machines by name in a VPC of their own, what is wanted of them, and what stands
//! there as text for people to read. Ids are replaced by names.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{Filter, InstanceNetworkInterfaceSpecification, IpPermission, Tag};
use postern_core::{
    enforcer::{Desired, Displaced, Guard, Member, WantedGrant},
    inventory::MARK_TAG,
    machine::{AwsInstance, MachineId},
    mark::{Mark, Purpose},
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    testing::{an_id, ports},
};

use crate::stage::{Endpoint, REGION, Stage, installation};

pub(crate) struct Drawn {
    pub(crate) machine: AwsInstance,
    pub(crate) interfaces: Vec<String>,
}

/// Of which address families the interfaces of a fleet have addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    Ipv4,
    Both,
    Ipv6,
}

/// A VPC with groups and machines, by name.
pub(crate) struct Fleet {
    pub(crate) stage: Stage,
    pub(crate) vpc: String,
    subnet: String,
    families: Families,
    pub(crate) groups: BTreeMap<&'static str, String>,
    pub(crate) machines: BTreeMap<&'static str, Drawn>,
    /// Names for other ids.
    pub(crate) names: BTreeMap<String, String>,
    pub(crate) displaced: BTreeMap<&'static str, Vec<Displaced>>,
    /// How strictly machines are locked down.
    pub(crate) lockdown: Lockdown,
    /// The machines that are locked down, and how.
    pub(crate) guarded: BTreeMap<String, Guard>,
    /// What copies took the place of, by machine.
    pub(crate) replaced: BTreeMap<String, Vec<Displaced>>,
    pub(crate) said: Vec<String>,
}

impl Fleet {
    pub(crate) async fn draw(stage: Stage, families: Families) -> Self {
        let ipv6 = families != Families::Ipv4;
        let vpc = stage
            .admin
            .create_vpc()
            .cidr_block("10.0.0.0/16")
            .amazon_provided_ipv6_cidr_block(ipv6);
        let vpc = vpc.send().await.unwrap().vpc().unwrap().clone();
        let id = vpc.vpc_id().unwrap().to_owned();
        let subnet = stage.admin.create_subnet().vpc_id(&id);
        let subnet = if families == Families::Ipv6 {
            subnet.ipv6_native(true)
        } else {
            subnet.cidr_block("10.0.1.0/24")
        };
        let subnet = if ipv6 {
            let shown = stage.admin.describe_vpcs().vpc_ids(&id).send().await.unwrap();
            let block = shown.vpcs()[0].ipv6_cidr_block_association_set()[0].ipv6_cidr_block();
            subnet.ipv6_cidr_block(block.unwrap().replace("/56", "/64"))
        } else {
            subnet
        };
        let subnet = subnet.send().await.unwrap();
        Self {
            stage,
            vpc: id,
            subnet: subnet.subnet().unwrap().subnet_id().unwrap().to_owned(),
            families,
            groups: BTreeMap::new(),
            machines: BTreeMap::new(),
            names: BTreeMap::new(),
            displaced: BTreeMap::new(),
            lockdown: Lockdown::Strict,
            guarded: BTreeMap::new(),
            replaced: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    pub(crate) async fn of(endpoint: &Endpoint) -> Self {
        Self::draw(Stage::new(endpoint, |_| {}).await, Families::Ipv4).await
    }

    pub(crate) async fn group(&mut self, name: &'static str, permissions: Vec<IpPermission>) {
        let made = self
            .stage
            .admin
            .create_security_group()
            .vpc_id(&self.vpc)
            .group_name(name)
            .description(name);
        let id = made.send().await.unwrap().group_id().unwrap().to_owned();
        self.groups.insert(name, id);
        self.allow(name, permissions).await;
    }

    pub(crate) async fn allow(&self, group: &str, permissions: Vec<IpPermission>) {
        if !permissions.is_empty() {
            let call = self
                .stage
                .admin
                .authorize_security_group_ingress()
                .group_id(&self.groups[group])
                .set_ip_permissions(Some(permissions));
            call.send().await.unwrap();
        }
    }

    /// Somebody takes the mark off a group, or writes another.
    pub(crate) async fn retag(&self, group: &str, mark: Option<&str>) {
        let tag = Tag::builder().key(MARK_TAG);
        let gone = self.stage.admin.delete_tags().resources(group);
        gone.tags(tag.clone().build()).send().await.unwrap();
        if let Some(mark) = mark {
            let set = self.stage.admin.create_tags().resources(group);
            set.tags(tag.value(mark).build()).send().await.unwrap();
        }
    }

    /// A machine with one interface for each list of groups.
    pub(crate) async fn machine(&mut self, name: &'static str, interfaces: &[&[&str]]) {
        let mut made = Vec::new();
        for (number, groups) in interfaces.iter().enumerate() {
            let groups: Vec<String> = groups.iter().map(|group| self.groups[*group].clone()).collect();
            let interface = self
                .stage
                .admin
                .create_network_interface()
                .subnet_id(&self.subnet)
                .set_groups(Some(groups))
                .set_ipv6_address_count((self.families == Families::Both).then_some(1));
            let interface = interface.send().await.unwrap();
            let id = interface.network_interface().unwrap().network_interface_id();
            let id = id.unwrap().to_owned();
            self.names.insert(id.clone(), format!("{name}/{number}"));
            made.push(id);
        }
        let specifications = made.iter().zip(0..).map(|(interface, number)| {
            InstanceNetworkInterfaceSpecification::builder()
                .device_index(number)
                .network_interface_id(interface)
                .build()
        });
        let launched = self
            .stage
            .admin
            .run_instances()
            .image_id("ami-0123456789abcdef0")
            .min_count(1)
            .max_count(1)
            .set_network_interfaces(Some(specifications.collect()));
        let launched = launched.send().await.unwrap();
        let id = launched.instances()[0].instance_id().unwrap().to_owned();
        let drawn = Drawn {
            machine: AwsInstance::new(&self.stage.account, REGION, &id).unwrap(),
            interfaces: made,
        };
        self.names.insert(id, name.to_owned());
        self.machines.insert(name, drawn);
    }

    fn by_name(&self, text: &str) -> String {
        let groups = self.groups.iter().map(|(name, id)| (id.as_str(), *name));
        let others = self.names.iter().map(|(id, name)| (id.as_str(), name.as_str()));
        groups
            .chain(others)
            .fold(text.to_owned(), |text, (id, name)| text.replace(id, name))
    }

    /// Who has which groups, and what the groups let in.
    pub(crate) async fn text(&mut self) -> String {
        let here = Filter::builder().name("vpc-id").values(&self.vpc).build();
        let admin = &self.stage.admin;
        let shown = admin.describe_security_groups().filters(here.clone());
        let shown = shown.send().await.unwrap();
        let mut lines = BTreeSet::new();
        for group in shown.security_groups() {
            let (id, name) = (group.group_id().unwrap(), group.group_name().unwrap());
            if name == "default" {
                continue;
            }
            if !self.groups.values().any(|known| known == id) {
                let whose = name.rsplit("suite-").next().unwrap();
                let named = match whose.split_once("-sg-") {
                    Some((machine, group)) => format!("copy of sg-{group} for {machine}"),
                    None => format!("holder of {whose}"),
                };
                self.names.insert(id.to_owned(), named);
            }
            let filter = Filter::builder().name("group-id").values(id).build();
            let rules = admin.describe_security_group_rules().filters(filter);
            for rule in rules.send().await.unwrap().security_group_rules() {
                let peer = rule
                    .cidr_ipv4()
                    .or(rule.cidr_ipv6())
                    .or(rule.prefix_list_id())
                    .or(rule.referenced_group_info().and_then(|group| group.group_id()))
                    .unwrap();
                let ports = match (rule.ip_protocol().unwrap(), rule.from_port(), rule.to_port()) {
                    ("-1", ..) => "all traffic".to_owned(),
                    (protocol, Some(-1) | None, _) => format!("protocol {protocol}"),
                    (protocol, Some(from), Some(to)) if from == to => format!("{from}/{protocol}"),
                    (protocol, Some(from), to) => format!("{from}-{}/{protocol}", to.unwrap()),
                };
                let description = rule.description().filter(|text| !text.is_empty());
                let what = description.map(|text| match Mark::parse(text).map(|mark| mark.purpose) {
                    Some(Purpose::Grant { .. }) => " (grant)".to_owned(),
                    Some(Purpose::Residual { .. }) => " (kept)".to_owned(),
                    _ => format!(" ({text})"),
                });
                let way = if rule.is_egress().unwrap() {
                    "out to"
                } else {
                    "in from"
                };
                let is_given = rule.is_egress().unwrap() && self.groups.values().any(|known| known == id);
                if !is_given {
                    lines.insert(format!(
                        "group {id}: {ports} {way} {peer}{}",
                        what.unwrap_or_default()
                    ));
                }
            }
        }
        let interfaces = admin.describe_network_interfaces().filters(here);
        for interface in interfaces.send().await.unwrap().network_interfaces() {
            let groups: BTreeSet<String> = interface
                .groups()
                .iter()
                .map(|group| self.by_name(group.group_id().unwrap()))
                .collect();
            lines.insert(format!(
                "at {}: {}",
                interface.network_interface_id().unwrap(),
                groups.into_iter().collect::<Vec<_>>().join(", ")
            ));
        }
        // Twice, because a holder's name has its machine's id.
        let named: BTreeSet<String> = lines
            .iter()
            .map(|line| self.by_name(&self.by_name(line)))
            .collect();
        named.into_iter().map(|line| line + "\n").collect()
    }

    fn members(&self, of: impl Fn(&str) -> Option<Guard>, grants: &[WantedGrant]) -> Vec<Member> {
        let members = self.machines.iter().map(|(name, drawn)| Member {
            machine: MachineId::Aws(drawn.machine.clone()),
            addresses: Vec::new(),
            interfaces: drawn.interfaces.clone(),
            guard: of(name),
            approach: None,
            grants: grants.to_vec(),
        });
        members.collect()
    }

    /// Passes over a point until it is as wanted, or not to be had.
    pub(crate) async fn settle(&mut self, desired: &mut Desired) {
        for _ in 0..6 {
            let plan = self.stage.pass(desired, usize::MAX).await;
            let obstacles = plan
                .obstacles
                .iter()
                .map(|obstacle| format!("{}: {}", obstacle.code, obstacle.message));
            let findings = plan
                .findings
                .iter()
                .map(|finding| format!("{}: {}", finding.code, finding.message));
            for said in obstacles.chain(findings) {
                let said = self.by_name(&said);
                if !self.said.contains(&said) {
                    self.said.push(said);
                }
            }
            for new in plan.changes.iter().flat_map(|change| &change.displaces) {
                desired.displaced.retain(|known| known.id != new.id);
                desired.displaced.push(new.clone());
            }
            desired
                .displaced
                .retain(|known| !plan.settled.contains(&known.id));
            if plan.changes.is_empty() {
                return;
            }
        }
        panic!("{} does not settle", desired.point);
    }

    pub(crate) async fn lock(&mut self, guarded: &[&str], shared_groups: SharedGroups) {
        let guard = Guard {
            policy: an_id(9),
            ports: vec![ports("22")],
            lockdown: self.lockdown,
            shared_groups,
        };
        self.guarded = guarded
            .iter()
            .map(|name| ((*name).to_owned(), guard.clone()))
            .collect();
        for name in self.groups.keys().copied().collect::<Vec<_>>() {
            let mut desired = self.wanted_of_group(name);
            self.settle(&mut desired).await;
            self.displaced.insert(name, desired.displaced);
        }
        for name in self.machines.keys().copied().collect::<Vec<_>>() {
            self.open(name, &[]).await;
        }
    }

    /// What is wanted of a group's point.
    pub(crate) fn wanted_of_group(&self, name: &str) -> Desired {
        Desired {
            installation: installation(),
            point: PointRef::security_group(&self.stage.account, REGION, &self.groups[name]).unwrap(),
            members: self.members(|machine| self.guarded.get(machine).cloned(), &[]),
            displaced: self.displaced.get(name).cloned().unwrap_or_default(),
            unsettled: false,
        }
    }

    /// What is wanted of a machine's own point.
    pub(crate) fn wanted(&self, machine: &str, grants: &[WantedGrant]) -> Desired {
        let id = MachineId::Aws(self.machines[machine].machine.clone());
        let members = self.members(|name| self.guarded.get(name).cloned(), grants);
        Desired {
            installation: installation(),
            members: members
                .into_iter()
                .filter(|member| member.machine == id)
                .collect(),
            point: PointRef::AwsInstance(self.machines[machine].machine.clone()),
            displaced: self.replaced.get(machine).cloned().unwrap_or_default(),
            unsettled: false,
        }
    }

    pub(crate) async fn open(&mut self, machine: &str, grants: &[WantedGrant]) -> bool {
        let mut desired = self.wanted(machine, grants);
        self.settle(&mut desired).await;
        self.replaced
            .insert(machine.to_owned(), desired.displaced.clone());
        let evidence = self.stage.observe(&desired).await.evidence(&desired);
        !grants.is_empty()
            && grants
                .iter()
                .all(|grant| evidence.get(&grant.grant).is_some_and(|e| e.complete))
    }

    /// Locks port 22 of the guarded machines, opens and closes grants on the first, lifts the lockdown; what stood
    /// at each step, and what was said.
    pub(crate) async fn story(
        &mut self,
        guarded: &[&str],
        shared_groups: SharedGroups,
        grants: &[WantedGrant],
    ) -> String {
        let before = self.text().await;
        self.lock(guarded, shared_groups).await;
        let locked = self.text().await;
        let is_open = self.open(guarded[0], grants).await;
        let open = self.text().await;
        self.open(guarded[0], &[]).await;
        let closed = self.text().await;
        self.lock(&[], shared_groups).await;
        assert_eq!(self.text().await, before, "what is lifted leaves nothing behind");
        assert!(
            self.displaced
                .values()
                .chain(self.replaced.values())
                .all(Vec::is_empty)
        );
        let section = |title: &str, text: &str, earlier: &[(&str, &str)]| {
            let same = earlier.iter().find(|(_, earlier)| *earlier == text);
            match same {
                Some((like, _)) => format!("== {title}: as {like}\n"),
                None => format!("== {title}\n{text}"),
            }
        };
        let past = [("before", before.as_str()), ("locked", &locked), ("open", &open)];
        let mut story = section("before", &before, &[])
            + &section("locked", &locked, &past[..1])
            + &section(if is_open { "open" } else { "not open" }, &open, &past[..2])
            + &section("closed", &closed, &past);
        if !self.said.is_empty() {
            story += "== said\n";
            story += &self.said.join("\n");
        }
        story
    }
}
