//! How long after its due instant a grant's port is still reachable, with many grants that are due one after
//! another.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use postern::demo::fleet::{ACCOUNT, Fleet, REGION};
use postern_api::{access_request::AccessRequestCreateQuery, grant::Grant};
use postern_sim::{
    arm,
    ec2::{Ingress, MachinePlan},
};
use postern_tests::world::a_request;
use serde::Serialize;
use serde_json::json;

use crate::{
    measure::progress,
    rig::{Rig, now},
    sample::{Sample, Summary},
    truth::{Ssh, milliseconds},
};

/// Machines per cloud, each an enforcement point of its own.
const MACHINES: u16 = 4;
/// Grants per machine, each from an address of its own.
const GRANTS: u8 = 30;
/// From one request to the next.
const SPREAD: Duration = Duration::from_millis(50);
/// How long each grant lasts, in seconds: the last one is open before the first one is due.
const LASTS: i64 = 18;

/// The lag on one cloud, in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Lag {
    /// `azure` or `aws`.
    pub(crate) cloud: &'static str,
    /// From the due instant to the instant from which the truth log has the port unreachable.
    pub(crate) closed: Summary,
    /// From the due instant to the closing that the grant itself names as confirmed.
    pub(crate) confirmed: Summary,
    /// Grants whose port was shut before its time.
    pub(crate) early: usize,
}

/// Measures.
pub(crate) async fn measure() -> anyhow::Result<Vec<Lag>> {
    let (rig, (azure, aws)) = Rig::start(async |fleet| build(fleet)).await?;
    let machines: Vec<&str> = azure.iter().chain(&aws).map(String::as_str).collect();
    rig.guard(&machines).await?;

    let count = u64::from(GRANTS) * u64::from(MACHINES);
    let bar = progress("closing lag", count * 2);
    let mut requests = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(SPREAD);
    for number in 1..=GRANTS {
        for (azure, aws) in azure.iter().zip(&aws) {
            for machine in [azure, aws] {
                tick.tick().await;
                let mut request = a_request(&[machine], LASTS);
                for target in &mut request.targets {
                    target.sources = Some(vec![format!("{}/32", source(number))]);
                }
                let ada = rig.ada.clone();
                requests.spawn(async move {
                    ada.create_access_request(None, &AccessRequestCreateQuery::default(), &request)
                        .await
                });
            }
        }
    }
    while let Some(request) = requests.join_next().await {
        request??;
    }
    let open: Vec<Grant> = rig
        .until("every grant is open", async || {
            let open = rig.grants("open").await?;
            Ok((open.len() as u64 == count * 2).then_some(open))
        })
        .await?;
    // Nothing is asked of the server meanwhile.
    let last_due = open
        .iter()
        .filter_map(|grant| grant.ends_at)
        .max()
        .context("open grants end")?;
    while now() < last_due {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let due = open
            .iter()
            .filter(|grant| grant.ends_at.is_some_and(|end| end <= now()));
        bar.set_position(due.count() as u64);
    }
    rig.until("every grant is closed", async || {
        Ok((!rig.any_grant("open,closing").await?).then_some(()))
    })
    .await?;
    let ended = rig.grants("closed").await?;
    bar.finish_and_clear();

    let fleet = &rig.world.fleet;
    let logs = [
        ("azure", fleet.arm.truth().all()),
        ("aws", fleet.ec2.truth().all()),
    ];
    let mut measured = Vec::new();
    for (cloud, log) in logs {
        let (mut truth, mut confirmed, mut early) = (Sample::default(), Sample::default(), 0);
        for grant in open
            .iter()
            .filter(|grant| grant.machine.starts_with("arn:") == (cloud == "aws"))
        {
            let due = grant.ends_at.context("an open grant ends")?;
            let opened = grant.opened_at.context("an open grant was opened")?;
            let end = ended
                .iter()
                .find(|ended| ended.id == grant.id)
                .and_then(|ended| ended.closed_at);
            let end = end.context("every grant is closed")?;
            let ssh = Ssh {
                machine: grant.machine.clone(),
                source: address(grant)?,
            };
            let shut = ssh.closing(fleet, &log, opened, end + TimeDelta::milliseconds(1))?;
            early += usize::from(shut < due);
            truth.push(milliseconds(due, shut));
            confirmed.push(milliseconds(due, end));
        }
        let told = |sample: &Sample| sample.summary().context("there were grants");
        measured.push(Lag {
            cloud,
            closed: told(&truth)?,
            confirmed: told(&confirmed)?,
            early,
        });
    }
    Ok(measured)
}

const fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, number)
}

fn address(grant: &Grant) -> anyhow::Result<Ipv4Addr> {
    ensure!(grant.sources.len() == 1, "each grant has one source");
    let text = grant.sources.first().context("each grant has one source")?;
    Ok(text.split('/').next().unwrap_or_default().parse()?)
}

/// Machines beside those of the fleet, each with an NSG or a security group of its own.
fn build(fleet: &Fleet) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let azure = fleet.arm.fleet().in_group("shop");
    let network = azure.network("lag", "10.60.0.0/16")?;
    let subnet = azure.subnet(&network, "only", "10.60.1.0/24", None)?;
    let aws = fleet.ec2.fleet(ACCOUNT, REGION);
    let vpc = aws.vpc("10.61.0.0/16", false)?;
    let aws_subnet = aws.subnet(&vpc, "10.61.1.0/24", 0)?;
    let (mut in_azure, mut in_aws) = (Vec::new(), Vec::new());
    for number in 0..MACHINES {
        let name = format!("lag-{number}");
        let office = arm::inbound("office", 300, "Allow", "198.51.100.0/24", "22");
        in_azure.push(azure.machine(&name, &subnet, &[office], &json!({}))?.machine);
        let group = aws.group(&vpc, &name, &[Ingress::tcp(443, "0.0.0.0/0")])?;
        let machine = aws.machine(&MachinePlan {
            name,
            subnet_id: aws_subnet.clone(),
            interfaces: vec![vec![group]],
            public: true,
            ..MachinePlan::default()
        })?;
        in_aws.push(machine.arn);
    }
    Ok((in_azure, in_aws))
}
