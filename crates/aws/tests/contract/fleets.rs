//! Hand-drawn fleets: what stands in each before, locked, open and closed, as snapshots for people to read.
//!
//! The same snapshots hold for every endpoint. Ids are replaced by names.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{
    Filter, InstanceNetworkInterfaceSpecification, IpPermission, IpRange, Ipv6Range, PrefixListId, Tag,
    UserIdGroupPair,
};
use postern_core::{
    enforcer::{Desired, Displaced, Guard, Member, WantedGrant},
    inventory::MARK_TAG,
    machine::{AwsInstance, MachineId},
    mark::{Mark, Purpose},
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    testing::{an_id, ports},
};

use crate::suite::{Endpoint, Flavour, REGION, Stage, grant, installation, tcp};

/// Draws every fleet.
pub(crate) async fn run(endpoint: &Endpoint) {
    one_interface(endpoint).await;
    two_interfaces_with_groups_of_their_own(endpoint).await;
    both_address_families(endpoint).await;
    all_traffic_and_ranges(endpoint).await;
    groups_as_sources(endpoint).await;
    a_group_of_two_guarded_machines(endpoint).await;
    a_shared_group_refused(endpoint).await;
    a_shared_group_revoked(endpoint).await;
    no_room_at_an_interface(endpoint).await;
    no_room_in_a_holder(endpoint).await;
    no_room_in_a_locked_group(endpoint).await;
    match endpoint.flavour {
        Flavour::Simulator => {
            a_machine_isolated_from_a_shared_group(endpoint).await;
            prefix_lists(endpoint).await;
            a_prefix_list_too_heavy_to_split(endpoint).await;
            a_prefix_list_that_goes_while_displaced(endpoint).await;
        }
        // moto deletes a prefix list that rules name, and weighs none; it does not tell whose rules name a group.
        Flavour::Moto => {}
    }
}

pub(crate) struct Drawn {
    pub(crate) machine: AwsInstance,
    pub(crate) interfaces: Vec<String>,
}

/// A VPC with groups and machines, by name.
pub(crate) struct Fleet {
    pub(crate) stage: Stage,
    pub(crate) vpc: String,
    subnet: String,
    ipv6: bool,
    pub(crate) groups: BTreeMap<&'static str, String>,
    pub(crate) machines: BTreeMap<&'static str, Drawn>,
    /// Names for other ids.
    names: BTreeMap<String, String>,
    pub(crate) displaced: BTreeMap<&'static str, Vec<Displaced>>,
    /// The machines that are locked down, and how.
    pub(crate) guarded: BTreeMap<String, Guard>,
    /// What copies took the place of, by machine.
    pub(crate) replaced: BTreeMap<String, Vec<Displaced>>,
    pub(crate) said: Vec<String>,
}

impl Fleet {
    async fn draw(stage: Stage, ipv6: bool) -> Self {
        let vpc = stage
            .admin
            .create_vpc()
            .cidr_block("10.0.0.0/16")
            .amazon_provided_ipv6_cidr_block(ipv6);
        let vpc = vpc.send().await.unwrap().vpc().unwrap().clone();
        let id = vpc.vpc_id().unwrap().to_owned();
        let subnet = stage.admin.create_subnet().vpc_id(&id).cidr_block("10.0.1.0/24");
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
            ipv6,
            groups: BTreeMap::new(),
            machines: BTreeMap::new(),
            names: BTreeMap::new(),
            displaced: BTreeMap::new(),
            guarded: BTreeMap::new(),
            replaced: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    pub(crate) async fn of(endpoint: &Endpoint) -> Self {
        Self::draw(Stage::new(endpoint, |_| {}).await, false).await
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
                .set_ipv6_address_count(self.ipv6.then_some(1));
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
            lockdown: Lockdown::Strict,
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
    async fn story(
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

fn assert_drawn(name: &str, story: &str) {
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, story);
    });
}

fn tcp6(port: i32, cidr: &str, description: &str) -> IpPermission {
    IpPermission::builder()
        .ip_protocol("tcp")
        .from_port(port)
        .to_port(port)
        .ipv6_ranges(
            Ipv6Range::builder()
                .cidr_ipv6(cidr)
                .description(description)
                .build(),
        )
        .build()
}

fn all_traffic(cidr: &str) -> IpPermission {
    IpPermission::builder()
        .ip_protocol("-1")
        .ip_ranges(IpRange::builder().cidr_ip(cidr).description("all").build())
        .build()
}

pub(crate) fn from_group(port: i32, group: &str) -> IpPermission {
    IpPermission::builder()
        .ip_protocol("tcp")
        .from_port(port)
        .to_port(port)
        .user_id_group_pairs(UserIdGroupPair::builder().group_id(group).build())
        .build()
}

fn from_list(first: i32, end: i32, list: &str) -> IpPermission {
    IpPermission::builder()
        .ip_protocol("tcp")
        .from_port(first)
        .to_port(end)
        .prefix_list_ids(PrefixListId::builder().prefix_list_id(list).build())
        .build()
}

async fn one_interface(endpoint: &Endpoint) {
    let mut fleet = Fleet::of(endpoint).await;
    let web = vec![tcp(22, 22, "0.0.0.0/0", "ssh"), tcp(443, 443, "0.0.0.0/0", "web")];
    fleet.group("web", web).await;
    fleet.machine("web-1", &[&["web"]]).await;
    let story = fleet
        .story(&["web-1"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("one_interface", &story);
}

async fn two_interfaces_with_groups_of_their_own(endpoint: &Endpoint) {
    let mut fleet = Fleet::of(endpoint).await;
    let front = vec![tcp(22, 22, "0.0.0.0/0", "ssh"), tcp(443, 443, "0.0.0.0/0", "web")];
    fleet.group("front", front).await;
    fleet
        .group("back", vec![tcp(20, 25, "10.0.0.0/8", "inside")])
        .await;
    fleet.machine("router", &[&["front"], &["back"]]).await;
    let story = fleet
        .story(&["router"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("two_interfaces", &story);
}

async fn both_address_families(endpoint: &Endpoint) {
    let mut fleet = Fleet::draw(Stage::new(endpoint, |_| {}).await, true).await;
    let both = vec![
        tcp(22, 22, "0.0.0.0/0", "ssh"),
        tcp6(22, "::/0", "ssh over IPv6"),
        tcp6(443, "::/0", "web over IPv6"),
    ];
    fleet.group("both", both).await;
    fleet.machine("dual", &[&["both"]]).await;
    let mut six = grant(2, "22");
    six.sources = vec!["2001:db8:7::/64".parse().unwrap()];
    let story = fleet
        .story(&["dual"], SharedGroups::Refuse, &[grant(1, "22"), six])
        .await;
    assert_drawn("both_address_families", &story);
}

async fn all_traffic_and_ranges(endpoint: &Endpoint) {
    let mut fleet = Fleet::of(endpoint).await;
    let wide = vec![
        all_traffic("10.0.0.0/8"),
        tcp(0, 65535, "198.51.100.0/24", "everything"),
        tcp(22, 25, "0.0.0.0/0", "from the first"),
        tcp(1, 22, "192.0.2.0/24", "to the last"),
    ];
    fleet.group("wide", wide).await;
    fleet.machine("legacy", &[&["wide"]]).await;
    let story = fleet
        .story(&["legacy"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("all_traffic_and_ranges", &story);
}

async fn groups_as_sources(endpoint: &Endpoint) {
    let mut fleet = Fleet::of(endpoint).await;
    fleet.group("bastion", Vec::new()).await;
    fleet.group("app", Vec::new()).await;
    let (bastion, app) = (fleet.groups["bastion"].clone(), fleet.groups["app"].clone());
    let rules = vec![
        from_group(22, &bastion),
        from_group(22, &app),
        from_group(443, &app),
    ];
    fleet.allow("app", rules).await;
    fleet.machine("app-1", &[&["app"]]).await;
    fleet.machine("jump", &[&["bastion"]]).await;
    let story = fleet
        .story(&["app-1"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("groups_as_sources", &story);
}

async fn shared(endpoint: &Endpoint) -> Fleet {
    let mut fleet = Fleet::of(endpoint).await;
    let rules = vec![tcp(22, 22, "0.0.0.0/0", "ssh"), tcp(80, 80, "0.0.0.0/0", "web")];
    fleet.group("team", rules).await;
    fleet.machine("ours", &[&["team"]]).await;
    fleet.machine("theirs", &[&["team"]]).await;
    fleet
}

async fn a_group_of_two_guarded_machines(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    let story = fleet
        .story(&["ours", "theirs"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("shared_and_both_guarded", &story);
}

async fn a_shared_group_refused(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    let story = fleet
        .story(&["ours"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("shared_and_refused", &story);
}

async fn a_shared_group_revoked(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    let story = fleet
        .story(&["ours"], SharedGroups::Revoke, &[grant(1, "22")])
        .await;
    assert_drawn("shared_and_revoked", &story);
}

async fn a_machine_isolated_from_a_shared_group(endpoint: &Endpoint) {
    let mut fleet = Fleet::of(endpoint).await;
    let rules = vec![
        tcp(22, 22, "0.0.0.0/0", "ssh"),
        tcp(20, 80, "10.0.0.0/8", "inside"),
        tcp(443, 443, "0.0.0.0/0", "web"),
    ];
    fleet.group("team", rules).await;
    fleet.group("own", vec![tcp(22, 22, "10.0.0.0/8", "ssh")]).await;
    fleet.machine("ours", &[&["team", "own"], &["team"]]).await;
    fleet.machine("theirs", &[&["team"]]).await;
    let story = fleet
        .story(&["ours"], SharedGroups::Isolate, &[grant(1, "22")])
        .await;
    assert_drawn("shared_and_isolated", &story);
}

async fn no_room_at_an_interface(endpoint: &Endpoint) {
    let stage = Stage::new(endpoint, |config| config.limits.groups_per_interface = 2).await;
    let mut fleet = Fleet::draw(stage, false).await;
    fleet.group("first", vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    fleet.group("second", Vec::new()).await;
    fleet.machine("full", &[&["first"], &["first", "second"]]).await;
    let story = fleet
        .story(&["full"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("no_room_at_an_interface", &story);
}

async fn no_room_in_a_holder(endpoint: &Endpoint) {
    let stage = Stage::new(endpoint, |config| config.limits.rules_per_group = 2).await;
    let mut fleet = Fleet::draw(stage, false).await;
    fleet.group("web", vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    fleet.machine("busy", &[&["web"]]).await;
    let grants = [grant(1, "22"), grant(2, "3389"), grant(3, "5986")];
    let story = fleet.story(&["busy"], SharedGroups::Refuse, &grants).await;
    assert_drawn("no_room_in_a_holder", &story);
}

async fn no_room_in_a_locked_group(endpoint: &Endpoint) {
    let stage = Stage::new(endpoint, |config| config.limits.rules_per_group = 3).await;
    let mut fleet = Fleet::draw(stage, false).await;
    let rules = vec![
        tcp(22, 22, "198.51.100.0/24", "ssh"),
        tcp(20, 25, "0.0.0.0/0", "a range"),
        tcp(0, 65535, "10.0.0.0/8", "inside"),
    ];
    fleet.group("tight", rules).await;
    fleet.machine("old", &[&["tight"]]).await;
    let story = fleet
        .story(&["old"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("no_room_in_a_locked_group", &story);
}

/// A fleet with a prefix list of up to `entries` networks.
async fn listed(stage: Stage, entries: i32) -> (Fleet, String) {
    let mut fleet = Fleet::draw(stage, false).await;
    let list = fleet
        .stage
        .admin
        .create_managed_prefix_list()
        .prefix_list_name("offices")
        .address_family("IPv4")
        .max_entries(entries);
    let list = list.send().await.unwrap();
    let list = list.prefix_list().unwrap().prefix_list_id().unwrap().to_owned();
    fleet.names.insert(list.clone(), "offices".to_owned());
    (fleet, list)
}

async fn prefix_lists(endpoint: &Endpoint) {
    let (mut fleet, list) = listed(Stage::new(endpoint, |_| {}).await, 10).await;
    let rules = vec![from_list(22, 22, &list), from_list(20, 25, &list)];
    fleet.group("listed", rules).await;
    fleet.machine("host", &[&["listed"]]).await;
    let story = fleet
        .story(&["host"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("prefix_lists", &story);
}

async fn a_prefix_list_too_heavy_to_split(endpoint: &Endpoint) {
    let (mut fleet, list) = listed(Stage::new(endpoint, |_| {}).await, 25).await;
    fleet.group("listed", vec![from_list(20, 25, &list)]).await;
    fleet.machine("host", &[&["listed"]]).await;
    let story = fleet
        .story(&["host"], SharedGroups::Refuse, &[grant(1, "22")])
        .await;
    assert_drawn("a_heavy_prefix_list", &story);
}

/// A displaced rule whose prefix list is deleted cannot come back, and keeps nobody else from it.
async fn a_prefix_list_that_goes_while_displaced(endpoint: &Endpoint) {
    let (mut fleet, list) = listed(Stage::new(endpoint, |_| {}).await, 5).await;
    let rules = vec![from_list(22, 22, &list), tcp(22, 22, "198.51.100.0/24", "office")];
    fleet.group("listed", rules).await;
    fleet.machine("host", &[&["listed"]]).await;
    fleet.lock(&["host"], SharedGroups::Refuse).await;
    let gone = fleet
        .stage
        .admin
        .delete_managed_prefix_list()
        .prefix_list_id(&list);
    gone.send().await.unwrap();
    fleet.lock(&[], SharedGroups::Refuse).await;
    assert!(fleet.displaced.values().all(Vec::is_empty));
    let text = fleet.text().await;
    assert_eq!(
        text,
        "at host/0: listed\ngroup listed: 22/tcp in from 198.51.100.0/24 (office)\n"
    );
    assert!(
        fleet.said[0].starts_with("displaced_group_gone: "),
        "{:?}",
        fleet.said
    );
}
