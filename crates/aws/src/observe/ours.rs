//! Which groups are ours: by their names ([`Named`]), and by what else says so.
//!
//! Tags are anybody's to write and to delete who may tag groups, and some tag everything by rules of their own. So a
//! group is what its name says. A mark of ours of any kind, a grant's rule of ours in it, or the memory of what it took
//! the place of shows that the name is no accident; which group a copy stands for is never taken from a tag.

use postern_core::{
    enforcer::Desired,
    inventory::{Named, tagged_for},
    mark::Purpose,
    sg::SecurityGroup,
};

use crate::plan::{instance::took_the_place_of, rule};

/// Whether a group with a name of ours was made by us, as far as can be told.
pub(super) fn is_ours(group: &SecurityGroup, desired: &Desired) -> bool {
    let installation = &desired.installation;
    let is_for_a_grant = |rule| {
        rule::mark_of(rule, installation).is_some_and(|mark| matches!(mark.purpose, Purpose::Grant { .. }))
    };
    tagged_for(group, installation).is_some()
        || match Named::read(&group.name, installation) {
            Some(Named::Holder { .. }) => group.ingress.iter().any(is_for_a_grant),
            Some(Named::Copy { of, .. }) => took_the_place_of(of, desired),
            None => false,
        }
}
