//! What the owners of the machines do, and everybody else but Postern: tags, new machines, machines that go.

use postern::demo::fleet::{ACCOUNT, REGION};
use postern_core::nsg::is_marked;
use postern_sim::{
    arm::{self, FleetMachine},
    ec2::{Fleet as Ec2Fleet, Ingress, Machine, MachinePlan},
};
use serde_json::{Value, json};

use crate::World;

impl World {
    /// The builder of the AWS machines.
    pub fn aws(&self) -> Ec2Fleet {
        self.fleet.ec2.fleet(ACCOUNT, REGION)
    }

    /// The EC2 id of the AWS machine with this ARN.
    ///
    /// # Panics
    /// If it is no ARN of an instance.
    pub fn instance<'a>(&self, machine: &'a str) -> &'a str {
        machine.rsplit_once('/').expect("an instance ARN").1
    }

    /// Sets or removes a tag of a machine.
    ///
    /// # Panics
    /// If the simulator refuses.
    pub fn tag(&self, machine: &str, key: &str, value: Option<&str>) {
        if machine.starts_with("arn:") {
            let id = self.instance(machine);
            let call = if value.is_some() {
                "CreateTags"
            } else {
                "DeleteTags"
            };
            let mut parameters = vec![("ResourceId.1", id), ("Tag.1.Key", key)];
            parameters.extend(value.map(|value| ("Tag.1.Value", value)));
            self.aws().call(call, &parameters).expect("the tag is set");
            return;
        }
        let mut shown = self.fleet.arm.fleet().get(machine).expect("the machine");
        let tags = shown
            .get_mut("tags")
            .and_then(Value::as_object_mut)
            .expect("it has tags");
        match value {
            Some(value) => tags.insert(key.to_owned(), json!(value)),
            None => tags.remove(key),
        };
        self.fleet.arm.fleet().put(machine, shown).expect("it is tagged");
    }

    /// A machine in a new network of a new resource group; SSH is open to everybody.
    ///
    /// # Panics
    /// If the simulator refuses.
    pub fn new_azure_machine(&self, group: &str, tags: &Value) -> FleetMachine {
        let fleet = self.fleet.arm.fleet().in_group(group);
        let build = || {
            fleet.group()?;
            let network = fleet.network(group, "10.50.0.0/16")?;
            let subnet = fleet.subnet(&network, group, "10.50.1.0/24", None)?;
            let rules = [arm::inbound("everybody", 300, "Allow", "*", "22")];
            fleet.machine(&format!("{group}-1"), &subnet, &rules, tags)
        };
        build().expect("an Azure machine")
    }

    /// A machine in a new VPC; SSH is open to everybody.
    ///
    /// # Panics
    /// If the simulator refuses.
    pub fn new_aws_machine(&self, name: &str, tags: &[(&str, &str)]) -> Machine {
        let fleet = self.aws();
        let build = || {
            let vpc = fleet.vpc("10.60.0.0/16", false)?;
            let subnet = fleet.subnet(&vpc, "10.60.1.0/24", 0)?;
            let group = fleet.group(&vpc, name, &[Ingress::tcp(22, "0.0.0.0/0")])?;
            fleet.machine(&MachinePlan {
                name: name.to_owned(),
                subnet_id: subnet,
                interfaces: vec![vec![group]],
                tags: tags
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
                public: true,
                ..MachinePlan::default()
            })
        };
        build().expect("an AWS machine")
    }

    /// Every mark of ours that stands in either cloud, and the resource that holds it.
    pub fn marks(&self) -> Vec<(String, String)> {
        let worlds = [
            self.fleet.arm.truth().world(None),
            self.fleet.ec2.truth().world(None),
        ];
        let mut found = Vec::new();
        for (resource, value) in worlds.into_iter().flatten() {
            marks_in(&value, &mut |text| {
                found.push((resource.clone(), text.to_owned()));
            });
        }
        found
    }
}

fn marks_in(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) if is_marked(text) => found(text),
        Value::Array(items) => items.iter().for_each(|item| marks_in(item, found)),
        Value::Object(map) => map.values().for_each(|item| marks_in(item, found)),
        _ => {}
    }
}
