//! What a plan makes of security groups and of who has them, without carrying it out.

use postern_core::{
    enforcer::{Bindings, Change},
    preview::{Attached, Filters},
};

use super::{
    group::ObservedGroup,
    instance::ObservedInstance,
    written::{Carry as _, Written},
};
use crate::{
    operation::{GroupRef, Operation},
    recent::effects,
};

/// What the changes bring about. What they make is known by its name, which it has before its id.
fn carried_out(changes: &[Change]) -> Option<Vec<Written>> {
    let mut bindings = Bindings::new();
    let mut written = Vec::new();
    for change in changes {
        let operation: Operation = serde_json::from_value(change.operation.clone()).ok()?;
        match &operation {
            Operation::CreateHolder { vpc, name, .. } => {
                bindings.insert(GroupRef::binding(vpc), name.clone());
            }
            Operation::CreateCopy { of, name, .. } => {
                bindings.insert(GroupRef::copy_binding(of), name.clone());
            }
            _ => {}
        }
        written.extend(effects(change.before.as_ref(), &operation, &bindings));
    }
    Some(written)
}

impl ObservedGroup {
    /// The group's rules, and what the changes make of them. None of a group that does not exist.
    pub(super) fn foreseen(&self, changes: &[Change]) -> Option<Filters> {
        let after = self.with(&carried_out(changes)?);
        Some(Filters::SecurityGroup {
            before: self.group.as_ref()?.ingress.clone(),
            after: after.group?.ingress,
        })
    }
}

impl ObservedInstance {
    /// The groups of its interfaces, and what the changes make of that.
    pub(super) fn foreseen(&self, changes: &[Change]) -> Option<Filters> {
        Some(Filters::Instance {
            before: self.attached(),
            after: self.with(&carried_out(changes)?).attached(),
        })
    }

    fn attached(&self) -> Attached {
        let holders = self.holders.iter();
        let copies = self.copies.iter().map(|copy| &copy.group);
        let originals = self
            .originals
            .iter()
            .filter_map(|original| original.group.as_ref());
        Attached {
            interfaces: self
                .interfaces
                .iter()
                .map(|interface| (interface.id.clone(), interface.groups.clone()))
                .collect(),
            groups: holders.chain(copies).chain(originals).cloned().collect(),
        }
    }
}
