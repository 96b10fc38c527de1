//! Many accounts, and whichever regions are enabled there; one account that fails leaves the others alone.

use postern_aws::{AssumeRole, AwsAccount, AwsConfig, AwsEnforcer, BaseCredentials};
use postern_core::{
    enforcer::{Bindings, EnforceError, Enforcer as _},
    machine::{Account, AwsInstance, MachineId},
};
use postern_sim::{
    Probe, Protocol,
    ec2::{Ec2Handle, Ec2Options, Ec2Sim, MachinePlan, Role},
};

use crate::stage::{Built, grant, open};

const REFUSED: &str = "222233334444";
const HEALTHY: &str = "333344445555";

fn arn(account: &str) -> String {
    format!("arn:aws:iam::{account}:role/postern")
}

/// An account without a list of regions, in a role of its own.
fn everywhere(account: &str) -> AwsAccount {
    AwsAccount {
        id: account.to_owned(),
        regions: Vec::new(),
        role: Some(AssumeRole {
            arn: arn(account),
            external_id: None,
            session_name: "postern".to_owned(),
        }),
    }
}

/// A simulator where only the healthy account's role can be assumed.
async fn simulator() -> Ec2Handle {
    let role = Role {
        arn: arn(HEALTHY),
        trusted_accounts: vec![Ec2Sim::ACCOUNT.to_owned()],
        external_id: None,
    };
    let options = Ec2Options {
        roles: vec![role],
        regions: ["eu-central-1", "eu-west-1", "us-east-1"]
            .map(str::to_owned)
            .into(),
        opt_in_regions: vec!["ap-east-1".to_owned()],
        ..Ec2Options::default()
    };
    Ec2Sim::start(options).await.unwrap()
}

async fn enforcer(handle: &Ec2Handle, accounts: &[&str]) -> AwsEnforcer {
    let mut config = AwsConfig::new(accounts.iter().map(|account| everywhere(account)).collect());
    config.endpoint = Some(handle.url().parse().unwrap());
    config.credentials = BaseCredentials::Static {
        access_key_id: Ec2Sim::ACCESS_KEY_ID.to_owned(),
        secret_access_key: Ec2Sim::SECRET_ACCESS_KEY.to_owned().into(),
    };
    config.budget_percent = 0;
    AwsEnforcer::connect(config).await.unwrap()
}

fn a_machine(handle: &Ec2Handle, region: &str) -> Built {
    let fleet = handle.fleet(HEALTHY, region);
    let vpc = fleet.vpc("10.0.0.0/16", false).unwrap();
    let subnet = fleet.subnet(&vpc, "10.0.1.0/24", 0).unwrap();
    let group = fleet.group(&vpc, "web", &[]).unwrap();
    let machine = fleet.machine(&MachinePlan {
        name: region.to_owned(),
        subnet_id: subnet.clone(),
        interfaces: vec![vec![group.clone()]],
        ..Default::default()
    });
    let machine = machine.unwrap();
    Built {
        machine: AwsInstance::new(HEALTHY, region, &machine.instance_id).unwrap(),
        interface: machine.interface_ids[0].clone(),
        group,
        vpc,
        subnet,
    }
}

fn healthy(regions: &[&str]) -> Vec<Account> {
    let account = |region: &&str| Account::Aws {
        account: HEALTHY.to_owned(),
        region: (*region).to_owned(),
    };
    regions.iter().map(account).collect()
}

/// The machines of the accounts, each of one page.
async fn discovered(enforcer: &AwsEnforcer, accounts: &[Account]) -> Vec<MachineId> {
    let mut machines = Vec::new();
    for account in accounts {
        let page = enforcer.discover(account, None).await.unwrap();
        machines.extend(page.machines.into_iter().map(|machine| machine.id));
    }
    machines
}

async fn opens_and_closes(handle: &Ec2Handle, enforcer: &AwsEnforcer, built: &Built) {
    let probe = Probe {
        machine: MachineId::Aws(built.machine.clone()).to_string(),
        source: "203.0.113.7".parse().unwrap(),
        port: 22,
        protocol: Protocol::Tcp,
    };
    for (grants, reachable) in [(vec![grant(1, "22")], true), (Vec::new(), false)] {
        let wanted = open(built, grants);
        let plan = enforcer.observe(&wanted).await.unwrap().plan(&wanted);
        let mut bindings = Bindings::new();
        for change in &plan.changes {
            enforcer
                .apply(&wanted.point, change, &mut bindings)
                .await
                .unwrap();
        }
        assert_eq!(
            handle.reachable(&probe, None),
            reachable,
            "{}",
            built.machine.region()
        );
    }
}

#[tokio::test]
async fn an_account_whose_role_is_refused_leaves_the_others_guarded() {
    let handle = simulator().await;
    let built = a_machine(&handle, "eu-west-1");
    let enforcer = enforcer(&handle, &[REFUSED, HEALTHY]).await;
    let accounts = enforcer.accounts().await;
    let [refused] = &accounts.failed[..] else {
        panic!("{accounts:?}");
    };
    assert_eq!(refused.scope, format!("/aws/{REFUSED}"));
    assert!(
        matches!(&refused.error, EnforceError::Forbidden { operation, .. } if operation.starts_with("sts:AssumeRole on ")),
        "{:?}",
        refused.error
    );
    assert_eq!(
        discovered(&enforcer, &accounts.found).await,
        [MachineId::Aws(built.machine.clone())]
    );
    opens_and_closes(&handle, &enforcer, &built).await;
}

#[tokio::test]
async fn an_account_without_a_list_of_regions_is_guarded_in_those_that_are_enabled() {
    let handle = simulator().await;
    let built = ["eu-central-1", "eu-west-1"].map(|region| a_machine(&handle, region));
    let enforcer = enforcer(&handle, &[HEALTHY]).await;
    let accounts = enforcer.accounts().await;
    assert_eq!(accounts.failed, []);
    assert_eq!(
        accounts.found,
        healthy(&["eu-central-1", "eu-west-1", "us-east-1"])
    );
    assert_eq!(
        discovered(&enforcer, &accounts.found).await,
        built
            .each_ref()
            .map(|built| MachineId::Aws(built.machine.clone()))
    );
    for built in &built {
        opens_and_closes(&handle, &enforcer, built).await;
    }
    // A region that is not enabled refuses every call.
    let elsewhere = healthy(&["ap-east-1"]).remove(0);
    enforcer.discover(&elsewhere, None).await.unwrap_err();
}
