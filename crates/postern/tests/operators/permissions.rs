//! `postern permissions` against what the enforcers do: the demo's story and a sweep are played with exactly what is
//! printed, and nothing is printed that they never needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use postern::demo::{
    check::Findings,
    fleet::{ACCOUNT, CLIENT_ID, CLIENT_SECRET, EXTERNAL_ID, Fleet, REGION, ROLE_ARN, SUBSCRIPTION},
    stage::{Keeping, Stage},
    story,
};
use postern_azure::rbac::{DEFENDER_ACTIONS, Groups, ObjectId, Others, Pattern, RbacConfig};
use postern_core::{
    cloud_roles::CloudRoles as _,
    principal::{Principal, PrincipalKind},
    time::{RandomIds, SystemClock},
};
use postern_notify::NotifyConfig;
use postern_sim::{
    arm::{ArmClient, RoleGrant},
    truth::Change,
};
use serde_json::{Value, json};

use crate::{
    iam::{self, Question},
    rig::{run, said},
};

mod firewalls;
mod scenes;

use self::scenes::{an_isolation, azure, discover_accounts, fleet, many_changes_and_a_repair};

/// What the enforcers may do and the story does not make them do, each with the reason.
const ONLY_ELSEWHERE: &[(&str, &str)] = &[
    (
        "Microsoft.Network/networkInterfaces/effectiveNetworkSecurityGroups/action",
        "`azure.effective_rules`, which the demo does not set; the Azure enforcer's own tests do",
    ),
    (
        "ec2:DescribeManagedPrefixLists",
        "how many rules a prefix list in a rule counts as; no group of the demo has one",
    ),
    (
        "Microsoft.Network/locations/operationResults/read",
        "an answer with `Location` and without `Azure-AsyncOperation`",
    ),
    (
        "Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action",
        "a linked authorization, which Azure checks at a write and the simulator does not",
    ),
];

/// The action that Azure asks for at each call, by the names that Microsoft's clients have for the calls.
///
/// Source: Azure documentation, "Azure permissions for Compute", "… for Networking", "… for Management and governance", "… for
/// Identity".
const ARM: &[(&str, &str)] = &[
    (
        "AzureFirewalls.CreateOrUpdate",
        "Microsoft.Network/azureFirewalls/write",
    ),
    ("AzureFirewalls.Get", "Microsoft.Network/azureFirewalls/read"),
    ("AzureFirewalls.ListAll", "Microsoft.Network/azureFirewalls/read"),
    (
        "DenyAssignments.List",
        "Microsoft.Authorization/denyAssignments/read",
    ),
    ("FirewallPolicies.Get", "Microsoft.Network/firewallPolicies/read"),
    (
        "FirewallPolicies.ListAll",
        "Microsoft.Network/firewallPolicies/read",
    ),
    (
        "FirewallPolicyRuleCollectionGroups.CreateOrUpdate",
        "Microsoft.Network/firewallPolicies/ruleCollectionGroups/write",
    ),
    (
        "FirewallPolicyRuleCollectionGroups.Delete",
        "Microsoft.Network/firewallPolicies/ruleCollectionGroups/delete",
    ),
    (
        "FirewallPolicyRuleCollectionGroups.Get",
        "Microsoft.Network/firewallPolicies/ruleCollectionGroups/read",
    ),
    (
        "FirewallPolicyRuleCollectionGroups.List",
        "Microsoft.Network/firewallPolicies/ruleCollectionGroups/read",
    ),
    ("LoadBalancers.ListAll", "Microsoft.Network/loadBalancers/read"),
    (
        "NetworkInterfaces.Get",
        "Microsoft.Network/networkInterfaces/read",
    ),
    (
        "NetworkInterfaces.ListAll",
        "Microsoft.Network/networkInterfaces/read",
    ),
    (
        "NetworkSecurityGroups.CreateOrUpdate",
        "Microsoft.Network/networkSecurityGroups/write",
    ),
    (
        "NetworkSecurityGroups.Get",
        "Microsoft.Network/networkSecurityGroups/read",
    ),
    (
        "NetworkSecurityGroups.ListAll",
        "Microsoft.Network/networkSecurityGroups/read",
    ),
    (
        "OperationResults.Get",
        "Microsoft.Network/locations/operationResults/read",
    ),
    ("Operations.Get", "Microsoft.Network/locations/operations/read"),
    (
        "PublicIPAddresses.Get",
        "Microsoft.Network/publicIPAddresses/read",
    ),
    (
        "PublicIPAddresses.ListAll",
        "Microsoft.Network/publicIPAddresses/read",
    ),
    (
        "RoleAssignments.List",
        "Microsoft.Authorization/roleAssignments/read",
    ),
    (
        "RoleDefinitions.Get",
        "Microsoft.Authorization/roleDefinitions/read",
    ),
    ("RouteTables.ListAll", "Microsoft.Network/routeTables/read"),
    (
        "SecurityRules.CreateOrUpdate",
        "Microsoft.Network/networkSecurityGroups/securityRules/write",
    ),
    (
        "SecurityRules.Delete",
        "Microsoft.Network/networkSecurityGroups/securityRules/delete",
    ),
    ("Subnets.Get", "Microsoft.Network/virtualNetworks/subnets/read"),
    ("Subscriptions.List", "Microsoft.Resources/subscriptions/read"),
    (
        "VirtualMachines.ListAll",
        "Microsoft.Compute/virtualMachines/read",
    ),
    (
        "VirtualNetworks.ListAll",
        "Microsoft.Network/virtualNetworks/read",
    ),
];

/// The mark of the temporary groups of the demo's installation.
const HOLDER: &str = "postern:demo holder";

/// The documents that the command prints.
async fn printed(arguments: &[&str]) -> Value {
    let mut all = vec!["permissions"];
    all.extend_from_slice(arguments);
    all.push("--json");
    let output = run(&all, None).await;
    let (document, told) = said(&output);
    assert!(output.status.success(), "{told}");
    serde_json::from_str(&document).unwrap()
}

async fn policy(bearer: &str, installation: &str) -> Value {
    let arguments = [
        "aws",
        "--for",
        bearer,
        "--account",
        ACCOUNT,
        "--installation",
        installation,
    ];
    printed(&arguments).await["permissions_policy"].take()
}

async fn role_actions(bearer: &str) -> Vec<String> {
    let printed = printed(&["azure", "--for", bearer, "--account", SUBSCRIPTION]).await;
    iam::texts(&printed["role_definition"]["Actions"])
}

/// Lets Postern's application do in Azure what `actions` name and nothing else.
fn limit(fleet: &Fleet, actions: &[String]) {
    let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
    fleet
        .arm
        .set_clients(vec![ArmClient::limited(CLIENT_ID, CLIENT_SECRET, &actions)]);
}

/// The actions of the calls that both clouds got.
fn called(fleet: &Fleet) -> BTreeSet<String> {
    let ec2 = fleet.ec2.calls().all();
    let ec2 = ec2
        .keys()
        // Asked of the caller's own account, or of nobody.
        .filter(|call| !matches!(call.as_str(), "AssumeRole" | "GetCallerIdentity"))
        .map(|call| format!("ec2:{call}"));
    let arm = fleet.arm.calls().all();
    let arm = arm.keys().filter(|call| *call != "Tokens.Issue").map(|call| {
        let known = ARM.iter().find(|(name, _)| name == call);
        assert!(known.is_some(), "which action does {call} need?");
        known.unwrap().1.to_owned()
    });
    ec2.chain(arm).collect()
}

fn actions_of(policy: &Value) -> BTreeSet<String> {
    let statements = policy["Statement"].as_array().unwrap();
    statements
        .iter()
        .flat_map(|statement| iam::texts(&statement["Action"]))
        .collect()
}

/// What is printed is what was needed, apart from the exceptions, which were not.
fn assert_exactly(policy: &Value, role: Vec<String>, needed: &BTreeSet<String>) {
    let mut printed = actions_of(policy);
    printed.extend(role);
    let missing: Vec<&String> = needed.difference(&printed).collect();
    assert!(missing.is_empty(), "needed and not printed: {missing:?}");
    let needless: BTreeSet<&str> = printed.difference(needed).map(String::as_str).collect();
    let excepted: BTreeSet<&str> = ONLY_ELSEWHERE
        .iter()
        .map(|(action, _)| *action)
        .filter(|action| printed.contains(*action))
        .collect();
    assert_eq!(
        needless, excepted,
        "what is printed and was not needed is what there is a reason for"
    );
}

/// What IAM would have been asked for a change in EC2: every resource that the call is about.
fn questions(change: &Change) -> Vec<(String, String, BTreeMap<String, String>)> {
    let tags = |group: &Option<Value>, key: &str| -> BTreeMap<String, String> {
        let tags = group.as_ref().and_then(|group| group["tags"].as_object());
        tags.into_iter()
            .flatten()
            .map(|(name, value)| (format!("{key}/{name}"), value.as_str().unwrap().to_owned()))
            .collect()
    };
    let sibling = |kind: &str, id: &str| {
        let (head, _) = change.resource.rsplit_once(':').unwrap();
        format!("{head}:{kind}/{id}")
    };
    let action = format!("ec2:{}", change.operation);
    let standing = tags(&change.before, "aws:ResourceTag");
    let mut asked = vec![(action.clone(), change.resource.clone(), standing)];
    match change.operation.as_str() {
        "CreateSecurityGroup" => {
            let mut wanted = tags(&change.after, "aws:RequestTag");
            asked[0].2.clone_from(&wanted);
            let vpc = change.after.as_ref().unwrap()["vpc_id"].as_str().unwrap();
            asked.push((action, sibling("vpc", vpc), BTreeMap::new()));
            wanted.insert("ec2:CreateAction".to_owned(), "CreateSecurityGroup".to_owned());
            asked.push(("ec2:CreateTags".to_owned(), change.resource.clone(), wanted));
        }
        "ModifyNetworkInterfaceAttribute" => {
            for side in [&change.before, &change.after].into_iter().flatten() {
                for group in iam::texts(&side["groups"]) {
                    asked.push((action.clone(), sibling("security-group", &group), BTreeMap::new()));
                }
            }
        }
        "AuthorizeSecurityGroupIngress" if made_rules_with_tags(change) => {
            let rule = sibling("security-group-rule", "sgr-00000000000000000");
            let context = BTreeMap::from([("ec2:CreateAction".to_owned(), change.operation.clone())]);
            asked.push((action, rule.clone(), BTreeMap::new()));
            asked.push(("ec2:CreateTags".to_owned(), rule, context));
        }
        _ => {}
    }
    asked
}

fn made_rules_with_tags(change: &Change) -> bool {
    let tagged = |group: &Option<Value>| {
        let rules = group
            .as_ref()
            .and_then(|group| group["rules"].as_array())
            .into_iter()
            .flatten();
        rules
            .filter(|rule| rule["tags"].as_object().is_some_and(|tags| !tags.is_empty()))
            .count()
    };
    tagged(&change.after) > tagged(&change.before)
}

/// Every change that Postern's role made since `since` is one that the policy allows. Gives the actions that were asked
/// for: tags in a call that makes something are asked for beside the call.
fn assert_allowed(policy: &Value, fleet: &Fleet, since: u64) -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for change in fleet.ec2.truth().since(since) {
        if !change.caller.contains("assumed-role") {
            continue;
        }
        for (action, resource, context) in questions(&change) {
            let question = Question {
                action: &action,
                resource: &resource,
                context,
            };
            assert!(iam::allows(policy, &question), "{question:?} for {change:?}");
            asked.insert(action);
        }
    }
    assert!(!asked.is_empty(), "nothing was changed");
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_needs_what_is_printed_for_it_and_nothing_else() {
    let policy = policy("server", "demo").await;
    let role = role_actions("server").await;
    let fleet = fleet().await;
    limit(&fleet, &role);
    let built = fleet.ec2.truth().last();

    let stage = Stage::over(
        fleet,
        Keeping::Nothing,
        0,
        Arc::new(SystemClock),
        Arc::new(RandomIds),
        NotifyConfig::default(),
    )
    .await
    .unwrap();
    let mut findings = Findings::default();
    let told = story::tell(&stage, &mut findings).await;
    assert!(
        told.is_ok() && findings.broken().is_empty(),
        "{told:?} {findings:?}"
    );
    discover_accounts(&stage.fleet).await;

    many_changes_and_a_repair(&stage).await;
    an_isolation(&stage).await;

    let mut needed = called(&stage.fleet);
    needed.extend(assert_allowed(&policy, &stage.fleet, built));
    assert_exactly(&policy, role, &needed);
    stage.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_policy_keeps_off_what_is_not_its_own() {
    let policy = policy("server", "demo").await;
    let of = |kind: &str| format!("arn:aws:ec2:{REGION}:{ACCOUNT}:{kind}/x");
    let marked = |key: &str, mark: &str| BTreeMap::from([(format!("{key}/postern:mark"), mark.to_owned())]);
    let ask = |action: &str, resource: &str, context| {
        let resource = of(resource);
        iam::allows(
            &policy,
            &Question {
                action,
                resource: &resource,
                context,
            },
        )
    };
    let group = "security-group";
    assert!(ask(
        "ec2:DeleteSecurityGroup",
        group,
        marked("aws:ResourceTag", HOLDER)
    ));
    for mark in ["postern:other holder", "x"] {
        assert!(!ask(
            "ec2:DeleteSecurityGroup",
            group,
            marked("aws:ResourceTag", mark)
        ));
        assert!(!ask(
            "ec2:CreateSecurityGroup",
            group,
            marked("aws:RequestTag", mark)
        ));
    }
    assert!(!ask("ec2:DeleteSecurityGroup", group, BTreeMap::new()));
    assert!(!ask("ec2:RevokeSecurityGroupEgress", group, BTreeMap::new()));
    assert!(
        !ask("ec2:CreateTags", group, BTreeMap::new()),
        "a group of others could be marked as ours"
    );
    let elsewhere = Question {
        action: "ec2:RevokeSecurityGroupIngress",
        resource: "arn:aws:ec2:eu-west-1:444455556666:security-group/sg-1",
        context: BTreeMap::new(),
    };
    assert!(!iam::allows(&policy, &elsewhere), "another account's group");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweeper_needs_what_is_printed_for_it_and_nothing_else() {
    let policy = policy("sweeper", "swept").await;
    let role = role_actions("sweeper").await;
    let fleet = fleet().await;
    crate::sweep::leave_overdue_rules(&fleet);
    fleet.ec2.calls().reset();
    fleet.arm.calls().reset();
    limit(&fleet, &role);
    let before = fleet.ec2.truth().last();
    let rig = crate::rig::Rig::new("swept", &fleet, "");
    let output = rig.run(&["sweep", "--apply", "--json"]).await;
    let (document, told) = said(&output);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(crate::sweep::count(&report, "removed"), 3, "{report}");
    discover_accounts(&fleet).await;

    let mut needed = called(&fleet);
    needed.extend(assert_allowed(&policy, &fleet, before));
    assert_exactly(&policy, role, &needed);

    let foreign = Question {
        action: "ec2:RevokeSecurityGroupIngress",
        resource: &format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/sg-1"),
        context: BTreeMap::new(),
    };
    assert!(
        !iam::allows(&policy, &foreign),
        "only temporary groups are the sweeper's"
    );
}

#[tokio::test]
async fn requesters_own_roles_are_read_with_what_is_printed_for_it() {
    let fleet = fleet().await;
    let role = printed(&["azure", "--rbac", "--account", SUBSCRIPTION]).await;
    let role = iam::texts(&role["role_definition"]["Actions"]);
    let without = role_actions("server").await;
    let more: BTreeSet<String> = role
        .iter()
        .filter(|action| !without.contains(action))
        .cloned()
        .collect();
    let sweeper = printed(&["azure", "--rbac", "--for", "sweeper", "--account", SUBSCRIPTION]).await;
    assert_eq!(
        iam::texts(&sweeper["role_definition"]["Actions"]),
        role_actions("sweeper").await
    );
    let object_id = "aaaaaaaa-0000-4000-8000-000000000001";
    let grant = RoleGrant {
        scope: format!("/subscriptions/{SUBSCRIPTION}"),
        role: "Contributor".to_owned(),
        principal: object_id.to_owned(),
        condition: None,
    };
    fleet.arm.assign(&grant).unwrap();
    let few: Vec<String> = more.iter().cloned().collect();
    limit(&fleet, &few);
    let roles = azure(&fleet).roles(RbacConfig {
        actions: DEFENDER_ACTIONS.map(Pattern::of).to_vec(),
        issuer: "corp".to_owned(),
        object_id: ObjectId::Subject,
        groups: Groups::Azure,
        others: Others::Refuse,
        lifetime: Duration::ZERO,
        entries: 1,
        timeout: Duration::from_secs(30),
    });
    let principal = Principal {
        kind: PrincipalKind::Human,
        issuer: "corp".to_owned(),
        subject: object_id.to_owned(),
        name: None,
        groups: BTreeSet::new(),
        mfa: false,
        authenticated_at: None,
        claims: BTreeMap::new(),
    };
    let machine = fleet.web.parse().unwrap();
    let decision = roles.decide(&principal, &machine).await;
    assert!(decision.is_allowed(), "{decision:?}");
    assert_eq!(called(&fleet), more, "what is printed is what was needed");
}

#[tokio::test]
async fn the_trust_policy_asks_for_the_external_id() {
    let principal = "arn:aws:iam::999988887777:role/postern-hub";
    let documents = printed(&[
        "aws",
        "--account",
        ACCOUNT,
        "--principal",
        principal,
        "--external-id",
        EXTERNAL_ID,
    ])
    .await;
    let trust = &documents["trust_policy"]["Statement"][0];
    assert_eq!(trust["Principal"]["AWS"], principal);
    assert_eq!(
        trust["Condition"],
        json!({ "StringEquals": { "sts:ExternalId": EXTERNAL_ID } })
    );
    assert_eq!(documents["assume_policy"]["Statement"][0]["Resource"], ROLE_ARN);
}

/// The page and the command say the same, so that neither can go stale.
#[tokio::test]
async fn the_page_on_cloud_permissions_shows_what_is_printed() {
    let page = include_str!("../../../../docs/cloud-permissions.md");
    let mut shown = 0;
    for block in page.split("```console\n$ postern ").skip(1) {
        let (command, rest) = block.split_once('\n').unwrap();
        let (expected, _) = rest.split_once("```").unwrap();
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let output = run(&arguments, None).await;
        let (printed, told) = said(&output);
        assert!(output.status.success(), "{command}: {told}");
        assert_eq!(
            expected.trim(),
            printed.trim(),
            "`postern {command}` prints something else"
        );
        shown += 1;
    }
    assert_eq!(
        shown, 7,
        "server and sweeper in both clouds, and at firewalls; and for requesters' own roles"
    );
}
