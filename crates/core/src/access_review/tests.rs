use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    id::AccessReviewItemId,
    principal::PrincipalKind,
    role::{Action, Role, RoleAssignment},
    testing::{a_principal, an_id, at},
};

const DAY: i64 = 86_400;

fn review() -> AccessReview {
    AccessReview {
        id: an_id(1),
        series: an_id(1),
        round: 1,
        name: "who may open production".into(),
        scope: Scope::root(),
        reviewers: [
            "user:corp/eve".parse().unwrap(),
            "group:corp/leads".parse().unwrap(),
        ]
        .into(),
        undecided: Undecided::Remove,
        unused_after_days: 90,
        recurrence: Some(Recurrence {
            every_days: 30,
            round_days: 7,
        }),
        created_by: "user:corp/root".parse().unwrap(),
        started_at: at(0),
        deadline: at(8 * DAY),
        made_as: None,
        maker_seen_at: None,
        next_round_at: Some(at(30 * DAY)),
        not_started: None,
        unread: None,
        state: AccessReviewState::Open,
    }
}

fn assignment(principal: &str) -> RoleAssignment {
    RoleAssignment {
        id: an_id(9),
        role: "requester".into(),
        principal: principal.parse().unwrap(),
        scope: Scope::root(),
        created_by: "user:corp/root".into(),
        created_at: at(-1000 * DAY),
        tags: BTreeMap::new(),
        ends_at: None,
    }
}

fn item(principal: &str) -> AccessReviewItem {
    AccessReviewItem {
        id: AccessReviewItemId::from_uuid(an_id::<crate::id::AccessReviewItemKind>(2).uuid()),
        review: an_id(1),
        assignment: assignment(principal),
        last_use: None,
        recommendation: Some(Recommendation {
            verdict: ItemVerdict::Remove,
            because: RecommendedBecause::Unused,
        }),
        state: ItemState::Open,
    }
}

fn person(subject: &str, groups: &[&str]) -> Principal {
    Principal {
        subject: subject.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..a_principal()
    }
}

fn decide(item: AccessReviewItem, by: &Principal, seconds: i64) -> Result<AccessReviewItem, CannotDecide> {
    item.decide(&review(), by, ItemVerdict::Keep, at(seconds), "needed".into())
}

#[test]
fn a_reviewer_is_named_or_in_a_named_group_and_is_a_person() {
    let kept = decide(item("user:corp/ada"), &person("lea", &["leads"]), 9).unwrap();
    let ItemState::Kept(decision) = &kept.state else {
        panic!("{kept:?}")
    };
    assert_eq!(
        decision.by,
        DecidedBy::Reviewer {
            principal: "user:corp/lea".parse().unwrap(),
            named_as: "group:corp/leads".parse().unwrap(),
        }
    );
    assert!(matches!(
        decide(item("user:corp/ada"), &person("mal", &["others"]), 9),
        Err(CannotDecide::NotAReviewer(_))
    ));
    let bot = Principal {
        kind: PrincipalKind::Workload,
        ..person("bot", &["leads"])
    };
    assert!(matches!(
        decide(item("user:corp/ada"), &bot, 9),
        Err(CannotDecide::NotAPerson(_))
    ));
}

#[test]
fn nobody_reviews_their_own_role_assignment_nor_that_of_a_group_of_theirs() {
    let eve = person("eve", &["sre"]);
    for own in [
        "user:corp/eve",
        "workload:corp/eve",
        "user:partner/EVE",
        "group:corp/sre",
    ] {
        assert_eq!(
            decide(item(own), &eve, 9),
            Err(CannotDecide::Own(own.parse().unwrap())),
            "{own}"
        );
    }
    for others in [
        "user:corp/ada",
        "group:corp/ops",
        "group:partner/sre",
        "group:corp/eve",
    ] {
        decide(item(others), &eve, 9).unwrap();
    }
}

#[test]
fn an_item_is_decided_until_the_deadline_and_not_after_its_assignment_is_gone() {
    let eve = person("eve", &[]);
    let kept = decide(item("user:corp/ada"), &eve, 9).unwrap();
    let removed = kept
        .decide(&review(), &eve, ItemVerdict::Remove, at(10), "left".into())
        .unwrap();
    assert_eq!(removed.state.status(), "removed");
    assert_eq!(decide(removed, &eve, 11), Err(CannotDecide::Settled));
    decide(item("user:corp/ada"), &eve, 8 * DAY - 1).unwrap();
    assert_eq!(
        decide(item("user:corp/ada"), &eve, 8 * DAY),
        Err(CannotDecide::Over)
    );
    let cancelled = review()
        .cancel("user:corp/root".parse().unwrap(), at(1), "again later".into())
        .unwrap();
    let late = item("user:corp/ada").decide(&cancelled, &eve, ItemVerdict::Keep, at(2), "yes".into());
    assert_eq!(late, Err(CannotDecide::Over));
}

#[test]
fn a_cancelled_one_recurs_no_more_and_is_cancelled_once() {
    let by: PrincipalRef = "user:corp/root".parse().unwrap();
    let cancelled = review().cancel(by.clone(), at(1), "no".into()).unwrap();
    assert_eq!(cancelled.due_at(), None);
    assert_eq!(cancelled.next_round(an_id(7), at(1000 * DAY)), None);
    assert!(cancelled.cancel(by.clone(), at(2), "no".into()).is_err());
    let completed = AccessReview {
        state: AccessReviewState::Completed { at: at(8 * DAY) },
        ..review()
    };
    let ended = completed.cancel(by, at(9 * DAY), "no more".into()).unwrap();
    assert_eq!(ended.state, AccessReviewState::Completed { at: at(8 * DAY) });
    assert_eq!(ended.next_round(an_id(7), at(1000 * DAY)), None);
}

#[test]
fn the_next_round_starts_when_this_one_is_over_and_its_time_has_come() {
    let open = review();
    assert_eq!(open.next_round(an_id(7), at(31 * DAY)), None, "still open");
    let over = AccessReview {
        state: AccessReviewState::Completed { at: at(8 * DAY) },
        ..open
    };
    assert_eq!(over.next_round(an_id(7), at(30 * DAY - 1)), None, "too early");
    let next = over.next_round(an_id(7), at(30 * DAY + 5)).unwrap();
    assert_eq!((next.round, next.series), (2, an_id(1)));
    assert_eq!(next.started_at, at(30 * DAY + 5));
    assert_eq!(next.deadline, at(37 * DAY + 5));
    assert_eq!(next.next_round_at, Some(at(60 * DAY)));
    assert_eq!(next.state, AccessReviewState::Open);
}

#[test]
fn what_cannot_be_reviewed_is_refused() {
    assert_eq!(review().validate(at(0)), Ok(()));
    let refused = |change: fn(&mut AccessReview), why| {
        let mut spoiled = review();
        change(&mut spoiled);
        assert_eq!(spoiled.validate(at(0)), Err(why));
    };
    refused(|one| one.name = " ".into(), InvalidAccessReview::Name);
    refused(|one| one.name = "a\nb".into(), InvalidAccessReview::Name);
    refused(|one| one.reviewers.clear(), InvalidAccessReview::Reviewers);
    refused(
        |one| {
            one.reviewers.insert("workload:ci/x".parse().unwrap());
        },
        InvalidAccessReview::NotPeople,
    );
    refused(|one| one.deadline = at(0), InvalidAccessReview::Deadline);
    refused(|one| one.deadline = at(731 * DAY), InvalidAccessReview::Deadline);
    refused(|one| one.unused_after_days = 0, InvalidAccessReview::UnusedAfter);
    for (every_days, round_days) in [(0, 0), (7, 0), (7, 8), (731, 1)] {
        let spoiled = AccessReview {
            recurrence: Some(Recurrence {
                every_days,
                round_days,
            }),
            ..review()
        };
        assert_eq!(spoiled.validate(at(0)), Err(InvalidAccessReview::Recurrence));
    }
}

fn actions_of(role: &str) -> BTreeSet<Action> {
    let roles = Role::built_in();
    roles.iter().find(|one| one.name == role).unwrap().actions.clone()
}

#[test]
fn the_recommendation_follows_end_use_and_age() {
    let now = at(0);
    let made = |days_ago: i64| RoleAssignment {
        created_at: at(-days_ago * DAY),
        ..assignment("user:corp/ada")
    };
    let said = |assignment: &RoleAssignment, role: &str, used: Option<i64>| {
        let used = used.map(|days_ago| at(-days_ago * DAY));
        let found = recommend(assignment, &actions_of(role), used, TimeDelta::days(90), now);
        (found.verdict.as_str(), found.because.as_str())
    };
    assert_eq!(said(&made(400), "requester", Some(90)), ("keep", "used"));
    assert_eq!(said(&made(400), "requester", Some(91)), ("remove", "unused"));
    assert_eq!(said(&made(400), "requester", None), ("remove", "unused"));
    assert_eq!(said(&made(90), "requester", None), ("keep", "new"));
    assert_eq!(said(&made(400), "reader", None), ("keep", "not_recorded"));
    assert_eq!(said(&made(400), "auditor", None), ("keep", "not_recorded"));
    let ended = RoleAssignment {
        ends_at: Some(now),
        ..made(400)
    };
    assert_eq!(said(&ended, "requester", Some(1)), ("remove", "ended"));
}

proptest! {
    #[test]
    fn later_use_never_turns_keeping_into_removing(
        created in 0_i64..4000, earlier in 0_i64..4000, later in 0_i64..4000, after in 1_i64..3650,
        role in prop::sample::select(Role::built_in()), ends in prop::option::of(-100_i64..100),
    ) {
        let (earlier, later) = (earlier.max(later), earlier.min(later));
        let assignment = RoleAssignment {
            created_at: at(-created * DAY),
            ends_at: ends.map(|days| at(days * DAY)),
            ..assignment("user:corp/ada")
        };
        let said = |used: Option<i64>| {
            let used = used.map(|days_ago| at(-days_ago * DAY));
            recommend(&assignment, &role.actions, used, TimeDelta::days(after), at(0)).verdict
        };
        if said(None) == ItemVerdict::Keep {
            prop_assert_eq!(said(Some(earlier)), ItemVerdict::Keep);
        }
        if said(Some(earlier)) == ItemVerdict::Keep {
            prop_assert_eq!(said(Some(later)), ItemVerdict::Keep);
        }
        // An ended one goes whatever was done with it; one that was used today and counts stays.
        prop_assert_eq!(said(Some(0)) == ItemVerdict::Keep, assignment.counts_at(at(0)));
    }

    #[test]
    fn rounds_keep_their_rhythm_however_late_they_start(
        every in 1_u32..=MAX_DAYS, late in 0_i64..3_000_000_000,
    ) {
        let review = AccessReview {
            recurrence: Some(Recurrence { every_days: every, round_days: 1 }),
            state: AccessReviewState::Completed { at: at(8 * DAY) },
            ..review()
        };
        let due = at(30 * DAY);
        let now = due + TimeDelta::seconds(late);
        let next = review.next_round(an_id(7), now).unwrap();
        let after = next.next_round_at.unwrap();
        prop_assert!(after > now, "a missed round is made up for once");
        prop_assert!(after - now <= TimeDelta::days(i64::from(every)));
        prop_assert_eq!((after - due).num_seconds() % (i64::from(every) * DAY), 0);
        prop_assert!(next.remind_at() > next.started_at && next.remind_at() < next.deadline);
    }
}

#[test]
fn later_rounds_start_by_what_the_makers_token_said_or_by_their_name_where_it_was_not_kept() {
    let maker = person("root", &["admins"]);
    let kept = AccessReview {
        made_as: Some(Box::new(maker.clone())),
        ..review()
    };
    assert_eq!(kept.starter(), maker);
    let next = AccessReview {
        state: AccessReviewState::Completed { at: at(8 * DAY) },
        ..kept
    }
    .next_round(an_id(7), at(30 * DAY))
    .unwrap();
    assert_eq!(next.starter(), maker, "of the round after it, too");
    let by_name = review().starter();
    assert_eq!(by_name.reference(), review().created_by);
    assert!(by_name.groups.is_empty() && !by_name.mfa && by_name.claims.is_empty());
}
