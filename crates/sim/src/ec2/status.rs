//! `DescribeInstanceStatus`: the state of instances and their checks.
//!
//! Source: API reference `DescribeInstanceStatus`, `InstanceStatus`: only running instances unless all are asked
//! for. Checks pass as soon as an instance runs; scheduled events are not simulated.

use super::context::Context;
use super::error::Result;
use super::state::{Instance, Power};
use super::wire;
use super::xml::Xml;

pub(crate) fn describe_instance_status(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("InstanceId"), root.filters()?);
    filters.known(&["availability-zone", "instance-state-name", "instance-state-code"])?;
    let all = root.bool("IncludeAllInstances")?.unwrap_or(false);
    let page = root.page((!ids.is_empty()).then_some("instancesSet"))?;
    root.finish()?;
    let region = &*ctx.region;
    for id in &ids {
        region.instance(id)?;
    }
    let zone = |instance: &Instance| {
        region
            .interfaces_of(instance)
            .first()
            .map(|primary| primary.zone.clone())
    };
    let found: Vec<&Instance> = region
        .instances
        .values()
        .filter(|instance| ids.is_empty() || ids.contains(&instance.id))
        .filter(|instance| all || instance.power == Power::Running)
        .filter(|instance| {
            filters.pass(&instance.tags, |name| match name {
                "availability-zone" => zone(instance).into_iter().collect(),
                "instance-state-name" => vec![instance.power.wire().1.to_owned()],
                _ => vec![instance.power.wire().0.to_string()],
            })
        })
        .collect();
    let (found, next) = page.cut(found, |instance| instance.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("instanceStatusSet", found, |xml, instance| {
            let status = if instance.power == Power::Running {
                "ok"
            } else {
                "not-applicable"
            };
            xml.leaf("instanceId", &instance.id);
            xml.opt("availabilityZone", zone(instance));
            xml.within("instanceState", |xml| wire::power(xml, instance.power));
            for check in ["systemStatus", "instanceStatus"] {
                xml.within(check, |xml| xml.leaf("status", status));
            }
        });
        xml.opt("nextToken", next);
    }))
}
