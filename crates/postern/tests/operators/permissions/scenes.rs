//! What is played besides the demo's story, so that everything that is printed is needed once.

use std::{collections::BTreeMap, sync::Arc};

use postern::demo::{
    fleet::{
        ACCESS_KEY_ID, ACCOUNT, CLIENT_ID, CLIENT_SECRET, EXTERNAL_ID, Fleet, REGION, ROLE_ARN,
        SECRET_ACCESS_KEY,
    },
    stage::Stage,
};
use postern_api::{
    access_request::{AccessRequestCreate, AccessRequestCreateQuery, AskedTarget},
    grant::GrantQuery,
    jit_policy::{Approval, GuardedPorts, JitPolicyWrite, Lockdown, SharedGroups},
};
use postern_aws::{AssumeRole, AwsAccount, AwsConfig, AwsEnforcer, BaseCredentials};
use postern_azure::{AzureConfig, AzureCredential, AzureEnforcer};
use postern_core::{enforcer::Enforcer as _, time::SystemClock};
use secrecy::SecretString;

use super::HOLDER;

/// A fleet in which a rule that the lockdown displaces has a tag.
pub(super) async fn fleet() -> Fleet {
    let fleet = Fleet::start(Arc::new(postern_sim::SystemClock)).await.unwrap();
    let ec2 = fleet.ec2.fleet(ACCOUNT, REGION);
    let listed = ec2
        .call("DescribeSecurityGroupRules", &[("MaxResults", "1000")])
        .unwrap();
    let rule = listed
        .split("<item>")
        .find(|item| item.contains("<fromPort>22<") && item.contains("0.0.0.0/0"))
        .and_then(|item| item.split("<securityGroupRuleId>").nth(1)?.split('<').next())
        .unwrap()
        .to_owned();
    ec2.call(
        "CreateTags",
        &[
            ("ResourceId.1", &rule),
            ("Tag.1.Key", "owner"),
            ("Tag.1.Value", "shop"),
        ],
    )
    .unwrap();
    fleet.ec2.calls().reset();
    fleet.arm.calls().reset();
    fleet
}

/// The enforcer of the simulated subscriptions, whichever there are.
pub(super) fn azure(fleet: &Fleet) -> AzureEnforcer {
    let mut config = AzureConfig::new(Vec::new()).unwrap();
    config.endpoint = fleet.arm.url().parse().unwrap();
    config.authority = fleet.arm.url().parse().unwrap();
    config.credential = AzureCredential::ClientSecret {
        tenant_id: fleet.arm.tenant().to_owned(),
        client_id: CLIENT_ID.to_owned(),
        client_secret: SecretString::from(CLIENT_SECRET),
    };
    AzureEnforcer::new(config, Arc::new(SystemClock)).unwrap()
}

/// Both enforcers find out by themselves which accounts there are, as a configuration without a list has them do.
pub(super) async fn discover_accounts(fleet: &Fleet) {
    let azure = azure(fleet);
    assert!(!azure.accounts().await.found.is_empty());
    let account = AwsAccount {
        id: ACCOUNT.to_owned(),
        regions: Vec::new(),
        role: Some(AssumeRole {
            arn: ROLE_ARN.to_owned(),
            external_id: Some(EXTERNAL_ID.to_owned()),
            session_name: "postern".to_owned(),
        }),
    };
    let aws = AwsConfig {
        credentials: BaseCredentials::Static {
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: SecretString::from(SECRET_ACCESS_KEY),
        },
        endpoint: Some(fleet.ec2.url().parse().unwrap()),
        ..AwsConfig::new(vec![account])
    };
    let aws = AwsEnforcer::connect(aws).await.unwrap();
    assert!(!aws.accounts().await.found.is_empty());
}

/// Beyond the story: so many changes of one NSG that it is written as a whole, and a rule of ours whose description
/// somebody edits.
pub(super) async fn many_changes_and_a_repair(stage: &Stage) {
    const PORTS: [&str; 5] = ["22", "3389", "5985", "5986", "8022"];
    let (olga, ada) = (stage.client("olga").unwrap(), stage.client("ada").unwrap());
    let document = JitPolicyWrite {
        name: "many ports".to_owned(),
        scope: "/".to_owned(),
        tags: BTreeMap::new(),
        guards: PORTS
            .iter()
            .map(|ports| GuardedPorts {
                ports: (*ports).to_owned(),
                allowed_sources: vec!["203.0.113.0/24".to_owned()],
                max_duration_seconds: 3600,
            })
            .collect(),
        lockdown: Lockdown::default(),
        shared_groups: SharedGroups::default(),
        approval: Approval::default(),
        authentication: postern_api::jit_policy::Authentication::default(),
        pending_for_seconds: None,
        justification: None,
    };
    let policy = olga.create_jit_policy(None, &document).await.unwrap();
    for port in PORTS {
        let target = |machine: &str| AskedTarget {
            machine: machine.to_owned(),
            ports: vec![port.to_owned()],
            // A source of its own, so that no rule serves two grants.
            sources: Some(vec![format!(
                "203.0.113.{}/32",
                port.len() + port.parse::<usize>().unwrap() % 200
            )]),
        };
        let wanted = AccessRequestCreate {
            targets: vec![target(&stage.fleet.web), target(&stage.fleet.app)],
            duration_seconds: 600,
            reason: "story: many".to_owned(),
            ticket: None,
            starts_at: None,
            mode: None,
        };
        let wait = AccessRequestCreateQuery {
            wait: Some(20),
            ..AccessRequestCreateQuery::default()
        };
        let request = ada.create_access_request(None, &wait, &wanted).await.unwrap();
        assert!(
            request.grants.iter().all(|grant| grant.status == "open"),
            "{request:?}"
        );
        if port == PORTS[0] {
            edit_a_description(&stage.fleet);
        }
    }
    olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    let grants = || async {
        let query = GrantQuery {
            status: Some("opening,open,closing".to_owned()),
            ..GrantQuery::default()
        };
        ada.grants(&query).await.unwrap().items
    };
    for _ in 0..400 {
        if grants().await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(grants().await.is_empty(), "the grants end with their policy");
}

/// A group that two machines have, and one of them isolated from it and released.
pub(super) async fn an_isolation(stage: &Stage) {
    let aws = stage.fleet.ec2.fleet(ACCOUNT, REGION);
    let there = aws.snapshot().unwrap();
    let at = |machine: &str| {
        let id = machine.rsplit('/').next().unwrap();
        let has = |interface: &&postern_sim::ec2::state::Interface| {
            let attachment = interface.attachment.as_ref();
            attachment.is_some_and(|attachment| attachment.instance_id == id)
        };
        there.interfaces.iter().find(has).unwrap().clone()
    };
    let (app, build) = (at(&stage.fleet.app), at(&stage.fleet.build));
    aws.set_groups(&build.id, &app.groups).unwrap();
    aws.call(
        "AuthorizeSecurityGroupEgress",
        &[
            ("GroupId", &app.groups[0]),
            ("IpPermissions.1.IpProtocol", "tcp"),
            ("IpPermissions.1.FromPort", "443"),
            ("IpPermissions.1.ToPort", "443"),
            ("IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/8"),
        ],
    )
    .unwrap();
    let olga = stage.client("olga").unwrap();
    let document = JitPolicyWrite {
        name: "isolated".to_owned(),
        scope: format!(
            "/aws/{ACCOUNT}/{REGION}/{}",
            stage.fleet.app.rsplit('/').next().unwrap()
        ),
        tags: BTreeMap::new(),
        guards: vec![GuardedPorts {
            ports: "22".to_owned(),
            allowed_sources: vec!["203.0.113.0/24".to_owned()],
            max_duration_seconds: 3600,
        }],
        lockdown: Lockdown::default(),
        shared_groups: SharedGroups::Isolate,
        approval: Approval::default(),
        authentication: postern_api::jit_policy::Authentication::default(),
        justification: None,
        pending_for_seconds: None,
    };
    let policy = olga.create_jit_policy(None, &document).await.unwrap();
    let until = async |isolated: bool| {
        let mut is_so = false;
        for _ in 0..400 {
            let there = aws.snapshot().unwrap();
            let is_same = there.interface(&app.id).unwrap().groups == app.groups;
            let is_there = there.groups.iter().any(|group| group.name.contains("-sg-"));
            is_so = is_same != isolated && is_there == isolated;
            if is_so {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(is_so, "isolated: {isolated}");
    };
    until(true).await;
    olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    until(false).await;
}

/// Somebody writes another description over a grant's rule in EC2.
fn edit_a_description(fleet: &Fleet) {
    let world = fleet.ec2.truth().world(None);
    let holder = world
        .values()
        .find(|resource| resource["tags"]["postern:mark"] == HOLDER)
        .unwrap();
    let group = holder["id"].as_str().unwrap();
    let source = format!("203.0.113.{}/32", "22".len() + 22);
    fleet
        .ec2
        .fleet(ACCOUNT, REGION)
        .call(
            "UpdateSecurityGroupRuleDescriptionsIngress",
            &[
                ("GroupId", group),
                ("IpPermissions.1.IpProtocol", "tcp"),
                ("IpPermissions.1.FromPort", "22"),
                ("IpPermissions.1.ToPort", "22"),
                ("IpPermissions.1.IpRanges.1.CidrIp", &source),
                ("IpPermissions.1.IpRanges.1.Description", "mine now"),
            ],
        )
        .unwrap();
}
