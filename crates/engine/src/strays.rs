//! Rules of ours at points that nobody looks at.
//!
//! A point that the database knows of nothing wanted at is not looked at again: there are many of them. Such a point
//! may hold a rule of ours all the same, when the database was restored from an old backup, when the point was gone and
//! came back, or when somebody writes what stood there before. Discovery reads the rules anyway, and every rule of ours
//! says whose it is.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::DiscoveryPage,
    inventory::{Layer, Machine, is_ours},
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    point::PointRef,
};

/// The points of the page that hold anything with a mark of `installation`.
pub(crate) fn marked_points(page: &DiscoveryPage, installation: &Installation) -> BTreeSet<PointRef> {
    let listed = page
        .marked
        .iter()
        .filter(|(_, marks)| marks.contains(installation))
        .map(|(point, _)| point.clone());
    let before = page
        .machines
        .iter()
        .flat_map(|machine| marked_groups(machine, installation));
    listed.chain(before).collect()
}

/// Of an EC2 machine: the instance where a group at it is ours, and every group that holds a rule of ours.
fn marked_groups(machine: &Machine, installation: &Installation) -> BTreeSet<PointRef> {
    let ours = |description: &Option<String>| {
        description
            .as_deref()
            .and_then(Mark::parse)
            // What is left of a displaced rule nobody takes away but who puts that back.
            .is_some_and(|mark| {
                mark.installation == *installation && !matches!(mark.purpose, Purpose::Residual { .. })
            })
    };
    let mut points = BTreeSet::new();
    let MachineId::Aws(instance) = &machine.id else {
        return points;
    };
    for layer in machine.interfaces.iter().flat_map(|interface| &interface.layers) {
        let Layer::SecurityGroups { groups } = layer else {
            continue;
        };
        for group in groups {
            if is_ours(group, installation) {
                points.insert(PointRef::AwsInstance(instance.clone()));
            } else if group.ingress.iter().any(|rule| ours(&rule.description)) {
                points
                    .extend(PointRef::security_group(instance.account(), instance.region(), &group.id).ok());
            }
        }
    }
    points
}
