//! Which EC2 groups are ours: by their names, which nobody can change, and by their marks.

use crate::{
    machine::is_ec2_id,
    mark::{Installation, Mark, Purpose},
    sg::SecurityGroup,
};

/// The tag on an EC2 group of ours whose value is its [`Mark`].
pub const MARK_TAG: &str = "postern:mark";

/// The name of the temporary group of `instance`; a private copy's has the group's id after it.
pub fn holder_name(installation: &Installation, instance: &str) -> String {
    format!("postern-{installation}-{instance}")
}

/// What a group is, going by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'g> {
    /// The temporary group of an instance, `i-…`.
    Holder {
        /// The instance.
        instance: &'g str,
    },
    /// An instance's private copy of a group.
    Copy {
        /// The instance.
        instance: &'g str,
        /// The group, `sg-…`.
        of: &'g str,
    },
}

impl<'g> Named<'g> {
    /// What a group of that name is, if it has a name of ours.
    pub fn read(name: &'g str, installation: &Installation) -> Option<Self> {
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

    /// The instance that the group is for.
    pub const fn instance(&self) -> &'g str {
        match self {
            Self::Holder { instance } | Self::Copy { instance, .. } => instance,
        }
    }
}

/// Whether a group of that purpose would have that name. Anybody who may write tags can give a group our mark, and so
/// take it out of a lockdown; nobody can change the name of a group: the EC2 API has no call for it (API reference,
/// Actions: of a group only the rules and their descriptions are modified).
fn fits(name: &str, mark: &Mark) -> bool {
    match (Named::read(name, &mark.installation), &mark.purpose) {
        (Some(Named::Holder { .. }), Purpose::Holder) => true,
        (Some(Named::Copy { of, .. }), Purpose::Copy { of: marked }) => of == marked,
        _ => false,
    }
}

/// The mark that somebody gave to `group`, if it is this installation's: ours, as long as nobody else writes tags.
pub fn tagged_for(group: &SecurityGroup, installation: &Installation) -> Option<Purpose> {
    Mark::parse(group.tags.get(MARK_TAG)?)
        .filter(|mark| mark.installation == *installation)
        .map(|mark| mark.purpose)
}

/// What `group` is for, where it is a group of this installation, by its mark and its name.
pub fn purpose_of(group: &SecurityGroup, installation: &Installation) -> Option<Purpose> {
    let mark = Mark::parse(group.tags.get(MARK_TAG)?)?;
    (mark.installation == *installation && fits(&group.name, &mark)).then_some(mark.purpose)
}

/// The group that `group` stands for, where it is a private copy, of whichever installation.
pub fn copied_from(group: &SecurityGroup) -> Option<String> {
    let mark = Mark::parse(group.tags.get(MARK_TAG)?).filter(|mark| fits(&group.name, mark))?;
    match mark.purpose {
        Purpose::Copy { of } => Some(of),
        _ => None,
    }
}

/// Whether `group` is a group of this installation: a temporary one, or a private copy.
pub fn is_ours(group: &SecurityGroup, installation: &Installation) -> bool {
    purpose_of(group, installation).is_some()
}

/// Whether `group` is a temporary group of this installation, which holds what grants opened.
pub fn is_holder(group: &SecurityGroup, installation: &Installation) -> bool {
    purpose_of(group, installation) == Some(Purpose::Holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, mark: &str) -> SecurityGroup {
        SecurityGroup {
            id: "sg-0000000000000000a".to_owned(),
            name: name.to_owned(),
            vpc: "vpc-00000000000000001".to_owned(),
            ingress: Vec::new(),
            egress: Vec::new(),
            tags: [(MARK_TAG.to_owned(), mark.to_owned())].into(),
        }
    }

    #[test]
    fn a_group_is_ours_by_its_mark_and_its_name_and_nobody_makes_it_so_by_a_tag() {
        let ours: Installation = "prod".parse().unwrap();
        let holder = "postern-prod-i-0123456789abcdef0";
        let copy = "postern-prod-i-0123456789abcdef0-sg-0000000000000000b";
        let copied = "postern:prod copy=sg-0000000000000000b";
        assert_eq!(
            purpose_of(&group(holder, "postern:prod holder"), &ours),
            Some(Purpose::Holder)
        );
        let of = Purpose::Copy {
            of: "sg-0000000000000000b".to_owned(),
        };
        assert_eq!(purpose_of(&group(copy, copied), &ours), Some(of));
        for (name, mark) in [
            ("database", "postern:prod holder"),
            ("database", copied),
            (copy, "postern:prod holder"),
            (holder, copied),
            (copy, "postern:prod copy=sg-0000000000000000c"),
            (copy, "postern:test copy=sg-0000000000000000b"),
            ("postern-test-i-0123456789abcdef0", "postern:prod holder"),
        ] {
            let group = group(name, mark);
            assert_eq!(purpose_of(&group, &ours), None, "{name} {mark}");
            assert_eq!(copied_from(&group), None, "{name} {mark}");
            assert!(!is_ours(&group, &ours) && !is_holder(&group, &ours));
        }
    }

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
