//! What becomes of filters that were not read for a plan, from the last observation.
//!
//! Pure. A lockdown's end is simple to foresee: nobody's rule but a grant's lets anything in to the guarded ports, and
//! where nobody guards them any more, what it displaced is back. Whether it gets there (a shared group may be refused, an
//! NSG may be full) is for the planners to say.

use postern_core::{
    enforcer::{Desired, Guard, Member},
    inventory::{Layer, Machine, purpose_of},
    mark::{Installation, Mark, Purpose},
    net::{Ports, Protocol},
    nsg::{Access, AddressPrefix, Direction, NsgPorts, NsgProtocol, NsgRule, Side},
    point::PointRef,
    policy::Lockdown,
    preview::Filters,
    sg::{self, SecurityGroup, SgRule},
};

/// Azure's defaults, which nobody writes, begin here.
const FIRST_DEFAULT: u16 = 65_000;

/// What becomes of the point that `desired` is of, as last observed at `machine`. None where that is not told by what was
/// observed: at a firewall, and where the point is not before the machine.
pub(crate) fn expected(machine: &Machine, desired: &Desired) -> Option<Filters> {
    let mut layers = machine.interfaces.iter().flat_map(|interface| &interface.layers);
    layers.find_map(|layer| match (layer, &desired.point) {
        (Layer::Nsg { point, rules, .. }, at) if point == at => {
            let before = written(rules);
            let after = locked(&before, desired);
            Some(Filters::Nsg { before, after })
        }
        (Layer::SecurityGroups { groups }, PointRef::AwsSecurityGroup { group, .. }) => {
            let group = groups.iter().find(|one| one.id == *group)?;
            Some(Filters::SecurityGroup {
                before: group.ingress.clone(),
                after: kept(group, desired),
            })
        }
        _ => None,
    })
}

/// Whether a private copy of ours stands at the machine, as last observed. What becomes of it only its point tells.
pub(crate) fn has_copies(machine: &Machine, installation: &Installation) -> bool {
    let is_copy =
        |group: &SecurityGroup| matches!(purpose_of(group, installation), Some(Purpose::Copy { .. }));
    let mut layers = machine.interfaces.iter().flat_map(|interface| &interface.layers);
    layers.any(|layer| matches!(layer, Layer::SecurityGroups { groups } if groups.iter().any(is_copy)))
}

fn purpose(text: Option<&String>, installation: &Installation) -> Option<Purpose> {
    let mark = Mark::parse(text?)?;
    (mark.installation == *installation).then_some(mark.purpose)
}

fn written(rules: &[NsgRule]) -> Vec<NsgRule> {
    let inbound = |rule: &&NsgRule| rule.direction == Direction::Inbound && rule.priority < FIRST_DEFAULT;
    rules.iter().filter(inbound).cloned().collect()
}

/// The rules without the denies of lockdowns, and with a deny for each member that is to be locked down: above
/// everything, or, where it defers, below everything but Azure's defaults. The numbers say the order, and nothing else.
fn locked(rules: &[NsgRule], desired: &Desired) -> Vec<NsgRule> {
    let is_lockdown = |rule: &&NsgRule| {
        let purpose = purpose(rule.description.as_ref(), &desired.installation);
        rule.access == Access::Deny && matches!(purpose, Some(Purpose::Lockdown { .. }))
    };
    let guarded = desired
        .members
        .iter()
        .filter(|member| !member.addresses.is_empty())
        .filter_map(|member| Some((member, member.guard.as_ref()?)));
    guarded
        .flat_map(|(member, guard)| guard.ports.iter().map(move |ports| deny(member, guard, *ports)))
        .chain(rules.iter().filter(|rule| !is_lockdown(rule)).cloned())
        .collect()
}

fn deny(member: &Member, guard: &Guard, ports: Ports) -> NsgRule {
    let addresses = member.addresses.iter();
    NsgRule {
        name: format!("lockdown of {ports}"),
        description: None,
        priority: match guard.lockdown {
            Lockdown::Strict => 1,
            Lockdown::Defer => FIRST_DEFAULT - 1,
        },
        direction: Direction::Inbound,
        access: Access::Deny,
        protocol: match ports.protocol() {
            Protocol::Tcp => NsgProtocol::Tcp,
            Protocol::Udp => NsgProtocol::Udp,
        },
        source: Side {
            prefixes: vec![AddressPrefix::Tag("*".to_owned())],
            groups: Vec::new(),
        },
        destination: Side {
            prefixes: addresses
                .map(|one| AddressPrefix::parse(&one.to_string()))
                .collect(),
            groups: Vec::new(),
        },
        ports: vec![NsgPorts {
            first: ports.first(),
            last: ports.last(),
        }],
        source_ports: vec![NsgPorts::ALL],
    }
}

/// The group's rules as others made them, without what leads to a port that a member keeps closed.
fn kept(group: &SecurityGroup, desired: &Desired) -> Vec<SgRule> {
    let guards = desired.members.iter().filter_map(|member| member.guard.as_ref());
    let closed: Vec<Ports> = guards
        .filter(|guard| guard.lockdown == Lockdown::Strict)
        .flat_map(|guard| guard.ports.iter().copied())
        .collect();
    let is_residual = |rule: &&SgRule| match purpose(rule.description.as_ref(), &desired.installation) {
        Some(Purpose::Residual { of }) => desired.displaced.iter().any(|saved| saved.id == of),
        _ => false,
    };
    let displaced = desired
        .displaced
        .iter()
        .filter_map(|saved| serde_json::from_value(saved.rule.clone()).ok());
    let all: Vec<SgRule> = group
        .ingress
        .iter()
        .filter(|rule| !is_residual(rule))
        .cloned()
        .chain(displaced)
        .collect();
    let around = |rule: &SgRule| {
        if sg::overlaps(rule, &closed) {
            sg::carve(rule, &closed)
        } else {
            vec![rule.clone()]
        }
    };
    all.iter().flat_map(around).collect()
}

#[cfg(test)]
mod tests;
