//! Whose credentials they are: roles of other accounts, credentials of another account, and trouble at STS.

use postern_aws::{AssumeRole, AwsAccount, AwsConfig, AwsEnforcer, BaseCredentials};
use postern_core::{
    enforcer::{EnforceError, Enforcer as _},
    machine::AwsInstance,
};
use postern_sim::{
    Effect, When,
    ec2::{Ec2Options, Ec2Sim, MachinePlan, Role},
};

use crate::{
    fault, refusal, simulator,
    stage::{Built, Endpoint, Stage, displaced_by, grant, installation, lock, open, tcp},
};

#[tokio::test]
async fn an_account_is_worked_on_in_the_role_that_it_names() {
    let role = Role {
        arn: "arn:aws:iam::222233334444:role/postern".to_owned(),
        trusted_accounts: vec![Ec2Sim::ACCOUNT.to_owned()],
        external_id: Some("shared".to_owned()),
    };
    let options = Ec2Options {
        roles: vec![role],
        ..Ec2Options::default()
    };
    let handle = Ec2Sim::start(options).await.unwrap();
    let connect = async |external_id: &str| {
        let role = AssumeRole {
            arn: "arn:aws:iam::222233334444:role/postern".to_owned(),
            external_id: Some(external_id.to_owned()),
            session_name: "postern".to_owned(),
        };
        let mut config = AwsConfig::new(vec![AwsAccount {
            id: "222233334444".to_owned(),
            regions: vec!["eu-west-1".to_owned()],
            role: Some(role),
        }]);
        config.endpoint = Some(handle.url().parse().unwrap());
        config.credentials = BaseCredentials::Static {
            access_key_id: Ec2Sim::ACCESS_KEY_ID.to_owned(),
            secret_access_key: Ec2Sim::SECRET_ACCESS_KEY.to_owned().into(),
        };
        AwsEnforcer::connect(config).await.unwrap()
    };
    let fleet = handle.fleet("222233334444", "eu-west-1");
    let vpc = fleet.vpc("10.0.0.0/16", false).unwrap();
    let subnet_id = fleet.subnet(&vpc, "10.0.1.0/24", 0).unwrap();
    let machine = fleet.machine(&MachinePlan {
        name: "theirs".to_owned(),
        subnet_id,
        ..Default::default()
    });
    let machine = machine.unwrap();

    let enforcer = connect("shared").await;
    let account = enforcer.accounts().await.found.remove(0);
    let page = enforcer.discover(&account, None).await.unwrap();
    assert_eq!(page.machines[0].id.short(), machine.instance_id);

    let refused = connect("wrong").await.discover(&account, None).await.unwrap_err();
    assert!(
        matches!(&refused, EnforceError::Forbidden { operation, .. } if operation.starts_with("sts:AssumeRole on ")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn credentials_of_another_account_settle_nothing() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    let plan = stage.pass(&lock(&built, &["22"], Vec::new()), usize::MAX).await;
    let displaced = displaced_by(&plan);
    assert_eq!(displaced.len(), 1);

    let elsewhere = Endpoint {
        account: "222233334444".to_owned(),
        ..endpoint
    };
    let stage = Stage::of(&elsewhere).await;
    let there = Built {
        machine: AwsInstance::new(&elsewhere.account, "eu-west-1", built.machine.instance()).unwrap(),
        ..built
    };
    let account = stage.enforcer.accounts().await.found.remove(0);
    handle.calls().reset();
    let refusals = [
        stage
            .enforcer
            .observe(&lock(&there, &[], displaced))
            .await
            .map(drop),
        stage.enforcer.observe(&open(&there, Vec::new())).await.map(drop),
        stage.enforcer.discover(&account, None).await.map(drop),
        stage.enforcer.marked(&account, &installation()).await.map(drop),
    ];
    for refusal in refusals {
        let Err(EnforceError::Forbidden { code, message, .. }) = refusal else {
            panic!("{refusal:?}");
        };
        assert_eq!(code, "WrongAccount");
        assert!(
            message.contains(Ec2Sim::ACCOUNT) && message.contains("222233334444"),
            "{message}"
        );
    }
    let calls = handle.calls().all();
    assert_eq!(calls.keys().collect::<Vec<_>>(), ["GetCallerIdentity"]);
}

#[tokio::test]
async fn whose_credentials_they_are_is_asked_once_for_a_client() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(Vec::new()).await;
    for grants in [vec![grant(1, "22")], vec![]] {
        stage.pass(&open(&built, grants), usize::MAX).await;
    }
    assert_eq!(handle.calls().of("GetCallerIdentity"), 1);
}

#[tokio::test]
async fn trouble_at_sts_passes() {
    let (handle, endpoint) = simulator().await;
    let in_a_role = |config: &mut AwsConfig| {
        config.accounts[0].role = Some(AssumeRole {
            arn: format!("arn:aws:iam::{}:role/postern", Ec2Sim::ACCOUNT),
            external_id: None,
            session_name: "postern".to_owned(),
        });
    };
    let stage = Stage::new(&endpoint, in_a_role).await;
    let account = stage.enforcer.accounts().await.found.remove(0);
    for operation in ["AssumeRole", "GetCallerIdentity"] {
        let mut answers = Vec::new();
        for effect in [
            refusal(503, "ServiceUnavailable"),
            refusal(500, "InternalFailure"),
            Effect::ResetBefore,
            refusal(400, "Throttling"),
        ] {
            handle.faults().add(fault(operation, When::Next(1), effect));
            answers.push(stage.enforcer.discover(&account, None).await.unwrap_err());
        }
        for answer in &answers[..3] {
            assert!(matches!(answer, EnforceError::Unavailable { .. }), "{answer:?}");
        }
        assert!(
            matches!(&answers[3], EnforceError::Throttled { operation: at, .. } if at.contains(operation)),
            "{:?}",
            answers[3]
        );
    }
    stage.enforcer.discover(&account, None).await.unwrap();
}
