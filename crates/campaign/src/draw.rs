//! Draws scripts from seeds.
//!
//! What is drawn here stays as it is: a seed that broke something once is kept for what it draws. What came later is
//! drawn from a stream of its own, in [`crate::additions`].

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::script::{
    AwsFleet, AwsMachine, AzureFleet, AzureMachine, Cloud, Edit, NsgRule, Peer, PolicySpec, ScopeSpec,
    Script, SgRule, Step, Strikes, Trouble,
};

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

/// Where everything of a script is drawn from.
pub(crate) struct Dice(StdRng);

impl Dice {
    /// A stream of its own for each number.
    pub(crate) fn of(number: u64) -> Self {
        Self(StdRng::seed_from_u64(number))
    }

    /// A number below `end`; 0 where there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end.max(1))
    }

    /// Whether it happens, so many times of a hundred.
    pub(crate) fn chance(&mut self, of_hundred: u32) -> bool {
        self.0.random_range(0..100) < of_hundred
    }

    /// One of the items.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T], otherwise: T) -> T {
        items.choose(&mut self.0).copied().unwrap_or(otherwise)
    }

    /// A number, both ends included.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
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

    /// NSGs, subnets and so many machines.
    pub(crate) fn azure(&mut self, machines: usize) -> AzureFleet {
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

    /// A rule of a security group; the groups that it may name are those below `groups`.
    pub(crate) fn sg_rule(&mut self, groups: usize) -> SgRule {
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

    /// A request for some of so many machines.
    pub(crate) fn request(&mut self, machines: usize) -> Step {
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
            starts_in_ms: None,
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

    /// Which calls meet trouble.
    pub(crate) fn strikes(&mut self) -> Strikes {
        match self.below(6) {
            0 | 1 => Strikes::Next(self.between(1, 3)),
            2 => Strikes::Every(self.between(2, 3)),
            3 => Strikes::Sometimes,
            4 => Strikes::After(self.between(1, 4)),
            _ => Strikes::Always,
        }
    }

    /// What they meet.
    pub(crate) fn trouble(&mut self) -> Trouble {
        match self.below(6) {
            0 => Trouble::Latency(self.between(50, 1400)),
            1 => Trouble::Throttled(self.chance(50)),
            2 => Trouble::Broken,
            3 => Trouble::ResetBefore,
            _ => Trouble::ResetAfter,
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
        let (strikes, trouble) = (self.strikes(), self.trouble());
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
    /// The script of a seed, with nothing that came later.
    pub fn plain(seed: u64) -> Self {
        let mut dice = Dice::of(seed);
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
            firewall: None,
            second: None,
            isolates: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_script_and_another_seed_another() {
        let text = |seed| serde_json::to_string(&Script::plain(seed)).unwrap();
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn every_script_has_a_machine_and_steps() {
        for seed in 0..500 {
            let script = Script::plain(seed);
            assert!(
                script.azure.machines.len() + script.aws.machines.len() > 0,
                "{seed}"
            );
            assert!((8..=27).contains(&script.steps.len()), "{seed}");
        }
    }
}
