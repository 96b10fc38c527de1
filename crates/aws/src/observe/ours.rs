//! Which groups are ours: by their names, which nobody can change, and by what else says so.
//!
//! Tags are anybody's to write and to delete who may tag groups, and some tag everything by rules of their own. So a
//! group is what its name says. A mark of ours of any kind, a grant's rule of ours in it, or the memory of what it took
//! the place of shows that the name is no accident; which group a copy stands for is never taken from a tag.

use postern_core::{
    enforcer::Desired,
    inventory::tagged_for,
    machine::is_ec2_id,
    mark::{Installation, Purpose},
    sg::SecurityGroup,
};

use crate::plan::{
    instance::{Attachment, holder_name},
    rule,
};

/// What a group is, going by its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named<'g> {
    /// The holder of an instance.
    Holder { instance: &'g str },
    /// An instance's private copy of a group.
    Copy { instance: &'g str, of: &'g str },
}

impl<'g> Named<'g> {
    /// What a group of that name is, if it has a name of ours.
    pub(crate) fn read(name: &'g str, installation: &Installation) -> Option<Self> {
        let rest = name.strip_prefix(&holder_name(installation, ""))?;
        let named = match rest.find("-sg-") {
            Some(at) => {
                let (instance, of) = rest.split_at(at);
                let of = of.strip_prefix('-').filter(|of| is_ec2_id(of, "sg-"))?;
                Self::Copy { instance, of }
            }
            None => Self::Holder { instance: rest },
        };
        is_ec2_id(named.instance(), "i-").then_some(named)
    }

    pub(crate) const fn instance(&self) -> &'g str {
        match self {
            Self::Holder { instance } | Self::Copy { instance, .. } => instance,
        }
    }
}

/// Whether a group with a name of ours was made by us, as far as can be told.
pub(super) fn is_ours(group: &SecurityGroup, desired: &Desired) -> bool {
    let installation = &desired.installation;
    let is_for_a_grant = |rule| {
        rule::mark_of(rule, installation).is_some_and(|mark| matches!(mark.purpose, Purpose::Grant { .. }))
    };
    let took_the_place = |of: &str| {
        desired.displaced.iter().any(|displaced| {
            serde_json::from_value::<Attachment>(displaced.rule.clone()).is_ok_and(|saved| saved.group == of)
        })
    };
    tagged_for(group, installation).is_some()
        || match Named::read(&group.name, installation) {
            Some(Named::Holder { .. }) => group.ingress.iter().any(is_for_a_grant),
            Some(Named::Copy { of, .. }) => took_the_place(of),
            None => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_group_is_and_nothing_else_does() {
        let installation = "a-sg-b".parse().unwrap();
        let read = |name: &'static str| Named::read(name, &installation);
        let instance = "i-0123456789abcdef0";
        assert_eq!(
            read("postern-a-sg-b-i-0123456789abcdef0"),
            Some(Named::Holder { instance })
        );
        let of = "sg-0123456789abcdef0";
        assert_eq!(
            read("postern-a-sg-b-i-0123456789abcdef0-sg-0123456789abcdef0"),
            Some(Named::Copy { instance, of })
        );
        for foreign in [
            "postern-other-i-0123456789abcdef0",
            "postern-a-sg-b-i-0123456789abcdef0-sg-*",
            "postern-a-sg-b-i-0123456789abcdef0-mine",
            "postern-a-sg-b-",
        ] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }
}
