//! Rules of ours at points that nobody looks at.
//!
//! A point that the database knows of nothing wanted at is not looked at again: there are many of them. Such a point
//! may hold a rule of ours all the same, when the database was restored from an old backup, or when the point was gone
//! and came back. Discovery reads the rules of every machine anyway, and every rule of ours says whose it is.

use std::collections::BTreeSet;

use postern_core::{
    inventory::{Layer, Machine, is_ours},
    machine::MachineId,
    mark::{Installation, Mark},
    point::PointRef,
};

/// The points before the machine that hold anything with a mark of `installation`, as discovered.
pub(crate) fn marked_points(machine: &Machine, installation: &Installation) -> BTreeSet<PointRef> {
    let ours = |description: &Option<String>| {
        description
            .as_deref()
            .and_then(Mark::parse)
            .is_some_and(|mark| mark.installation == *installation)
    };
    let mut points = BTreeSet::new();
    for layer in machine.interfaces.iter().flat_map(|interface| &interface.layers) {
        match (layer, &machine.id) {
            (Layer::Nsg { point, rules, .. }, _) => {
                if rules.iter().any(|rule| ours(&rule.description)) {
                    points.insert(point.clone());
                }
            }
            (Layer::SecurityGroups { groups }, MachineId::Aws(instance)) => {
                for group in groups {
                    if is_ours(group, installation) {
                        points.insert(PointRef::AwsInstance(instance.clone()));
                    } else if group.ingress.iter().any(|rule| ours(&rule.description)) {
                        points.extend(
                            PointRef::security_group(instance.account(), instance.region(), &group.id).ok(),
                        );
                    }
                }
            }
            (Layer::Firewall(approach), _) => {
                if approach.marked_by.contains(installation) {
                    points.insert(approach.point.clone());
                }
            }
            (Layer::SecurityGroups { .. }, MachineId::Azure(_)) => {}
        }
    }
    points
}
