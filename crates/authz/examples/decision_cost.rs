//! What a decision costs: 100,000 role assignments, 10,000 people in 1,000 nested groups, 50 guardrails, beside bare Cedar
//! over the same policies and entities, prepared beforehand.
//!
//! Of nested groups a token names each that its owner is in, also through others; so do the people here.
//!
//! `cargo run --release -p postern-authz --example decision_cost`, with a number behind `--` for other than 20,000
//! decisions. Asserts nothing about time.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement may fail by panicking, and prints what it found"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hint::black_box,
    time::{Duration, Instant},
};

use cedar_policy::{
    Authorizer as Cedar, Context as CedarContext, Entities, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use chrono::DateTime;
use postern_authz::{Authorizer, Context, GuardrailSet, Resource};
use postern_core::{
    principal::{Principal, PrincipalKind},
    role::{Action, Role, RoleAssignment},
    time::{CountingIds, IdSource},
};

/// What the server allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ASSIGNMENTS: usize = 100_000;
const PEOPLE: usize = 10_000;
const GROUPS: usize = 1000;
const GUARDRAILS: usize = 50;
/// Into which somebody was put; they are in those above these too.
const GROUPS_OF_ONE: usize = 10;
/// In each group that has groups in it.
const GROUPS_IN_ONE: usize = 10;
/// Addresses from which people ask.
const SOURCES: usize = 1000;

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn scope(numbers: &mut Numbers) -> String {
    let account = format!("/aws/{:012}", numbers.below(100));
    match numbers.below(3) {
        0 => account,
        1 => format!("{account}/eu-west-1"),
        _ => format!("{account}/eu-west-1/i-{:017x}", numbers.below(100)),
    }
}

/// A group, and those above it: 0 is above all.
fn upwards(group: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(group), |below| (*below > 0).then(|| below / GROUPS_IN_ONE))
}

fn guardrails() -> String {
    let mut text = String::new();
    for number in 0..GUARDRAILS {
        // No two say the same.
        let when = match number % 5 {
            0 => format!("principal.subject == \"nobody-{number}\""),
            1 => format!("resource.hasTag(\"env\") && resource.getTag(\"env\") == \"locked-{number}\""),
            2 => format!(
                "context has duration_seconds && context.duration_seconds > {}",
                86400 + number
            ),
            3 => format!("context has source && context.source.isInRange(ip(\"192.0.2.{number}/32\"))"),
            _ => format!(
                "context has port && context.port.first <= {port} && {port} <= context.port.last",
                port = 23 + number
            ),
        };
        writeln!(
            text,
            "@id(\"rule-{number}\") forbid (principal, action == Action::\"request\", resource) when {{ {when} }};"
        )
        .unwrap();
    }
    text
}

fn tell(what: &str, mut taken: Vec<Duration>) -> f64 {
    taken.sort();
    let micros = |percent: usize| taken[(taken.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    println!(
        "{what:<38} p50 {:>7.1} us   p90 {:>7.1} us   p99 {:>7.1} us",
        micros(50),
        micros(90),
        micros(99)
    );
    micros(50)
}

/// Resident memory of this process in MiB, where `/proc` says it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
        .unwrap_or_default()
        / 1024
}

fn main() {
    let decisions: usize = std::env::args()
        .nth(1)
        .map_or(20_000, |number| number.parse().unwrap());
    let mut numbers = Numbers(20_260_101);
    let now = DateTime::from_timestamp(1_767_607_200, 0).unwrap();
    let ids = CountingIds::new(1);
    let ids: &dyn IdSource = &ids;
    let roles = ["reader", "requester", "approver", "operator"];
    let assignments: Vec<RoleAssignment> = (0..ASSIGNMENTS)
        .map(|_| {
            let principal = if numbers.below(2) == 0 {
                format!("user:corp/person-{}", numbers.below(PEOPLE))
            } else {
                format!("group:corp/group-{}", numbers.below(GROUPS))
            };
            RoleAssignment {
                id: ids.next(now),
                role: roles[numbers.below(roles.len())].to_owned(),
                principal: principal.parse().unwrap(),
                scope: scope(&mut numbers).parse().unwrap(),
                created_by: "user:corp/root".to_owned(),
                created_at: now,
                tags: std::collections::BTreeMap::new(),
                ends_at: None,
            }
        })
        .collect();
    let before = resident();
    let begun = Instant::now();
    let set = GuardrailSet::parse("rules.cedar", &guardrails()).unwrap();
    let authorizer = Authorizer::new(Role::built_in(), assignments.clone(), set).unwrap();
    println!(
        "{ASSIGNMENTS} assignments and {GUARDRAILS} guardrails: made in {:.0} ms, {} MiB",
        begun.elapsed().as_secs_f64() * 1e3,
        resident().saturating_sub(before)
    );

    let people: Vec<Principal> = (0..PEOPLE)
        .map(|person| Principal {
            kind: PrincipalKind::Human,
            issuer: "corp".to_owned(),
            subject: format!("person-{person}"),
            name: None,
            groups: (0..GROUPS_OF_ONE)
                .flat_map(|_| upwards(numbers.below(GROUPS)))
                .map(|group| format!("group-{group}"))
                .collect::<BTreeSet<_>>(),
            mfa: true,
            authenticated_at: None,
            claims: BTreeMap::new(),
        })
        .collect();
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    let (mut allowed, mut links) = (0_usize, 0_usize);
    for _ in 0..decisions {
        let person = &people[numbers.below(PEOPLE)];
        let machine = format!(
            "/aws/{:012}/eu-west-1/i-{:017x}",
            numbers.below(100),
            numbers.below(100)
        );
        let tags = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let resource = Resource::machine(machine.parse().unwrap(), tags);
        let source = numbers.below(SOURCES);
        let source = format!("203.0.{}.{}", source / 256, source % 256);
        let context = Context {
            now,
            ports: vec!["22".parse().unwrap()],
            sources: vec![source.parse().unwrap()],
            duration_seconds: Some(3600),
            reason_present: true,
        };
        let begun = Instant::now();
        let decision = black_box(authorizer.decide(person, Action::Request, &resource, &context));
        whole.push(begun.elapsed());
        allowed += usize::from(decision.allowed);

        // One in twenty is also put to Cedar alone, with everything prepared before the clock starts.
        if whole.len().is_multiple_of(20) {
            let slice = slice(&assignments, person, &resource);
            links += slice.1;
            let (policies, entities, request) = prepared(&slice.0, person, &resource, &source);
            let cedar = Cedar::new();
            let begun = Instant::now();
            let answer = black_box(cedar.is_authorized(&request, &policies, &entities));
            bare.push(begun.elapsed());
            let yes = answer.decision() == cedar_policy::Decision::Allow;
            assert_eq!(yes, decision.allowed, "{}", decision.explain());
        }
    }
    let groups: usize = people.iter().map(|person| person.groups.len()).sum();
    println!(
        "{decisions} decisions, {:.1}% allowed, {:.1} groups of a person, {:.1} assignments in a slice",
        allowed as f64 * 100.0 / decisions as f64,
        groups as f64 / PEOPLE as f64,
        links as f64 / bare.len() as f64
    );
    let ours = tell("a decision, with its explanation", whole);
    let cedars = tell("Cedar alone, everything prepared", bare);
    println!("a decision is {:.2} times Cedar alone", ours / cedars);
}

/// The policies of the assignments that count for this question, and how many.
fn slice(assignments: &[RoleAssignment], person: &Principal, resource: &Resource) -> (String, usize) {
    let references: BTreeSet<_> = person.references().collect();
    let mut text = guardrails();
    let mut count = 0;
    for assignment in assignments
        .iter()
        .filter(|one| references.contains(&one.principal) && one.scope.contains(&resource.scope))
    {
        let role = Role::built_in()
            .into_iter()
            .find(|role| role.name == assignment.role)
            .unwrap();
        let actions: Vec<String> = role
            .actions
            .iter()
            .map(|action| format!("Action::\"{action}\""))
            .collect();
        let kind = if assignment.principal.is_person() {
            "User"
        } else {
            "Group"
        };
        writeln!(
            text,
            "permit (principal in {kind}::\"{}\", action in [{}], resource in Scope::\"{}\");",
            assignment.principal.name(),
            actions.join(", "),
            assignment.scope
        )
        .unwrap();
        count += 1;
    }
    (text, count)
}

fn prepared(
    text: &str,
    person: &Principal,
    resource: &Resource,
    source: &str,
) -> (PolicySet, Entities, Request) {
    let uid = |text: String| text.parse::<EntityUid>().unwrap();
    let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let who = uid(format!("User::\"corp/{}\"", person.subject));
    let what = uid(format!("Scope::\"{}\"", resource.scope));
    let principal = cedar_policy::Entity::new_with_tags(
        who.clone(),
        [
            ("issuer".to_owned(), string("corp")),
            ("subject".to_owned(), string(&person.subject)),
            ("mfa".to_owned(), RestrictedExpression::new_bool(true)),
        ],
        person
            .groups
            .iter()
            .map(|group| uid(format!("Group::\"corp/{group}\""))),
        [],
    )
    .unwrap();
    let machine = cedar_policy::Entity::new_with_tags(
        what.clone(),
        [
            ("kind".to_owned(), string("machine")),
            ("path".to_owned(), string(&resource.scope.to_string())),
            ("cloud".to_owned(), string("aws")),
        ],
        resource
            .scope
            .ancestors()
            .skip(1)
            .map(|above| uid(format!("Scope::\"{above}\""))),
        resource
            .tags
            .iter()
            .map(|(key, value)| (key.clone(), string(value))),
    )
    .unwrap();
    let port = RestrictedExpression::new_record([
        ("first".to_owned(), RestrictedExpression::new_long(22)),
        ("last".to_owned(), RestrictedExpression::new_long(22)),
        ("protocol".to_owned(), string("tcp")),
    ])
    .unwrap();
    let context = CedarContext::from_pairs([
        (
            "now".to_owned(),
            RestrictedExpression::new_datetime("2026-01-05T10:00:00.000Z"),
        ),
        ("hour".to_owned(), RestrictedExpression::new_long(10)),
        ("weekday".to_owned(), RestrictedExpression::new_long(1)),
        ("reason_present".to_owned(), RestrictedExpression::new_bool(true)),
        ("networks".to_owned(), RestrictedExpression::new_set([])),
        ("port".to_owned(), port),
        ("source".to_owned(), RestrictedExpression::new_ip(source)),
        (
            "duration_seconds".to_owned(),
            RestrictedExpression::new_long(3600),
        ),
    ])
    .unwrap();
    let request = Request::new(who, uid("Action::\"request\"".to_owned()), what, context, None).unwrap();
    let entities = Entities::from_entities([principal, machine], None).unwrap();
    (text.parse().unwrap(), entities, request)
}
