//! A short campaign, the seeds that found something before, and servers that are broken on purpose.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

use std::process::Command;

use serde_json::Value;

/// How many fresh seeds; with six at a time, about a minute on two cores.
const RUNS: u64 = 12;

/// Seeds whose runs broke an invariant when they were met, and what was wrong. Met before scripts had firewalls, shared
/// groups and later starts: `--plain` draws what they drew then.
const MET: [(u64, &str); 10] = [
    (
        61,
        "a server confirmed a closing on a describe from before the other server's opening",
    ),
    (
        99,
        "a rule revoked while its restoring had no outcome was put back; nobody can know better",
    ),
    (2022, "as 61"),
    (
        2033,
        "a describe that lagged counted as a failed attempt, and the next look came late",
    ),
    (
        2037,
        "groups set on an interface a moment after somebody else set them undid that edit",
    ),
    (
        2057,
        "a rule revoked while it was being displaced was restored; nobody can know better",
    ),
    (2059, "as 2037, half a second apart"),
    (
        2118,
        "the judge took a deletion under way for a rewrite of what somebody had widened",
    ),
    (
        3035,
        "a whole-NSG write that failed afterwards was taken for done",
    ),
    (
        4003,
        "a deletion took effect after the audit log had said that it failed",
    ),
];

/// Seeds with every shape that there was then, likewise: `--first-shapes` draws those.
const MET_WITH_SHAPES: [(u64, &str); 4] = [
    (
        128,
        "the group in a policy stayed where somebody else had deleted its last rule",
    ),
    (645, "as 128"),
    (
        774,
        "the collection in a firewall stayed where somebody else had deleted its last rule",
    ),
    (824, "as 774"),
];

/// Seeds with every shape that there is now, likewise.
const MET_WITH_ALL: [(u64, &str); 13] = [
    (
        248,
        "the judge blamed a grant that was being opened for its rule in a firewall, which somebody had widened",
    ),
    (278, "as 248, in a firewall's policy"),
    (
        510,
        "the judge did not see where a stranger's rule led, at a firewall in another network than the machine",
    ),
    (547, "as 510"),
    (
        302,
        "a collection of ours without rules stayed in a policy above, into which somebody had copied it",
    ),
    (447, "as 302"),
    (
        451,
        "nobody looked at an NSG whose machine was gone, where somebody had written our deny again",
    ),
    (
        644,
        "a closing in a policy above was taken and then failed, and nothing wrote it again",
    ),
    (
        601,
        "another server's writes were told in reverse, and a deletion that was never made counted as done",
    ),
    (
        500_371,
        "the judge took others' rules at one firewall for a way in where the NSG is open to another",
    ),
    (600_273, "as 500371"),
    (
        600_330,
        "a parent policy's NAT rules were taken for inherited, and hid others' rule that led to the grant's port",
    ),
    (
        282,
        "a group whose last machine left while it was locked down without a write was looked at for another hour",
    ),
];

/// Runs `postern-campaign campaign` and gives its totals and all that it printed.
fn campaign(arguments: &[&str]) -> (Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_postern-campaign"))
        .arg("campaign")
        .args(arguments)
        .output()
        .expect("the campaign starts");
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let totals = String::from_utf8_lossy(&output.stdout)
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic_with(&printed));
    (totals, printed)
}

fn panic_with(printed: &str) -> Value {
    assert!(printed.is_empty(), "no totals:\n{printed}");
    Value::Null
}

/// What was printed of these runs with servers that are broken on purpose, where an invariant was.
fn broken(kind: &str, seeds: &str, invariant: usize, shapes: &[&str]) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path().to_str().unwrap();
    let common = ["--seeds", seeds, "--sabotage", kind, "--scratch", scratch];
    let (totals, printed) = campaign(&[&common[..], shapes].concat());
    let count = totals["violations"][invariant].as_u64().unwrap_or_default();
    assert!(count > 0, "invariant {invariant} held under {kind}:\n{printed}");
    printed
}

fn joined(seeds: impl Iterator<Item = u64>) -> String {
    seeds.map(|seed| seed.to_string()).collect::<Vec<_>>().join(",")
}

/// Runs that all have to be sound; their totals.
fn sound(arguments: &[&str]) -> Value {
    let (totals, printed) = campaign(arguments);
    assert!(totals["runs"].as_u64().unwrap() > 0, "{printed}");
    assert_eq!(totals["sound"], totals["runs"], "{printed}");
    totals
}

#[test]
fn no_invariant_breaks_under_the_seeds_that_broke_one_before() {
    let seeds = joined(MET.iter().map(|(seed, _)| *seed));
    sound(&["--seeds", &seeds, "--plain", "--parallel", "4"]);
    let seeds = joined(MET_WITH_SHAPES.iter().map(|(seed, _)| *seed));
    sound(&["--seeds", &seeds, "--first-shapes", "--parallel", "4"]);
    let seeds = joined(MET_WITH_ALL.iter().map(|(seed, _)| *seed));
    sound(&["--seeds", &seeds, "--parallel", "4"]);
}

#[test]
fn no_invariant_breaks_in_a_short_campaign_with_every_shape() {
    let seeds = joined(1..=RUNS);
    let (totals, printed) = campaign(&["--seeds", &seeds, "--parallel", "4"]);
    assert_eq!(totals["runs"], RUNS, "{printed}");
    assert_eq!(totals["sound"], totals["runs"], "{printed}");
    for shape in [
        "firewall: classic",
        "firewall: policy",
        "isolate: others share the group",
        "asked: start later",
        "came about: a grant opened through a firewall",
    ] {
        assert!(totals["shapes"][shape].as_u64() > Some(0), "{shape}: {printed}");
    }
    // A campaign in which nothing happens would prove nothing.
    for busy in ["grants", "opened", "writes", "struck"] {
        assert!(totals[busy].as_u64().unwrap() > 10, "{busy}: {printed}");
    }
}

#[test]
fn a_rule_that_lets_everybody_in_is_noticed() {
    broken("opens-to-all", "1,2,3,4", 1, &["--plain"]);
}

#[test]
fn a_rule_that_lets_everybody_in_at_a_firewall_is_noticed() {
    let printed = broken("opens-to-all", "200,203", 1, &["--with", "firewall-policy"]);
    let at_firewall = "by a rule of ours (after FirewallPolicyRuleCollectionGroups.CreateOrUpdate";
    assert!(printed.contains(at_firewall), "{printed}");
}

#[test]
fn a_lockdown_that_is_never_restored_is_noticed() {
    broken("never-restores", "1,2,3,4", 2, &["--plain"]);
}

#[test]
fn a_write_after_its_outcome_is_noticed() {
    broken("writes-late", "1,2,3,4", 3, &["--plain"]);
}

#[test]
fn a_grant_that_never_closes_is_noticed() {
    broken("never-closes", "1,2,3,4", 5, &["--plain"]);
}
