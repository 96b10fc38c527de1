//! Approval: who must agree before a request is granted, stage by stage, and how far that has come.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    id::PolicyId,
    principal::{Principal, PrincipalRef},
    time::Instant,
};

/// The most stages of an approval.
pub const MAX_STAGES: usize = 5;
/// The most people that one stage may need.
pub const MAX_NEEDED: u8 = 10;
/// The most approvers that one stage may name.
pub const MAX_APPROVERS: usize = 50;
/// The longest name of a role, in characters.
const MAX_ROLE: usize = 64;

/// Who must agree before a request under the policy is granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Nobody: the policy itself approves.
    #[default]
    Policy,
    /// One person with the `approve` action at the machine, who is not the requester: one stage that needs one.
    One,
    /// These, one after the other.
    Stages(Vec<Stage>),
}

/// So many people who must agree before the next stage begins. Each has the `approve` action at every machine of the
/// request; a stage narrows who of them counts, and never widens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// How many people, 1 to [`MAX_NEEDED`].
    pub needs: u8,
    /// Those who count: people, and groups whose members do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<PrincipalRef>,
    /// Those count, too, whom an assignment of this role allows to approve. Where neither is set, everybody who may
    /// approve counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether those who counted in a stage before count here again.
    #[serde(default)]
    pub again: bool,
}

/// Why an approval is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApproval {
    /// None, or too many.
    #[error("`stages` has 1 to {MAX_STAGES} entries")]
    Stages,
    /// Nobody, or too many.
    #[error("`needs` of stage {0} is between 1 and {MAX_NEEDED}")]
    Needs(usize),
    /// Too many, or a program.
    #[error("`approvers` of stage {0} has at most {MAX_APPROVERS} entries, each a `user:` or a `group:`")]
    Approvers(usize),
    /// More people are needed than are named.
    #[error("stage {0} needs more people than it names")]
    Unreachable(usize),
    /// No name of a role.
    #[error("`role` of stage {0} has 1 to {MAX_ROLE} characters")]
    Role(usize),
}

impl Approval {
    /// The stages: none where the policy itself approves.
    pub fn stages(&self) -> Vec<Stage> {
        match self {
            Self::Policy => Vec::new(),
            Self::One => vec![Stage {
                needs: 1,
                approvers: Vec::new(),
                role: None,
                again: false,
            }],
            Self::Stages(stages) => stages.clone(),
        }
    }

    /// Checks that people could meet it. Stages are counted from 1.
    pub fn validate(&self) -> Result<(), InvalidApproval> {
        let Self::Stages(stages) = self else {
            return Ok(());
        };
        if stages.is_empty() || stages.len() > MAX_STAGES {
            return Err(InvalidApproval::Stages);
        }
        for (stage, number) in stages.iter().zip(1..) {
            if !(1..=MAX_NEEDED).contains(&stage.needs) {
                return Err(InvalidApproval::Needs(number));
            }
            let program = |one: &PrincipalRef| matches!(one, PrincipalRef::Workload(_));
            if stage.approvers.len() > MAX_APPROVERS || stage.approvers.iter().any(program) {
                return Err(InvalidApproval::Approvers(number));
            }
            if let Some(role) = &stage.role
                && (role.trim().is_empty() || role.chars().count() > MAX_ROLE)
            {
                return Err(InvalidApproval::Role(number));
            }
            let people: BTreeSet<&PrincipalRef> = stage.approvers.iter().collect();
            let only_people = !people.is_empty() && people.iter().all(|one| one.is_person());
            if stage.role.is_none() && only_people && people.len() < usize::from(stage.needs) {
                return Err(InvalidApproval::Unreachable(number));
            }
        }
        Ok(())
    }
}

/// That somebody agreed to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Who, as their token had them: whether they still may is asked again at the last agreement.
    pub by: Principal,
    /// When.
    pub at: Instant,
    /// What they said to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether they narrowed what was asked for.
    #[serde(default)]
    pub narrowed: bool,
}

/// Somebody who agrees, and the roles that let them approve at every machine in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voice<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// Roles that each by itself would do.
    pub roles: &'a BTreeSet<String>,
}

/// Why an agreement does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCounted {
    /// Every stage has its people.
    Done,
    /// The person counted before.
    Again,
    /// The stage asks for others.
    NotAsked,
}

/// The agreements of a request, counted against stages in the order in which they were made.
#[derive(Debug)]
pub struct Tally<'a> {
    stages: &'a [Stage],
    at: usize,
    here: Vec<&'a Principal>,
    before: Vec<&'a Principal>,
}

impl<'a> Tally<'a> {
    /// Nobody agreed yet.
    pub const fn new(stages: &'a [Stage]) -> Self {
        Self {
            stages,
            at: 0,
            here: Vec::new(),
            before: Vec::new(),
        }
    }

    /// Counts somebody in the stage that is due, if they count there. One call counts in one stage.
    pub fn count(&mut self, voice: &Voice<'a>) -> Result<(), NotCounted> {
        let stage = self.stages.get(self.at).ok_or(NotCounted::Done)?;
        let known = |people: &[&Principal]| people.iter().any(|one| one.may_be(voice.principal));
        if known(&self.here) || (!stage.again && known(&self.before)) {
            return Err(NotCounted::Again);
        }
        let anybody = stage.approvers.is_empty() && stage.role.is_none();
        let named = voice
            .principal
            .references()
            .any(|one| stage.approvers.contains(&one));
        let by_role = stage.role.as_ref().is_some_and(|role| voice.roles.contains(role));
        if !(anybody || named || by_role) {
            return Err(NotCounted::NotAsked);
        }
        self.here.push(voice.principal);
        if self.here.len() >= usize::from(stage.needs) {
            self.before.append(&mut self.here);
            self.at += 1;
        }
        Ok(())
    }

    /// Whether every stage has its people.
    pub const fn is_done(&self) -> bool {
        self.at >= self.stages.len()
    }

    /// The stage that is due, if one is.
    pub fn awaits(&self, policy: PolicyId, policy_name: &str) -> Option<Awaited> {
        let stage = self.stages.get(self.at)?;
        Some(Awaited {
            policy,
            policy_name: policy_name.to_owned(),
            stage: self.at + 1,
            of: self.stages.len(),
            needs: stage.needs,
            have: u8::try_from(self.here.len()).unwrap_or(u8::MAX),
            approvers: stage.approvers.clone(),
            role: stage.role.clone(),
        })
    }
}

/// Whom a pending request waits for under one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// The policy.
    pub policy: PolicyId,
    /// Its name.
    pub policy_name: String,
    /// The stage that is due, from 1.
    pub stage: usize,
    /// How many stages there are.
    pub of: usize,
    /// How many people the stage needs.
    pub needs: u8,
    /// How many agreed in it.
    pub have: u8,
    /// Who counts in it; see [`Stage::approvers`].
    pub approvers: Vec<PrincipalRef>,
    /// Who else counts in it; see [`Stage::role`].
    pub role: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::a_principal;

    fn person(subject: &str) -> Principal {
        Principal {
            subject: subject.into(),
            ..a_principal()
        }
    }

    fn stage(needs: u8, approvers: &[&str], role: Option<&str>) -> Stage {
        Stage {
            needs,
            approvers: approvers.iter().map(|one| one.parse().unwrap()).collect(),
            role: role.map(Into::into),
            again: false,
        }
    }

    fn say<'a>(
        tally: &mut Tally<'a>,
        who: &'a Principal,
        roles: &'a BTreeSet<String>,
    ) -> Result<(), NotCounted> {
        tally.count(&Voice {
            principal: who,
            roles,
        })
    }

    #[test]
    fn a_stage_waits_for_all_of_its_people_and_counts_each_once() {
        let (stages, none) = ([stage(2, &[], None)], BTreeSet::new());
        let (bob, eve) = (person("bob"), person("eve"));
        let mut tally = Tally::new(&stages);
        assert_eq!(say(&mut tally, &bob, &none), Ok(()));
        assert_eq!(say(&mut tally, &bob, &none), Err(NotCounted::Again));
        assert!(!tally.is_done());
        assert_eq!(say(&mut tally, &eve, &none), Ok(()));
        assert!(tally.is_done());
        assert_eq!(say(&mut tally, &eve, &none), Err(NotCounted::Done));
    }

    #[test]
    fn a_person_counts_in_one_stage_unless_the_policy_says_otherwise() {
        let mut stages = [stage(1, &[], None), stage(1, &[], None)];
        let (none, bob) = (BTreeSet::new(), person("bob"));
        let mut tally = Tally::new(&stages);
        say(&mut tally, &bob, &none).unwrap();
        assert_eq!(say(&mut tally, &bob, &none), Err(NotCounted::Again));
        stages[1].again = true;
        let mut tally = Tally::new(&stages);
        say(&mut tally, &bob, &none).unwrap();
        assert!(!tally.is_done(), "one call counts once");
        say(&mut tally, &bob, &none).unwrap();
        assert!(tally.is_done());
    }

    #[test]
    fn only_those_count_whom_the_stage_names_by_person_group_or_role() {
        let stages = [stage(3, &["user:corp/bob", "group:corp/leads"], Some("operator"))];
        let (none, operator) = (BTreeSet::new(), BTreeSet::from(["operator".to_owned()]));
        let mut lead = person("liz");
        lead.groups.insert("leads".into());
        let (bob, eve, joe) = (person("bob"), person("eve"), person("joe"));
        let mut tally = Tally::new(&stages);
        assert_eq!(say(&mut tally, &eve, &none), Err(NotCounted::NotAsked));
        assert_eq!(say(&mut tally, &bob, &none), Ok(()));
        assert_eq!(say(&mut tally, &lead, &none), Ok(()));
        assert_eq!(say(&mut tally, &joe, &operator), Ok(()));
        assert!(tally.is_done());
    }

    #[test]
    fn one_person_of_two_issuers_does_not_count_for_two() {
        let (stages, none) = ([stage(2, &[], None)], BTreeSet::new());
        let bob = person("bob");
        let other = Principal {
            issuer: "partner".into(),
            ..person("Bob")
        };
        let mut tally = Tally::new(&stages);
        say(&mut tally, &bob, &none).unwrap();
        assert_eq!(say(&mut tally, &other, &none), Err(NotCounted::Again));
    }

    #[test]
    fn an_approval_that_nobody_could_meet_is_refused() {
        let cases = [
            (vec![], InvalidApproval::Stages),
            (vec![stage(0, &[], None)], InvalidApproval::Needs(1)),
            (
                vec![stage(1, &["workload:ci/bot"], None)],
                InvalidApproval::Approvers(1),
            ),
            (
                vec![stage(1, &[], None), stage(2, &["user:corp/bob"], None)],
                InvalidApproval::Unreachable(2),
            ),
            (vec![stage(1, &[], Some(" "))], InvalidApproval::Role(1)),
        ];
        for (stages, expected) in cases {
            assert_eq!(Approval::Stages(stages).validate(), Err(expected));
        }
        let good = vec![
            stage(2, &["user:corp/bob", "group:corp/leads"], None),
            stage(1, &[], None),
        ];
        assert_eq!(Approval::Stages(good).validate(), Ok(()));
    }

    #[test]
    fn the_words_that_policies_were_stored_with_are_still_read() {
        let read = |text: &str| serde_json::from_str::<Approval>(text).unwrap();
        assert_eq!(read("\"policy\"").stages(), []);
        assert_eq!(read("\"one\"").stages(), [stage(1, &[], None)]);
        assert_eq!(
            read(r#"{"stages":[{"needs":1}]}"#),
            Approval::Stages(vec![stage(1, &[], None)])
        );
    }
}
