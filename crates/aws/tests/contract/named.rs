//! A group of ours that nothing uses, and that a rule of others names: EC2 does not delete it.

use aws_sdk_ec2::types::{IpPermission, UserIdGroupPair};
use postern_core::enforcer::{Bindings, EnforceError, Enforcer as _};
use postern_sim::{Faults, When};

use crate::stage::{Endpoint, Stage, grant, open};

impl Stage {
    /// Has a rule of a group name another one.
    async fn name(&self, group: &str, named: &str, egress: bool) {
        let pair = UserIdGroupPair::builder().group_id(named).build();
        let rule = IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(5432)
            .to_port(5432)
            .user_id_group_pairs(pair)
            .build();
        if egress {
            let call = self.admin.authorize_security_group_egress().group_id(group);
            call.ip_permissions(rule).send().await.unwrap();
        } else {
            let call = self.admin.authorize_security_group_ingress().group_id(group);
            call.ip_permissions(rule).send().await.unwrap();
        }
    }

    /// Takes every rule that names a group out of this one.
    async fn name_no_more(&self, group: &str, egress: bool) {
        let shown = self
            .admin
            .describe_security_groups()
            .group_ids(group)
            .send()
            .await
            .unwrap();
        let group = &shown.security_groups()[0];
        let rules = if egress {
            group.ip_permissions_egress()
        } else {
            group.ip_permissions()
        };
        for rule in rules.iter().filter(|rule| !rule.user_id_group_pairs().is_empty()) {
            let id = group.group_id().unwrap();
            if egress {
                let call = self.admin.revoke_security_group_egress().group_id(id);
                call.ip_permissions(rule.clone()).send().await.unwrap();
            } else {
                let call = self.admin.revoke_security_group_ingress().group_id(id);
                call.ip_permissions(rule.clone()).send().await.unwrap();
            }
        }
    }
}

/// A group of a VPC that is peered with another.
async fn peered(stage: &Stage, vpc: &str) -> String {
    let admin = &stage.admin;
    let made = admin.create_vpc().cidr_block("10.9.0.0/16").send().await.unwrap();
    let other = made.vpc().unwrap().vpc_id().unwrap().to_owned();
    let asked = admin
        .create_vpc_peering_connection()
        .vpc_id(vpc)
        .peer_vpc_id(&other);
    let asked = asked.send().await.unwrap();
    let connection = asked
        .vpc_peering_connection()
        .unwrap()
        .vpc_peering_connection_id();
    let accepted = admin.accept_vpc_peering_connection();
    let accepted = accepted.set_vpc_peering_connection_id(connection.map(str::to_owned));
    accepted.send().await.unwrap();
    let made = admin.create_security_group().vpc_id(other).group_name("peer");
    let made = made.description("peer").send().await.unwrap();
    made.group_id().unwrap().to_owned()
}

/// A rule in a peered VPC names it too, or one of its own: neither keeps EC2 from deleting it ("referenced by another
/// security group in the same VPC", API reference, `DeleteSecurityGroup`).
async fn what_does_not_keep_it(endpoint: &Endpoint) {
    for of_a_peer in [true, false] {
        let stage = Stage::of(endpoint).await;
        let built = stage.build(Vec::new()).await;
        stage.pass(&open(&built, vec![grant(1, "22")]), usize::MAX).await;
        let holder = stage.holders(&built.vpc).await.remove(0);
        let naming = if of_a_peer {
            peered(&stage, &built.vpc).await
        } else {
            holder.clone()
        };
        let closed = open(&built, Vec::new());
        stage.pass(&closed, 1).await;
        // An egress rule of its own is no business of ours, and stays until the group goes.
        stage.name(&naming, &holder, !of_a_peer).await;
        let plan = stage.pass(&closed, usize::MAX).await;
        assert_eq!((plan.changes.len(), plan.findings), (2, vec![]));
        assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
    }
}

pub(crate) async fn run(endpoint: &Endpoint, faults: &Faults) {
    what_does_not_keep_it(endpoint).await;
    for egress in [false, true] {
        let stage = Stage::of(endpoint).await;
        let built = stage.build(Vec::new()).await;
        stage.pass(&open(&built, vec![grant(1, "22")]), usize::MAX).await;
        let holder = stage.holders(&built.vpc).await.remove(0);
        stage.name(&built.group, &holder, egress).await;
        let closed = open(&built, Vec::new());
        // It is on the interface, and who names it is not asked for.
        let plan = stage.observe(&closed).await.plan(&closed);
        let (detach, delete) = (&plan.changes[0], &plan.changes[1]);
        let mut bindings = Bindings::new();
        let detached = stage.enforcer.apply(&closed.point, detach, &mut bindings).await;
        detached.unwrap();
        let refused = stage.enforcer.apply(&closed.point, delete, &mut bindings).await;
        assert!(
            matches!(refused, Err(EnforceError::Conflict { .. })),
            "{refused:?}"
        );

        let plan = stage.pass(&closed, usize::MAX).await;
        assert_eq!(plan.changes.len(), 1, "its rules go: {:?}", plan.changes);
        let read = stage.observe(&closed).await;
        let plan = read.plan(&closed);
        assert_eq!(plan.changes, []);
        assert!(read.evidence(&closed).is_empty(), "closed");
        let [found] = &plan.findings[..] else {
            panic!("{:?}", plan.findings)
        };
        assert_eq!(found.code, "own_group_named");
        assert!(found.message.contains(&built.group) && found.message.contains(&holder));

        // Where that is not told, the rest is done all the same. The first call reads the group itself.
        let when = When::After { skip: 1, count: 2 };
        let untold = crate::refusal(403, "UnauthorizedOperation");
        let id = faults.add(crate::fault("DescribeSecurityGroups", when, untold));
        let plan = stage.observe(&closed).await.plan(&closed);
        faults.remove(id);
        assert_eq!((plan.changes.len(), plan.findings), (1, vec![]));

        // On an interface it is not said to be on none, whosever that is.
        let stray = stage.admin.create_network_interface().subnet_id(&built.subnet);
        let stray = stray.groups(&built.group).groups(&holder);
        stray.send().await.unwrap();
        let plan = stage.pass(&closed, 1).await;
        assert_eq!((plan.changes.len(), plan.findings), (2, vec![]));

        // Another grant is let in through it meanwhile, and closed.
        stage.pass(&open(&built, vec![grant(2, "22")]), usize::MAX).await;
        assert_eq!(stage.holders(&built.vpc).await, [holder.as_str()]);
        stage.pass(&closed, 1).await;
        stage.pass(&closed, usize::MAX).await;
        assert!(stage.observe(&closed).await.evidence(&closed).is_empty());

        stage.name_no_more(&built.group, egress).await;
        let plan = stage.pass(&closed, usize::MAX).await;
        assert_eq!((plan.changes.len(), plan.findings), (1, vec![]));
        assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
    }
}
