//! What a run does, drawn whole from its seed before it begins.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::Serialize;

/// The addresses that packets are judged from.
pub const SOURCES: [&str; 7] = [
    "203.0.113.7",
    "203.0.113.5",
    "203.0.113.200",
    "198.51.100.9",
    "10.9.9.9",
    "2001:db8:1::7",
    "2001:db8:2::1",
];
/// The ports that packets are judged at: guarded ones and their neighbours.
pub const PORTS: [u16; 6] = [22, 23, 443, 3389, 5985, 5986];

const RULE_SOURCES: [&str; 8] = [
    "0.0.0.0/0",
    "0.0.0.0/0",
    "203.0.113.0/24",
    "203.0.113.7/32",
    "198.51.100.0/24",
    "10.0.0.0/8",
    "::/0",
    "2001:db8:1::/48",
];
const RULE_PORTS: [(u16, u16); 9] = [
    (22, 22),
    (22, 22),
    (3389, 3389),
    (20, 1024),
    (1, 65535),
    (443, 443),
    (5985, 5986),
    (22, 23),
    (3000, 6000),
];

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Script {
    /// Where it comes from.
    pub seed: u64,
    /// How far each server's clock is ahead of the truth, in milliseconds.
    pub skew_ms: [i64; 2],
    /// How far EC2's describes lag behind, in milliseconds.
    pub describe_lag_ms: u64,
    /// How long an ARM write takes to be in force, in milliseconds.
    pub operation_ms: u64,
    /// How long an instance is pending or shutting down, in milliseconds.
    pub transition_ms: u64,
    /// The Azure fleet.
    pub azure: AzureFleet,
    /// The AWS fleet.
    pub aws: AwsFleet,
    /// What happens, in order, each after so many milliseconds.
    pub steps: Vec<(u64, Step)>,
    /// Whether grants are left to run out at the end before the policies go.
    pub run_out: bool,
}

/// NSGs, subnets and machines.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AzureFleet {
    /// The rules of each NSG.
    pub nsgs: Vec<Vec<NsgRule>>,
    /// The NSG of each subnet.
    pub subnets: Vec<Option<usize>>,
    /// The machines.
    pub machines: Vec<AzureMachine>,
}

/// An inbound rule of somebody else's.
#[derive(Debug, Clone, Serialize)]
pub struct NsgRule {
    /// Its name.
    pub name: String,
    /// 100 to 4096.
    pub priority: u16,
    /// `Allow` or `Deny`.
    pub access: &'static str,
    /// A prefix, `*` or a service tag.
    pub source: &'static str,
    /// A port, a range or `*`.
    pub ports: String,
}

/// A machine with one interface.
#[derive(Debug, Clone, Serialize)]
pub struct AzureMachine {
    /// Which subnet.
    pub subnet: usize,
    /// The NSG of its interface.
    pub nsg: Option<usize>,
    /// Whether it has an IPv6 address too.
    pub ipv6: bool,
    /// Whether it is tagged `env=prod`; otherwise `env=dev`.
    pub prod: bool,
}

/// Security groups and instances.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AwsFleet {
    /// The rules of each group; [`Peer::Group`] names a group before it.
    pub groups: Vec<Vec<SgRule>>,
    /// The instances.
    pub machines: Vec<AwsMachine>,
}

/// An ingress rule of somebody else's.
#[derive(Debug, Clone, Serialize)]
pub struct SgRule {
    /// None for all traffic.
    pub ports: Option<(u16, u16)>,
    /// Who.
    pub from: Peer,
}

/// Whom a rule lets in.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Peer {
    /// A range.
    Range(&'static str),
    /// The members of a group of the fleet.
    Group(usize),
    /// The fleet's prefix list.
    List,
}

/// An instance.
#[derive(Debug, Clone, Serialize)]
pub struct AwsMachine {
    /// The groups on each interface.
    pub interfaces: Vec<Vec<usize>>,
    /// Whether it is tagged `env=prod`; otherwise `env=dev`.
    pub prod: bool,
}

/// A policy to be made.
#[derive(Debug, Clone, Serialize)]
pub struct PolicySpec {
    /// What it covers.
    pub scope: ScopeSpec,
    /// Whether only machines tagged `env=prod`.
    pub prod_only: bool,
    /// The guarded ports.
    pub guards: Vec<&'static str>,
    /// The word for the lockdown's strictness.
    pub lockdown: &'static str,
    /// The word for what happens to shared groups.
    pub shared_groups: &'static str,
    /// The word for who must agree.
    pub approval: &'static str,
}

/// What a policy covers.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum ScopeSpec {
    /// Everything.
    All,
    /// One cloud.
    Azure,
    /// One cloud.
    Aws,
    /// One machine, by its number.
    Machine(usize),
}

/// Which cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Cloud {
    /// Azure.
    Azure,
    /// AWS.
    Aws,
}

/// What a call meets.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Trouble {
    /// So many milliseconds of delay.
    Latency(u64),
    /// Too many requests, with or without `Retry-After: 1`.
    Throttled(bool),
    /// An internal error.
    Broken,
    /// The connection is cut before anything happens.
    ResetBefore,
    /// The connection is cut after it happened.
    ResetAfter,
}

/// Which of the calls meet it.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Strikes {
    /// The next so many.
    Next(u64),
    /// Every n-th.
    Every(u64),
    /// Three in ten.
    Sometimes,
    /// All.
    Always,
    /// After so many, the next one.
    After(u64),
}

/// An edit behind Postern's back. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Serialize)]
pub enum Edit {
    /// A rule is added to an NSG.
    NsgAdd(usize, NsgRule),
    /// One of the foreign rules of an NSG is deleted.
    NsgDelete(usize, usize),
    /// A rule of ours in an NSG is widened to every source.
    NsgWidenOurs(usize, usize),
    /// A rule of ours in an NSG is turned to another port.
    NsgTurnOurs(usize, usize),
    /// A rule of ours in an NSG is deleted.
    NsgDeleteOurs(usize, usize),
    /// A machine's tags change.
    Retag(usize, bool),
    /// A machine is deleted or terminated.
    Delete(usize),
    /// An instance is stopped.
    Stop(usize),
    /// An instance is started.
    Start(usize),
    /// A rule is added to a security group.
    SgAdd(usize, SgRule),
    /// One of the foreign rules of a group is revoked.
    SgRevoke(usize, usize),
    /// A rule that stood at the beginning is added again.
    SgReAdd(usize, usize),
    /// A rule of ours is revoked.
    SgRevokeOurs(usize),
    /// A rule is added to a group of ours.
    SgWidenOurs(usize),
    /// A group of ours is taken off an interface.
    SgDetachOurs(usize),
    /// A foreign group is put on, or taken off, an interface.
    SgToggle(usize, usize),
}

/// One step. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Serialize)]
pub enum Step {
    /// A policy is made.
    CreatePolicy(PolicySpec),
    /// A policy is replaced.
    UpdatePolicy(usize, PolicySpec),
    /// A policy is removed.
    DeletePolicy(usize),
    /// Somebody asks.
    Request {
        /// The machines' numbers.
        machines: Vec<usize>,
        /// The ports.
        ports: Vec<&'static str>,
        /// The sources.
        sources: Vec<&'static str>,
        /// The duration.
        seconds: i64,
    },
    /// Somebody else agrees to a pending request.
    Approve(usize),
    /// Somebody else turns a pending request down.
    Deny(usize),
    /// A grant is revoked.
    Revoke(usize),
    /// Somebody edits.
    Edit(Edit),
    /// Calls meet trouble, for so many steps.
    Fault {
        /// Whose calls.
        cloud: Cloud,
        /// Which operations.
        operation: &'static str,
        /// Which of them.
        strikes: Strikes,
        /// What they meet.
        trouble: Trouble,
        /// For how many steps.
        steps: u32,
    },
    /// The next so many accepted ARM writes of the operation fail afterwards.
    FailCompletions(&'static str, u64),
    /// A server dies.
    Kill(usize),
    /// A server is started, killed first if it runs; perhaps to die at a named point.
    Start(usize, Option<(&'static str, u32)>),
    /// A server is stopped in good order and started again.
    Restart(usize),
    /// The database dies and comes back after so many milliseconds.
    KillPostgres(u64),
    /// Nothing, for so many milliseconds.
    Pause(u64),
}

const AZURE_OPERATIONS: [&str; 15] = [
    "*",
    "*",
    "*.CreateOrUpdate",
    "*.Delete",
    "SecurityRules.*",
    "SecurityRules.CreateOrUpdate",
    "SecurityRules.Delete",
    "NetworkSecurityGroups.*",
    "NetworkSecurityGroups.CreateOrUpdate",
    "NetworkSecurityGroups.Get",
    "Operations.*",
    "VirtualMachines.*",
    "NetworkInterfaces.*",
    "Tokens.Issue",
    "*.Get",
];
const AWS_OPERATIONS: [&str; 17] = [
    "*",
    "*",
    "Authorize*",
    "Revoke*",
    "Modify*",
    "Describe*",
    "AuthorizeSecurityGroupIngress",
    "RevokeSecurityGroupIngress",
    "RevokeSecurityGroupEgress",
    "CreateSecurityGroup",
    "DeleteSecurityGroup",
    "ModifyNetworkInterfaceAttribute",
    "CreateTags",
    "AssumeRole",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroup*",
    "*SecurityGroup*",
];
const POINTS: [&str; 9] = [
    "after-lease",
    "after-decide",
    "after-observe",
    "after-intent",
    "before-apply",
    "after-apply",
    "before-read-back",
    "before-outcome",
    "after-outcome",
];

struct Dice(StdRng);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end.max(1))
    }

    fn chance(&mut self, of_hundred: u32) -> bool {
        self.0.random_range(0..100) < of_hundred
    }

    fn pick<T: Copy>(&mut self, items: &[T], otherwise: T) -> T {
        items.choose(&mut self.0).copied().unwrap_or(otherwise)
    }

    fn between(&mut self, first: u64, last: u64) -> u64 {
        self.0.random_range(first..=last)
    }

    fn nsg_rule(&mut self, name: String) -> NsgRule {
        let source = if self.chance(30) {
            self.pick(&["*", "Internet", "VirtualNetwork"], "*")
        } else {
            self.pick(&RULE_SOURCES, "0.0.0.0/0")
        };
        let (first, last) = self.pick(&RULE_PORTS, (22, 22));
        let ports = match (first, last) {
            (1, 65535) => "*".to_owned(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let priority = self.0.random_range(100..1200);
        let access = if self.chance(25) { "Deny" } else { "Allow" };
        NsgRule {
            name,
            priority,
            access,
            source,
            ports,
        }
    }

    fn nsg(&mut self, prefix: &str) -> Vec<NsgRule> {
        let mut rules: Vec<NsgRule> = Vec::new();
        for number in 0..self.below(5) {
            let rule = self.nsg_rule(format!("{prefix}-{number}"));
            if rules.iter().all(|other| other.priority != rule.priority) {
                rules.push(rule);
            }
        }
        rules
    }

    fn azure(&mut self, machines: usize) -> AzureFleet {
        if machines == 0 {
            return AzureFleet::default();
        }
        let nsgs: Vec<_> = (0..=self.below(3))
            .map(|number| self.nsg(&format!("rule{number}")))
            .collect();
        let count = nsgs.len();
        let subnets: Vec<_> = (0..2)
            .map(|_| self.chance(50).then(|| self.below(count)))
            .collect();
        let machines = (0..machines)
            .map(|_| {
                let subnet = self.below(2);
                let bare = subnets.get(subnet).copied().flatten().is_none();
                let behind = if bare { 95 } else { 70 };
                AzureMachine {
                    subnet,
                    nsg: self.chance(behind).then(|| self.below(count)),
                    ipv6: self.chance(30),
                    prod: self.chance(60),
                }
            })
            .collect();
        AzureFleet {
            nsgs,
            subnets,
            machines,
        }
    }

    fn sg_rule(&mut self, groups: usize) -> SgRule {
        let ports = (!self.chance(15)).then(|| self.pick(&RULE_PORTS, (22, 22)));
        let from = match self.below(10) {
            0 if groups > 0 => Peer::Group(self.below(groups)),
            1 => Peer::List,
            _ => Peer::Range(self.pick(&RULE_SOURCES, "0.0.0.0/0")),
        };
        SgRule { ports, from }
    }

    fn aws(&mut self, machines: usize) -> AwsFleet {
        if machines == 0 {
            return AwsFleet::default();
        }
        let mut groups = Vec::new();
        for number in 0..=self.below(3) {
            let rules = 1 + self.below(4);
            groups.push((0..rules).map(|_| self.sg_rule(number)).collect());
        }
        let count = groups.len();
        let machines = (0..machines)
            .map(|_| {
                let interfaces = (0..if self.chance(30) { 2 } else { 1 })
                    .map(|_| {
                        let mut on: Vec<usize> = (0..=self.below(2)).map(|_| self.below(count)).collect();
                        on.sort_unstable();
                        on.dedup();
                        on
                    })
                    .collect();
                AwsMachine {
                    interfaces,
                    prod: self.chance(60),
                }
            })
            .collect();
        AwsFleet { groups, machines }
    }

    fn policy(&mut self, machines: usize) -> PolicySpec {
        let scope = match self.below(8) {
            0..=4 => ScopeSpec::All,
            5 => ScopeSpec::Azure,
            6 => ScopeSpec::Aws,
            _ => ScopeSpec::Machine(self.below(machines)),
        };
        let guards = self.pick(
            &[
                &["22/tcp"][..],
                &["22/tcp", "3389/tcp"],
                &["22/tcp", "3389/tcp"],
                &["22/tcp", "3389/tcp", "5985-5986/tcp"],
                &["22/tcp", "5985/tcp"],
                &["20-25/tcp", "3389/tcp"],
            ],
            &["22/tcp"],
        );
        PolicySpec {
            scope,
            prod_only: self.chance(15),
            guards: guards.to_vec(),
            lockdown: if self.chance(20) { "defer" } else { "strict" },
            shared_groups: self.pick(&["refuse", "revoke", "revoke", "isolate"], "revoke"),
            approval: if self.chance(25) { "one" } else { "policy" },
        }
    }

    fn request(&mut self, machines: usize) -> Step {
        let mut on: Vec<usize> = (0..=self.below(machines.min(2)))
            .map(|_| self.below(machines))
            .collect();
        on.sort_unstable();
        on.dedup();
        let ports = self.pick(
            &[
                &["22/tcp"][..],
                &["22/tcp"],
                &["22/tcp"],
                &["22/tcp"],
                &["22/tcp"],
                &["22/tcp"],
                &["22/tcp", "3389/tcp"],
                &["3389/tcp"],
                &["5985/tcp"],
            ],
            &["22/tcp"],
        );
        let sources = self.pick(
            &[
                &["203.0.113.7/32"][..],
                &["203.0.113.7/32"],
                &["203.0.113.0/28"],
                &["203.0.113.7/32", "2001:db8:1::7/128"],
                &["2001:db8:1::/64"],
                &["203.0.113.5/32", "203.0.113.7/32"],
            ],
            &["203.0.113.7/32"],
        );
        Step::Request {
            machines: on,
            ports: ports.to_vec(),
            sources: sources.to_vec(),
            seconds: if self.chance(70) { 10 } else { 3600 },
        }
    }

    fn edit(&mut self, azure: usize, aws: usize, number: usize) -> Edit {
        let (a, b) = (self.below(12), self.below(12));
        let machines = azure + aws;
        let on_azure = azure > 0 && (aws == 0 || self.chance(45));
        if self.chance(20) {
            return match self.below(6) {
                3 => Edit::Delete(self.below(machines)),
                4 if aws > 0 => Edit::Stop(self.below(aws)),
                5 if aws > 0 => Edit::Start(self.below(aws)),
                _ => Edit::Retag(self.below(machines), self.chance(50)),
            };
        }
        if on_azure {
            match self.below(7) {
                0 | 1 => Edit::NsgAdd(a, self.nsg_rule(format!("edit-{number}"))),
                2 => Edit::NsgDelete(a, b),
                3 => Edit::NsgWidenOurs(a, b),
                4 => Edit::NsgTurnOurs(a, b),
                _ => Edit::NsgDeleteOurs(a, b),
            }
        } else {
            match self.below(9) {
                0 | 1 => Edit::SgAdd(a, self.sg_rule(0)),
                2 => Edit::SgRevoke(a, b),
                3 => Edit::SgReAdd(a, b),
                4 | 5 => Edit::SgRevokeOurs(a),
                6 => Edit::SgWidenOurs(a),
                7 => Edit::SgDetachOurs(a),
                _ => Edit::SgToggle(a, b),
            }
        }
    }

    fn fault(&mut self, azure: usize, aws: usize) -> Step {
        let cloud = if azure > 0 && (aws == 0 || self.chance(50)) {
            Cloud::Azure
        } else {
            Cloud::Aws
        };
        let operation = match cloud {
            Cloud::Azure => self.pick(&AZURE_OPERATIONS, "*"),
            Cloud::Aws => self.pick(&AWS_OPERATIONS, "*"),
        };
        let strikes = match self.below(6) {
            0 | 1 => Strikes::Next(self.between(1, 3)),
            2 => Strikes::Every(self.between(2, 3)),
            3 => Strikes::Sometimes,
            4 => Strikes::After(self.between(1, 4)),
            _ => Strikes::Always,
        };
        let trouble = match self.below(6) {
            0 => Trouble::Latency(self.between(50, 1400)),
            1 => Trouble::Throttled(self.chance(50)),
            2 => Trouble::Broken,
            3 => Trouble::ResetBefore,
            _ => Trouble::ResetAfter,
        };
        let steps = if matches!(strikes, Strikes::Always) { 2 } else { 4 };
        Step::Fault {
            cloud,
            operation,
            strikes,
            trouble,
            steps,
        }
    }

    fn step(&mut self, azure: usize, aws: usize, number: usize) -> Step {
        let machines = azure + aws;
        let nth = self.below(12);
        match self.below(100) {
            0..30 => self.request(machines),
            30..33 => Step::Approve(nth),
            33..34 => Step::Deny(nth),
            34..39 => Step::Revoke(nth),
            39..45 => Step::CreatePolicy(self.policy(machines)),
            45..48 => Step::UpdatePolicy(nth, self.policy(machines)),
            48..50 => Step::DeletePolicy(nth),
            50..66 => Step::Edit(self.edit(azure, aws, number)),
            66..82 => self.fault(azure, aws),
            82..84 if azure > 0 => Step::FailCompletions(
                self.pick(
                    &[
                        "SecurityRules.CreateOrUpdate",
                        "SecurityRules.Delete",
                        "NetworkSecurityGroups.CreateOrUpdate",
                        "*",
                    ],
                    "*",
                ),
                self.between(1, 2),
            ),
            82..87 => Step::Kill(self.below(2)),
            87..94 => {
                let point = (!self.chance(30)).then(|| {
                    let nth = self.between(1, 4);
                    (self.pick(&POINTS, "after-apply"), u32::try_from(nth).unwrap_or(1))
                });
                Step::Start(self.below(2), point)
            }
            94..95 => Step::Restart(self.below(2)),
            95..97 => Step::KillPostgres(self.between(0, 800)),
            _ => Step::Pause(self.between(200, 1500)),
        }
    }
}

impl Script {
    /// The script of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let (azure, aws) = match (dice.below(4), dice.below(4)) {
            (0, 0) => (1, 1),
            both => both,
        };
        let skew_ms = if dice.chance(40) {
            [0, 0]
        } else {
            [0; 2].map(|_| i64::try_from(dice.between(0, 6000)).unwrap_or_default() - 3000)
        };
        let mut steps = Vec::new();
        if dice.chance(96) {
            let policy = PolicySpec {
                scope: ScopeSpec::All,
                prod_only: false,
                ..dice.policy(1)
            };
            let settled = if dice.chance(70) {
                dice.between(200, 900)
            } else {
                0
            };
            steps.extend([(0, Step::CreatePolicy(policy)), (settled, Step::Pause(0))]);
        }
        let (azure_fleet, aws_fleet) = (dice.azure(azure), dice.aws(aws));
        for number in 0..dice.between(8, 25) {
            let step = dice.step(azure, aws, usize::try_from(number).unwrap_or_default());
            let after = if dice.chance(30) { 0 } else { dice.between(0, 450) };
            steps.push((after, step));
        }
        Self {
            seed,
            skew_ms,
            describe_lag_ms: if dice.chance(30) {
                dice.between(100, 800)
            } else {
                0
            },
            operation_ms: if dice.chance(50) { dice.between(20, 400) } else { 0 },
            transition_ms: dice.between(0, 400),
            azure: azure_fleet,
            aws: aws_fleet,
            steps,
            run_out: dice.chance(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_script_and_another_seed_another() {
        let text = |seed| serde_json::to_string(&Script::draw(seed)).unwrap();
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn every_script_has_a_machine_and_steps() {
        for seed in 0..500 {
            let script = Script::draw(seed);
            assert!(
                script.azure.machines.len() + script.aws.machines.len() > 0,
                "{seed}"
            );
            assert!((8..=27).contains(&script.steps.len()), "{seed}");
        }
    }
}
