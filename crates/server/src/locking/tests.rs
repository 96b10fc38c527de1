use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::Displaced,
    inventory::{Interface, Place, Power},
    machine::MachineId,
    policy::SharedGroups,
    preview::{PointPreview, Preview, ReachChange},
    sg::{SgPeer, SgProtocol},
    testing::{an_id, an_nsg_rule, ports},
};
use serde_json::json;

use super::*;

const VM: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";
const INSTANCE: &str = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0";
const GROUP: &str = "sg-0000000000000000a";

fn demo() -> Installation {
    "demo".parse().unwrap()
}

fn machine(id: &str, layer: Layer) -> Machine {
    Machine {
        id: id.parse().unwrap(),
        name: "one".into(),
        tags: BTreeMap::new(),
        power: Power::Running,
        interfaces: vec![Interface {
            id: "nic".into(),
            addresses: vec!["10.0.0.4".parse().unwrap()],
            public_addresses: vec![],
            network: vec![],
            network_id: "n".into(),
            layers: vec![layer],
        }],
    }
}

fn desired(point: PointRef, machine: &Machine, guarded: &[&str], lockdown: Lockdown) -> Desired {
    let guard = Guard {
        policy: an_id(1),
        ports: guarded.iter().map(|text| ports(text)).collect(),
        lockdown,
        shared_groups: SharedGroups::Refuse,
    };
    Desired {
        installation: demo(),
        point,
        members: vec![Member {
            machine: machine.id.clone(),
            addresses: machine.addresses().into_iter().collect(),
            interfaces: vec!["nic".to_owned()],
            guard: (!guarded.is_empty()).then_some(guard),
            approach: None,
            grants: Vec::new(),
        }],
        displaced: Vec::new(),
        unsettled: false,
    }
}

fn reach(machine: &Machine, desired: &Desired) -> (Vec<ReachChange>, Vec<ReachChange>) {
    let preview = PointPreview {
        point: desired.point.clone(),
        filters: expected(machine, desired).unwrap(),
    };
    let wanted = [ports("22"), ports("3389")];
    let preview = Preview::of(std::slice::from_ref(machine), &[preview], &wanted);
    (preview.gains, preview.losses)
}

fn told(changes: &[ReachChange]) -> Vec<String> {
    changes
        .iter()
        .map(|one| {
            let sources: Vec<String> = one.sources.iter().map(ToString::to_string).collect();
            format!("{} from {}", one.ports, sources.join(" "))
        })
        .collect()
}

fn nsg() -> PointRef {
    PointRef::nsg("00000000-0000-0000-0000-000000000001", "rg", "n").unwrap()
}

fn vm(rules: Vec<NsgRule>) -> Machine {
    let mut rules = rules;
    rules.push(an_nsg_rule("none", 65500, Access::Deny, "*", "*"));
    machine(
        VM,
        Layer::Nsg {
            point: nsg(),
            place: Place::Interface,
            rules,
            memberships: BTreeSet::new(),
            possible_memberships: BTreeSet::new(),
        },
    )
}

fn ours(mut rule: NsgRule, installation: &str) -> NsgRule {
    let mark = Mark {
        installation: installation.parse().unwrap(),
        purpose: Purpose::Lockdown { policy: an_id(1) },
    };
    rule.description = Some(mark.to_string());
    rule
}

fn ssh() -> NsgRule {
    an_nsg_rule("ssh", 300, Access::Allow, "203.0.113.0/24", "20-30")
}

#[test]
fn an_nsg_loses_what_a_strict_lockdown_overrules_and_nothing_by_one_that_defers() {
    let open = vm(vec![ssh()]);
    let (gains, losses) = reach(&open, &desired(nsg(), &open, &["22"], Lockdown::Strict));
    assert_eq!(
        (told(&gains), told(&losses)),
        (vec![], vec!["22/tcp from 203.0.113.0/24".to_owned()])
    );
    let (gains, losses) = reach(&open, &desired(nsg(), &open, &["22"], Lockdown::Defer));
    assert_eq!((gains, losses), (vec![], vec![]));
}

#[test]
fn an_nsg_whose_deny_goes_lets_in_again_and_another_installations_deny_stays() {
    let deny = || an_nsg_rule("deny", 299, Access::Deny, "*", "22");
    let locked = vm(vec![ours(deny(), "demo"), ssh()]);
    let (gains, losses) = reach(&locked, &desired(nsg(), &locked, &[], Lockdown::Strict));
    assert_eq!(
        (told(&gains), told(&losses)),
        (vec!["22/tcp from 203.0.113.0/24".to_owned()], vec![])
    );
    let (gains, losses) = reach(&locked, &desired(nsg(), &locked, &["22"], Lockdown::Strict));
    assert_eq!((gains, losses), (vec![], vec![]), "it is kept as it is");
    let theirs = vm(vec![ours(deny(), "another"), ssh()]);
    let (gains, losses) = reach(&theirs, &desired(nsg(), &theirs, &[], Lockdown::Strict));
    assert_eq!((gains, losses), (vec![], vec![]));
}

fn rule(span: (i32, i32), description: Option<String>) -> SgRule {
    SgRule {
        id: None,
        protocol: SgProtocol::Tcp,
        ports: Some(span),
        peer: SgPeer::Net("203.0.113.0/24".parse().unwrap()),
        description,
        tags: BTreeMap::new(),
    }
}

fn instance(rules: Vec<SgRule>) -> (Machine, PointRef) {
    let group = SecurityGroup {
        id: GROUP.into(),
        name: "web".into(),
        vpc: "vpc-1".into(),
        ingress: rules,
        egress: vec![],
        tags: BTreeMap::new(),
    };
    let machine = machine(INSTANCE, Layer::SecurityGroups { groups: vec![group] });
    let point = PointRef::security_group("123456789012", "eu-west-1", GROUP).unwrap();
    (machine, point)
}

#[test]
fn a_group_is_carved_around_what_is_guarded_and_given_back_where_nobody_guards_it() {
    let (open, point) = instance(vec![rule((20, 4000), None)]);
    let both = desired(point.clone(), &open, &["22", "3389"], Lockdown::Strict);
    let (gains, losses) = reach(&open, &both);
    let from = |ports: &str| format!("{ports}/tcp from 203.0.113.0/24");
    assert_eq!(
        (told(&gains), told(&losses)),
        (vec![], vec![from("22"), from("3389")])
    );

    let mark = Mark {
        installation: demo(),
        purpose: Purpose::Residual { of: an_id(5) },
    };
    let residual = |span| rule(span, Some(mark.to_string()));
    let (locked, _) = instance(vec![
        residual((20, 21)),
        residual((23, 3388)),
        residual((3390, 4000)),
    ]);
    let mut narrower = desired(point, &locked, &["22"], Lockdown::Strict);
    narrower.displaced = vec![Displaced {
        id: an_id(5),
        rule: json!(rule((20, 4000), None)),
        residuals: Vec::new(),
    }];
    let (gains, losses) = reach(&locked, &narrower);
    assert_eq!((told(&gains), told(&losses)), (vec![from("3389")], vec![]));
    let free = Desired {
        members: Vec::new(),
        ..narrower
    };
    let (gains, losses) = reach(&locked, &free);
    assert_eq!(
        (told(&gains), told(&losses)),
        (vec![from("22"), from("3389")], vec![])
    );
}

#[test]
fn what_was_not_observed_is_not_told() {
    let (machine, _) = instance(vec![]);
    let MachineId::Aws(id) = machine.id.clone() else {
        panic!("{machine:?}");
    };
    let at_instance = desired(PointRef::AwsInstance(id), &machine, &["22"], Lockdown::Strict);
    assert_eq!(expected(&machine, &at_instance), None);
    assert_eq!(
        expected(&machine, &desired(nsg(), &machine, &["22"], Lockdown::Strict)),
        None
    );
    assert!(!has_copies(&machine, &demo()));
}
